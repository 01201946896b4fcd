// forward and grad_input with the vectors across pixels, for few output channels in each group: depthwise layers, small
// groups, a network's last layer. Across channels (outer_product.h) most lanes would be padding there.
//
//   acc[m][n] += w[k][m] * tile[b_k[k] + n],   m < M output channels,  n < NV vectors of neighbouring pixels.
//
// A block of rows of the tile is walked as one long line: with equal pitch in tile and result, a tap is one offset for
// all pixels of the block (tile.h deals out strides), so vectors run across row ends. What they compute between two
// rows, some (S - 1) / W of the work, is left behind when the rows are copied out.
//
// Limit: each step loads NV vectors, nearly all of them across a cache line (two load slots), and M weights for M * NV
// FMAs. M = 1, NV = 8: 17 slots = 8.5 cycles for 4 cycles of FMAs, so about half the FMA roof; depthwise 3x3, 18
// operations for 8 bytes, reaches the memory's limit before that.
#pragma once
#include "outer_product.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// sums is [M][pitch]; weights are [step][M].
template <class T, int M, int NV>
void pixel_product(const T* tile, const int32_t* b_k, const T* weights, int64_t steps, T* sums, int64_t pitch,
                   bool accumulate) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes;
  V acc[M][NV] = {};
  for (int64_t k = 0; k < steps; ++k, weights += M) {
    const T* from = tile + b_k[k];
    V right[NV];
#pragma GCC unroll 16
    for (int n = 0; n < NV; ++n) right[n] = load(from + n * L);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const V scalar = splat<T>(weights[m]);
#pragma GCC unroll 16
      for (int n = 0; n < NV; ++n) acc[m][n] += scalar * right[n];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < NV; ++n) {
      T* sum = sums + m * pitch + n * L;
      store(sum, accumulate ? load(sum) + acc[m][n] : acc[m][n]);
    }
}

// Registers: M * NV sums, NV of the tile, one weight.
constexpr int pixel_vectors(int m) {
  return CONVX_MAX_M > 6 ? (m == 1 ? 8 : m == 2 ? 8 : 5) : (m == 1 ? 6 : m == 2 ? 4 : 2);
}
constexpr int kPixelOutputs = 4;

template <class T, int M, int NV>
void pixel_line(const T* tile, const int32_t* b_k, const T* weights, int64_t steps, T* sums, int64_t pitch,
                int64_t vectors, bool accumulate) {
  constexpr int L = Vec<T>::lanes;
  for (; vectors >= NV; vectors -= NV, tile += NV * L, sums += NV * L)
    pixel_product<T, M, NV>(tile, b_k, weights, steps, sums, pitch, accumulate);
  if constexpr (NV > 1)
    if (vectors > 0) pixel_line<T, M, (NV + 1) / 2>(tile, b_k, weights, steps, sums, pitch, vectors, accumulate);
}

template <class T>
void pixel_line(int m, const T* tile, const int32_t* b_k, const T* weights, int64_t steps, T* sums, int64_t pitch,
                int64_t vectors, bool accumulate) {
  switch (m) {
    case 1: return pixel_line<T, 1, pixel_vectors(1)>(tile, b_k, weights, steps, sums, pitch, vectors, accumulate);
    case 2: return pixel_line<T, 2, pixel_vectors(2)>(tile, b_k, weights, steps, sums, pitch, vectors, accumulate);
    case 3: return pixel_line<T, 3, pixel_vectors(3)>(tile, b_k, weights, steps, sums, pitch, vectors, accumulate);
    case 4: return pixel_line<T, 4, pixel_vectors(4)>(tile, b_k, weights, steps, sums, pitch, vectors, accumulate);
  }
}

// How many rows of results make a block: its tile should stay in L2, in L1 if a few rows fit.
template <class T>
int64_t pixel_rows(const AxisPlan& r, const AxisPlan& c, int64_t channels) {
  constexpr int64_t kTileBytes = 128 << 10;
  const TileShape one(r, c, 1, c.count);
  const int64_t row_bytes = one.rows.count * one.columns.count * one.pitch * channels * int64_t(sizeof(T));
  const int64_t rows = kTileBytes / larger(1, row_bytes) - (one.rows.length - 1);
  return smaller(r.count, larger(rows, 1));
}

