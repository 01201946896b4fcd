// Depthwise layers in place: vectors across the pixels of a row, nothing packed, blocks of rows. For kernels of 3x3,
// 5x5 and 7x7 and stride 1, on AVX2 and AVX-512.
//
// The results [q, q + L) of a row, a vector, read the inputs from q + offset(s) on, for each column tap s: a load,
// unaligned. Where some of its elements are beyond the row's ends a mask leaves them out, and a row of zeros stands for
// those beyond the plane. A block is 4 rows of results and one vector (5x5 and 7x7: two): an input that has been loaded
// meets all the rows of taps that bring it to one of the block's results,
//
//   acc[i][v] += x[row d][q_v + offset(s)] * w[d - i][s],   i < 4,  v < 2,  0 <= d - i < R,
//
// and which those are is known to the compiler: as loops, with three rounds each, this took twice as long. The last
// block and the last vector overlap those before them, so that none is cut off.
//
// What it gains over depthwise_channels.h: planes are not turned over, twice 10 cycles for 8 results. Limit on AVX2: a
// block of 3x3 taps is 36 multiply-adds, 18 loads of x, half of them across cache lines, as many of masks at a row's
// ends, and 9 of weights: 18 to 27 cycles for 32 results, whose way from and to memory takes 45. It takes about 50 in
// cache. What is left out is read as zero, so weights that are not finite go to the reference. Alone:
//
//   with convx.algorithm("depthwise"): ...
#pragma once
#include "masked_load.h"
#include "planes.h"
#include "plans.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Which column taps need masks: those left of the middle one, those right of it, or with both the middle one too.
constexpr int kLeftTaps = 1, kRightTaps = 2;

// Where vectors of a row begin, and which of their elements each column tap finds inside.
template <class T>
struct RowVectors {
  static constexpr int64_t L = Vec<T>::lanes;
  int64_t count, length, taps;  // of a vector: L, or of a short row
  Buffer<int64_t> column, offset;
  Buffer<int> masked;        // of each vector: which of its taps need a mask
  Buffer<LaneMask<T>> mask;  // [vector][tap]

  explicit RowVectors(const AxisPlan& c)
      : count(ceil_div(c.count, L)),
        length(smaller(L, c.count)),
        taps(c.taps),
        column(count),
        offset(taps),
        masked(count),
        mask(count * taps) {
    const bool ascends = c.offset[0] == c.lowest();
    for (int64_t s = 0; s < taps; ++s) offset[s] = c.offset[ascends ? s : taps - 1 - s];
    for (int64_t v = 0; v < count; ++v) {
      column[v] = larger(0, smaller(v * L, c.count - L));  // the last one overlaps its neighbour: the same results
      const auto inside = [&](int64_t s) { return column[v] + offset[s] >= 0 && column[v] + L + offset[s] <= c.in; };
      masked[v] = 0;
      for (int64_t s = 0; s < taps; ++s)
        if (!inside(s)) masked[v] |= s < taps / 2 ? kLeftTaps : s > taps / 2 ? kRightTaps : kLeftTaps | kRightTaps;
      for (int64_t s = 0; s < taps; ++s) {
        LaneMask<T> there;
        for (int64_t l = 0; l < L; ++l)
          if (const int64_t w = column[v] + l + offset[s]; w >= 0 && w < c.in) there.set(l);
        mask[v * taps + s] = there;
      }
    }
  }
};

template <class T>
struct Plane {
  const T* x;
  int64_t x_pitch;
  T* y;
  int64_t y_pitch;
  const T* w;  // [row tap][column tap], offsets ascending
  T bias;
};

constexpr int kBlockRows = 4;

