// Depthwise layers of stride 2 in place, on AVX-512: forward and grad_weight for kernels of 3x3, 4x4, 5x5 and 7x7.
// (grad_input is depthwise_strided_input.h's.)
//
// What depthwise_rows.h does for stride 1: vectors across the pixels of a row of results, a block of rows of them in
// registers, an input that has been loaded meets all results that read it. What is different is that neighbouring
// results read every other input. Two vectors of a row are taken apart into their even elements, which one column tap
// reads, and their odd ones, which the next tap reads:
//
//   acc[i] += x[row d][2q + offset(2m)] * w[d - 2i][2m] + x[row d][2q + offset(2m + 1)] * w[d - 2i][2m + 1],
//
// 0 <= d - 2i < K, the first from the even elements, the second from the odd ones.
//
// Limit: 3x3 forward is 9 multiply-adds for 16 results, and for each of two rows of x four loads, most across lines,
// and three shuffles: about 22 cycles, where depthwise_channels.h takes 100. The way from memory takes longer than
// either. What is left out is read as zero, so weights that are not finite go to the reference.
#pragma once
#include "depthwise_rows_weight.h"
#include "depthwise_small.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Where vectors of a row of results begin, and which elements the two vectors that a pair of column taps reads have.
template <class T>
struct StridedVectors {
  static constexpr int64_t L = Vec<T>::lanes;
  int64_t count, pairs;
  Buffer<int64_t> column, first;  // of results, and of what the first tap reads
  Buffer<LaneMask<T>> mask;       // [vector][pair of taps][which of the two]
  Buffer<LaneMask<T>> own;        // of each vector: the results that no other has

  StridedVectors(const AxisPlan& c)
      : count(ceil_div(c.count, L)),
        pairs(ceil_div(c.taps, 2)),
        column(count),
        first(count),
        mask(count * pairs * 2),
        own(count) {
    for (int64_t v = 0; v < count; ++v) {
      column[v] = larger(0, smaller(v * L, c.count - L));  // the last one overlaps its neighbour: the same results
      first[v] = 2 * column[v] + c.lowest();
      own[v] = lanes_inside<T>(column[v], v * L, c.count);
      for (int64_t i = 0; i < 2 * pairs; ++i)
        mask[v * 2 * pairs + i] = lanes_inside<T>(first[v] + i / 2 * 2 + i % 2 * L, 0, c.in);
    }
  }
};

// What a pair of column taps reads of a row.
template <class T>
struct EvenOdd {
  using V = typename Vec<T>::type;
  V even, odd;

  __attribute__((always_inline)) EvenOdd(const T* x, const LaneMask<T>* mask, bool both) {
    constexpr int64_t L = Vec<T>::lanes;
    const auto evens = Interleave<T>::index(Evens<T>::table.even);
    const V low = V(mask[0].load(x)), high = V(mask[1].load(x + L));
    even = shuffle<T>(low, high, evens);
    odd = both ? shuffle<T>(low, high, evens + 1) : V{};
  }
};

constexpr int kStridedRows = 4;  // of results in a block

// What one row of results reads of two rows that come later, two vectors of each.
template <class T>
__attribute__((always_inline)) inline void fetch_two_rows(const T* const* rows, int64_t at) {
#pragma GCC unroll 2
  for (int r = 0; r < 2; ++r) {
    __builtin_prefetch(rows[r] + at, 0, 2);
    __builtin_prefetch(rows[r] + at + Vec<T>::lanes, 0, 2);
  }
}

// Vector v of rows [0, results), whose inputs begin at plane.rows.
template <class T, int K>
void convolve_strided_strip(const Plane<T>& plane, const StridedVectors<T>& sv, int64_t results, int64_t v) {
  using V = typename Vec<T>::type;
  constexpr int BR = kStridedRows, kPairs = (K + 1) / 2;
  const LaneMask<T>* const mask = sv.mask.data() + v * 2 * kPairs;
  const LaneMask<T> own = sv.own[v];
  const V bias = splat<T>(plane.bias);
  for (int64_t start = 0; start < results; start += BR) {
    const int64_t row = smaller(start, results - BR);
    const T* const* const rows = plane.rows + 2 * row;
    T* const to = plane.y + row * plane.y_pitch + sv.column[v];
    if (plane.x_ahead > 0) {
#pragma GCC unroll 4
      for (int i = 0; i < BR; ++i) {
        fetch_two_rows(rows + K / 2 + 2 * i, sv.first[v] + plane.x_ahead);
        __builtin_prefetch(to + i * plane.y_pitch + plane.y_ahead, 1, 2);
      }
    }
    V acc[BR] = {}, sums[BR];
#pragma GCC unroll 4
    for (int i = 0; i < BR; ++i) sums[i] = bias;
    const auto add = [&]<int m>(std::integral_constant<int, m>) __attribute__((always_inline)) {
      constexpr bool both = 2 * m + 1 < K;
      V even[K], odd[K];
#pragma GCC unroll 8
      for (int r = 0; r < K; ++r) {
        even[r] = splat<T>(plane.w[r * K + 2 * m]);
        odd[r] = splat<T>(plane.w[r * K + 2 * m + (both ? 1 : 0)]);
      }
#pragma GCC unroll 16
      for (int d = 0; d < 2 * BR + K - 2; ++d) {
        const EvenOdd<T> x(rows[d] + sv.first[v] + 2 * m, mask + 2 * m, both);
#pragma GCC unroll 4
        for (int i = 0; i < BR; ++i)
          if (d - 2 * i >= 0 && d - 2 * i < K) {
            acc[i] += x.even * even[d - 2 * i];
            if (both) acc[i] += x.odd * odd[d - 2 * i];
          }
      }
      if constexpr (m == kPairs - 1 || K * K > kChain<T>) {
#pragma GCC unroll 4
        for (int i = 0; i < BR; ++i) sums[i] += acc[i], acc[i] = V{};
      }
    };
    [&]<int... m>(std::integer_sequence<int, m...>) __attribute__((always_inline)) {
      (add(std::integral_constant<int, m>{}), ...);
    }(std::make_integer_sequence<int, kPairs>{});
#pragma GCC unroll 4
    for (int i = 0; i < BR; ++i) RowVector<T, 64>::store(own, to + i * plane.y_pitch, sums[i]);
  }
}