template <class T, class In>
bool convolve_pixels(const Convolution<T, In>& cv) {
  constexpr int64_t L = Vec<T>::lanes;
  const int64_t taps = cv.taps(), steps = cv.inputs * taps, chunks = ceil_div(cv.outputs, kPixelOutputs);
  const int64_t block = pixel_rows<T>(cv.rows, cv.columns, cv.inputs);
  const TileShape shape(cv.rows, cv.columns, block, cv.columns.count);
  Buffer<int32_t> b_k(steps);
  for (int64_t c = 0, k = 0; c < cv.inputs; ++c)
    for (int r = 0; r < cv.rows.taps; ++r)
      for (int s = 0; s < cv.columns.taps; ++s)
        b_k[k++] = int32_t(c * shape.plane + shape.tap(cv.rows, cv.columns, r, s));

  // [group][chunk of outputs][step][output]
  Buffer<T> weights(cv.G * cv.outputs * steps);
  T check(0);
  for (int64_t g = 0, i = 0; g < cv.G; ++g)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t k0 = chunk * kPixelOutputs, m = smaller(kPixelOutputs, cv.outputs - k0);
      const In* from = cv.weight + g * cv.weight_group + k0 * cv.weight_output;
      for (int64_t c = 0; c < cv.inputs; ++c)
        for (int r = 0; r < cv.rows.taps; ++r)
          for (int s = 0; s < cv.columns.taps; ++s)
            for (int64_t k = 0; k < m; ++k, ++i) {
              weights[i] = T(from[k * cv.weight_output + c * cv.weight_input + cv.rows.index[r] * cv.weight_r +
                                  cv.columns.index[s] * cv.weight_s]);
              check += weights[i] * T(0);
            }
    }
  if (check != T(0)) return false;

  const int64_t down = ceil_div(cv.rows.count, block);
  const double work = double(block) * cv.columns.count * (steps * cv.outputs + 4 * cv.inputs) / 8;
  const int64_t line = ceil_div(block * shape.pitch, L) * L;
  parallel_for(cv.N * cv.G * down, grain_for(work), [&](int64_t begin, int64_t end) {
    Buffer<T> tile(cv.inputs * shape.plane + 16 * L), sums(kPixelOutputs * line);
    std::memset(tile.data(), 0, (cv.inputs * shape.plane + 16 * L) * sizeof(T));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t p = i % down, g = i / down % cv.G, n = i / down / cv.G;
      const int64_t i0 = p * block, ni = smaller(block, cv.rows.count - i0), Q = cv.columns.count;
      pack_tile<T, In>(tile.data(), shape, cv.rows, cv.columns, i0, ni, 0, Q,
                       cv.in + cv.in_strides(n, g * cv.inputs, 0, 0), cv.in_strides, cv.inputs);
      const int64_t vectors = ceil_div((ni - 1) * shape.pitch + Q, L);
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t k0 = chunk * kPixelOutputs, m = smaller(kPixelOutputs, cv.outputs - k0);
        const T* w = weights.data() + (g * cv.outputs + k0) * steps;
        for (int64_t k = 0; k < larger(steps, 1); k += kChain<T>)
          pixel_line<T>(int(m), tile.data(), b_k.data() + k, w + k * m, smaller(kChain<T>, steps - k), sums.data(),
                        line, vectors, k > 0);
        for (int64_t k = 0; k < m; ++k) {
          const int64_t channel = g * cv.outputs + k0 + k;
          const T bias = cv.bias ? T(cv.bias[channel * cv.bias_stride]) : T(0);
          const int64_t step = cv.out_strides.w * cv.columns.out_step;
          for (int64_t row = 0; row < ni; ++row) {
            const T* from = sums.data() + k * line + row * shape.pitch;
            In* to = cv.out + cv.out_strides(n, channel, cv.rows.first_out + (i0 + row) * cv.rows.out_step,
                                             cv.columns.first_out);
            if (step == 1)
              for (int64_t q = 0; q < Q; ++q) to[q] = In(from[q] + bias);
            else
              for (int64_t q = 0; q < Q; ++q) to[q * step] = In(from[q] + bias);
          }
        }
      }
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
