// The 16-bit floating-point types, as storage: kernels convert to float, compute there, and round once at the end.
// Own types rather than torch's so that kernels need no torch header, and bit arithmetic rather than _Float16 so that
// every C++17 compiler and the CUDA emulator of tests/ give the same bits.
#pragma once
#include <cstdint>
#include <cstring>

#include "problem.h"

namespace convx {

template <class To, class From>
CONVX_HD inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// float32 without its low 16 significand bits.
struct BFloat16 {
  uint16_t bits;
  BFloat16() = default;
  CONVX_HD BFloat16(float f) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(f));
#else
    const uint32_t u = bit_cast<uint32_t>(f);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    const uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);   // to nearest, ties to even
    bits = uint16_t(nan ? (u >> 16) | 0x40u : rounded >> 16);  // a NaN stays one: rounding could carry it to infinity
#endif
  }
  CONVX_HD operator float() const { return bit_cast<float>(uint32_t(bits) << 16); }
};

// IEEE 754 binary16: 1 sign, 5 exponent, 10 significand bits.
struct Half {
  uint16_t bits;
  Half() = default;
  CONVX_HD Half(float f) {
#ifdef __CUDA_ARCH__  // one instruction, which rounds the same
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(f));
#else
    const uint32_t u = bit_cast<uint32_t>(f);
    const uint32_t sign = (u >> 16) & 0x8000u;
    const uint32_t magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {  // NaN
      bits = uint16_t(sign | 0x7e00u);
    } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
      bits = uint16_t(sign | 0x7c00u);
    } else if (magnitude < 0x38800000u) {  // below 2^-14: subnormal. Adding 0.5 aligns the point; the adder rounds.
      const float aligned = bit_cast<float>(magnitude) + 0.5f;
      bits = uint16_t(sign | (bit_cast<uint32_t>(aligned) - 0x3f000000u));
    } else {  // drop 13 significand bits, to nearest, ties to even, and rebias the exponent from 127 to 15
      const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
      bits = uint16_t(sign | ((rounded - 0x38000000u) >> 13));
    }
#endif
  }
  CONVX_HD operator float() const {
#ifdef __CUDA_ARCH__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits));
    return f;
#else
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
    const uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    if (magnitude < 0x400u) {  // subnormal: count in units of 2^-24
      const float v = float(magnitude) * 5.9604644775390625e-8f;
      return sign ? -v : v;
    }
    return bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
#endif
  }
};

// What a reference kernel accumulates in. double for float32: the reference is the judge's nearest witness, so its
// own rounding should be the output's alone. float for the 16-bit types, as every implementation does. Unsigned for
// int64, where overflow wraps as torch's does.
template <class T>
struct Accumulator;
template <>
struct Accumulator<float> {
  using type = double;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <>
struct Accumulator<Half> {
  using type = float;
};
template <>
struct Accumulator<BFloat16> {
  using type = float;
};
template <>
struct Accumulator<int64_t> {
  using type = uint64_t;
};

// float64 has no wider type to be summed in, so its sum carries along what each addition rounds off (Knuth, The Art of
// Computer Programming 2, 4.2.2, theorem B), and the reference's own rounding is nearly the output's alone there too.
struct CompensatedSum {
  double sum = 0, lost = 0;
  CONVX_HD CompensatedSum& operator+=(double v) {
    const double s = sum + v, from_v = s - sum;
    lost += (sum - (s - from_v)) + (v - from_v);
    sum = s;
    return *this;
  }
  CONVX_HD operator double() const { return sum - sum == 0 ? sum + lost : sum; }  // nothing is lost of an infinity
};

// A running sum of Accumulator<T>::type.
template <class T>
struct Sum {
  using type = typename Accumulator<T>::type;
};
template <>
struct Sum<double> {
  using type = CompensatedSum;
};

template <class T>
CONVX_HD inline typename Accumulator<T>::type widen(T v) {
  return static_cast<typename Accumulator<T>::type>(v);
}

template <class T>
CONVX_HD inline T narrow(typename Accumulator<T>::type v) {
  return static_cast<T>(v);
}

// Calls f with a value of the C++ type of `dtype`, as in: with_type(d, [&](auto t) { kernel<decltype(t)>(...); });
template <class F>
void with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32: return f(float{});
    case DType::float64: return f(double{});
    case DType::float16: return f(Half{});
    case DType::bfloat16: return f(BFloat16{});
    case DType::int64: return f(int64_t{});
  }
}

}  // namespace convx
