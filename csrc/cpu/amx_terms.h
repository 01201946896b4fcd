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
// are looked through first. Images with an infinity, a NaN, a number that bfloat16 rounds to infinity or a magnitude
// below 2^-103 are somebody else's (engine.h), and so are pairs of operands whose smallest magnitudes multiply to less.
// bfloat16 is its own term, infinities and all: there the least magnitude is 2^-126, and 2^-110 that of a product.
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

inline void store_words(uint16_t* to, Words v) { std::memcpy(to, &v, sizeof v); }

// Transposes the pairs of 16 vectors, and stores each as 32 bfloat16, `pitch` apart.
inline void store_transposed(Floats (&pairs)[16], uint16_t* to, int64_t pitch) {
  transpose_square<float>(pairs);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) store_words(to + i * pitch, Words(pairs[i]));
}

// The least magnitude of what is not zero, and the greatest, as the bits of floats: they are ordered as floats are.
struct Magnitudes {
  uint32_t least = 0xffffffffu, greatest = 0;
  void add(const Magnitudes& m) {
    least = m.least < least ? m.least : least;
    greatest = m.greatest > greatest ? m.greatest : greatest;
  }
  bool finite() const { return greatest < 0x7f800000u; }
};

inline int exponent(uint32_t bits) { return int(bits >> 23) - 127; }

// The same in each lane, until all has been seen: across the lanes they take as long as dozens of vectors do.
struct LaneMagnitudes {
  Words least = ~Words{}, greatest{};
  void add(Floats f) {
    const Words v = Words(f) & 0x7fffffffu, place = v - 1;  // zero becomes the largest
    least = place < least ? place : least;
    greatest = v > greatest ? v : greatest;
  }
  Magnitudes of_all() const {
    Magnitudes m;
    for (int l = 0; l < 16; ++l) m.add({least[l] == 0xffffffffu ? least[l] : least[l] + 1, greatest[l]});
    return m;
  }
};

// Elements `stride` apart.
struct Walk {
  int64_t count, stride;
};

// The axes of an array in the order in which they lie in memory, as one where they follow one another: the first is the
// longest run of neighbours that there is. (A filter of 1x1 or 3x3 is none, the filters of an output are.)
struct Walks {
  Walk axes[4];

  Walks(Walk a, Walk b, Walk c, Walk d) : axes{a, b, c, d} {
    for (Walk& w : axes)
      if (w.stride == 0) w.count = smaller(w.count, 1);  // expanded: the same elements again
    for (int i = 1; i < 4; ++i)
      for (int j = i; j > 0 && place(axes[j]) < place(axes[j - 1]); --j) {
        const Walk before = axes[j - 1];
        axes[j - 1] = axes[j], axes[j] = before;
      }
    for (int i = 1; i < 4; ++i) {
      if (axes[i].stride != axes[0].count * axes[0].stride) break;
      axes[0].count *= axes[i].count;
      axes[i].count = 1;
    }
  }

  int64_t lines() const { return axes[1].count * axes[2].count * axes[3].count; }
  int64_t start_of_line(int64_t i) const {
    return i % axes[1].count * axes[1].stride + i / axes[1].count % axes[2].count * axes[2].stride +
           i / axes[1].count / axes[2].count * axes[3].stride;
  }

 private:
  static int64_t place(const Walk& w) { return w.count == 1 ? INT64_MAX : w.stride; }  // single elements last
};

// Of each of N images, `pitch` apart.
template <class In>
void magnitudes_of_images(Magnitudes* images, const In* data, int64_t N, int64_t pitch, const Walks& walks) {
  constexpr int64_t kPart = 8192;  // elements: some lines, or a piece of one
  const int64_t stride = walks.axes[0].stride, length = walks.axes[0].count, lines = walks.lines();
  for (int64_t n = 0; n < N; ++n) images[n] = {};
  if (N * length * lines == 0) return;
  const int64_t pieces = ceil_div(length, kPart), together = larger(1, kPart / length);
  const int64_t parts = pieces * ceil_div(lines, together);
  Buffer<Magnitudes> found(N * parts);
  parallel_for(N * parts, grain_for(double(together) * smaller(length, kPart) / 4), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i % parts, line = part / pieces * together;
      const int64_t first = part % pieces * kPart, last = smaller(length, first + kPart);
      LaneMagnitudes m;
      for (int64_t l = line; l < smaller(lines, line + together); ++l) {
        const In* const from = data + i / parts * pitch + walks.start_of_line(l);
        if (stride == 1)
          for (int64_t e = first; e < last; e += 16) m.add(load_some<float>(from + e, last - e));
        else
          for (int64_t e = first; e < last; ++e) m.add(Floats{float(from[e * stride])});
      }
      found[i] = m.of_all();
    }
  });
  for (int64_t i = 0; i < N * parts; ++i) images[i / parts].add(found[i]);
}

// Whether products of the two come out as float32's would: every term is at least what the unit takes as it is, 2^-126,
// and so is the last bit of every product. (Numbers that are their own term may be infinite.)
template <int terms>
bool can_multiply(const Magnitudes& a, const Magnitudes& b) {
  constexpr uint32_t kRoundsToInfinity = 0x7f7f8000u;
  if (terms > 1 && (a.greatest >= kRoundsToInfinity || b.greatest >= kRoundsToInfinity)) return false;
  constexpr int kLowest = terms == 1 ? -126 : -103, kLowestProduct = terms == 1 ? -110 : -103;
  const int x = exponent(a.least), y = exponent(b.least);  // above any other if all are zero
  return x >= kLowest && y >= kLowest && x + y >= kLowestProduct;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
