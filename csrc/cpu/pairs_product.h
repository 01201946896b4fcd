// amx_product.h's sums on vectors that multiply pairs of bfloat16 and add both products to a float32 (VDPBF16PS, Intel
// 64 and IA-32 Architectures Software Developer's Manual, volume 2): what the lines are made for is the same, so all
// around it is, too.
//
// A line of A is a pixel's 32 channels, of which a pair is broadcast; a line of B, a pair for each of 16 outputs. Up to
// 14 pixels times 32 outputs are 28 registers of sums, which stay where they are for all steps. Unlike a tile's 16
// lines, they are as many as there are: blocks end with rows, so that no sums of the halo between them are made, and
// steps whose row of taps lies in the padding are left out for the rows of results that it concerns. Of small planes a
// block is one pixel in up to 14 images, which have all taps in the padding in common, columns of them, too. Nor need a
// line be full: of the last channels, or of a row of taps of few (amx_taps.h), only the pairs that there are are
// multiplied.
//
// Limit: a multiply of 32 pairs a cycle on AMD's Zen 4, twice the multiply-adds of float32: measured, 223 to 233
// GFLOP/s of a core whose float32 multiply-adds reach 113, from 8 steps on. Zen 5 begins two a cycle, each of which
// takes six: 490 to 510 of a core's 525 from 14 sums on, 390 with ten, as there were while blocks were of up to eight
// pixels, so that a row of ten made two of five. (Intel's, whose vectors issue one a cycle where they issue two of
// float32's, have the matrix unit.) A pair's two products are added one after the other; numbers below 2^-126 are taken
// and given as zero, as by the unit. (The loop by itself, on made-up lines.)
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

inline Floats add_pairs(Floats sums, Words a, Words b) {
  return Floats(_mm512_dpbf16_ps(__m512(sums), __m512bh(a), __m512bh(b)));
}

// R lines of A, from `line` on, and their sums, [R][NH * 16], which begin as in amx_product.h. Lines are neighbours, or
// those of one pixel in several images (ACROSS): `line_pitch` bytes and `sums_pitch` elements apart.
template <int R, int NH, bool ACROSS>
void add_lines(const Tiles& a, int64_t line, int64_t line_pitch, const Tiles& b, const Steps& steps, float* sums,
               int64_t sums_pitch, const float* start) {
  if (!ACROSS) line_pitch = kLine, sums_pitch = NH * 16;
  Floats sum[R][NH];
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
    for (int n = 0; n < NH; ++n) sum[m][n] = load((start ? start : sums + m * sums_pitch) + n * 16);
  for (int64_t round = 0; round < steps.rounds; ++round) {
    const int64_t pairs = round + 1 < steps.rounds ? kDepth / 2 : steps.pairs;
    for (int64_t row = round * steps.of_round + steps.first; row < round * steps.of_round + steps.last;
         row += steps.row)
      for (int64_t k = row + steps.left; k < row + steps.right; ++k) {
        const char *const lines = a.at(k) + line * line_pitch, *const columns = b.at(k);
        const char* third[(R + 2) / 3];  // of three lines each: an address is a register, and at most twice another
#pragma GCC unroll 8
        for (int i = 0; i < (R + 2) / 3; ++i) third[i] = lines + 3 * i * line_pitch;
#pragma GCC unroll 2
        for (int64_t p = 0; p < pairs; ++p) {
          Words right[NH];
#pragma GCC unroll 2
          for (int n = 0; n < NH; ++n) std::memcpy(&right[n], columns + n * b.half + p * kLine, kLine);
#pragma GCC unroll 16
          for (int m = 0; m < R; ++m) {
            uint32_t pair;
            std::memcpy(&pair, third[m / 3] + m % 3 * line_pitch + p * 4, 4);
            const Words left = Words{} + pair;
#pragma GCC unroll 2
            for (int n = 0; n < NH; ++n) sum[m][n] = add_pairs(sum[m][n], left, right[n]);
          }
        }
      }
  }
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
    for (int n = 0; n < NH; ++n) CONVX_ISA::store(sums + m * sums_pitch + n * 16, sum[m][n]);
}

// The sums of `results` lines of A, in blocks of like size.
template <int NH, bool ACROSS>
void product_of_lines(const Tiles& a, int64_t line_pitch, const Tiles& b, const Steps& steps, float* sums,
                      int64_t sums_pitch, const float* start, int64_t results) {
  using AddLines = void (*)(const Tiles&, int64_t, int64_t, const Tiles&, const Steps&, float*, int64_t, const float*);
  static constexpr AddLines kAdd[kPairRows] = {
      add_lines<1, NH, ACROSS>,  add_lines<2, NH, ACROSS>,  add_lines<3, NH, ACROSS>,  add_lines<4, NH, ACROSS>,
      add_lines<5, NH, ACROSS>,  add_lines<6, NH, ACROSS>,  add_lines<7, NH, ACROSS>,  add_lines<8, NH, ACROSS>,
      add_lines<9, NH, ACROSS>,  add_lines<10, NH, ACROSS>, add_lines<11, NH, ACROSS>, add_lines<12, NH, ACROSS>,
      add_lines<13, NH, ACROSS>, add_lines<14, NH, ACROSS>};
  const int64_t blocks = ceil_div(results, kPairRows);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t first = results * i / blocks, rows = results * (i + 1) / blocks - first;
    kAdd[rows - 1](a, first, line_pitch, b, steps, sums + first * sums_pitch, sums_pitch, start);
  }
}

// Of one pixel in `images` images.
inline void product_across_images(const Tiles& a, int64_t line_pitch, const Tiles& b, const Steps& steps, float* sums,
                                  int64_t sums_pitch, const float* start, int64_t images, int64_t n) {
  n <= 16 ? product_of_lines<1, true>(a, line_pitch, b, steps, sums, sums_pitch, start, images)
          : product_of_lines<2, true>(a, line_pitch, b, steps, sums, sums_pitch, start, images);
}

template <int terms>
auto tile_product_of(int64_t m, int64_t n) {
  static_assert(terms == 1, "of numbers that are bfloat16");
  return [m, n](const Tiles& a, const Tiles& b, const Steps& steps, float* sums, const float* start) {
    n <= 16 ? product_of_lines<1, false>(a, kLine, b, steps, sums, 16, start, m)
            : product_of_lines<2, false>(a, kLine, b, steps, sums, 32, start, m);
  };
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
