// Convolutions of few input channels on the matrix unit: a line's 32 products are a filter row's taps, channels and
// all, instead of 32 channels.
//
// A row of the image is laid out as [column][channel], and what a result's row of taps reads is a piece of it. The
// piece is copied to a line of the tile: 64 bytes for S taps of C channels, so 7x7 filters of three channels take 7
// steps, of 21 products each, instead of 49 of 3. To the rest of the kernel these are S * C channels and a column of
// taps.
//
// Estimate: a line costs about two cycles to copy and is read by each 32 outputs in two; and the row costs one an
// element to be laid out (bfloat16 less, by vectors). For 7x7 filters of 3 channels and 64 outputs at stride 2 that is
// some 40 cycles a pixel, where vectors of float32 take 300.
#pragma once
#include "amx_convolution.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Whether its taps fill lines much better than its channels do.
template <class T, class In>
bool suits_lines_of_taps(const Convolution<T, In>& cv) {
  const AxisPlan& c = cv.columns;
  return c.taps > 1 && c.highest() - c.lowest() == c.taps - 1 && 2 * ceil_div(cv.inputs * c.taps, kDepth) <= c.taps;
}

// Columns [0, count) of `channels` planes in turns: [column][channel]. False if they are neither even, one nor three.
inline bool interleave_planes(uint16_t* to, const uint16_t* from, int64_t plane, int64_t channels, int64_t count) {
  constexpr int64_t L = Vec<uint16_t>::lanes;
  const auto of = [&](int64_t c, int64_t x, int64_t most) {
    return load_some<uint16_t>(from + c * plane + x, smaller(most, count - x));
  };
  if (channels == 1) {
    for (int64_t x = 0; x < count; x += L) store_some<uint16_t>(to + x, of(0, x, L), smaller(L, count - x));
  } else if (channels == 3) {
    struct Index {
      alignas(64) int16_t of_two[3][L], with_third[3][L];
      constexpr Index() : of_two(), with_third() {
        for (int e = 0; e < 3 * L; ++e) {
          of_two[e / L][e % L] = int16_t(e / 3 + e % 3 % 2 * L);
          with_third[e / L][e % L] = int16_t(e % 3 == 2 ? e / 3 + L : e % L);
        }
      }
    };
    static constexpr Index index;
    for (int64_t x = 0; x < count; x += L) {
      const Halfwords a = of(0, x, L), b = of(1, x, L), c = of(2, x, L);
      for (int64_t i = 0; i < 3 && i * L < 3 * (count - x); ++i)
        store_some<uint16_t>(to + 3 * x + i * L,
                             shuffle<uint16_t>(shuffle<uint16_t>(a, b, Interleave<uint16_t>::index(index.of_two[i])), c,
                                               Interleave<uint16_t>::index(index.with_third[i])),
                             smaller(L, 3 * (count - x) - i * L));
    }
  } else if (channels % 2 == 0 && channels <= 32) {
    for (int64_t x = 0; x < count; x += 16) {  // pairs are words, turned over
      Floats pairs[16];
#pragma GCC unroll 16
      for (int64_t p = 0; p < 16; ++p)
        pairs[p] = 2 * p < channels ? Floats(in_turns(of(2 * p, x, 16), of(2 * p + 1, x, 16), false)) : Floats{};
      transpose_square<float>(pairs);
      for (int64_t i = 0; i < smaller(16, count - x); ++i)
        store_some<uint16_t>(to + (x + i) * channels, Halfwords(pairs[i]), channels);
    }
  } else {
    return false;
  }
  return true;
}

template <class In>
struct TapTile : LineTile<In> {
  using LineTile<In>::terms;
  const AxisPlan& columns;
  int64_t inputs;

  TapTile(const TileShape& shape, const AxisPlan& columns, int64_t inputs)
      : LineTile<In>(shape, inputs * columns.taps), columns(columns), inputs(inputs) {}

  // Of the widest block of results, in elements; a line's last piece may be read beyond it.
  int64_t size_of_planes(const Strides&) const {
    return (this->shape.pitch * columns.stride + columns.taps) * inputs + 2 * kDepth;
  }

  void pack(uint16_t* to, Plain<In>* row, const AxisPlan& r, const AxisPlan&, const Place& place, const In* in,
            const Strides& strides) const {
    const TileShape& shape = this->shape;
    const int64_t width = (place.nj - 1) * columns.stride + columns.taps, height = place.ni + shape.row_span;
    const InsideRun inside(columns, place.j0 * columns.stride + columns.lowest(), width, 1);
    for (int pr = 0; pr < shape.rows.count; ++pr)
      for (int64_t i = 0; i < height; ++i) {
        const int64_t h = r.source((place.i0 + i) * r.stride + shape.lowest_row + shape.rows.remainder[pr]);
        lay_out(row, inside, width, h < 0 ? nullptr : plain(in + h * strides.h), strides);
        uint16_t* line = to + (pr * shape.phase + i * shape.pitch) * kDepth;
        for (int64_t j = 0; j < place.nj; ++j, line += kDepth) copy_pieces(line, row + j * columns.stride * inputs);
      }
  }

