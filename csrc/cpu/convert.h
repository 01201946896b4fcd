// Vectors of the compute type from and to memory of the storage type: the 16-bit types become float as they are loaded
// and are rounded as they are stored, a vector at a time (scalar.h does the same, an element at a time).
#pragma once
#include "transpose.h"

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
};

template <>
struct Converted<float, BFloat16> : Bits16 {
  using V = Vec<float>::type;
  static V load(const BFloat16* p) {
    return V(__builtin_convertvector(Value(*reinterpret_cast<const Memory*>(p)), Wide) << 16);
  }
  static void store(BFloat16* p, V v) {  // to nearest, ties to even; a NaN stays one
    const Wide u = Wide(v), rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
    const Wide nan = Wide((u & 0x7fffffffu) > 0x7f800000u);
    *reinterpret_cast<Memory*>(p) = __builtin_convertvector((nan & quiet) | (~nan & rounded), Value);
  }
};

template <>
struct Converted<float, Half> : Bits16 {
  using V = Vec<float>::type;
#if CONVX_VECTOR_BYTES == 64
  static constexpr __mmask16 kAll = 0xffff;  // the same without a mask warns of GCC's own header
  static V load(const Half* p) {
    return _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store(Half* p, V v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(kAll, v, 0));
  }
#elif CONVX_VECTOR_BYTES == 32
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

template <class T, class In>
inline typename Vec<T>::type load_as(const In* p) {
  return Converted<T, In>::load(p);
}

template <class T, class In>
inline void store_as(In* p, typename Vec<T>::type v) {
  Converted<T, In>::store(p, v);
}

// The same for the first n elements only; the rest loads as zero and is not touched in memory.
template <class T, class In>
inline typename Vec<T>::type load_some(const In* p, int64_t n) {
  if (n >= Vec<T>::lanes) return load_as<T>(p);
  if constexpr (std::is_same_v<T, In>) {
    return Some<T>(n).load(p);
  } else {
    In lanes[Vec<T>::lanes] = {};
    std::memcpy(static_cast<void*>(lanes), p, n * sizeof(In));
    return load_as<T>(lanes);
  }
}

template <class T, class In>
inline void store_some(In* p, typename Vec<T>::type v, int64_t n) {
  if (n >= Vec<T>::lanes) return store_as<T>(p, v);
  if constexpr (std::is_same_v<T, In>) {
    Some<T>(n).store(p, v);
  } else {
    In lanes[Vec<T>::lanes];
    store_as<T>(lanes, v);
    std::memcpy(static_cast<void*>(p), lanes, n * sizeof(In));
  }
}

#if CONVX_VECTOR_BYTES == 64
struct Halves {
  using V = __m512d;
  static V load(const void* low, const void* high) {
    return _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(static_cast<const double*>(low))),
                              _mm256_loadu_pd(static_cast<const double*>(high)), 1);
  }
  static void store(void* low, void* high, V v) {
    _mm256_storeu_pd(static_cast<double*>(low), _mm512_castpd512_pd256(v));
    _mm256_storeu_pd(static_cast<double*>(high), _mm512_maskz_extractf64x4_pd(0xf, v, 1));
  }
};
#elif CONVX_VECTOR_BYTES == 32
struct Halves {
  using V = __m256d;
  static V load(const void* low, const void* high) {
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(static_cast<const double*>(low))),
                                _mm_loadu_pd(static_cast<const double*>(high)), 1);
  }
  static void store(void* low, void* high, V v) {
    _mm_storeu_pd(static_cast<double*>(low), _mm256_castpd256_pd128(v));
    _mm_storeu_pd(static_cast<double*>(high), _mm256_extractf128_pd(v, 1));
  }
};
#endif

// The index vectors that shuffle both halves of two vectors, each by itself.
template <class T>
struct InterleaveHalves {
  static constexpr int L = Vec<T>::lanes, H = L / 2;
  alignas(64) typename Interleave<T>::Integer low[L], high[L];
  constexpr InterleaveHalves() : low(), high() {
    for (int i = 0; i < L; ++i) {
      low[i] = i / H * H + i % H / 2 + i % 2 * L;
      high[i] = low[i] + H / 2;
    }
  }
  static const InterleaveHalves table;
};
template <class T>
constexpr InterleaveHalves<T> InterleaveHalves<T>::table{};

// Transposes the four quarters of a square of L vectors, each by itself.
template <class T>
inline void transpose_quarters(typename Vec<T>::type* v) {
  constexpr int L = Vec<T>::lanes, H = L / 2;
  const auto low = Interleave<T>::index(InterleaveHalves<T>::table.low),
             high = Interleave<T>::index(InterleaveHalves<T>::table.high);
#pragma GCC unroll 4
  for (int width = 1; width < H; width *= 2) {
    typename Vec<T>::type t[L];
#pragma GCC unroll 8
    for (int i = 0; i < H; ++i) {
      const int from = i / (H / 2) * H + i % (H / 2), to = i / (H / 2) * H + 2 * (i % (H / 2));
      t[to] = shuffle<T>(v[from], v[from + H / 2], low);
      t[to + 1] = shuffle<T>(v[from], v[from + H / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = t[i];
  }
}

// Loads L rows of L elements and transposes them; or transposes L vectors and stores them as rows. Where memory is
// read and written in half vectors, the first of the transpose's steps, exchanging two quarters of the square, is
// where they go: a quarter fewer permutes, of which there is one a cycle.
template <class T, class In>
inline void load_square(typename Vec<T>::type* v, const In* from, int64_t pitch) {
  constexpr int L = Vec<T>::lanes;
#if CONVX_VECTOR_BYTES >= 32
  if constexpr (std::is_same_v<T, In>) {
    constexpr int H = L / 2;
#pragma GCC unroll 8
    for (int i = 0; i < H; ++i) {
      v[i] = typename Vec<T>::type(Halves::load(from + i * pitch, from + (i + H) * pitch));
      v[i + H] = typename Vec<T>::type(Halves::load(from + i * pitch + H, from + (i + H) * pitch + H));
    }
    return transpose_quarters<T>(v);
  }
#endif
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) v[i] = load_as<T>(from + i * pitch);
  transpose_square<T>(v);
}

template <class T, class In>
inline void store_square(typename Vec<T>::type* v, In* to, int64_t pitch) {
  constexpr int L = Vec<T>::lanes;
#if CONVX_VECTOR_BYTES >= 32
  if constexpr (std::is_same_v<T, In>) {
    constexpr int H = L / 2;
    transpose_quarters<T>(v);
#pragma GCC unroll 8
    for (int i = 0; i < H; ++i) {
      Halves::store(to + i * pitch, to + (i + H) * pitch, Halves::V(v[i]));
      Halves::store(to + i * pitch + H, to + (i + H) * pitch + H, Halves::V(v[i + H]));
    }
    return;
  }
#endif
  transpose_square<T>(v);
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) store_as<T>(to + i * pitch, v[i]);
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
