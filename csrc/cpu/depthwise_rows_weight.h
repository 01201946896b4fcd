// grad_weight of depthwise layers in place, on the rows and vectors of depthwise_rows.h:
//
//   w[r][s] = sum over pixels (p,q) of  y[p][q] * x[p + offset(r)][q + offset(s)],
//
// every w[r][s] a vector of sums, one lane a column, that are added up at the end. A block is BR rows of y, one vector
// each, in registers; a vector of x that has been loaded, of row d and column tap s, meets all the rows of y that some
// row of taps brings to it:
//
//   acc[d - i][s] += x[row d][q + offset(s)] * y[row i],   i < BR,  0 <= d - i < R.
//
// What it gains over depthwise_channels_weight.h: neither side is turned over, twice 10 cycles for 16 pixels. Limit on
// AVX-512: 3x3 taps of 8 rows are 72 multiply-adds, 30 loads of x and 8 of y, most of them across cache lines: 40 to 45
// cycles for 128 pixels, whose way from memory takes about 60.
//
// Column taps are taken a few at a time, as many as there are registers for. What is left out is read as zero; if it
// met an infinity the sums are not finite, and the reference takes over. Planes are walked in memory's order, channels
// first, in a number of parts that the shape alone decides. Sums are made of chains of at most kPixelChain pixels,
// those of some rows, and those of parts.
#pragma once
#include "depthwise_rows.h"
#include "outer_product_weight.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

template <class T>
struct PlanePair {
  const T *const *x_rows, *const *y_rows;  // x_rows from the first that a tap reads on
  int64_t x_ahead, y_ahead;                // to what is fetched on the way, 0 if nothing
};

// Of column taps that are taken at once, and of rows: registers for R * columns sums, the rows of y, and x.
template <int R>
constexpr int dot_columns() {
  return CONVX_VECTOR_BYTES == 64 ? (R == 7 ? 3 : R) : R == 3 ? 3 : R == 5 ? 2 : 1;
}
template <int R, int columns>
constexpr int dot_rows_of() {
  return CONVX_VECTOR_BYTES == 64 && R * columns <= 20 ? 8 : 4;
}

template <class T, int R, int S, int S0, int NS, int BR, int masked, int s, int d>
__attribute__((always_inline)) inline void add_dots(const T* x, const LaneMask<T>* mask,
                                                    const typename Vec<T>::type (&y)[BR],
                                                    typename Vec<T>::type (&acc)[R][NS]) {
  using V = typename Vec<T>::type;
  constexpr int low = d - R + 1 > 0 ? d - R + 1 : 0, high = d < BR ? d : BR - 1;
  V loaded;
  if constexpr (masks_tap<S, masked, S0 + s>())
    loaded = V(mask[S0 + s].load(x));
  else
    loaded = load(x);
  asm("" : "+v"(loaded));  // once, as in depthwise_rows.h
#pragma GCC unroll 8
  for (int i = low; i <= high; ++i) acc[d - i][s] += loaded * y[i];
}

// totals[tap] += the products of rows first..last of y, vector v0 of each, for NS column taps from S0 on. Rows of y
// behind the last one, up to a whole block, are rows of zeros.
template <class T, int R, int S, int S0, int NS, int BR, int masked>
void dot_strip(const PlanePair<T>& planes, const RowVectors<T>& rv, int64_t first, int64_t last, int64_t v0,
               T* totals) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes;
  const int64_t column = rv.column[v0], *const offsets = rv.offset.data() + S0;
  const auto* const mask = rv.mask.data() + v0 * S;
  const LaneMask<T> own = rv.own[v0];
  V acc[R][NS] = {};
  for (int64_t row = first; row <= last; row += BR) {
    const T *const *const x = planes.x_rows + row, *const *const y = planes.y_rows + row;
    if (S0 == 0 && planes.x_ahead != 0) {
#pragma GCC unroll 8
      for (int i = 0; i < BR; ++i) {
        __builtin_prefetch(x[R / 2 + i] + column + planes.x_ahead, 0, 2);
        __builtin_prefetch(y[i] + column + planes.y_ahead, 0, 2);
      }
    }
    V left[BR];
#pragma GCC unroll 8
    for (int i = 0; i < BR; ++i) left[i] = V(own.load(y[i] + column));
    const auto add = [&]<int d>(std::integral_constant<int, d>) __attribute__((always_inline)) {
      [&]<int... s>(std::integer_sequence<int, s...>) __attribute__((always_inline)) {
        (add_dots<T, R, S, S0, NS, BR, masked, s, d>(x[d] + column + offsets[s], mask, left, acc), ...);
      }(std::make_integer_sequence<int, NS>{});
    };
    [&]<int... d>(std::integer_sequence<int, d...>) __attribute__((always_inline)) {
      (add(std::integral_constant<int, d>{}), ...);
    }(std::make_integer_sequence<int, R + BR - 1>{});
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int s = 0; s < NS; ++s) {
      T* const total = totals + (r * S + S0 + s) * L;
      store(total, load(total) + acc[r][s]);
    }
}