 private:
  // [column][channel]
  template <class From>
  void lay_out(Plain<In>* row, const InsideRun& inside, int64_t width, const From* from, const Strides& strides) const {
    std::memset(row, 0, width * inputs * sizeof *row);
    if (!from) return;
    const int64_t first = columns.mode == PaddingMode::zeros ? inside.first : 0,
                  last = columns.mode == PaddingMode::zeros ? inside.last : width;
    if constexpr (std::is_same_v<From, uint16_t>)
      if (columns.mode == PaddingMode::zeros && strides.w == 1 &&
          interleave_planes(row + first * inputs, from + inside.v0 + first, strides.c, inputs, last - first))
        return;
    for (int64_t c = 0; c < inputs; ++c) {
      const From* const plane = from + c * strides.c;
      Plain<In>* const to = row + c;
      if (columns.mode == PaddingMode::zeros)
        for (int64_t v = first; v < last; ++v) to[v * inputs] = Plain<In>(plane[(inside.v0 + v) * strides.w]);
      else
        for (int64_t v = first; v < last; ++v)
          if (const int64_t w = columns.source(inside.v0 + v); w >= 0) to[v * inputs] = Plain<In>(plane[w * strides.w]);
    }
  }

  // What lies beyond the taps is left out: it may be an infinity.
  void copy_pieces(uint16_t* line, const Plain<In>* from) const {
    int64_t left = this->channels;
    for (int64_t chunk = 0; chunk < this->chunks; ++chunk, from += kDepth, left -= kDepth, line += this->chunk()) {
      if constexpr (std::is_same_v<In, BFloat16>) {
        CONVX_ISA::store(line, load_some<uint16_t>(from, left));
      } else {
        Words words[terms];
        split_run(load_some<float>(from, smaller(16, left)),
                  left > 16 ? load_some<float>(from + 16, left - 16) : Floats{}, words);
        for (int t = 0; t < terms; ++t) store_words(line + t * this->term(), words[t]);
      }
    }
  }
};

template <class In>
bool convolve_taps(const Convolution<float, In>& cv) {
  const AxisPlan& c = cv.columns;
  const int64_t depth = cv.inputs * c.taps, rows = cv.rows.taps, lowest = c.lowest();
  // [group][output][tap, channel][row], taps as they follow one another in a row of the image. Those of a single row of
  // one channel are that already.
  const bool in_place = rows == 1 && cv.inputs == 1 && cv.weight_s == 1 && cv.taps_in_order() && c.offset[0] == lowest;
  Scratch<In> weight(in_place ? 0 : cv.G * cv.outputs * depth * rows);
  parallel_for(in_place ? 0 : cv.G * cv.outputs, grain_for(double(depth * rows)), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k)
      for (int s = 0; s < c.taps; ++s)
        for (int64_t i = 0; i < cv.inputs; ++i)
          for (int64_t r = 0; r < rows; ++r)
            weight[(k * depth + (c.offset[s] - lowest) * cv.inputs + i) * rows + r] =
                cv.weight[k / cv.outputs * cv.weight_group + k % cv.outputs * cv.weight_output + i * cv.weight_input +
                          cv.rows.index[r] * cv.weight_r + c.index[s] * cv.weight_s];
  });
  Convolution<float, In> deep;
  deep.N = cv.N, deep.G = cv.G, deep.inputs = depth, deep.outputs = cv.outputs;
  deep.rows = AxisPlan(rows), deep.columns = AxisPlan(1);
  deep.rows.in = cv.rows.in, deep.rows.count = cv.rows.count, deep.rows.stride = cv.rows.stride;
  deep.rows.mode = cv.rows.mode, deep.rows.first_out = cv.rows.first_out, deep.rows.out_step = cv.rows.out_step;
  for (int r = 0; r < rows; ++r) deep.rows.add_tap(cv.rows.offset[r], r);
  deep.columns.in = deep.columns.count = c.count;
  deep.columns.first_out = c.first_out, deep.columns.out_step = c.out_step;
  deep.columns.add_tap(0, 0);
  deep.in = cv.in, deep.weight = in_place ? cv.weight : weight.data(), deep.bias = cv.bias, deep.out = cv.out;
  deep.in_strides = cv.in_strides, deep.out_strides = cv.out_strides;
  deep.weight_output = in_place ? cv.weight_output : depth * rows, deep.weight_input = rows;
  deep.weight_group = in_place ? cv.weight_group : cv.outputs * depth * rows;
  deep.weight_r = 1, deep.weight_s = 1, deep.filter_size = rows, deep.filter_is_line = true;
  deep.bias_stride = cv.bias_stride, deep.merged_h = cv.merged_h, deep.merged_w = cv.merged_w;
  return convolve_tiles(
      deep, [&](const TileShape& shape) { return TapTile<In>(shape, c, cv.inputs); }, cv.inputs,
      [&](const TileShape& shape) { return StoredSums<In>{deep, shape}; });
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
