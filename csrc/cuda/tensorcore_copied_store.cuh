// How a warp stores its sums of a tile, for the kernels of tensorcore_copied.cuh: in vectors of 16 bytes, or of two
// float32.
#pragma once
#include "tensorcore_stages.cuh"

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

template <class T>
__device__ uint32_t as_word(float low, float high) {
  const Vector<T, 2> pair = {{T(low), T(high)}};
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}

// Row i of a warp's sums, rounded, to `row`: the tile's columns from `column` on, those before `end`, `step` apart or,
// if they may be stored in vectors, neighbours. All lanes come here; a row that does not exist has an end of 0.
//
// A lane has rows g and g + 8 of its warp's sixteen, and of every eight columns two. Of 16-bit numbers the four lanes
// of a row exchange what they have of 32 columns, so that each gets eight neighbours.
template <class T, class Sums>
__device__ void store_row(T* row, int64_t step, bool in_vectors, int column, int end, Sums& sums, int i) {
  const int t = lane() % 4;
  if (!in_vectors) {
#pragma unroll
    for (int j = 0; j < Sums::kColumns; ++j) {
      const int to = column + j / 2 * 8 + 2 * t + j % 2;
      if (to < end) row[to * step] = T(sums.at(i, j));
    }
  } else if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int j = 0; j < Sums::kColumns; j += 8) {  // 32 columns of the tile
      uint32_t words[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) words[e] = as_word<T>(sums.at(i, j + 2 * e), sums.at(i, j + 2 * e + 1));
      transpose_words(words);
      const int to = column + 4 * j + 8 * t;
      if (to < end) *reinterpret_cast<uint4*>(row + to) = make_uint4(words[0], words[1], words[2], words[3]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < Sums::kColumns; j += 2) {
      const int to = column + 4 * j + 2 * t;
      if (to < end) *reinterpret_cast<float2*>(row + to) = make_float2(sums.at(i, j), sums.at(i, j + 1));
    }
  }
}

// Writes a warp's sums, finished and rounded, with the bias; then goes over those in doubt (see
// tensorcore_convolve.cuh).
template <class Arithmetic, class Shape, class T>
__device__ void store_tile(const Convolution<T>& cv, const TilePlace& place, FloatSums<Shape>& sums, int first_row) {
  using Sums = FloatSums<Shape>;
  const int g = lane() / 4, t = lane() % 4;
  const auto row = [&](int i) { return first_row + 8 * i + g; };
  const auto column = [&](int j) { return place.column + j / 2 * 8 + 2 * t + j % 2; };
  const auto offset = [&](const Odometer& at, int output) {
    return cv.output_strides(at.high, place.group * int64_t(cv.outputs) + output,
                             place.rows.first_out + at.middle * place.rows.out_step,
                             place.columns.first_out + at.low * place.columns.out_step);
  };
  T* const results = static_cast<T*>(cv.output);
  const T* const bias = cv.bias + (cv.bias ? place.group * int64_t(cv.outputs) * cv.bias_stride : 0);

  bool doubt = false;
#pragma unroll
  for (int j = 0; j < Sums::kColumns; ++j) {
    const float b = cv.bias && column(j) < cv.outputs ? float(bias[column(j) * cv.bias_stride]) : 0.0f;
#pragma unroll
    for (int i = 0; i < Sums::kRows; ++i) {
      doubt = doubt || Arithmetic::is_doubtful(sums.at(i, j));
      sums.at(i, j) = Arithmetic::finished(sums.at(i, j)) + b;
    }
  }

#pragma unroll
  for (int i = 0; i < Sums::kRows; ++i) {
    const Odometer at = place.result(row(i));
    const bool exists = at.high < cv.N;
    store_row(results + (exists ? offset(at, 0) : 0), cv.output_strides.c, cv.stores_channels, place.column,
              exists ? cv.outputs : 0, sums, i);
  }

  if (!__any_sync(0xffffffffu, doubt)) return;
  __syncwarp();  // other lanes have stored this one's results
  for (int i = 0; i < Sums::kRows; ++i) {
    const Odometer at = place.result(row(i));
    if (at.high >= cv.N) break;
    const bool skips = place.rows.reads_padding(at.middle) || place.columns.reads_padding(at.low);
    if (!skips && !Arithmetic::kDoubtsItself) continue;
    for (int j = 0; j < Sums::kColumns && column(j) < cv.outputs; ++j) {
      const int64_t to = offset(at, column(j));
      if (Arithmetic::is_doubtful(float(results[to])))
        results[to] = T(sum_of_taps<float>(cv, place, at, column(j)) +
                        (cv.bias ? float(bias[column(j) * cv.bias_stride]) : 0.0f));
    }
  }
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