template <class T, int R, int S, int S0, int masked>
void dot_columns_of(const PlanePair<T>& planes, const RowVectors<T>& rv, int64_t first, int64_t last, int64_t v,
                    T* totals) {
  constexpr int left = S - S0, most = dot_columns<R>();
  constexpr int NS = left <= most ? left : left < 2 * most ? (left + 1) / 2 : most;
  dot_strip<T, R, S, S0, NS, dot_rows_of<R, NS>(), masked>(planes, rv, first, last, v, totals);
  if constexpr (S0 + NS < S) dot_columns_of<T, R, S, S0 + NS, masked>(planes, rv, first, last, v, totals);
}

template <class T, int R, int S>
void dot_planes(const PlanePair<T>& planes, const RowVectors<T>& rv, int64_t first, int64_t last, T* totals) {
  constexpr int kBoth = kLeftTaps | kRightTaps;
  for (int64_t v = 0; v < rv.count; ++v) switch (rv.masked[v]) {
      case 0: dot_columns_of<T, R, S, 0, 0>(planes, rv, first, last, v, totals); break;
      case kLeftTaps: dot_columns_of<T, R, S, 0, kLeftTaps>(planes, rv, first, last, v, totals); break;
      case kRightTaps: dot_columns_of<T, R, S, 0, kRightTaps>(planes, rv, first, last, v, totals); break;
      default: dot_columns_of<T, R, S, 0, kBoth>(planes, rv, first, last, v, totals);
    }
}

// Where in a filter each tap's gradient goes, offsets ascending.
template <class T, class In>
Buffer<int64_t> tap_places(const WeightGradient<T, In>& wg) {
  const AxisPlan &r = wg.rows, &c = wg.columns;
  const bool down = r.offset[0] == r.lowest(), right = c.offset[0] == c.lowest();
  Buffer<int64_t> place(int64_t(r.taps) * c.taps);
  for (int64_t tr = 0, t = 0; tr < r.taps; ++tr)
    for (int64_t ts = 0; ts < c.taps; ++ts, ++t)
      place[t] = wg.w_strides(0, 0, r.index[down ? tr : r.taps - 1 - tr], c.index[right ? ts : c.taps - 1 - ts]);
  return place;
}

