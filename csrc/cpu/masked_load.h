// Loads that leave elements out on AVX2: where the mask is zero nothing is read, and the result is zero.
#pragma once
#include <immintrin.h>

#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

template <class T>
using Mask = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;  // of one element: -1 or 0

inline __m256 load_masked(const float* p, const int32_t* mask) {
  return _mm256_maskload_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask)));
}
inline __m256d load_masked(const double* p, const int64_t* mask) {
  return _mm256_maskload_pd(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask)));
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
