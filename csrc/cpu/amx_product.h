// The inner loop on the matrix unit: 32 x 32 sums in four tile registers,
//
//   sums[m][n] += sum over steps k and depth d < 32 of  A[a_k[k] + m][d] * B[b_k[k] + d / 2][n][d % 2]
//
// where the lines of both are read in place, so that a tap of a convolution is an offset as in micro_kernel.h. The
// other four registers hold two tiles of A and two of B: four loads for four multiplies, less where products of terms
// (amx_terms.h) share a factor.
//
// Limit: 16 cycles a multiply, 8 a load from L1 whose lines are aligned: the multiplies, if the lines come from L2 in
// time. Lines that cross cache lines take 44 cycles a load, so there must be none.
#pragma once
#include "amx_terms.h"
#include "amx_unit.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

using TileProduct = void (*)(const Tiles&, const Tiles&, int64_t, float*, const float*);

constexpr bool kEndsWithRows = false;  // tiles go on over the halo between rows
template <class In>
constexpr bool kMultiplies = true;  // float32 and float16 in terms

template <int terms, int MH, int NH, int i = 0>
inline void multiply_terms(const char* a, int64_t a_half, int64_t a_term, const char* b, int64_t b_half,
                           int64_t b_term) {
  constexpr Product p = Products<terms>::list[i], before = Products<terms>::list[i ? i - 1 : 0];
  if constexpr (i == 0 || p.a != before.a) {
    MatrixUnit::load<4>(a + p.a * a_term, kLine);
    if constexpr (MH == 2) MatrixUnit::load<5>(a + p.a * a_term + a_half, kLine);
  }
  if constexpr (i == 0 || p.b != before.b) {
    MatrixUnit::load<6>(b + p.b * b_term, kLine);
    if constexpr (NH == 2) MatrixUnit::load<7>(b + p.b * b_term + b_half, kLine);
  }
  MatrixUnit::multiply<0, 4, 6>();
  if constexpr (NH == 2) MatrixUnit::multiply<1, 4, 7>();
  if constexpr (MH == 2) MatrixUnit::multiply<2, 5, 6>();
  if constexpr (MH == 2 && NH == 2) MatrixUnit::multiply<3, 5, 7>();
  if constexpr (i + 1 < Products<terms>::count)
    multiply_terms<terms, MH, NH, i + 1>(a, a_half, a_term, b, b_half, b_term);
}

// After so many steps the sums leave the tiles and are added up by vectors: with six products for one, the sum would
// otherwise round six times as often as a chain of multiply-adds. Where the result is rounded to 16 bits, that is lost
// in the result's own rounding.
template <int terms>
constexpr int64_t kStepsInTiles = terms == 3 ? 8 : 512;

// sums is [MH * 16][NH * 16]. It begins with `start`, one line for all m, or if that is null with what it is.
template <int terms, int MH, int NH>
void tile_product(const Tiles& a, const Tiles& b, int64_t steps, float* sums, const float* start) {
  constexpr int64_t pitch = NH * kLine, count = MH * 16 * NH * 16;
  const int64_t start_pitch = start ? 0 : pitch;
  const float *const first = start ? start : sums, *const second = first + start_pitch / 4 * 16;
  alignas(64) float part[count];
  for (int64_t k0 = 0; k0 == 0 || k0 < steps; k0 += kStepsInTiles<terms>) {
    if (k0 == 0) {
      MatrixUnit::load<0>(first, start_pitch);
      if constexpr (NH == 2) MatrixUnit::load<1>(first + 16, start_pitch);
      if constexpr (MH == 2) MatrixUnit::load<2>(second, start_pitch);
      if constexpr (MH == 2 && NH == 2) MatrixUnit::load<3>(second + 16, start_pitch);
    } else {
      MatrixUnit::zero<0>(), MatrixUnit::zero<1>(), MatrixUnit::zero<2>(), MatrixUnit::zero<3>();
    }
    const int64_t end = smaller(steps, k0 + kStepsInTiles<terms>);
    for (int64_t k = k0; k < end; ++k) multiply_terms<terms, MH, NH>(a.at(k), a.half, a.term, b.at(k), b.half, b.term);
    float* const to = k0 ? part : sums;
    MatrixUnit::store<0>(to, pitch);
    if constexpr (NH == 2) MatrixUnit::store<1>(to + 16, pitch);
    if constexpr (MH == 2) MatrixUnit::store<2>(to + 16 * NH * 16, pitch);
    if constexpr (MH == 2 && NH == 2) MatrixUnit::store<3>(to + 16 * NH * 16 + 16, pitch);
    if (k0)
      for (int64_t e = 0; e < count; e += 16)
        CONVX_ISA::store(sums + e, CONVX_ISA::load(sums + e) + CONVX_ISA::load(part + e));
  }
}

template <int terms>
TileProduct tile_product_of(int64_t m, int64_t n) {
  if (m <= 16) return n <= 16 ? tile_product<terms, 1, 1> : tile_product<terms, 1, 2>;
  return n <= 16 ? tile_product<terms, 2, 1> : tile_product<terms, 2, 2>;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
