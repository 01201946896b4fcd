// How tensor cores add, for mma.cpp and wgmma.cpp.
//
// It is not documented, but has been measured (Fasi, Higham, Mikaitis, Pranesh: Numerical behavior of NVIDIA tensor
// cores, PeerJ Computer Science 7:e330, 2021). It is not a chain of rounded additions: products are exact; a group of
// them and the accumulator are shifted to the largest exponent among them, cut off there (not rounded), added as
// integers, and the sum is cut off to float32. Done so here, with the groups and widths of the A100, the coarsest of
// the chips this is written for: 8 products at a time of 16-bit numbers, 4 of TF32, in ascending k, one bit beyond
// float32's. So a twin's error is what to expect of the hardware, and sums of small integers are exact on both. Later
// chips add more at a time with a bit more of width, and differ from the twin in the last bits.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "../../csrc/scalar.h"

namespace emulator {

constexpr int kBitsBeyond = 1;        // of float32's significand, that an aligned term keeps
constexpr int kFloatBits = 23;        // of float32's significand after the point
constexpr int kSmallestFloat = -126;  // the exponent of float32's smallest normal number, and of those below it

// One factor: its value, and the exponent that the hardware takes for it (a subnormal's is that of the smallest
// normal).
struct Factor {
  double value;
  int exponent;
};

inline Factor factor(double value, int smallest) {
  const bool ordinary = value != 0 && std::isfinite(value);
  return {value, ordinary ? std::max(std::ilogb(value), smallest) : smallest};
}

// Whether all are zeros, as most of a tile is that a small test does not fill: they leave a sum as it is.
inline bool are_zeros(const Factor* f, int count) {
  return std::all_of(f, f + count, [](const Factor& factor) { return factor.value == 0; });
}
inline bool are_finite(const Factor* f, int count) {
  return std::all_of(f, f + count, [](const Factor& factor) { return std::isfinite(factor.value); });
}

// c + sum of a[k] * b[k], as described above.
inline float add_group(float c, const Factor* a, const Factor* b, int count) {
  double terms[16];
  int largest = std::max(c != 0 && std::isfinite(c) ? std::ilogb(c) : kSmallestFloat, kSmallestFloat);
  bool finite = std::isfinite(c);
  for (int k = 0; k < count; ++k) {
    terms[k] = a[k].value * b[k].value;  // exact: at most 22 significant bits
    finite = finite && std::isfinite(terms[k]);
    if (terms[k] != 0) largest = std::max(largest, a[k].exponent + b[k].exponent);
  }
  if (!finite) {  // infinities and NaN as in any other addition
    double sum = c;
    for (int k = 0; k < count; ++k) sum += terms[k];
    return float(sum);
  }
  const double unit = std::ldexp(1.0, largest - kFloatBits - kBitsBeyond);
  double sum = std::trunc(c / unit);  // in whole units, below 2^30: exact
  for (int k = 0; k < count; ++k) sum += std::trunc(terms[k] / unit);
  // Cut off to float32: the nearest float, and one less if that is beyond.
  const double exact = sum * unit;
  const float nearest = float(exact);
  if (!std::isfinite(nearest))
    return std::fabs(exact) < 0x1p128 ? std::copysign(std::numeric_limits<float>::max(), nearest) : nearest;
  return std::fabs(double(nearest)) > std::fabs(exact) ? std::nextafter(nearest, 0.0f) : nearest;
}

// The elements of a register that a format puts into it: `kPerRegister` neighbours along k, the first in the low bits.
struct Fp16 {
  static constexpr int kPerRegister = 2, kDepth = 16, kGroup = 8;
  static Factor element(uint32_t r, int i) {
    convx::Half h;
    h.bits = uint16_t(r >> 16 * i);
    return factor(float(h), -14);
  }
};
struct Bf16 {
  static constexpr int kPerRegister = 2, kDepth = 16, kGroup = 8;
  static Factor element(uint32_t r, int i) { return factor(convx::bit_cast<float>(r >> 16 * i << 16), kSmallestFloat); }
};
struct Tf32 {
  static constexpr int kPerRegister = 1, kDepth = 8, kGroup = 4;
  static Factor element(uint32_t r, int) { return factor(convx::bit_cast<float>(r & ~0x1fffu), kSmallestFloat); }
};

}  // namespace emulator
