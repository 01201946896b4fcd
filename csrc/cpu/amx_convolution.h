// forward and grad_input on the matrix unit: outer_product.h's way, with tiles of 32 results x 32 outputs instead of
// register tiles of 14 x 32, and 32 channels a step instead of one.
//
// A block of results is taken as one run of pixels, row after row of the packed tile with its halo, so that tiles of
// 16 pixels need not end where rows do; the sums that fall between two rows are left where they are. The weights are
// packed once per call: [block of 32 outputs][32 channels][tap][term][16 outputs] of tiles.
//
// Estimate: the unit's roof (2048 multiply-adds in 16 cycles and core) over the number of products of terms, less what
// falls between rows (a fifth at 7 x 7, nothing for 1x1), missing channels of 32, and the packing, which costs about a
// quarter of a cycle an element and term. float32 pays six products for one and still passes the FMA roof, if K * R * S
// is a few hundred.
//
// A result is one sum, in the order of channels (by 32), taps, products of terms: whatever the blocks and threads.
#pragma once
#include "amx_tile.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

constexpr int64_t kWide = 32;  // outputs of a block, and pixels of a tile of sums

// What a block of rows x columns results takes for its tile, and the largest that stays in L2 with some weights beside.
struct TileBlocks {
  int64_t rows, columns;

  static constexpr int64_t kBytes = 768 << 10;

  TileBlocks(const AxisPlan& r, const AxisPlan& c, int64_t bytes_of_pixel, int64_t images, bool whole_rows) {
    constexpr int64_t kFewestPixels = 128;
    const int64_t span_r = r.highest() - r.lowest(), span_c = c.highest() - c.lowest();
    const auto fits = [&](int64_t rows, int64_t columns) {
      return ((rows - 1) * r.stride + span_r + 1) * ((columns - 1) * c.stride + span_c + 1) * bytes_of_pixel <= kBytes;
    };
    columns = c.count;
    while (!whole_rows && columns > kWide && !fits(1, columns)) columns = ceil_div(columns, 2);
    rows = 1;
    while (rows < r.count && fits(rows + 1, columns)) ++rows;
    // A block for each thread, unless that makes them small: halos would be packed again and again.
    const int64_t across = ceil_div(c.count, columns);
    while (images * across * ceil_div(r.count, rows) < thread_count() && (rows / 2) * columns >= kFewestPixels)
      rows = ceil_div(rows, 2);
    while (!whole_rows && rows == 1 && images * r.count * ceil_div(c.count, columns) < thread_count() &&
           columns / 2 >= kFewestPixels)
      columns = ceil_div(columns, 2);
    rows = ceil_div(r.count, ceil_div(r.count, rows));
  }
};

// The images of a pointwise layer as one row, where their pixels follow one another in memory (channels_last): the
// weights are read once for more pixels, and the tiles of small planes are filled.
template <class In>
void join_images(Convolution<float, In>& cv) {
  const int64_t pixels = cv.columns.count;
  if (!cv.is_pointwise() || cv.rows.count != 1 || cv.columns.out_step != 1 || cv.merged() != 1 ||
      cv.in_strides.n != pixels * cv.in_strides.w || cv.out_strides.n != pixels * cv.out_strides.w)
    return;
  cv.columns.in = cv.columns.count = cv.N * pixels;
  cv.N = 1;
}

// The weights as B tiles, in the order of the steps: chunk of 32 channels, tap.
template <class In>
class TileWeights {
 public:
  static constexpr int terms = kTerms<In>;
  int64_t kbs, steps;
  bool finite = true;

  explicit TileWeights(const Convolution<float, In>& cv)
      : kbs(ceil_div(cv.outputs, kWide)),
        steps(ceil_div(cv.inputs, kDepth) * cv.taps()),
        outputs_(cv.outputs),
        data_(cv.G * kbs * block()),
        bias_(cv.G * kbs * kWide) {
    const int64_t taps = cv.taps(), chunks = ceil_div(cv.inputs, kDepth);
    std::atomic<bool> all_finite{true};
    parallel_for(cv.G * kbs * chunks, grain_for(double(taps) * kDepth * kWide / 2), [&](int64_t begin, int64_t end) {
      Scratch<float> plain(kDepth * taps * kWide);  // [channel][tap][output]
      for (int64_t i = begin; i < end; ++i) {
        const int64_t chunk = i % chunks, kb = i / chunks % kbs, g = i / chunks / kbs;
        const int64_t c0 = chunk * kDepth, c1 = smaller(cv.inputs, c0 + kDepth);
        uint16_t* const to = data_.data() + (g * kbs + kb) * block() + chunk * taps * kStep;
        if (is_words(cv)) {
          pack_words(to, cv, g, kb * kWide, c0);
        } else {
          if (!pack_weights(plain.data(), cv, g, kb * kWide, kWide, c0 * taps, c1 * taps)) all_finite = false;
          for (int64_t t = 0; t < taps; ++t)
            pack_step(to + t * kStep, plain.data() + t * kWide, taps * kWide, c1 - c0, halves(kb));
        }
        if (chunk == 0) pack_bias(bias_.data() + (g * kbs + kb) * kWide, cv, g, kb * kWide, kWide);
      }
    });
    finite = all_finite;
  }

