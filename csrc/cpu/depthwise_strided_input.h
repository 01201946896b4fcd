// grad_input of depthwise layers of stride 2 in place, on AVX-512, for kernels of 3x3, 4x4, 5x5 and 7x7.
//
// The results are taken in squares of 2 x 2: square (u, v) is at row 2u - pad and column 2v - pad of x, and its result
// (a, b) is a sum over the same places of y for all four,
//
//   x[a][b] = sum over t, s of  y[u - t][v - s] * w[a + 2t][b + 2s],
//
// so a vector of y, along a row, is loaded once for them. The results at even and those at odd columns are vectors of
// their own, and leave interleaved, in whole vectors. (Of a 4x4 kernel every result has four taps; of others each of
// the four has another number of them.)
//
// Limit: of 3x3 taps nine multiply-adds, three loads of y, four shuffles and four stores for 64 results, some ten
// cycles; the way of their 256 bytes to memory takes longer. What is left out is read as zero, so weights that are not
// finite go to the reference. Alone:
//
//   with convx.algorithm("depthwise"): ...
#pragma once
#include "depthwise_strided.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

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
      for (int64_t s = 0; s < taps; ++s) read[v * taps + s] = lanes_inside<T>(column[v] - s, 0, c.out);
      for (int64_t i = 0; i < 2; ++i) write[v * 2 + i] = lanes_inside<T>(2 * column[v] - c.pad + i * L, 0, c.in);
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
