// Depthwise layers of stride 2 in place, on AVX-512: forward, grad_input and grad_weight for kernels of 3x3, 4x4, 5x5
// and 7x7.
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
// grad_input goes the other way: results at even and odd places of a row are sums of the same rows of y, shifted, and
// leave interleaved, in whole vectors. (Every result of a 4x4 kernel has four taps; of other kernels four kinds of
// results have different numbers of them.)
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
      own[v] = {};
      for (int64_t l = 0; l < L; ++l)
        if (column[v] + l >= v * L && column[v] + l < c.count) own[v].set(l);
      for (int64_t i = 0; i < 2 * pairs; ++i) {
        LaneMask<T> there;
        for (int64_t l = 0; l < L; ++l)
          if (const int64_t w = first[v] + i / 2 * 2 + i % 2 * L + l; w >= 0 && w < c.in) there.set(l);
        mask[v * 2 * pairs + i] = there;
      }
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
        __builtin_prefetch(rows[K / 2 + 2 * i] + sv.first[v] + plane.x_ahead, 0, 2);
        __builtin_prefetch(rows[K / 2 + 2 * i] + sv.first[v] + Vec<T>::lanes + plane.x_ahead, 0, 2);
        __builtin_prefetch(rows[K / 2 + 2 * i + 1] + sv.first[v] + plane.x_ahead, 0, 2);
        __builtin_prefetch(rows[K / 2 + 2 * i + 1] + sv.first[v] + Vec<T>::lanes + plane.x_ahead, 0, 2);
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
        __builtin_prefetch(x[K / 2 + 2 * i] + sv.first[v] + planes.x_ahead, 0, 2);
        __builtin_prefetch(x[K / 2 + 2 * i] + sv.first[v] + L + planes.x_ahead, 0, 2);
        __builtin_prefetch(x[K / 2 + 2 * i + 1] + sv.first[v] + planes.x_ahead, 0, 2);
        __builtin_prefetch(x[K / 2 + 2 * i + 1] + sv.first[v] + L + planes.x_ahead, 0, 2);
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

// Results of grad_input are taken in squares: square (u, v) is at row 2u - pad and column 2v - pad of x, and its result
// (a, b) is the sum over t, s of y[u - t][v - s] * w[a + 2t][b + 2s].
struct SquareAxis {
  int64_t pad, in, out, first, count;  // of x and y, and squares

  explicit SquareAxis(const Axis& a)
      : pad(a.pad), in(a.in), out(a.out), first(a.pad / 2), count((a.in - 1 + a.pad) / 2 - a.pad / 2 + 1) {}
};

// Where vectors of squares begin in a row, and which lanes of what they read and write there are.
template <class T>
struct SquareVectors {
  static constexpr int64_t L = Vec<T>::lanes;
  int64_t count, taps;
  Buffer<int64_t> column;
  Buffer<LaneMask<T>> read;   // [vector][s]
  Buffer<LaneMask<T>> write;  // [vector][which of the two that leave]

  SquareVectors(const SquareAxis& c, int64_t kernel)
      : count(ceil_div(c.count, L)), taps((kernel + 1) / 2), column(count), read(count * taps), write(count * 2) {
    for (int64_t v = 0; v < count; ++v) {
      column[v] = c.first + v * L;
      for (int64_t s = 0; s < taps; ++s) {
        read[v * taps + s] = {};
        for (int64_t l = 0; l < L; ++l)
          if (const int64_t q = column[v] - s + l; q >= 0 && q < c.out) read[v * taps + s].set(l);
      }
      for (int64_t i = 0; i < 2; ++i) {
        write[v * 2 + i] = {};
        for (int64_t l = 0; l < L; ++l)
          if (const int64_t w = 2 * column[v] - c.pad + i * L + l; w >= 0 && w < c.in) write[v * 2 + i].set(l);
      }
    }
  }
};

template <class T>
struct SquarePlane {
  const T* const* rows;  // of y, from the first that the first square reads on
  T* x;                  // where the first square is: its first row may be above the plane
  int64_t x_pitch;
  const T* w;  // [row tap][column tap]
  T bias;
  int64_t first_row, end_row;  // of the rows of the squares, those in the plane
  int64_t x_ahead, y_ahead;    // to what is fetched on the way, 0 if nothing
};

