// Depthwise layers on small planes, in place: vectors across the pixels of a row, a plane in one go. For kernels of
// 3x3, 5x5 and 7x7, stride 1 and as many rows of results as of input, on AVX-512.
//
// What depthwise_rows.h does, for planes whose rows are a vector or two, where most of its time went into what is
// around the products. Here all of that is known to the compiler, or the same for every plane: a plane is one block of
// rows of results in registers, or a first, some in the middle and a last one; rows of taps above and below the plane
// are left out; the masks that cut off what is beside it stay in registers from plane to plane; a row of up to eight
// float32 is a vector of 32 bytes, of which there are two multiply-adds a cycle where of 64 bytes there is one.
//
//   acc[i] += x[row d][q + offset(s)] * w[d - i][s],   i < BR,  0 <= d - i < K,  row d inside the plane
//
// Limit: 7x7 planes and 3x3 taps are 57 multiply-adds and 21 loads, 29 cycles; it takes 35 to 40 with the stores, and
// took 140 where planes were turned over. 14 x 14 pixels and 7x7 taps: 602 multiply-adds of 64 bytes, and 620 cycles.
//
// 16-bit types are converted, some planes at a time. What is left out is read as zero, so weights that are not finite
// go to the reference. Alone:
//
//   with convx.algorithm("depthwise"): ...
#pragma once
#include "depthwise_rows.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// A vector of `bytes`, from and to memory only the lanes of a mask.
template <class T, int bytes>
struct RowVector {
  static constexpr int lanes = bytes / sizeof(T);
  typedef T V __attribute__((vector_size(bytes)));

  static V splat(T x) { return x - V{}; }
  static V load(LaneMask<T> mask, const T* p) {
    if constexpr (bytes == 64)
      return V(mask.load(p));
    else
      return V(_mm256_maskz_loadu_ps(__mmask8(mask.bits), p));
  }
  static void store(LaneMask<T> mask, T* p, V v) {
    if constexpr (sizeof(T) == 8)
      _mm512_mask_storeu_pd(p, __mmask8(mask.bits), __m512d(v));
    else if constexpr (bytes == 64)
      _mm512_mask_storeu_ps(p, mask.bits, __m512(v));
    else
      _mm256_mask_storeu_ps(p, __mmask8(mask.bits), __m256(v));
  }
};

// Planes that follow each other at equal distances, each with a filter of its own.
template <class T>
struct SmallPlanes {
  const T* x;
  T* y;
  const T *w, *bias;  // [plane][row tap][column tap], offsets ascending; [plane], or null
  int64_t count, height;
  int64_t x_step, x_pitch, y_step, y_pitch;
};

// The masks of one vector of a row, in registers.
template <class T, int K>
struct TapMasks {
  LaneMask<T> tap[K], own;

  TapMasks(const RowVectors<T>& rv, int64_t v) : own(rv.own[v]) {
    for (int s = 0; s < K; ++s) tap[s] = rv.mask[v * K + s];
  }
};

// The rows of x that a block of BR rows reads, but for those above and below the plane, for column tap s. All of it
// inlined, so that the sums are in registers.
template <class T, int bytes, int K, int BR, int above, int below, class Accumulators>
__attribute__((always_inline)) inline void add_column(const T* x, int64_t pitch, LaneMask<T> mask, const T* w,
                                                      Accumulators& acc) {
  using Row = RowVector<T, bytes>;
  using V = typename Row::V;
  V weight[K];
#pragma GCC unroll 8
  for (int r = 0; r < K; ++r) weight[r] = Row::splat(w[r * K]);
#pragma GCC unroll 16
  for (int d = above; d < BR + K - 1 - below; ++d) {
    V loaded = Row::load(mask, x + (d - K / 2) * pitch);
    asm("" : "+v"(loaded));  // once: compilers would load it again for each product
#pragma GCC unroll 8
    for (int i = 0; i < BR; ++i)
      if (d - i >= 0 && d - i < K) acc[i] += loaded * weight[d - i];
  }
}