  static constexpr int64_t kStep = terms * 2 * kTileElements;
  static constexpr int64_t kHalf = kTileBytes, kTerm = 2 * kTileBytes;
  int64_t width_of(int64_t kb) const { return 16 * halves(kb); }
  const uint16_t* of(int64_t g, int64_t kb) const { return data_.data() + (g * kbs + kb) * block(); }
  const float* bias(int64_t g, int64_t kb) const { return bias_.data() + (g * kbs + kb) * kWide; }

 private:
  int64_t halves(int64_t kb) const { return outputs_ - kb * kWide <= 16 ? 1 : 2; }
  int64_t block() const { return steps * kStep; }

  // Whether an output's pairs of inputs are words in memory, which need only be turned over.
  static bool is_words(const Convolution<float, In>& cv) {
    return std::is_same_v<In, BFloat16> && cv.taps() == 1 && cv.weight_input == 1;
  }

  static void pack_words(uint16_t* to, const Convolution<float, In>& cv, int64_t g, int64_t first, int64_t c0) {
    const int64_t tap = cv.rows.index[0] * cv.weight_r + cv.columns.index[0] * cv.weight_s;
    const auto* const from =
        reinterpret_cast<const uint16_t*>(cv.weight + g * cv.weight_group + first * cv.weight_output + c0 + tap);
    for (int64_t h = 0; h < (cv.outputs - first <= 16 ? 1 : 2); ++h) {
      Floats pairs[16];
#pragma GCC unroll 16
      for (int64_t k = 0; k < 16; ++k)
        pairs[k] =
            h * 16 + k < cv.outputs - first
                ? Floats(load_some<uint16_t>(from + (h * 16 + k) * cv.weight_output, smaller(kDepth, cv.inputs - c0)))
                : Floats{};
      store_transposed(pairs, to + h * kTileElements, kDepth);
    }
  }

  static void pack_step(uint16_t* to, const float* plain, int64_t pitch, int64_t channels, int64_t halves) {
    const auto channel = [&](int64_t c, int64_t h) {
      return c < channels ? load(plain + c * pitch + h * 16) : Floats{};
    };
    for (int64_t h = 0; h < halves; ++h)
      for (int64_t p = 0; p < 16; ++p) {
        Words first[terms], second[terms];
        split(channel(2 * p, h), first);
        split(channel(2 * p + 1, h), second);
        for (int t = 0; t < terms; ++t)
          store_words(to + (t * 2 + h) * kTileElements + p * kDepth, pair(first[t], second[t]));
      }
  }

  int64_t outputs_;
  Scratch<uint16_t> data_;
  Scratch<float> bias_;
};

// How far a run's pixels are from those of the next row: the halo between rows is part of it, unless tiles end with
// them.
inline int64_t pitch_of_run(const TileShape& shape, const Place& at) { return kEndsWithRows ? at.nj : shape.pitch; }

// The rows of taps by which row i of the results reads what is not padding: [first, last).
struct RowTaps {
  int first = 0, last = 0;
  RowTaps(const AxisPlan& r, int64_t i) {
    const auto reads = [&](int t) { return r.source(i * r.stride + r.offset[t]) >= 0; };
    while (first < r.taps && !reads(first)) ++first;
    for (last = r.taps; last > first && !reads(last - 1);) --last;
  }
};

// What becomes of a tile of sums: written to the results, but for those between two rows.
template <class In>
struct StoredSums {
  static constexpr bool whole_rows = false;  // whether blocks must not divide them
  const Convolution<float, In>& cv;
  const TileShape& shape;

  // Sums [m0, m1) of the run of a block's pixels, for `count` outputs from `first` on.
  void put(const float* sums, const Place& at, int64_t m0, int64_t m1, int64_t width, int64_t first,
           int64_t count) const {
    const int64_t pitch = pitch_of_run(shape, at);
    for (int64_t m = m0; m < m1;) {
      const int64_t i = m / pitch, j = m % pitch, pixels = smaller(at.nj - j, m1 - m);
      if (pixels > 0)
        store_results(cv, sums + (m - m0) * width, pixels, width, at.n, at.g, first, count, at.i0 + i, at.j0 + j);
      m += pixels > 0 ? pixels : pitch - j;
    }
  }
  void finish(const Place&) const {}  // a block
};