// BR rows of squares from row u on.
template <class T, int K, int BR>
__attribute__((always_inline)) inline void convolve_squares(const SquarePlane<T>& plane, const SquareVectors<T>& sv,
                                                            int64_t u, int64_t v) {
  using V = typename Vec<T>::type;
  constexpr int kTaps = (K + 1) / 2;
  constexpr int64_t L = Vec<T>::lanes;
  const auto low = Interleave<T>::index(Interleave<T>::table.low),
             high = Interleave<T>::index(Interleave<T>::table.high);
  const LaneMask<T>*const read = sv.read.data() + v * kTaps, *const write = sv.write.data() + 2 * v;
  V acc[BR][2][2];
  const V bias = splat<T>(plane.bias);
#pragma GCC unroll 4
  for (int i = 0; i < BR; ++i) acc[i][0][0] = acc[i][0][1] = acc[i][1][0] = acc[i][1][1] = bias;
#pragma GCC unroll 4
  for (int s = 0; s < kTaps; ++s)
#pragma GCC unroll 8
    for (int d = 0; d < BR + kTaps - 1; ++d) {  // row u + d - (kTaps - 1) of y
      V y = V(read[s].load(plane.rows[u + d] + sv.column[v] - s));
      asm("" : "+v"(y));  // once, as in depthwise_rows.h
#pragma GCC unroll 4
      for (int i = 0; i < BR; ++i) {
        const int t = i + kTaps - 1 - d;
        if (t < 0 || t >= kTaps) continue;
#pragma GCC unroll 2
        for (int a = 0; a < 2; ++a)
#pragma GCC unroll 2
          for (int b = 0; b < 2; ++b)
            if (a + 2 * t < K && b + 2 * s < K) acc[i][a][b] += y * splat<T>(plane.w[(a + 2 * t) * K + b + 2 * s]);
      }
    }
#pragma GCC unroll 4
  for (int i = 0; i < BR; ++i)
#pragma GCC unroll 2
    for (int a = 0; a < 2; ++a) {
      const int64_t row = 2 * (u + i) + a;
      if (row < plane.first_row || row >= plane.end_row) continue;
      T* const to = plane.x + row * plane.x_pitch + 2 * sv.column[v];
      RowVector<T, 64>::store(write[0], to, shuffle<T>(acc[i][a][0], acc[i][a][1], low));
      RowVector<T, 64>::store(write[1], to + L, shuffle<T>(acc[i][a][0], acc[i][a][1], high));
    }
}

constexpr int kSquareRows = 2;  // of squares in a block: eight sums

template <class T, int K>
void convolve_square_plane(const SquarePlane<T>& plane, const SquareVectors<T>& sv, int64_t squares) {
  constexpr int BR = kSquareRows;
  for (int64_t v = 0; v < sv.count; ++v)
    for (int64_t u = 0; u < squares; u += BR) {
      if (plane.x_ahead > 0) {
#pragma GCC unroll 2
        for (int i = 0; i < BR; ++i) {
          T* const to = plane.x + 2 * (u + i) * plane.x_pitch + 2 * sv.column[v] + plane.x_ahead;
          __builtin_prefetch(to, 1, 2);
          __builtin_prefetch(to + Vec<T>::lanes, 1, 2);
          __builtin_prefetch(to + plane.x_pitch, 1, 2);
          __builtin_prefetch(to + plane.x_pitch + Vec<T>::lanes, 1, 2);
          __builtin_prefetch(plane.rows[u + i] + sv.column[v] + plane.y_ahead, 0, 2);
        }
      }
      convolve_squares<T, K, BR>(plane, sv, u, v);
    }
}

template <class T, class In>
bool grad_input_strided(const Convolution<T, In>& cv, const ConvProblem& pb) {
  constexpr bool same = std::is_same_v<T, In>;
  const SquareAxis r(pb.rows()), c(pb.columns());
  const int64_t K = pb.R, taps = K * K, above = (K + 1) / 2 - 1, x_size = r.in * c.in;
  const SquareVectors<T> sv(c, K);
  Buffer<T> weights(cv.G * cv.outputs * taps), zeros(c.out);
  std::memset(zeros.data(), 0, c.out * sizeof(T));
  for (int64_t k = 0; k < cv.G * cv.outputs; ++k)
    for (int64_t t = 0; t < taps; ++t)
      weights[k * taps + t] = T(cv.weight[k / cv.outputs * cv.weight_group + k % cv.outputs * cv.weight_output +
                                          t / K * cv.weight_r + t % K * cv.weight_s]);
  if (!all_finite(weights.data(), cv.G * cv.outputs * taps)) return false;
  const int64_t row_count = ceil_div(r.count, kSquareRows) * kSquareRows + above;
  const bool fetches = same && double(cv.N) * cv.G * cv.outputs * x_size * sizeof(T) > kFetchedBytes;
  const double work = double(x_size) * taps / 4 * cv.outputs / 8;
  parallel_for_balanced(cv.N * cv.G, grain_for(work), [&](int64_t begin, int64_t end) {
    ConvertedPlanes<T> y(same ? 0 : r.out * c.out), x(same ? 0 : x_size);
    Buffer<const T*> rows(row_count);
    SquarePlane<T> plane;
    plane.rows = rows.data(), plane.x_pitch = same ? cv.out_strides.h : c.in;
    plane.x_ahead = fetches ? cv.out_strides.c : 0, plane.y_ahead = fetches ? cv.in_strides.c : 0;
    plane.first_row = r.pad - 2 * r.first, plane.end_row = plane.first_row + r.in;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / cv.G, g = i % cv.G;
      rows_as(rows.data(), row_count, r.first - above, cv.in + cv.in_strides(n, g, 0, 0), cv.in_strides.h, r.out, c.out,
              zeros.data(), y);
      for (int64_t k = g * cv.outputs; k < (g + 1) * cv.outputs; ++k) {
        In* const to = cv.out + cv.out_strides(n, k, 0, 0);
        plane.w = weights.data() + k * taps;
        plane.bias = cv.bias ? T(cv.bias[k * cv.bias_stride]) : T(0);
        if constexpr (same)
          plane.x = to;
        else
          plane.x = x.data();
        plane.x -= plane.first_row * plane.x_pitch + c.pad;
        with_strided_kernel(K, [&](auto kernel) { convolve_square_plane<T, kernel>(plane, sv, r.count); });
        if constexpr (!same) x.unload(to, {1, 0, r.in, cv.out_strides.h, c.in});
      }
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