// BR rows of results, of which `above` rows of taps of the first and `below` of the last are outside of the plane.
template <class T, int bytes, int K, int BR, int above, int below>
__attribute__((always_inline)) inline void convolve_block(const T* x, int64_t x_pitch, const TapMasks<T, K>& masks,
                                                          const T* w, T bias, T* y, int64_t y_pitch) {
  using Row = RowVector<T, bytes>;
  using V = typename Row::V;
  constexpr int kTogether = kChain<T> / K;  // columns of taps in a chain
  V acc[BR] = {}, sums[BR];
#pragma GCC unroll 8
  for (int i = 0; i < BR; ++i) sums[i] = Row::splat(bias);
  const auto add = [&]<int s>(std::integral_constant<int, s>) __attribute__((always_inline)) {
    add_column<T, bytes, K, BR, above, below>(x + s, x_pitch, masks.tap[s], w + s, acc);
    if constexpr (s % kTogether == kTogether - 1 || s == K - 1) {
#pragma GCC unroll 8
      for (int i = 0; i < BR; ++i) sums[i] += acc[i], acc[i] = V{};
    }
  };
  [&]<int... s>(std::integer_sequence<int, s...>) __attribute__((always_inline)) {
    (add(std::integral_constant<int, s>{}), ...);
  }(std::make_integer_sequence<int, K>{});
#pragma GCC unroll 8
  for (int i = 0; i < BR; ++i) Row::store(masks.own, y + i * y_pitch, sums[i]);
}

template <class T, int bytes, int K, int BR, bool whole>
void convolve_small_planes(const SmallPlanes<T>& p, const RowVectors<T>& rv) {
  constexpr int kEdge = K / 2;
  for (int64_t v = 0; v < rv.count; ++v) {
    const TapMasks<T, K> masks(rv, v);
    const T *x = p.x + rv.column[v] + rv.offset[0], *w = p.w;
    T* y = p.y + rv.column[v];
    for (int64_t i = 0; i < p.count; ++i, x += p.x_step, y += p.y_step, w += K * K) {
      const T start = p.bias ? p.bias[i] : T(0);
      if constexpr (whole) {
        convolve_block<T, bytes, K, BR, kEdge, kEdge>(x, p.x_pitch, masks, w, start, y, p.y_pitch);
      } else {
        convolve_block<T, bytes, K, BR, kEdge, 0>(x, p.x_pitch, masks, w, start, y, p.y_pitch);
        int64_t row = BR;
        for (; row < p.height - BR; row += BR) {
          row = smaller(row, p.height - BR - kEdge);
          convolve_block<T, bytes, K, BR, 0, 0>(x + row * p.x_pitch, p.x_pitch, masks, w, start, y + row * p.y_pitch,
                                                p.y_pitch);
        }
        row = p.height - BR;
        convolve_block<T, bytes, K, BR, 0, kEdge>(x + row * p.x_pitch, p.x_pitch, masks, w, start, y + row * p.y_pitch,
                                                  p.y_pitch);
      }
    }
  }
}

// Calls f with constants: the bytes of a vector, the kernel, the rows of a block and whether it is all of a plane.
template <class T, class F>
void with_small_block(int64_t columns, int64_t kernel, int64_t height, F&& f) {
  const int64_t rows = small_block_rows(height, kernel);
  const auto of_rows = [&](auto bytes, auto k) {
    const auto whole = [&](auto br) {
      if (height == br) return f(bytes, k, br, std::true_type{});
      f(bytes, k, br, std::false_type{});
    };
    if (rows == 8) return whole(std::integral_constant<int, 8>{});
    whole(std::integral_constant<int, 7>{});
  };
  const auto of_kernel = [&](auto bytes) {
    if (kernel == 3) return of_rows(bytes, std::integral_constant<int, 3>{});
    if (kernel == 5) return of_rows(bytes, std::integral_constant<int, 5>{});
    of_rows(bytes, std::integral_constant<int, 7>{});
  };
  if constexpr (sizeof(T) == 4)
    if (columns <= 8) return of_kernel(std::integral_constant<int, 32>{});
  of_kernel(std::integral_constant<int, 64>{});
}

