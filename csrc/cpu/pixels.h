// forward and grad_input with the vectors across pixels: for few output channels in each group, where most lanes would
// be padding across channels (outer_product.h); and for short sums, whose results come out here as they are stored,
// with nothing to transpose. (Pointwise layers of contiguous planes and more outputs are pixel_panels.h's.)
//
// A block of rows of the tile is walked as one long line: with equal pitch in tile and result, a tap is one offset for
// all pixels of the block (tile.h deals out strides), so vectors run across row ends. What they compute between two
// rows, some (S - 1) / W of the work, is left behind when the rows are stored. Rows that are whole vectors are walked
// one by one instead, and their results go from registers to where they belong.
//
// The phases of a stride read the same elements: they share a tile, and those of alternating columns are interleaved as
// they are stored.
//
// Limit: that of the inner loop (pixel_product.h), less packing, one copy of an element for its R * S / stride^2 *
// outputs multiply-adds.
//
// Run alone: with convx.algorithm("pixels"): ...
#pragma once
#include "pixel_panels.h"
#include "pixel_product.h"
#include "pixel_store.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

constexpr int64_t kPixelTileBytes = 128 << 10;

// What one row of results takes of such a tile, in bytes of one channel, and how many more rows its taps read.
struct PixelRow {
  int64_t bytes, halo;
  PixelRow(const TileShape& one, int64_t element)
      : bytes(one.rows.count * one.columns.count * one.pitch * element), halo(one.rows.length - 1) {}
  // How many rows of so many channels a tile has room for; none if not even the halo fits.
  int64_t fitting(int64_t channels) const { return kPixelTileBytes / larger(1, bytes * channels) - halo; }
};

// How many rows of results make a block, and how many input channels its tile holds at a time. With few channels the
// tile has all of them and stays in L2, in L1 if a few rows fit; else the sums of the whole block wait for the next
// channels, so that rows are many beside the halo of the filter.
struct PixelBlock {
  int64_t rows, channels;

  template <class T>
  static PixelBlock choose(const AxisPlan& r, const AxisPlan& c, int64_t columns, int64_t channels, int64_t outputs) {
    constexpr int64_t kSumsBytes = 256 << 10, kFewChannels = 16;
    const TileShape one(r, c, 1, columns);
    const PixelRow row(one, sizeof(T));
    PixelBlock b;
    b.channels = channels;
    b.rows = row.fitting(channels);
    if (b.rows < smaller(r.count, 4 * row.halo + 1) && channels > kFewChannels) {
      b.rows = smaller(row.fitting(kFewChannels), kSumsBytes / (outputs * one.pitch * int64_t(sizeof(T))));
      b.rows = larger(1, smaller(r.count, b.rows));
      b.channels = larger(1, smaller(channels, kPixelTileBytes / (row.bytes * (b.rows + row.halo))));
    }
    b.rows = larger(1, smaller(r.count, b.rows));
    b.rows = ceil_div(r.count, ceil_div(r.count, b.rows));
    return b;
  }
};

// How many rows make a block for the weight gradient, whose tile has all channels.
template <class T>
int64_t pixel_rows(const AxisPlan& r, const AxisPlan& c, int64_t channels) {
  const TileShape one(r, c, 1, c.count);
  return smaller(r.count, larger(PixelRow(one, sizeof(T)).fitting(channels), 1));
}

// Whether convolutions 0 and 1 are phases of alternating columns in the same rows.
template <class T, class In>
bool alternate(const Convolution<T, In>* cv) {
  const AxisPlan &a = cv[0].columns, &b = cv[1].columns;
  return cv[0].rows.first_out == cv[1].rows.first_out && a.out_step == 2 && b.out_step == 2 && a.first_out == 0 &&
         b.first_out == 1 && cv[0].out_strides.w == 1;
}

// The steps that the tile in hand has, and whether sums begin or end with them.
struct PixelPass {
  int64_t c0, c1;
  bool first, last;
};

// The vectors of a line: one after the other across the ends of rows, or, where that takes no more of them, row by row,
// so that no column is computed in vain and lines of memory are written whole. They are multiplied `together` at a
// time: two may be of two rows.
struct LineVectors {
  int64_t count, a_row = 0, pitch, lanes;
  bool whole = false;  // all of a row's are in it