// tile_of makes the tile of a block, sums_of what a thread does with its sums; a group has `inputs` channels in memory.
template <class In, class TileOf, class SumsOf>
bool convolve_tiles(const Convolution<float, In>& cv, TileOf&& tile_of, int64_t inputs, SumsOf&& sums_of) {
  constexpr int terms = kTerms<In>;
  const TileWeights<In> weights(cv);
  if (!weights.finite) return false;
  const int64_t kbs = weights.kbs, chunks = ceil_div(cv.inputs, kDepth);
  constexpr bool whole_rows = std::invoke_result_t<SumsOf, const TileShape&>::whole_rows;
  const TileBlocks b(cv.rows, cv.columns, chunks * kLine * terms, cv.N * cv.G, whole_rows);
  const TileShape shape(cv.rows, cv.columns, b.rows, b.columns);
  const auto tile = tile_of(shape);
  Scratch<int32_t> a_k(weights.steps), b_k(weights.steps);
  for (int64_t k = 0; k < weights.steps; ++k) b_k[k] = int32_t(k * TileWeights<In>::kStep);
  for (int64_t chunk = 0, k = 0; chunk < chunks; ++chunk)
    for (int r = 0; r < cv.rows.taps; ++r)
      for (int s = 0; s < cv.columns.taps; ++s)
        a_k[k++] = int32_t(chunk * tile.chunk() + shape.tap(cv.rows, cv.columns, r, s) * kDepth);

  // Several items to a thread, for a like share to each. (Not measured on the unit, where packing a tile twice counts
  // for more.)
  constexpr int64_t kOfThread = kEndsWithRows ? 8 : 1;
  const Places places(cv, b.rows, b.columns, kOfThread * thread_count(), kbs);
  const double work = double(b.rows) * b.columns * weights.steps * kbs / places.parts * 2 * Products<terms>::count;
  parallel_for_balanced(places.items(), grain_for(work), [&](int64_t begin, int64_t end) {
    [[maybe_unused]] const MatrixUnit unit;
    Scratch<uint16_t> lines_of_tile(tile.size());
    Scratch<Plain<In>> planes(tile.size_of_planes(cv.in_strides));
    Scratch<float> sums((kWide + 16) * kWide);  // store_results reads whole vectors of pixels
    std::memset(sums.data(), 0, (kWide + 16) * kWide * sizeof(float));
    // stale memory could be subnormal numbers, which are slow
    std::memset(planes.data(), 0, tile.size_of_planes(cv.in_strides) * sizeof(Plain<In>));
    auto results = sums_of(shape);
    int64_t packed = -1;
    for (int64_t item = begin; item < end; ++item) {
      const Place at = places[item];
      if (packed != at.index)
        tile.pack(lines_of_tile.data(), planes.data(), cv.rows, cv.columns, at,
                  cv.in + cv.in_strides(at.n, at.g * inputs, 0, 0), cv.in_strides);
      packed = at.index;
      for (int64_t kb = at.part * kbs / places.parts; kb < (at.part + 1) * kbs / places.parts; ++kb) {
        const int64_t first = kb * kWide, width = weights.width_of(kb), count = smaller(width, cv.outputs - first);
        // Sums [m0, m1) of the block's run, whose first line is `line`.
        const auto multiply = [&](int64_t m0, int64_t m1, int64_t line, const auto& steps) {
          tile_product_of<terms>(m1 - m0, width)(
              {lines_of_tile.data() + line * kDepth, a_k.data(), kTileBytes, tile.term() * 2},
              {weights.of(at.g, kb), b_k.data(), weights.kHalf, weights.kTerm}, steps, sums.data(),
              weights.bias(at.g, kb));
          results.put(sums.data(), at, m0, m1, width, first, count);
        };
        if constexpr (kEndsWithRows) {
          const int64_t pieces = ceil_div(at.nj, kWide), across = cv.columns.taps;
          const int64_t pairs = ceil_div(cv.inputs - (chunks - 1) * kDepth, 2);
          for (int64_t i = 0; i < at.ni; ++i) {
            const RowTaps taps(cv.rows, at.i0 + i);
            const Steps steps(chunks, cv.taps(), taps.first * across, taps.last * across, pairs);
            for (int64_t p = 0; p < pieces; ++p) {
              const int64_t j0 = at.nj * p / pieces, j1 = at.nj * (p + 1) / pieces;
              multiply(i * at.nj + j0, i * at.nj + j1, i * shape.pitch + j0, steps);
            }
          }
        } else {
          const int64_t run = (at.ni - 1) * shape.pitch + at.nj;
          for (int64_t m0 = 0; m0 < run; m0 += kWide) multiply(m0, smaller(m0 + kWide, run), m0, weights.steps);
        }
      }
      results.finish(at);
    }
  });
  return true;
}

template <class In>
bool convolve_tiles(const Convolution<float, In>& cv) {
  return convolve_tiles(
      cv, [&](const TileShape& shape) { return LineTile<In>(shape, cv.inputs); }, cv.inputs,
      [&](const TileShape& shape) { return StoredSums<In>{cv, shape}; });
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