// The products of row d of a block's inputs. Inlined, as all that has the sums: else they would be in memory.
template <class T, int R, int S, int NV, int masked, int d>
__attribute__((always_inline)) inline void add_row(const T* x, const int64_t* column, const RowVectors<T>& rv,
                                                   const LaneMask<T>* mask, const T* w,
                                                   typename Vec<T>::type (&acc)[kBlockRows][NV]) {
  using V = typename Vec<T>::type;
  constexpr int low = d - R + 1 > 0 ? d - R + 1 : 0, high = d < kBlockRows ? d : kBlockRows - 1;
  const auto tap = [&]<int s>(std::integral_constant<int, s>) __attribute__((always_inline)) {
    constexpr int needed = s < S / 2 ? kLeftTaps : s > S / 2 ? kRightTaps : kLeftTaps | kRightTaps;
    constexpr bool needs_mask = (masked & needed) == needed;
    V right[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      const T* const from = x + column[v] + rv.offset[s];
      if constexpr (needs_mask)
        right[v] = V(mask[v * S + s].load(from));
      else
        right[v] = load(from);
    }
#pragma GCC unroll 4
    for (int i = low; i <= high; ++i) {
      const V weight = splat<T>(w[(d - i) * S + s]);
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) acc[i][v] += right[v] * weight;
    }
  };
  [&]<int... s>(std::integer_sequence<int, s...>) __attribute__((always_inline)) {
    (tap(std::integral_constant<int, s>{}), ...);
  }(std::make_integer_sequence<int, S>{});
}

// NV vectors, from vector v0 on, of a block of rows; `rows` are those of x that it reads.
template <class T, int R, int S, int NV, int masked>
void convolve_block(const Plane<T>& plane, const T* const* rows, const RowVectors<T>& rv, int64_t first_row,
                    int64_t v0) {
  using V = typename Vec<T>::type;
  constexpr int kTogether = kChain<T> / S;  // rows in a chain
  const int64_t* const column = rv.column.data() + v0;
  const auto* const mask = rv.mask.data() + v0 * S;
  V acc[kBlockRows][NV] = {}, sums[kBlockRows][NV];
#pragma GCC unroll 4
  for (int i = 0; i < kBlockRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) sums[i][v] = splat<T>(plane.bias);
  const auto flush = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int i = 0; i < kBlockRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) sums[i][v] += acc[i][v], acc[i][v] = V{};
  };
  [&]<int... d>(std::integer_sequence<int, d...>) __attribute__((always_inline)) {
    ((add_row<T, R, S, NV, masked, d>(rows[d], column, rv, mask, plane.w, acc),
      d % kTogether == kTogether - 1 && d < R + kBlockRows - 2 ? flush() : void()),
     ...);
  }(std::make_integer_sequence<int, R + kBlockRows - 1>{});
  flush();
#pragma GCC unroll 4
  for (int i = 0; i < kBlockRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v)
      store_some<T>(plane.y + (first_row + i) * plane.y_pitch + column[v], sums[i][v], rv.length);
}

template <class T, int R, int S, int NV>
void convolve_block_of(int masked, const Plane<T>& plane, const T* const* rows, const RowVectors<T>& rv, int64_t row,
                       int64_t v) {
  switch (masked) {
    case 0: return convolve_block<T, R, S, NV, 0>(plane, rows, rv, row, v);
    case kLeftTaps: return convolve_block<T, R, S, NV, kLeftTaps>(plane, rows, rv, row, v);
    case kRightTaps: return convolve_block<T, R, S, NV, kRightTaps>(plane, rows, rv, row, v);
    default: return convolve_block<T, R, S, NV, kLeftTaps | kRightTaps>(plane, rows, rv, row, v);
  }
}

