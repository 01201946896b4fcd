// Transposing copies: wherever memory's neighbours (pixels, or taps of one filter) and a kernel's neighbours (channels)
// differ, a block of L rows of L elements is turned over in registers, instead of one element at a time.
//
// A square of L = 2^k vectors is transposed by k perfect shuffles: interleaving the first half of the vectors with the
// second half rotates the bits of each element's address (row, column) by one, and after k rotations rows are columns.
#pragma once
#include "convert.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// The two index vectors of a perfect shuffle of two vectors.
template <class T>
struct Interleave {
  static constexpr int L = Vec<T>::lanes;
  using Integer = std::conditional_t<sizeof(T) == 2, int16_t, std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;
  typedef Integer Index __attribute__((vector_size(CONVX_VECTOR_BYTES)));
  alignas(64) Integer low[L], high[L];
  constexpr Interleave() : low(), high() {
    for (int i = 0; i < L; ++i) {
      low[i] = i / 2 + i % 2 * L;
      high[i] = L / 2 + i / 2 + i % 2 * L;
    }
  }
  static const Interleave table;
  static Index index(const Integer* p) { return *reinterpret_cast<const Index*>(p); }
};
template <class T>
constexpr Interleave<T> Interleave<T>::table{};

// The index vector that takes the even elements of two vectors.
template <class T>
struct Evens {
  static constexpr int L = Vec<T>::lanes;
  alignas(64) typename Interleave<T>::Integer even[L];
  constexpr Evens() : even() {
    for (int i = 0; i < L; ++i) even[i] = 2 * i;
  }
  static const Evens table;
};
template <class T>
constexpr Evens<T> Evens<T>::table{};

template <class T>
inline typename Vec<T>::type shuffle(typename Vec<T>::type a, typename Vec<T>::type b,
                                     typename Interleave<T>::Index index) {
#if defined(__clang__)
  typename Vec<T>::type r;
  for (int i = 0; i < Vec<T>::lanes; ++i) r[i] = index[i] < Vec<T>::lanes ? a[index[i]] : b[index[i] - Vec<T>::lanes];
  return r;
#else
  return __builtin_shuffle(a, b, index);
#endif
}

#if CONVX_VECTOR_BYTES == 32
// AVX2 shuffles within halves of 16 bytes, and a perfect shuffle takes it four instructions. So the halves are
// transposed first and exchanged last: 24 instructions for 8 x 8, instead of 48.
__attribute__((always_inline)) inline void transpose_square(Vec<float>::type* v) {
  using Index = Interleave<float>::Index;
  Vec<float>::type pairs[8], quads[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = shuffle<float>(v[i], v[i + 1], Index{0, 8, 1, 9, 4, 12, 5, 13});
    pairs[i + 1] = shuffle<float>(v[i], v[i + 1], Index{2, 10, 3, 11, 6, 14, 7, 15});
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      quads[i + 2 * j] = shuffle<float>(pairs[i + j], pairs[i + j + 2], Index{0, 1, 8, 9, 4, 5, 12, 13});
      quads[i + 2 * j + 1] = shuffle<float>(pairs[i + j], pairs[i + j + 2], Index{2, 3, 10, 11, 6, 7, 14, 15});
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = shuffle<float>(quads[i], quads[i + 4], Index{0, 1, 2, 3, 8, 9, 10, 11});
    v[i + 4] = shuffle<float>(quads[i], quads[i + 4], Index{4, 5, 6, 7, 12, 13, 14, 15});
  }
}
__attribute__((always_inline)) inline void transpose_square(Vec<double>::type* v) {
  using Index = Interleave<double>::Index;
  Vec<double>::type pairs[4];
#pragma GCC unroll 2
  for (int i = 0; i < 4; i += 2) {
    pairs[i] = shuffle<double>(v[i], v[i + 1], Index{0, 4, 2, 6});
    pairs[i + 1] = shuffle<double>(v[i], v[i + 1], Index{1, 5, 3, 7});
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    v[i] = shuffle<double>(pairs[i], pairs[i + 2], Index{0, 1, 4, 5});
    v[i + 2] = shuffle<double>(pairs[i], pairs[i + 2], Index{2, 3, 6, 7});
  }
}
#endif