  LineVectors(int64_t Q, int64_t pitch, int64_t rows, int64_t lanes, int together, bool may_be_rows)
      : count(ceil_div((rows - 1) * pitch + Q, lanes)), pitch(pitch), lanes(lanes) {
    const int64_t vectors = ceil_div(Q, lanes);
    if (!may_be_rows || vectors * lanes > pitch || (together != 2 && vectors % together)) return;
    a_row = vectors;
    count = rows * vectors;
    whole = Q % lanes == 0;
  }
  // Where vector v begins.
  int64_t operator[](int64_t v) const {
    if (!a_row) return v * lanes;
    const uint32_t row = uint32_t(v) / uint32_t(a_row);
    return row * pitch + (v - row * a_row) * lanes;
  }
};

// One chunk of outputs for a whole line of convolution j, or of j and j + 1, which alternate: the channels of one pass.
// With one pass in all, the sums of one group of vectors after the other take the same place (`sums` has that many);
// else every group has its own, `pitch` elements an output. Those of j + 1 are `apart`.
template <class T, class In>
void convolve_chunk(const Convolution<T, In>* cv, const PixelWeights<T>& pw, int64_t j, int together,
                    const PixelLine<T>* lines, const int32_t* const* b_k, int64_t chunk, const PixelPass& pass, T* sums,
                    int64_t apart, int64_t pitch, T* totals) {
  constexpr int64_t L = Vec<T>::lanes;
  const PixelLine<T>& line = lines[0];
  const int64_t o0 = pw.first(chunk), length = line.length();
  const bool only = pass.first && pass.last;
  const int m = int(pw.first(chunk + 1) - o0);
  const T* const bias = pw.bias.data() + line.g * pw.outputs + o0;
  const T zeros[CONVX_MAX_M] = {};
  const bool long_sums = only && pw.steps[j] > kParts * cv[j].chain;
  const bool at_once = together == 1 && !long_sums && VectorStore<T, In>::suits(cv[j], line, m);
  const LineVectors places(line.Q, line.pitch, line.rows, L, pixel_vectors(m), at_once);
  const VectorStore<T, In> store(cv[j], line, line.g * pw.outputs + o0);
  for (int64_t v0 = 0; v0 < places.count; v0 += kGroup) {
    const int64_t vectors = smaller(kGroup, places.count - v0), f = v0 * L, stop = smaller(length, f + vectors * L);
    T* const group = only ? sums : sums + o0 * pitch + f;
    for (int i = 0; i < together; ++i) {
      const int64_t taps = cv[j + i].taps(), k0 = pass.c0 * taps, k1 = pass.c1 * taps, chain = cv[j + i].chain;
      const T* const w = pw.of(j + i, line.g, chunk);
      T* const sum = group + i * apart;
      for (int64_t k = k0; k < larger(k1, k0 + 1); k += chain) {
        // a very long sum is made of long sums; passes are short enough without
        const bool begins = only && k && begins_sum(k, chain);
        if (begins) add_sums(totals, sum, m * pitch, k == kParts * chain);
        const bool done = at_once && pass.last && k + chain >= k1;
        int nv = 1;
        for (int64_t v = 0; v < vectors; v += nv) {
          const PixelProduct<T> kernel = pixel_product_of<T>(m, vectors - v, nv);
          const int64_t at = places[v0 + v], step = nv == 2 ? places[v0 + v + 1] - at : L;
          T *const here = sum + v * L, *to = here;
          int64_t to_pitch = pitch;
          if constexpr (VectorStore<T, In>::possible)
            if (done && places.whole && (nv != 2 || store.at(at + step) == store.at(at) + L))
              to = store.at(at), to_pitch = store.channel_step();
          kernel(line.tile + at, step, b_k[i] + (k - k0), w + k * m, smaller(chain, k1 - k),
                 k == 0   ? bias
                 : begins ? zeros
                          : nullptr,
                 here, pitch, to, to_pitch);
          if constexpr (VectorStore<T, In>::possible)
            if (done && to == here) store(at, step, here, pitch, m, nv);
        }
      }
      if (only && pw.steps[j + i] > kParts * chain) add_sums(sum, totals, m * pitch, false);
    }
    for (int64_t o = 0; o < m && pass.last && !at_once; ++o) {
      const int64_t channel = line.g * pw.outputs + o0 + o;
      if (together == 2)
        store_lines(cv + j, lines, group + o * pitch, group + apart + o * pitch, f, stop, channel);
      else
        store_line(cv[j], line, group + o * pitch, f, stop, channel);
    }
  }
}

