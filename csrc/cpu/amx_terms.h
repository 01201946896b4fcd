// float32 on a matrix unit that multiplies bfloat16: each number is split, exactly, into terms of eight significand
// bits, and the products of terms are summed in float32.
//
//   float32  = a0 + a1 + a2      24 bits: the six products a_i * b_j with i + j <= 2; the three left out are at most
//                                2^-23 of the product, and mostly far below
//   float16  = a0 + a1           11 bits: all four products, so nothing is lost
//   bfloat16 = a0                one
//
// A term is the rest before it, rounded: the next rest is then at most half of its last bit, eight bits less, so that
// three terms hold 24 bits and their signs, and the splitting is exact. (Truncated terms are too, but their rests are
// twice as large and all of one sign.) Sums of a few products have up to twice the error of a chain of multiply-adds
// all the same, long ones less (docs/cpu-log.md). Every product of two terms is exact in float32, and the unit sums 32
// of them before it adds to the total. (Henry, Tang, Heinecke: Leveraging the bfloat16 Artificial Intelligence Datatype
// For Higher-Precision Computations, ARITH 2019, arXiv:1904.06376.)
//
// What the terms can't say: an infinity leaves NaN for a rest, and terms below 2^-126 are taken as zero. So operands
// are looked through (magnitudes.h). Images with an infinity, a NaN, a number that bfloat16 rounds to infinity or a
// magnitude below 2^-103 are somebody else's (engine.h), and so are pairs of operands whose smallest magnitudes
// multiply to less. bfloat16 is its own term, infinities and all: there the least magnitude is 2^-126, and 2^-110 that
// of a product.
#pragma once
#include "convert.h"
#include "transpose.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

typedef uint32_t Words __attribute__((vector_size(64)));
using Floats = Vec<float>::type;

template <class In>
constexpr int kTerms = 3;
template <>
inline constexpr int kTerms<Half> = 2;
template <>
inline constexpr int kTerms<BFloat16> = 1;

// What is split: float32, and bfloat16 as the bits that it is.
template <class In>
using Plain = std::conditional_t<std::is_same_v<In, BFloat16>, uint16_t, float>;
template <class In>
inline const auto* plain(const In* p) {
  if constexpr (std::is_same_v<In, BFloat16>)
    return reinterpret_cast<const uint16_t*>(p);
  else
    return p;
}

// The products of `terms` terms, small ones first, neighbours sharing a factor so that it is loaded once.
struct Product {
  int a, b;
};
template <int terms>
struct Products;
template <>
struct Products<1> {
  static constexpr int count = 1;
  static constexpr Product list[] = {{0, 0}};
};
template <>
struct Products<2> {
  static constexpr int count = 4;
  static constexpr Product list[] = {{1, 1}, {1, 0}, {0, 0}, {0, 1}};
};
template <>
struct Products<3> {
  static constexpr int count = 6;
  static constexpr Product list[] = {{2, 0}, {1, 0}, {1, 1}, {0, 1}, {0, 0}, {0, 2}};
};

// The terms of each lane, in the high half of its word.
template <int terms>
inline void split(Floats v, Words (&t)[terms]) {
#pragma GCC unroll 3
  for (int i = 0; i < terms; ++i) {
    t[i] = (Words(v) + 0x8000u) & 0xffff0000u;
    v -= Floats(t[i]);
  }
}

// Two terms to a word, `first` in the low half: neighbours in memory.
inline Words pair(Words first, Words second) { return first >> 16 | second; }

// The terms of 32 numbers that are neighbours, as 32 bfloat16 neighbours: the pairs of both vectors in order.
template <int terms>
inline void split_run(Floats low, Floats high, Words (&t)[terms]) {
  const auto even = Interleave<float>::index(Evens<float>::table.even);
  Words evens[terms], odds[terms];
  split(shuffle<float>(low, high, even), evens);
  split(shuffle<float>(low, high, even + 1), odds);
#pragma GCC unroll 3
  for (int i = 0; i < terms; ++i) t[i] = pair(evens[i], odds[i]);
}

// Two vectors' 16-bit elements in turns, within each 16 bytes: of the lower halves, and of the upper ones. (With
// indices that the compiler sees, one cheap instruction.)
using Halfwords = Vec<uint16_t>::type;
inline Halfwords interleave_low(Halfwords a, Halfwords b) {
  return shuffle<uint16_t>(a, b,
                           Interleave<uint16_t>::Index{0,  32, 1,  33, 2,  34, 3,  35, 8,  40, 9,  41, 10, 42, 11, 43,
                                                       16, 48, 17, 49, 18, 50, 19, 51, 24, 56, 25, 57, 26, 58, 27, 59});
}
inline Halfwords interleave_high(Halfwords a, Halfwords b) {
  return shuffle<uint16_t>(a, b,
                           Interleave<uint16_t>::Index{4,  36, 5,  37, 6,  38, 7,  39, 12, 44, 13, 45, 14, 46, 15, 47,
                                                       20, 52, 21, 53, 22, 54, 23, 55, 28, 60, 29, 61, 30, 62, 31, 63});
}

// The first 16 elements of two vectors in turns, and the last.
inline Halfwords in_turns(Halfwords a, Halfwords b, bool last) {
  using Index = Interleave<uint16_t>::Index;
  constexpr Index kFirst = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                            8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  return last ? shuffle<uint16_t>(a, b, kFirst + 16) : shuffle<uint16_t>(a, b, kFirst);
}

inline void store_words(uint16_t* to, Words v) { std::memcpy(to, &v, sizeof v); }

// Transposes the pairs of 16 vectors, and stores each as 32 bfloat16, `pitch` apart.
inline void store_transposed(Floats (&pairs)[16], uint16_t* to, int64_t pitch) {
  transpose_square<float>(pairs);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) store_words(to + i * pitch, Words(pairs[i]));
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
