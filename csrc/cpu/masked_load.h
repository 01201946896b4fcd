// Loads that leave elements out: where the mask has none nothing is read, and the result is zero.
#pragma once
#include <immintrin.h>

#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// The elements of a vector that are there: AVX-512 has a bit for each, AVX2 a whole element.
#ifdef CONVX_AVX512
template <class T>
struct LaneMask {
  uint16_t bits = 0;

  void set(int64_t lane) { bits |= uint16_t(1u << lane); }
  __m512 load(const float* p) const { return _mm512_maskz_loadu_ps(bits, p); }
  __m512d load(const double* p) const { return _mm512_maskz_loadu_pd(__mmask8(bits), p); }
};
#else
template <class T>
struct LaneMask {
  std::conditional_t<sizeof(T) == 4, int32_t, int64_t> lanes[Vec<T>::lanes] = {};

  void set(int64_t lane) { lanes[lane] = -1; }
  __m256 load(const float* p) const { return _mm256_maskload_ps(p, bits()); }
  __m256d load(const double* p) const { return _mm256_maskload_pd(p, bits()); }

 private:
  __m256i bits() const { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes)); }
};
#endif

// Of `lanes` neighbours from `place` on, those from `begin` to `end`.
template <class T>
LaneMask<T> lanes_inside(int64_t place, int64_t begin, int64_t end, int64_t lanes = Vec<T>::lanes) {
  LaneMask<T> inside;
  for (int64_t l = 0; l < lanes; ++l)
    if (place + l >= begin && place + l < end) inside.set(l);
  return inside;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
