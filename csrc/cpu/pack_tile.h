// The copy into a packed tile (tile.h), which is where padding of any mode, strides, memory layout and dtype end.
//
// Limit: one pass over memory, and a row of a small plane is a vector or two: what is the same for all rows, where they
// begin and end above all, is found once.
#pragma once
#ifdef CONVX_AVX512
#include <immintrin.h>
#endif

#include "tile.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Copies to[x] = the input's element at column run.v0 + x * stride of one row, for x < width.
template <class T, class In>
inline void pack_row(T* to, const AxisPlan& c, const InsideRun& run, int64_t width, const In* from, int64_t stride_w) {
  const auto edge = [&](int64_t begin, int64_t end) {
    if (c.mode == PaddingMode::zeros) {
      for (int64_t x = begin; x < end; ++x) to[x] = T(0);
      return;
    }
    for (int64_t x = begin; x < end; ++x) {
      const int64_t w = c.source(run.v0 + x * c.stride);
      to[x] = w < 0 ? T(0) : T(from[w * stride_w]);
    }
  };
  edge(0, run.first);
  const int64_t step = c.stride * stride_w;
  copy_strided(to + run.first, from + run.v0 * stride_w + run.first * step, step, run.last - run.first);
  edge(run.last, width);
}

#ifdef CONVX_AVX512
// Copies of short rows for one column phase, stride 1 or 2, zeros as padding: which lanes of its few vectors are inside
// is found once, for all rows, and a row is then a load or two and a store of each vector. (Rows of 14 pixels took 90
// cycles otherwise, most of them for where they begin and end.)
template <class T>
class ShortRows {
 public:
  static constexpr int64_t L = Vec<T>::lanes;
  static constexpr int kMost = 16;  // vectors

  ShortRows() = default;
  ShortRows(const InsideRun& run, int64_t width, int64_t stride)
      : column_(run.v0), stride_(stride), vectors_(int(ceil_div(width, L))) {
    constexpr uint32_t kEven = 0x55555555;
    for (int v = 0; v < vectors_; ++v) {
      const int64_t x = v * L, first = run.first - x, last = run.last - x, half = L / 2;
      if (stride == 1)
        lanes_[v].first = lanes(first, last);
      else
        lanes_[v].first = lanes(2 * first, 2 * last) & kEven,
        lanes_[v].second = lanes(2 * (first - half), 2 * (last - half)) & kEven;
      lanes_[v].out = lanes(0, width - x);
    }
  }

  // `from` is the row's column 0.
  void copy(T* to, const T* from) const {
    from += column_;
    for (int v = 0; v < vectors_; ++v, to += L, from += stride_ * L) {
      typename Vec<T>::type a = load(from, lanes_[v].first);
      if (stride_ == 2) a = shuffle<T>(a, load(from + L, lanes_[v].second), Interleave<T>::index(Evens<T>::table.even));
      store(to, a, lanes_[v].out);
    }
  }
  void zero(T* to) const {
    for (int v = 0; v < vectors_; ++v) store(to + v * L, typename Vec<T>::type{}, lanes_[v].out);
  }

 private:
  struct Lanes {
    uint32_t first, second, out;
  };
  static uint32_t lanes(int64_t first, int64_t last) {  // those from the first on, before the last
    const auto below = [](int64_t l) { return (uint64_t(1) << smaller(larger(l, 0), L)) - 1; };
    return uint32_t(below(last) & ~below(first));
  }
  static auto load(const float* p, uint32_t lanes) { return _mm512_maskz_loadu_ps(__mmask16(lanes), p); }
  static auto load(const double* p, uint32_t lanes) { return _mm512_maskz_loadu_pd(__mmask8(lanes), p); }
  static auto load(const uint16_t* p, uint32_t lanes) {
    return (typename Vec<uint16_t>::type)_mm512_maskz_loadu_epi16(lanes, p);
  }
  static void store(float* p, __m512 v, uint32_t lanes) { _mm512_mask_storeu_ps(p, __mmask16(lanes), v); }
  static void store(double* p, __m512d v, uint32_t lanes) { _mm512_mask_storeu_pd(p, __mmask8(lanes), v); }
  static void store(uint16_t* p, Vec<uint16_t>::type v, uint32_t lanes) {
    _mm512_mask_storeu_epi16(p, lanes, (__m512i)v);
  }

