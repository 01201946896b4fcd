// Vectors of the compute type from and to memory of the storage type: the 16-bit types become float as they are loaded
// and are rounded as they are stored, a vector at a time (scalar.h does the same, an element at a time).
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Of storage type In, computed in T.
template <class T, class In>
struct Converted {
  using V = typename Vec<T>::type;
  static_assert(std::is_same_v<T, In>, "the 16-bit types are below");
  static V load(const In* p) { return CONVX_ISA::load(p); }
  static void store(In* p, V v) { CONVX_ISA::store(p, v); }
};

// The 16 bits of each lane, in the vectors that they have in memory and in registers.
struct Bits16 {
  static constexpr int L = Vec<float>::lanes;
  typedef uint16_t Memory __attribute__((vector_size(2 * L), aligned(2), may_alias));
  typedef uint16_t Value __attribute__((vector_size(2 * L)));
  typedef uint32_t Wide __attribute__((vector_size(4 * L)));

  // float32's bits to bfloat16's: to nearest, ties to even; a NaN stays one.
  static Wide rounded(Wide u) {
    const Wide nearest = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
    const Wide nan = Wide((u & 0x7fffffffu) > 0x7f800000u);
    return (nan & quiet) | (~nan & nearest);
  }
};

#ifdef CONVX_AVX512
// By these the first elements of a vector are loaded and stored, too (below).
template <>
struct Converted<float, BFloat16> : Bits16 {
  using V = Vec<float>::type;
  static V of(__m256i bits) { return V(__builtin_convertvector(Value(bits), Wide) << 16); }
  static V load(const BFloat16* p) { return of(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
#ifdef CONVX_BF16_PAIRS
  // The instruction takes numbers below 2^-126 for zero: they are zero already (pairs_product.h).
  static __m256i bits(V v) { return __m256i(_mm512_cvtneps_pbh(v)); }
#else
  static __m256i bits(V v) { return __m256i(__builtin_convertvector(rounded(Wide(v)), Value)); }
#endif
  static void store(BFloat16* p, V v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits(v)); }
};

template <>
struct Converted<float, Half> : Bits16 {
  using V = Vec<float>::type;
  static constexpr __mmask16 kAll = 0xffff;  // the same without a mask warns of GCC's own header
  static V of(__m256i bits) { return _mm512_maskz_cvtph_ps(kAll, bits); }
  static V load(const Half* p) { return of(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static __m256i bits(V v) { return _mm512_maskz_cvtps_ph(kAll, v, 0); }
  static void store(Half* p, V v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits(v)); }
};
#else
template <>
struct Converted<float, BFloat16> : Bits16 {
  using V = Vec<float>::type;
  static V load(const BFloat16* p) {
    return V(__builtin_convertvector(Value(*reinterpret_cast<const Memory*>(p)), Wide) << 16);
  }
  static void store(BFloat16* p, V v) {
    *reinterpret_cast<Memory*>(p) = __builtin_convertvector(rounded(Wide(v)), Value);
  }
};

template <>
struct Converted<float, Half> : Bits16 {
  using V = Vec<float>::type;
#if CONVX_VECTOR_BYTES == 32
  static V load(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static void store(Half* p, V v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, 0)); }
#else
  static V load(const Half* p) {
    V v;
    for (int i = 0; i < L; ++i) v[i] = p[i];
    return v;
  }
  static void store(Half* p, V v) {
    for (int i = 0; i < L; ++i) p[i] = Half(v[i]);
  }
#endif
};
#endif

template <class T, class In>
inline typename Vec<T>::type load_as(const In* p) {
  return Converted<T, In>::load(p);
}

template <class T, class In>
inline void store_as(In* p, typename Vec<T>::type v) {
  Converted<T, In>::store(p, v);
}

// Copies n < 2 * H elements in at most one piece of H, one of H / 2, ... 1: no call, and no loop to be guessed wrong.
template <int H, class E>
inline void copy_few(E* to, const E* from, int64_t n) {
  if (n & H) std::memcpy(static_cast<void*>(to), from, H * sizeof(E)), to += H, from += H;
  if constexpr (H > 1) copy_few<H / 2>(to, from, n);
}

#if CONVX_VECTOR_BYTES == 32
alignas(64) constexpr int32_t kSomeMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};  // a window of it has n ones
#endif