// Transposes the L vectors v in registers.
template <class T>
inline void transpose_square(typename Vec<T>::type* v) {
#if CONVX_VECTOR_BYTES == 32
  return transpose_square(v);
#else
  constexpr int L = Vec<T>::lanes;
  const auto low = Interleave<T>::index(Interleave<T>::table.low),
             high = Interleave<T>::index(Interleave<T>::table.high);
#pragma GCC unroll 4
  for (int width = 1; width < L; width *= 2) {
    typename Vec<T>::type t[L];
#pragma GCC unroll 8
    for (int i = 0; i < L / 2; ++i) {
      t[2 * i] = shuffle<T>(v[i], v[i + L / 2], low);
      t[2 * i + 1] = shuffle<T>(v[i], v[i + L / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = t[i];
  }
#endif
}

// to[c][r] = from[r][c] for r < rows, c < columns (at most a vector each), by way of T; each line of `to` is filled
// with zeros up to `fill` elements. Whole rows and columns take no tests.
template <class T, class From, class To>
__attribute__((noinline)) void transpose_block(const From* from, int64_t from_pitch, int64_t rows, int64_t columns,
                                               To* to, int64_t to_pitch, int64_t fill) {
  constexpr int L = Vec<T>::lanes;
  typename Vec<T>::type v[L];
  if (rows >= L && columns >= L) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = load_as<T>(from + i * from_pitch);
    transpose_square<T>(v);
    if (fill >= L) {
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store_as<T>(to + i * to_pitch, v[i]);
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store_some<T>(to + i * to_pitch, v[i], fill);
    }
    return;
  }
  for (int i = 0; i < L; ++i) v[i] = i < rows ? load_some<T>(from + i * from_pitch, columns) : typename Vec<T>::type{};
  transpose_square<T>(v);
  for (int i = 0; i < columns && i < L; ++i) store_some<T>(to + i * to_pitch, v[i], fill);
}

// `count` whole squares in a row, each `step` elements further on.
template <class T, class From, class To>
__attribute__((noinline)) void transpose_squares(int64_t count, const From* from, int64_t from_pitch, int64_t from_step,
                                                 To* to, int64_t to_pitch, int64_t to_step) {
  constexpr int L = Vec<T>::lanes;
  for (; count > 0; --count, from += from_step, to += to_step) {
    typename Vec<T>::type v[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = load_as<T>(from + i * from_pitch);
    transpose_square<T>(v);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) store_as<T>(to + i * to_pitch, v[i]);
  }
}

#if CONVX_VECTOR_BYTES == 64
// 16 rows of 8 columns, whose rows may be 8 elements apart: with two rows to a vector, four rotations of half as many
// vectors. For the eight of a 3x3 filter's taps.
template <class From, class To>
__attribute__((noinline)) void transpose_half(const From* from, int64_t from_pitch, To* to, int64_t to_pitch) {
  using Table = Interleave<float>;
  constexpr Table::Index kBoth = {0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31};
  const auto low = Table::index(Table::table.low), high = Table::index(Table::table.high);
  Vec<float>::type v[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i, from += 2 * from_pitch)
    v[i] = shuffle<float>(load_as<float>(from), load_as<float>(from + from_pitch - 8), kBoth);
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      t[2 * i] = shuffle<float>(v[i], v[i + 4], low);
      t[2 * i + 1] = shuffle<float>(v[i], v[i + 4], high);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) v[i] = t[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) store_as<float>(to + i * to_pitch, v[i]);
}
#endif

// to[c][r] = from[r][c], any sizes; each line of `to` is filled with zeros up to `fill` (at least `rows`) elements.
template <class T, class In>
void transpose(const In* from, int64_t from_pitch, int64_t rows, int64_t columns, T* to, int64_t to_pitch,
               int64_t fill) {
  constexpr int64_t L = Vec<T>::lanes, kAhead = 64 / sizeof(In), kFew = 2;
  for (int64_t r = 0; r < fill; r += L) {
    const bool whole = rows - r >= L && fill - r >= L;
    for (int64_t c = 0; c < columns;) {
      const In* const first = from + r * from_pitch + c;
      T* const line = to + c * to_pitch + r;
      const int64_t left = columns - c;
      if (whole && left >= L) {
        const int64_t count = smaller(kAhead, left) / L;  // up to a cache line
        for (int64_t i = 0; i < L; ++i) __builtin_prefetch(first + i * from_pitch + 2 * kAhead);
        transpose_squares<T>(count, first, from_pitch, L, line, to_pitch, L * to_pitch);
        c += count * L;
        continue;
      }
      if (left <= kFew) {  // a ninth tap: not worth a square
        for (int64_t j = 0; j < left; ++j)
          for (int64_t i = 0; i < smaller(fill - r, L); ++i)
            line[j * to_pitch + i] = r + i < rows ? T(first[i * from_pitch + j]) : T(0);
        break;
      }
      if (from_pitch > 4 * L)
        for (int64_t i = 0; i < smaller(rows - r, L); ++i) __builtin_prefetch(first + i * from_pitch + 4 * L);
#if CONVX_VECTOR_BYTES == 64
      if constexpr (sizeof(T) == 4) {
        if (whole && 8 <= left && left <= 8 + kFew && from_pitch >= 8) {
          transpose_half(first, from_pitch, line, to_pitch);
          c += 8;
          continue;
        }
      }
#endif
      transpose_block<T>(first, from_pitch, smaller(L, larger(0, rows - r)), smaller(L, left), line, to_pitch,
                         smaller(L, fill - r));
      c += L;
    }
  }
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
