// amx_product.h's sums on vectors that multiply pairs of bfloat16 and add both products to a float32 (VDPBF16PS, Intel
// 64 and IA-32 Architectures Software Developer's Manual, volume 2): what the lines are made for is the same, so all
// around it is, too.
//
// A line of A is a pixel's 32 channels, of which a pair is broadcast; a line of B, a pair for each of 16 outputs. Up to
// eight pixels times 32 outputs are 16 registers of sums, which stay where they are for all steps. Unlike a tile's 16
// lines, they are as many as there are: blocks end with rows, so that no sums of the halo between them are made, and
// steps whose row of taps lies in the padding are left out for the rows of results that it concerns. Nor need a line be
// full: of the last channels, or of a row of taps of few (amx_taps.h), only the pairs that there are are multiplied.
//
// Limit: a multiply of 32 pairs a cycle on AMD's Zen 4, twice the multiply-adds of float32: measured, 223 to 233
// GFLOP/s of a core whose float32 multiply-adds reach 113, from 8 steps on. (Intel's, whose vectors issue one a cycle
// where they issue two of float32's, have the matrix unit.) A pair's two products are added one after the other;
// numbers below 2^-126 are taken and given as zero, as by the unit. (The loop by itself, on made-up lines.)
//
// Run alone: with convx.algorithm("bfloat16_pairs"): ...
#pragma once
#include "amx_terms.h"
#include "amx_unit.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

constexpr bool kEndsWithRows = true;
template <class In>  // terms would be no faster than float32's multiply-adds
constexpr bool kMultiplies = std::is_same_v<In, BFloat16>;
constexpr int64_t kPairRows = 8;  // at most, of pixels

inline Floats add_pairs(Floats sums, Words a, Words b) {
  return Floats(_mm512_dpbf16_ps(__m512(sums), __m512bh(a), __m512bh(b)));
}

// R lines of A, from `line` on. sums is [R][NH * 16], and begins as in amx_product.h.
template <int R, int NH>
void add_lines(const Tiles& a, int64_t line, const Tiles& b, const Steps& steps, float* sums, const float* start) {
  Floats sum[R][NH];
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
    for (int n = 0; n < NH; ++n) sum[m][n] = load((start ? start : sums + m * NH * 16) + n * 16);
  for (int64_t round = 0; round < steps.rounds; ++round) {
    const int64_t pairs = round + 1 < steps.rounds ? kDepth / 2 : steps.pairs;
    for (int64_t k = round * steps.of_round + steps.first; k < round * steps.of_round + steps.last; ++k) {
      const char *const lines = a.at(k) + line * kLine, *const columns = b.at(k);
#pragma GCC unroll 2
      for (int64_t p = 0; p < pairs; ++p) {
        Words right[NH];
#pragma GCC unroll 2
        for (int n = 0; n < NH; ++n) std::memcpy(&right[n], columns + n * b.half + p * kLine, kLine);
#pragma GCC unroll 8
        for (int m = 0; m < R; ++m) {
          uint32_t pair;
          std::memcpy(&pair, lines + m * kLine + p * 4, 4);
          const Words left = Words{} + pair;
#pragma GCC unroll 2
          for (int n = 0; n < NH; ++n) sum[m][n] = add_pairs(sum[m][n], left, right[n]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
    for (int n = 0; n < NH; ++n) CONVX_ISA::store(sums + (m * NH + n) * 16, sum[m][n]);
}

// The sums of `results` lines of A, in blocks of like size.
template <int NH>
void product_of_lines(const Tiles& a, const Tiles& b, const Steps& steps, float* sums, const float* start,
                      int64_t results) {
  using AddLines = void (*)(const Tiles&, int64_t, const Tiles&, const Steps&, float*, const float*);
  static constexpr AddLines kAdd[kPairRows] = {add_lines<1, NH>, add_lines<2, NH>, add_lines<3, NH>, add_lines<4, NH>,
                                               add_lines<5, NH>, add_lines<6, NH>, add_lines<7, NH>, add_lines<8, NH>};
  const int64_t blocks = ceil_div(results, kPairRows);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t first = results * i / blocks, rows = results * (i + 1) / blocks - first;
    kAdd[rows - 1](a, first, b, steps, sums + first * NH * 16, start);
  }
}

template <int terms>
auto tile_product_of(int64_t m, int64_t n) {
  static_assert(terms == 1, "of numbers that are bfloat16");
  return [m, n](const Tiles& a, const Tiles& b, const Steps& steps, float* sums, const float* start) {
    n <= 16 ? product_of_lines<1>(a, b, steps, sums, start, m) : product_of_lines<2>(a, b, steps, sums, start, m);
  };
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