// Lanes of those vectors.
template <class T>
int64_t small_lanes(int64_t columns) {
  return sizeof(T) == 4 && columns <= 8 ? 8 : Vec<T>::lanes;
}

// Whether these kernels take it: small planes, as many rows out as in, all taps of a row and of a column neighbours.
template <class T>
bool is_small(const AxisPlan& r, const AxisPlan& c) {
  const auto neighbours = [](const AxisPlan& a) { return a.highest() - a.lowest() == a.taps - 1; };
  return r.taps == c.taps && neighbours(r) && neighbours(c) && r.count == r.in && r.lowest() == -(r.taps / 2) &&
         is_small_plane(r.in, c.count, r.taps, Vec<T>::lanes);
}

// How many planes go by before the next vector of their rows: as many as L1 holds.
inline int64_t planes_at_once(int64_t bytes) {
  constexpr int64_t kBytes = 16 << 10;
  return larger(1, kBytes / larger(1, bytes));
}

template <class T, class In>
bool convolve_small(const Convolution<T, In>& cv) {
  constexpr bool same = std::is_same_v<T, In>;
  const AxisPlan &r = cv.rows, &c = cv.columns;
  const RowVectors<T> rv(c, small_lanes<T>(c.count));
  const int64_t taps = cv.taps(), outputs = cv.outputs, x_size = r.in * c.in, y_size = r.count * c.count;
  const PlaneWeights<T, In> weights(cv);
  if (!all_finite(weights.data(), cv.G * outputs * taps)) return false;
  Buffer<T> bias(cv.bias ? cv.G * outputs : 0);
  for (int64_t k = 0; cv.bias && k < cv.G * outputs; ++k) bias[k] = T(cv.bias[k * cv.bias_stride]);
  void (*planes_of)(const SmallPlanes<T>&, const RowVectors<T>&) = nullptr;
  with_small_block<T>(c.count, r.taps, r.in, [&](auto bytes, auto kernel, auto rows, auto whole) {
    planes_of = convolve_small_planes<T, bytes, kernel, rows, whole>;
  });
  const int64_t at_once = outputs > 1 ? 1 : planes_at_once((x_size + y_size) * int64_t(sizeof(T)));
  const double work = double(y_size) * taps * outputs / 8;
  parallel_for_balanced(cv.N * cv.G, grain_for(work), [&](int64_t begin, int64_t end) {
    ConvertedPlanes<T> x(same ? 0 : at_once * x_size), y(same ? 0 : at_once * outputs * y_size);
    SmallPlanes<T> planes;
    planes.height = r.in;
    planes.x_pitch = same ? cv.in_strides.h : c.in, planes.y_pitch = same ? cv.out_strides.h : c.count;
    planes.x_step = outputs > 1 ? 0 : same ? cv.in_strides.c : x_size;
    planes.y_step = same ? cv.out_strides.c : y_size;
    for (int64_t i = begin, count; i < end; i += count) {
      const int64_t n = i / cv.G, g = i % cv.G, k = g * outputs;
      const In* const from = cv.in + cv.in_strides(n, g, 0, 0);
      In* const to = cv.out + cv.out_strides(n, k, 0, 0);
      count = smaller(smaller(end - i, cv.G - g), at_once);
      planes.count = count * outputs;
      planes.w = weights.data() + k * taps, planes.bias = cv.bias ? bias.data() + k : nullptr;
      if constexpr (same) {
        planes.x = from, planes.y = to;
        planes_of(planes, rv);
      } else {
        planes.x = x.data(), planes.y = y.data();
        x.load(from, {count, cv.in_strides.c, r.in, cv.in_strides.h, c.in});
        planes_of(planes, rv);
        y.unload(to, {planes.count, cv.out_strides.c, r.count, cv.out_strides.h, c.count});
      }
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