// Loads and stores the first n elements of a vector only; the rest loads as zero and is not touched in memory.
template <class T>
struct Some {
  static constexpr int L = Vec<T>::lanes;
  using V = typename Vec<T>::type;
  int64_t n;
  explicit Some(int64_t n) : n(n) {}
  V load(const T* p) const {
    if (n >= L) return CONVX_ISA::load(p);
#if CONVX_VECTOR_BYTES == 32
    if constexpr (sizeof(T) == 4)
      return _mm256_maskload_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kSomeMask + 8 - n)));
    else
      return _mm256_maskload_pd(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kSomeMask + 8 - 2 * n)));
#else
    T lanes[L] = {};
    copy_few<L / 2>(lanes, p, n);
    return CONVX_ISA::load(lanes);
#endif
  }
  void store(T* p, V v) const {
    if (n >= L) return CONVX_ISA::store(p, v);
    T lanes[L];
    CONVX_ISA::store(lanes, v);  // AVX2 has masks for this too, but they take AMD's processors dozens of cycles
    copy_few<L / 2>(p, lanes, n);
  }
};

#ifdef CONVX_AVX512
template <>
struct Some<float> {
  __mmask16 mask;
  explicit Some(int64_t n) : mask(n >= 16 ? 0xffff : (1u << n) - 1) {}
  Vec<float>::type load(const float* p) const { return _mm512_maskz_loadu_ps(mask, p); }
  void store(float* p, Vec<float>::type v) const { _mm512_mask_storeu_ps(p, mask, v); }
};
template <>
struct Some<uint16_t> {
  __mmask32 mask;
  explicit Some(int64_t n) : mask(n >= 32 ? 0xffffffffu : (1u << n) - 1) {}
  Vec<uint16_t>::type load(const uint16_t* p) const { return Vec<uint16_t>::type(_mm512_maskz_loadu_epi16(mask, p)); }
  void store(uint16_t* p, Vec<uint16_t>::type v) const { _mm512_mask_storeu_epi16(p, mask, __m512i(v)); }
};
template <>
struct Some<double> {
  __mmask8 mask;
  explicit Some(int64_t n) : mask(n >= 8 ? 0xff : (1u << n) - 1) {}
  Vec<double>::type load(const double* p) const { return _mm512_maskz_loadu_pd(mask, p); }
  void store(double* p, Vec<double>::type v) const { _mm512_mask_storeu_pd(p, mask, v); }
};
#endif

// The same for the first n elements only; the rest loads as zero and is not touched in memory.
template <class T, class In>
inline typename Vec<T>::type load_some(const In* p, int64_t n) {
#ifdef CONVX_AVX512
  if constexpr (sizeof(In) < sizeof(T)) return Converted<T, In>::of(_mm256_maskz_loadu_epi16(Some<T>(n).mask, p));
#endif
  if (n >= Vec<T>::lanes) return load_as<T>(p);
  if constexpr (std::is_same_v<T, In>) {
    return Some<T>(n).load(p);
  } else {
    In lanes[Vec<T>::lanes] = {};
    copy_few<Vec<T>::lanes / 2>(lanes, p, n);
    return load_as<T>(lanes);
  }
}

template <class T, class In>
inline void store_some(In* p, typename Vec<T>::type v, int64_t n) {
#ifdef CONVX_AVX512
  if constexpr (sizeof(In) < sizeof(T)) return _mm256_mask_storeu_epi16(p, Some<T>(n).mask, Converted<T, In>::bits(v));
#endif
  if (n >= Vec<T>::lanes) return store_as<T>(p, v);
  if constexpr (std::is_same_v<T, In>) {
    Some<T>(n).store(p, v);
  } else {
    In lanes[Vec<T>::lanes];
    store_as<T>(lanes, v);
    copy_few<Vec<T>::lanes / 2>(p, lanes, n);
  }
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