template <class T, int R, int S>
void convolve_plane(const Plane<T>& plane, const RowVectors<T>& rv, const AxisPlan& r, const T* zeros) {
  constexpr int NV = R > 3 ? 2 : 1;  // of 3x3 all weights stay in registers, and so one vector's sums
  const int64_t lowest = r.lowest();
  for (int64_t start = 0; start < r.count; start += kBlockRows) {
    const int64_t row = smaller(start, r.count - kBlockRows);
    const T* rows[R + kBlockRows - 1];
    for (int d = 0; d < R + kBlockRows - 1; ++d) {
      const int64_t h = row + lowest + d;
      rows[d] = h >= 0 && h < r.in ? plane.x + h * plane.x_pitch : zeros;
    }
    int64_t v = 0;
    for (; NV == 2 && v + 1 < rv.count; v += 2)
      convolve_block_of<T, R, S, NV>(rv.masked[v] | rv.masked[v + 1], plane, rows, rv, row, v);
    for (; v < rv.count; ++v) convolve_block_of<T, R, S, 1>(rv.masked[v], plane, rows, rv, row, v);
  }
}

template <class T>
using ConvolvePlane = void (*)(const Plane<T>&, const RowVectors<T>&, const AxisPlan&, const T*);
template <class T>
ConvolvePlane<T> convolve_plane_of(int64_t kernel) {
  return kernel == 3 ? convolve_plane<T, 3, 3> : kernel == 5 ? convolve_plane<T, 5, 5> : convolve_plane<T, 7, 7>;
}

template <class T, class In>
bool convolve_planes(const Convolution<T, In>& cv) {
  constexpr bool same = std::is_same_v<T, In>;
  const AxisPlan &r = cv.rows, &c = cv.columns;
  const RowVectors<T> rv(c);
  const int64_t taps = cv.taps(), channels = cv.G * cv.outputs;
  Buffer<T> weights(channels * taps);
  const bool down = r.offset[0] == r.lowest(), right = c.offset[0] == c.lowest();
  for (int64_t k = 0; k < channels; ++k)
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t tr = t / c.taps, tc = t % c.taps;
      weights[k * taps + t] = T(cv.weight[k / cv.outputs * cv.weight_group + k % cv.outputs * cv.weight_output +
                                          r.index[down ? tr : r.taps - 1 - tr] * cv.weight_r +
                                          c.index[right ? tc : c.taps - 1 - tc] * cv.weight_s]);
    }
  if (!all_finite(weights.data(), channels * taps)) return false;
  const auto convolve_plane = convolve_plane_of<T>(r.taps);
  Buffer<T> zeros(c.in);
  std::memset(zeros.data(), 0, c.in * sizeof(T));
  const double work = double(r.count) * c.count * taps * cv.outputs / 8;
  parallel_for_balanced(cv.N * cv.G, grain_for(work), [&](int64_t begin, int64_t end) {
    Buffer<T> x(same ? 0 : r.in * c.in), y(same ? 0 : r.count * c.count);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / cv.G, g = i % cv.G;
      Plane<T> plane;
      plane.x = plane_as<T, In>(cv.in + cv.in_strides(n, g, 0, 0), cv.in_strides.h, r.in, c.in, x);
      plane.x_pitch = same ? cv.in_strides.h : c.in, plane.y_pitch = same ? cv.out_strides.h : c.count;
      for (int64_t k = g * cv.outputs; k < (g + 1) * cv.outputs; ++k) {
        In* const to = cv.out + cv.out_strides(n, k, 0, 0);
        plane.w = weights.data() + k * taps;
        plane.bias = cv.bias ? T(cv.bias[k * cv.bias_stride]) : T(0);
        if constexpr (same)
          plane.y = to;
        else
          plane.y = y.data();
        convolve_plane(plane, rv, r, zeros.data());
        if constexpr (!same)
          for (int64_t p = 0; p < r.count; ++p)
            for (int64_t q = 0; q < c.count; ++q) to[p * cv.out_strides.h + q] = In(y[p * c.count + q]);
      }
    }
  });
  return true;
}

#ifndef CONVX_AVX512
struct InPlace {
  template <class T, class In>
  static bool convolve(const Convolution<T, In>& cv) {
    return convolve_planes(cv);
  }
};
#endif

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