  int64_t column_ = 0, stride_ = 1;
  int vectors_ = 0;
  Lanes lanes_[kMost];
};

// pack_tile of such rows; false if it can't.
template <class T>
bool pack_tile_of_short_rows(T* tile, const TileShape& shape, const AxisPlan& r, const AxisPlan& c, int64_t i0,
                             int64_t ni, int64_t j0, int64_t nj, const T* in, const Strides& strides,
                             int64_t channels) {
  constexpr int kMostPhases = 2;
  constexpr int64_t kMostAhead = 8, kAheadBytes = 8 << 10;
  const int64_t height = ni + shape.row_span, width = nj + shape.column_span, rows = shape.rows.count * height;
  if (c.mode != PaddingMode::zeros || strides.w != 1 || c.stride > kMostPhases || channels < 2 ||
      width > ShortRows<T>::kMost * Vec<T>::lanes)
    return false;
  ShortRows<T> copies[kMostPhases];
  for (int pc = 0; pc < shape.columns.count; ++pc)
    copies[pc] = ShortRows<T>(InsideRun(c, j0 * c.stride + shape.lowest_column + shape.columns.remainder[pc], width),
                              width, c.stride);
  struct Row {
    int64_t from, to;
  };
  Scratch<Row> all(rows);
  for (int pr = 0, i = 0; pr < shape.rows.count; ++pr)
    for (int64_t row = 0; row < height; ++row) {
      const int64_t h = r.source((i0 + row) * r.stride + shape.lowest_row + shape.rows.remainder[pr]);
      all[i++] = {h < 0 ? -1 : h * strides.h, pr * shape.columns.count * shape.phase + row * shape.pitch};
    }
  const int64_t row_bytes = c.in * int64_t(sizeof(T));
  // Channels that are fetched ahead: their rows are too few for the hardware to see.
  const int64_t most_ahead = smaller(kMostAhead, channels / 16);
  const int64_t ahead = larger(1, smaller(most_ahead, kAheadBytes / larger(1, ni * r.stride * row_bytes))) * strides.c;
  for (int64_t ch = 0; ch < channels; ++ch, in += strides.c, tile += shape.plane)
    for (int64_t i = 0; i < rows; ++i) {
      T* const to = tile + all[i].to;
      const T* const from = in + all[i].from;
      if (all[i].from >= 0)
        for (int64_t b = 0; b < row_bytes; b += 64) __builtin_prefetch(reinterpret_cast<const char*>(from + ahead) + b);
      for (int pc = 0; pc < shape.columns.count; ++pc)
        if (all[i].from < 0)
          copies[pc].zero(to + pc * shape.phase);
        else
          copies[pc].copy(to + pc * shape.phase, from);
    }
  return true;
}
#endif

// pack_tile where channels are neighbours in memory: each row's pixels are turned over, squares of pixels x channels.
template <class T, class In>
void pack_tile_of_pixels(T* tile, const TileShape& shape, const AxisPlan& r, const AxisPlan& c, int64_t i0, int64_t ni,
                         int64_t j0, int64_t nj, const In* in, const Strides& strides, int64_t channels) {
  const int64_t height = ni + shape.row_span, width = nj + shape.column_span;
  for (int pc = 0; pc < shape.columns.count; ++pc) {
    const InsideRun run(c, j0 * c.stride + shape.lowest_column + shape.columns.remainder[pc], width);
    for (int pr = 0; pr < shape.rows.count; ++pr)
      for (int64_t row = 0; row < height; ++row) {
        T* const to = tile + (pr * shape.columns.count + pc) * shape.phase + row * shape.pitch;
        const int64_t h = r.source((i0 + row) * r.stride + shape.lowest_row + shape.rows.remainder[pr]);
        const In* const from = in + h * strides.h;
        const auto edge = [&](int64_t begin, int64_t end) {
          for (int64_t x = begin; x < end; ++x) {
            const int64_t w = h < 0 ? -1 : c.source(run.v0 + x * c.stride);
            for (int64_t ch = 0; ch < channels; ++ch)
              to[ch * shape.plane + x] = w < 0 ? T(0) : T(from[w * strides.w + ch]);
          }
        };
        if (h < 0) {
          for (int64_t ch = 0; ch < channels; ++ch) std::memset(to + ch * shape.plane, 0, width * sizeof(T));
          continue;
        }
        edge(0, run.first);
        transpose<T, In>(from + (run.v0 + run.first * c.stride) * strides.w, c.stride * strides.w, run.last - run.first,
                         channels, to + run.first, shape.plane, run.last - run.first);
        edge(run.last, width);
      }
  }
}