// Plane by plane, dots(planes, rows of y, totals) of some rows at a time, which are in whole blocks.
template <class T, class In, class Dots>
bool weight_gradient_planes_by(const WeightGradient<T, In>& wg, const Dots& dots) {
  constexpr int64_t L = Vec<T>::lanes, kTasks = 32, kBlock = 2 * kBlockRows;
  constexpr bool same = std::is_same_v<T, In>;
  const AxisPlan &r = wg.rows, &c = wg.columns;
  const int64_t taps = int64_t(r.taps) * c.taps, channels = wg.G * wg.outputs, size = taps * L;
  const int64_t at_a_time = larger(1, smaller(8, channels * wg.N / kTasks));  // channels, whose sums stay in L1
  const int64_t blocks = ceil_div(channels, at_a_time), parts = smaller(wg.N, ceil_div(kTasks, blocks));
  const int64_t x_pitch = same ? wg.x_strides.h : c.in, y_pitch = same ? wg.y_strides.h : c.count;
  const int64_t at_once = smaller(rows_at_once<T>(x_pitch), kPixelChain<T> / kBlock * kBlock);
  const int64_t y_count = smaller(at_once, ceil_div(r.count, kBlock) * kBlock),
                x_count = (y_count - 1) * r.stride + r.taps;
  const double bytes = double(wg.N) * channels * (r.in * c.in + r.count * c.count) * sizeof(T);
  const bool fetches = same && bytes > kFetchedBytes;
  Buffer<T> zeros(larger(c.in, c.count));
  std::memset(zeros.data(), 0, larger(c.in, c.count) * sizeof(T));

  Scratch<T> sums(parts * channels * size);  // [part][channel][tap][lanes]
  const double work = double(ceil_div(wg.N, parts)) * at_a_time * r.count * c.count * taps / 8;
  parallel_for_balanced(blocks * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    ConvertedPlanes<T> x_buffer(same ? 0 : smaller(x_count, r.in) * c.in), y_buffer(same ? 0 : y_count * c.count);
    Buffer<T> chunk(size);
    Buffer<const T*> x_rows(x_count), y_rows(y_count);
    PlanePair<T> planes{x_rows.data(), y_rows.data(), 0, 0};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i / blocks, k0 = i % blocks * at_a_time, k1 = smaller(k0 + at_a_time, channels);
      T* const sum = sums.data() + part * channels * size;
      std::memset(sum + k0 * size, 0, (k1 - k0) * size * sizeof(T));
      for (int64_t n = wg.N * part / parts; n < wg.N * (part + 1) / parts; ++n)
        for (int64_t k = k0; k < k1; ++k) {
          const In *const x = wg.x + wg.x_strides(n, k / wg.outputs, 0, 0), *const y = wg.y + wg.y_strides(n, k, 0, 0);
          for (int64_t p = 0, next; p < r.count; p = next) {
            next = smaller(p + at_once, r.count);
            const bool last = next == r.count;
            const int64_t count = ceil_div(next - p, kBlock) * kBlock;
            rows_as(x_rows.data(), (count - 1) * r.stride + r.taps, p * r.stride + r.lowest(), x, wg.x_strides.h, r.in,
                    c.in, zeros.data(), x_buffer);
            rows_as(y_rows.data(), count, p, y, wg.y_strides.h, r.count, c.count, zeros.data(), y_buffer);
            planes.x_ahead =
                !fetches ? 0 : (last ? wg.x_strides.c - p * r.stride * x_pitch : at_once * r.stride * x_pitch);
            planes.y_ahead = !fetches ? 0 : last ? wg.y_strides.c - p * y_pitch : at_once * y_pitch;
            std::memset(chunk.data(), 0, size * sizeof(T));
            dots(planes, next - p, chunk.data());
            for (int64_t t = 0; t < size; t += L)
              store(sum + k * size + t, load(sum + k * size + t) + load(chunk.data() + t));
          }
        }
    }
  });

  T check(0);
  const Buffer<int64_t> place = tap_places(wg);
  for (int64_t k = 0; k < channels; ++k)
    for (int64_t t = 0; t < taps; ++t) {
      typename Vec<T>::type total = load(sums.data() + k * size + t * L);
      for (int64_t part = 1; part < parts; ++part) total += load(sums.data() + (part * channels + k) * size + t * L);
      const T sum = sum_lanes<T>(total);
      wg.w[k * wg.w_strides.n + place[t]] = In(sum);
      check += sum * T(0);
    }
  return check == T(0);
}

template <class T, class In>
bool weight_gradient_rows(const WeightGradient<T, In>& wg) {
  const RowVectors<T> rv(wg.columns);
  const auto dots = wg.rows.taps == 3   ? dot_planes<T, 3, 3>
                    : wg.rows.taps == 5 ? dot_planes<T, 5, 5>
                                        : dot_planes<T, 7, 7>;
  return weight_gradient_planes_by(
      wg, [&](const PlanePair<T>& planes, int64_t rows, T* totals) { dots(planes, rv, 0, rows - 1, totals); });
}

#ifndef CONVX_AVX512  // which has depthwise.h's kernels beside them
struct InPlace {
  template <class T, class In>
  static bool convolve(const Convolution<T, In>& cv) {
    return convolve_planes(cv);
  }
  template <class T, class In>
  static bool weight_gradient(const WeightGradient<T, In>& wg) {
    return weight_gradient_rows(wg);
  }
};
#endif

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
