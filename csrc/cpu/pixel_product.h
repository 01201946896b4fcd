// The inner loop with vectors across pixels:
//
//   acc[m][n] += w[k][m] * tile[b_k[k] + n],   m < M output channels,  n < NV vectors of neighbouring pixels.
//
// Two vectors may be anywhere, so that rows of any number of vectors make pairs.
//
// Limit: each step loads NV vectors, nearly all of them across a cache line (two load slots), and M weights for M * NV
// FMAs. M = 13, NV = 2: 17 slots = 8.5 cycles beside 13 of FMAs, so the FMA roof. M = 1, NV = 8: 17 slots for 4 cycles
// of FMAs, so half of it; depthwise 3x3, 18 operations for 8 bytes, reaches the memory's limit before that.
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Sums and results are [M][pitch], which may be the same; weights are [step][M]. The product is added to start[m], or
// to the sums if null. The second of two vectors is `apart` elements from the first; more are neighbours.
template <class T, int M, int NV>
void pixel_product(const T* tile, int64_t apart, const int32_t* b_k, const T* weights, int64_t steps, const T* start,
                   const T* sums, int64_t pitch, T* results, int64_t results_pitch) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes;
  V acc[M][NV] = {};
#pragma GCC unroll 4
  for (int64_t k = 0; k < steps; ++k, weights += M) {
    const T* from = tile + b_k[k];
    V right[NV];
#pragma GCC unroll 16
    for (int n = 0; n < NV; ++n) right[n] = load(from + n * (NV == 2 ? apart : L));
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const V scalar = splat<T>(weights[m]);
#pragma GCC unroll 16
      for (int n = 0; n < NV; ++n) acc[m][n] += scalar * right[n];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < NV; ++n) {
      const V from = start ? splat<T>(start[m]) : load(sums + m * pitch + n * L);
      store(results + m * results_pitch + n * L, from + acc[m][n]);
    }
}

template <class T>
using PixelProduct = void (*)(const T*, int64_t, const int32_t*, const T*, int64_t, const T*, const T*, int64_t, T*,
                              int64_t);

// Vectors for M outputs. Registers: M * NV sums, NV of the tile, one weight.
constexpr int pixel_vectors(int m) {
  return CONVX_MAX_M > 6 ? (m <= 2   ? 8
                            : m <= 4 ? 6
                            : m <= 6 ? 4
                            : m <= 9 ? 3
                                     : 2)
                         : (m == 1   ? 6
                            : m == 2 ? 4
                            : m == 3 ? 3
                                     : 2);
}
constexpr int kGroup = 24;  // vectors of pixels whose sums wait in L1 for the next chain; a multiple of all the above

// The kernel for m outputs and at most `left` vectors, and how many of them it does.
template <class T, int M>
PixelProduct<T> pixel_product_of(int64_t left, int& vectors) {
  constexpr int NV = pixel_vectors(M);
  vectors = left >= NV ? NV : NV > 4 && left >= 4 ? 4 : NV > 2 && left >= 2 ? 2 : 1;
  switch (vectors) {
    case 1: return pixel_product<T, M, 1>;
    case 2: return pixel_product < T, M, NV < 2 ? NV : 2 > ;
    case 4: return pixel_product < T, M, NV < 4 ? NV : 4 > ;
  }
  return pixel_product<T, M, NV>;
}

template <class T>
PixelProduct<T> pixel_product_of(int m, int64_t left, int& vectors) {
  switch (m) {
#define CONVX_OUTPUTS(M) \
  case M:                \
    if constexpr (M <= CONVX_MAX_M) return pixel_product_of<T, M>(left, vectors);
    CONVX_OUTPUTS(1)
    CONVX_OUTPUTS(2)
    CONVX_OUTPUTS(3)
    CONVX_OUTPUTS(4)
    CONVX_OUTPUTS(5)
    CONVX_OUTPUTS(6)
    CONVX_OUTPUTS(7)
    CONVX_OUTPUTS(8)
    CONVX_OUTPUTS(9)
    CONVX_OUTPUTS(10)
    CONVX_OUTPUTS(11)
    CONVX_OUTPUTS(12)
    CONVX_OUTPUTS(13)
    CONVX_OUTPUTS(14)
#undef CONVX_OUTPUTS
  }
  return nullptr;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
