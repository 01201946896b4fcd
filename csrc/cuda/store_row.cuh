// How a warp stores the sums of mma.m16n8 and of wgmma as rows: in vectors of 16 bytes, or of two float32.
#pragma once
#include "tensorcore_arithmetic.cuh"
#include "vectors.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// Among the four lanes of a row: word i of lane j goes to lane i as its word j.
__device__ inline void transpose_words(uint32_t (&words)[4]) {
  const int t = lane() % 4;
#pragma unroll
  for (int bit = 2; bit > 0; bit /= 2)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      uint32_t& kept_by_low = words[i];
      uint32_t& kept_by_high = words[i | bit];
      const uint32_t sent = t & bit ? kept_by_low : kept_by_high;
      const uint32_t received = __shfl_xor_sync(0xffffffffu, sent, bit);
      (t & bit ? kept_by_low : kept_by_high) = received;
    }
}

// Row i of a warp's sums, rounded, to `row`: the tile's columns from `column` on, those before `end`, each to place(its
// number); if they may be stored in vectors, eight of them are neighbours (four of 32 bits). All lanes come here; a row
// that does not exist has an end of 0.
//
// A lane has rows g and g + 8 of its warp's sixteen, and of every eight columns two. Of 16-bit numbers the four lanes
// of a row exchange what they have of 32 columns, so that each gets eight neighbours.
template <class T, class Sums, class Place>
__device__ void store_row_at(T* row, Place place, bool in_vectors, int column, int end, Sums& sums, int i) {
  const int t = lane() % 4;
  if (!in_vectors) {
#pragma unroll
    for (int j = 0; j < Sums::kColumns; ++j) {
      const int to = column + j / 2 * 8 + 2 * t + j % 2;
      if (to < end) row[place(to)] = T(sums.at(i, j));
    }
  } else if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int j = 0; j < Sums::kColumns; j += 8) {  // 32 columns of the tile
      uint32_t words[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) words[e] = as_word<T>(sums.at(i, j + 2 * e), sums.at(i, j + 2 * e + 1));
      transpose_words(words);
      const int to = column + 4 * j + 8 * t;
      if (to < end) *reinterpret_cast<uint4*>(row + place(to)) = make_uint4(words[0], words[1], words[2], words[3]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < Sums::kColumns; j += 2) {
      const int to = column + 4 * j + 2 * t;
      if (to < end) *reinterpret_cast<float2*>(row + place(to)) = make_float2(sums.at(i, j), sums.at(i, j + 1));
    }
  }
}

// The same of columns that are `step` apart.
template <class T, class Sums>
__device__ void store_row(T* row, int64_t step, bool in_vectors, int column, int end, Sums& sums, int i) {
  store_row_at(row, [step](int to) { return to * step; }, in_vectors, column, end, sums, i);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