template <class T, int K>
void convolve_strided_plane(const Plane<T>& plane, const StridedVectors<T>& sv, int64_t results) {
  for (int64_t v = 0; v < sv.count; ++v) convolve_strided_strip<T, K>(plane, sv, results, v);
}

// totals[tap] += the products of rows [0, results) of y, vector v of each, for NP pairs of column taps from M on. Rows
// of y behind the last one, up to a whole block, are rows of zeros.
template <class T, int K, int M, int NP>
void dot_strided_strip(const PlanePair<T>& planes, const StridedVectors<T>& sv, int64_t results, int64_t v, T* totals) {
  using V = typename Vec<T>::type;
  constexpr int BR = kStridedRows, kPairs = (K + 1) / 2;
  constexpr int64_t L = Vec<T>::lanes;
  const LaneMask<T>* const mask = sv.mask.data() + v * 2 * kPairs;
  V even[K][NP] = {}, odd[K][NP] = {};
  for (int64_t row = 0; row < results; row += BR) {
    const T *const *const x = planes.x_rows + 2 * row, *const *const y = planes.y_rows + row;
    if (M == 0 && planes.x_ahead != 0) {
#pragma GCC unroll 4
      for (int i = 0; i < BR; ++i) {
        fetch_two_rows(x + K / 2 + 2 * i, sv.first[v] + planes.x_ahead);
        __builtin_prefetch(y[i] + sv.column[v] + planes.y_ahead, 0, 2);
      }
    }
    V left[BR];
#pragma GCC unroll 4
    for (int i = 0; i < BR; ++i) left[i] = V(sv.own[v].load(y[i] + sv.column[v]));
#pragma GCC unroll 16
    for (int d = 0; d < 2 * BR + K - 2; ++d)
#pragma GCC unroll 2
      for (int m = 0; m < NP; ++m) {
        const bool both = 2 * (M + m) + 1 < K;
        const EvenOdd<T> read(x[d] + sv.first[v] + 2 * (M + m), mask + 2 * (M + m), both);
#pragma GCC unroll 4
        for (int i = 0; i < BR; ++i)
          if (d - 2 * i >= 0 && d - 2 * i < K) {
            even[d - 2 * i][m] += read.even * left[i];
            if (both) odd[d - 2 * i][m] += read.odd * left[i];
          }
      }
  }
#pragma GCC unroll 8
  for (int r = 0; r < K; ++r)
#pragma GCC unroll 2
    for (int m = 0; m < NP; ++m) {
      T* const total = totals + (r * K + 2 * (M + m)) * L;
      store(total, load(total) + even[r][m]);
      if (2 * (M + m) + 1 < K) store(total + L, load(total + L) + odd[r][m]);
    }
}

// Of 3x3 and 4x4 all sums are registers at once; of more those of two columns of taps.
template <class T, int K, int M = 0>
void dot_strided_planes(const PlanePair<T>& planes, const StridedVectors<T>& sv, int64_t results, T* totals) {
  constexpr int NP = K <= 4 ? 2 : 1;
  for (int64_t v = 0; v < sv.count; ++v) dot_strided_strip<T, K, M, NP>(planes, sv, results, v, totals);
  if constexpr (2 * (M + NP) < K) dot_strided_planes<T, K, M + NP>(planes, sv, results, totals);
}

// Calls f with the kernel's size as a constant.
template <class F>
void with_strided_kernel(int64_t kernel, F&& f) {
  switch (kernel) {
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 5: return f(std::integral_constant<int, 5>{});
    default: return f(std::integral_constant<int, 7>{});
  }
}

template <class T, class In>
bool convolve_strided(const Convolution<T, In>& cv) {
  const StridedVectors<T> sv(cv.columns);
  bool done = false;
  with_strided_kernel(cv.rows.taps, [&](auto kernel) {
    done = convolve_planes_by(cv, [&](const Plane<T>& plane, int64_t results, int64_t at_once) {
      for (int64_t row = 0; row < results; row += at_once) {
        const int64_t last = smaller(row + at_once, results), first = smaller(row, results - kStridedRows);
        Plane<T> strip = plane;
        strip.rows += 2 * first, strip.y += first * plane.y_pitch;
        convolve_strided_plane<T, kernel>(strip, sv, last - first);
      }
    });
  });
  return done;
}

template <class T, class In>
bool weight_gradient_strided(const WeightGradient<T, In>& wg) {
  const StridedVectors<T> sv(wg.columns);
  bool done = false;
  with_strided_kernel(wg.rows.taps, [&](auto kernel) {
    done = weight_gradient_planes_by(wg, [&](const PlanePair<T>& planes, int64_t results, T* totals) {
      dot_strided_planes<T, kernel>(planes, sv, results, totals);
    });
  });
  return done;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