// Runs convolutions of the same input, weights and outputs (one, or the phases of a stride, which share a tile); false,
// with nothing written, if a weight is not finite.
template <class T, class In>
bool convolve_pixels(const Convolution<T, In>* cv, int64_t count) {
  constexpr int64_t L = Vec<T>::lanes;
  if (count == 1 && suits_pixel_panels(cv[0])) return convolve_pixel_panels(cv[0]);
  const PixelWeights<T> pw(cv, count);
  if (!pw.finite) return false;
  const AxisPlan all_rows = taps_of_all(cv, count, &Convolution<T, In>::rows);
  const AxisPlan all_columns = taps_of_all(cv, count, &Convolution<T, In>::columns);
  const int64_t inputs = cv[0].inputs, outputs = cv[0].outputs, G = cv[0].G, Q = all_columns.count;
  // A block: some rows of the tile, or a piece of a single long row.
  const int64_t across = all_rows.count == 1 ? ceil_div(Q, kGroup * L) : 1, columns = ceil_div(Q, across);
  const PixelBlock block = PixelBlock::choose<T>(all_rows, all_columns, columns, inputs, count * outputs);
  const int64_t passes = ceil_div(inputs, block.channels), down = ceil_div(all_rows.count, block.rows);
  const TileShape shape(all_rows, all_columns, block.rows, columns);
  Scratch<int64_t> b_start(count + 1);
  b_start[0] = 0;
  for (int64_t j = 0; j < count; ++j) b_start[j + 1] = b_start[j] + block.channels * cv[j].taps();
  Scratch<int32_t> b_k(b_start[count]);  // the same for the channels of every pass
  for (int64_t j = 0; j < count; ++j)
    set_places(b_k.data() + b_start[j], cv, j, block.channels, shape, all_rows, all_columns);

  const int64_t places = cv[0].N * G * down * across, wanted = 2 * thread_count();
  const int64_t parts = places >= wanted ? 1 : smaller(pw.chunks, ceil_div(wanted, places));
  const int64_t group = kGroup * L, line_pitch = ceil_div(block.rows * shape.pitch, group) * group + L;
  const int64_t all_steps = pw.start[count] / (G * outputs);
  const double work = double(block.rows) * Q / across * (all_steps * outputs + 4 * inputs) / double(parts) / 8;
  parallel_for_balanced(places * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    const int64_t tile_size = block.channels * shape.plane + (kGroup + 1) * L;
    const int64_t pitch = passes == 1 ? group : line_pitch;
    Scratch<T> tile(tile_size), totals(CONVX_MAX_M * group);
    Scratch<T> sums((passes == 1 ? 2 * CONVX_MAX_M : count * outputs) * pitch + L);  // stores read whole vectors
    std::memset(tile.data(), 0, tile_size * sizeof(T));
    int64_t packed = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t place = i / parts, part = i % parts, q = place % across, p = place / across % down;
      const int64_t n = place / across / down / G, g = place / across / down % G, i0 = p * block.rows, j0 = q * columns;
      const auto line_of = [&](const Convolution<T, In>& one) {
        return PixelLine<T>{tile.data(),
                            n,
                            g,
                            i0,
                            j0,
                            smaller(block.rows, one.rows.count - i0),
                            smaller(columns, one.columns.count - j0),
                            shape.pitch};
      };
      for (int64_t c0 = 0; c0 < inputs; c0 += block.channels) {
        const int64_t c1 = smaller(inputs, c0 + block.channels);
        if (packed != place || passes > 1)
          pack_tile<T, In>(tile.data(), shape, all_rows, all_columns, i0, smaller(block.rows, all_rows.count - i0), j0,
                           smaller(columns, Q - j0), cv[0].in + cv[0].in_strides(n, g * inputs + c0, 0, 0),
                           cv[0].in_strides, c1 - c0);
        packed = place;
        const PixelPass pass{c0, c1, c0 == 0, c1 == inputs};
        for (int64_t j = 0, together; j < count; j += together) {
          PixelLine<T> lines[2] = {line_of(cv[j]), line_of(cv[j])};
          const int32_t* const offsets[2] = {b_k.data() + b_start[j], b_k.data() + b_start[smaller(j + 1, count)]};
          together = 1;
          if (j + 1 < count && alternate(cv + j)) together = 2, lines[1] = line_of(cv[j + 1]);
          T* const waiting = sums.data() + (passes == 1 ? 0 : j * outputs * pitch);
          if (lines[0].rows <= 0 || lines[0].Q <= 0) continue;
          for (int64_t chunk = part * pw.chunks / parts; chunk < (part + 1) * pw.chunks / parts; ++chunk)
            convolve_chunk(cv, pw, j, int(together), lines, offsets, chunk, pass, waiting,
                           (passes == 1 ? CONVX_MAX_M : outputs) * pitch, pitch, totals.data());
        }
      }
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
