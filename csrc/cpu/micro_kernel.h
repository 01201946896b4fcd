// The one inner loop: an outer product over registers whose left side is addressed by offsets,
//
//   acc[m][n] += A[a_k[k] + m] * B[k][n],   m < M,  n < NV vectors,   k < steps.
//
// M * NV accumulators stay in registers for the whole loop; each step loads NV vectors of B, broadcasts M scalars of A
// and does M * NV multiply-adds. Because A is reached through the table a_k, it need not be a matrix in memory: the
// taps of a convolution read a packed tile of the input at shifted offsets, and no im2col is ever written.
//
// Limit: 2 vector FMAs and 2 loads a cycle. 14 x 2 needs 14 cycles for its FMAs and 8 for its 16 loads; the 28
// independent sums cover the FMA's latency of 4 cycles twice over. 28 sums + 2 of B + 1 broadcast = 31 of 32 registers
// (AVX2: 6 x 2, 15 of 16).
//
// MR > 1 makes M of MR rows with MC neighbours each, `a_pitch` apart: for outputs too narrow to fill M from one row,
// and for channels that lie in planes of their own.
//
// Four steps at a time: where a loop ends is a branch that processors guess wrong when it comes after some dozens of
// steps, at the price of four steps; 16 or 6 rounds they remember.
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// A sum of many products is made of parts of this many, each summed from zero: the rounding error of a chain of
// additions grows with its length.
template <class T>
constexpr int64_t kChain = sizeof(T) == 4 ? 64 : 24;

// Where torch's chains are longer too: in forward, and in grad_input with that many outputs, since it adds up one sum
// over the outputs for each tap. A convolution says which is its own (convolution.h).
template <class T>
constexpr int64_t kLongChain = 2 * kChain<T>;
constexpr int64_t kManyOutputs = 64;

// And a long sum of many parts is made of sums of this many of them, for the same reason.
constexpr int64_t kParts = 64;
inline bool begins_sum(int64_t k, int64_t chain) { return k % (kParts * chain) == 0; }

// total = sums, or total += sums: one of those long sums is done.
template <class T>
void add_sums(T* total, const T* sums, int64_t count, bool first) {
  for (int64_t e = 0; e < count; ++e) total[e] = first ? sums[e] : total[e] + sums[e];
}

constexpr int kUnrolled = 4;

// Elements of a cache line.
template <class T>
constexpr int64_t kPerLine = 64 / sizeof(T);

// What is needed after a product: on its way each step fetches a cache line of it to L2, `step` bytes apart. (Many at
// once would wait for one another, and the sums for them.)
struct NextLines {
  const char* line;
  int64_t step;
  NextLines(const void* first, int64_t step = 64) : line(static_cast<const char*>(first)), step(step) {}
};

// sums is [MR][MC][NV * lanes], `sums_pitch` elements from row to row. The product is added to `start`, one line of it
// for all m, or to the sums if null. Steps of B follow one another, or are `b_pitch` apart.
template <class T, int MR, int MC, int NV, bool kPitched = false>
void outer_product(const T* a, int64_t a_pitch, const int32_t* a_k, const T* b, int64_t b_pitch, int64_t steps, T* sums,
                   int64_t sums_pitch, const T* start, NextLines ahead) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes;
  V acc[MR * MC][NV];
#pragma GCC unroll 32
  for (int m = 0; m < MR * MC; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < NV; ++n) acc[m][n] = V{};
  const T* base[(MR + 2) / 3];  // of three rows each: an address is a register, and at most twice another
#pragma GCC unroll 8
  for (int i = 0; i < (MR + 2) / 3; ++i) base[i] = a + 3 * i * a_pitch;
  const auto step = [&](int64_t at) {
    V right[NV];
#pragma GCC unroll 4
    for (int n = 0; n < NV; ++n) right[n] = load(b + n * L);
    b += kPitched ? b_pitch : NV * L;
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 32
      for (int c = 0; c < MC; ++c) {
        const V scalar = splat<T>(base[r / 3][at + r % 3 * a_pitch + c]);
#pragma GCC unroll 4
        for (int n = 0; n < NV; ++n) acc[r * MC + c][n] += scalar * right[n];
      }
  };
  int64_t k = 0;
  for (; k + kUnrolled <= steps; k += kUnrolled)
#pragma GCC unroll 4
    for (int u = 0; u < kUnrolled; ++u) {
      step(a_k[k + u]);
      __builtin_prefetch(ahead.line, 0, 2);
      ahead.line += ahead.step;
    }
  for (; k < steps; ++k) step(a_k[k]);
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 32
    for (int c = 0; c < MC; ++c)
#pragma GCC unroll 4
      for (int n = 0; n < NV; ++n) {
        T* sum = sums + r * sums_pitch + (c * NV + n) * L;
        store(sum, load(start ? start + n * L : sum) + acc[r * MC + c][n]);
      }
}

template <class T>
using OuterProduct = void (*)(const T*, int64_t, const int32_t*, const T*, int64_t, int64_t, T*, int64_t, const T*,
                              NextLines);

// M channels, `a_pitch` apart.
template <class T, int NV, bool kPitched = false>
OuterProduct<T> outer_product_of_planes(int m) {
  switch (m) {
#define CONVX_PLANES(M) \
  case M: return outer_product<T, M, 1, NV, kPitched>;
    CONVX_PLANES(1)
    CONVX_PLANES(2)
    CONVX_PLANES(3)
    CONVX_PLANES(4)
    CONVX_PLANES(5)
    CONVX_PLANES(6)
#if CONVX_MAX_M > 6
    CONVX_PLANES(7)
    CONVX_PLANES(8)
    CONVX_PLANES(9)
    CONVX_PLANES(10)
    CONVX_PLANES(11)
    CONVX_PLANES(12)
    CONVX_PLANES(13)
    CONVX_PLANES(14)
#endif
#undef CONVX_PLANES
  }
  return nullptr;
}

// How many rows of MC pixels make a full tile: M is at most CONVX_MAX_M, and each row costs a pointer register.
constexpr int rows_for(int mc) {
  const int rows = CONVX_MAX_M / mc;
  return rows < 1 ? 1 : rows > 4 ? 4 : rows;
}

template <class T, int NV>
OuterProduct<T> outer_product_of(int mr, int mc) {
  switch (mc) {
#define CONVX_WIDTH(MC)                                                    \
  case MC:                                                                 \
    if constexpr (MC <= CONVX_MAX_M)                                       \
      return mr == 1              ? outer_product<T, 1, MC, NV>            \
             : mr == rows_for(MC) ? outer_product<T, rows_for(MC), MC, NV> \
                                  : nullptr;                               \
    return nullptr;
    CONVX_WIDTH(1)
    CONVX_WIDTH(2)
    CONVX_WIDTH(3)
    CONVX_WIDTH(4)
    CONVX_WIDTH(5)
    CONVX_WIDTH(6)
    CONVX_WIDTH(7)
    CONVX_WIDTH(8)
    CONVX_WIDTH(9)
    CONVX_WIDTH(10)
    CONVX_WIDTH(11)
    CONVX_WIDTH(12)
    CONVX_WIDTH(13)
    CONVX_WIDTH(14)
#undef CONVX_WIDTH
  }
  return nullptr;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