// pack_tile for strides of 3 and more, whose phases would read each line of memory as often: a row is a matrix of
// [result][phase], turned over.
template <class T, class In>
void pack_tile_of_phases(T* tile, const TileShape& shape, const AxisPlan& r, const AxisPlan& c, int64_t i0, int64_t ni,
                         int64_t j0, int64_t nj, const In* in, const Strides& strides, int64_t channels) {
  const int64_t height = ni + shape.row_span, width = nj + shape.column_span, phases = shape.columns.count;
  const int64_t v0 = j0 * c.stride + shape.lowest_column;
  // where all phases lie inside the input
  const int64_t first = InsideRun(c, v0, width).first;
  const int64_t last = larger(first, InsideRun(c, v0 + phases - 1, width).last);
  for (int64_t ch = 0; ch < channels; ++ch)
    for (int pr = 0; pr < shape.rows.count; ++pr)
      for (int64_t row = 0; row < height; ++row) {
        T* const to = tile + ch * shape.plane + pr * phases * shape.phase + row * shape.pitch;
        const int64_t h = r.source((i0 + row) * r.stride + shape.lowest_row + shape.rows.remainder[pr]);
        const In* const from = in + ch * strides.c + h * strides.h;
        const auto edge = [&](int64_t begin, int64_t end) {
          for (int64_t p = 0; p < phases; ++p)
            for (int64_t x = begin; x < end; ++x) {
              const int64_t w = h < 0 ? -1 : c.source(v0 + p + x * c.stride);
              to[p * shape.phase + x] = w < 0 ? T(0) : T(from[w]);
            }
        };
        if (h < 0) {
          edge(0, width);
          continue;
        }
        edge(0, first);
        transpose<T, In>(from + v0 + first * c.stride, c.stride, last - first, phases, to + first, shape.phase,
                         last - first);
        edge(last, width);
      }
}

// Copies what the results [i0, i0 + ni) x [j0, j0 + nj) read of `channels` channels into `tile`, a plane a channel.
template <class T, class In>
void pack_tile(T* tile, const TileShape& shape, const AxisPlan& r, const AxisPlan& c, int64_t i0, int64_t ni,
               int64_t j0, int64_t nj, const In* in, const Strides& strides, int64_t channels) {
  if (strides.c == 1 && strides.w != 1)
    return pack_tile_of_pixels(tile, shape, r, c, i0, ni, j0, nj, in, strides, channels);
  if (c.stride > 2 && shape.columns.count > 2 && shape.columns.in_order() && strides.w == 1)
    return pack_tile_of_phases(tile, shape, r, c, i0, ni, j0, nj, in, strides, channels);
#ifdef CONVX_AVX512
  if constexpr (std::is_same_v<T, In>)
    if (pack_tile_of_short_rows(tile, shape, r, c, i0, ni, j0, nj, in, strides, channels)) return;
#endif
  const int64_t height = ni + shape.row_span, width = nj + shape.column_span;
  for (int pc = 0; pc < shape.columns.count; ++pc) {
    const InsideRun run(c, j0 * c.stride + shape.lowest_column + shape.columns.remainder[pc], width);
    for (int64_t ch = 0; ch < channels; ++ch)
      for (int pr = 0; pr < shape.rows.count; ++pr) {
        T* to = tile + ch * shape.plane + (pr * shape.columns.count + pc) * shape.phase;
        const int64_t top = i0 * r.stride + shape.lowest_row + shape.rows.remainder[pr];
        for (int64_t row = 0; row < height; ++row, to += shape.pitch) {
          const int64_t h = r.source(top + row * r.stride);
          if (h >= 0 && pc == 0 && strides.w == 1)  // of the next channel: its rows are too few for the hardware to see
            for (int64_t x = larger(0, run.v0), end = smaller(c.in, run.v0 + width * c.stride); x < end;
                 x += 64 / int64_t(sizeof(In)))
              __builtin_prefetch(in + (ch + 1) * strides.c + h * strides.h + x);
          if (h < 0)
            std::memset(to, 0, width * sizeof(T));
          else
            pack_row<T, In>(to, c, run, width, in + ch * strides.c + h * strides.h, strides.w);
        }
      }
  }
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
