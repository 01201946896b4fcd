// How a warp finishes and stores its sums of a tile, for the kernels of tensorcore_copied.cuh.
#pragma once
#include "store_row.cuh"
#include "tensorcore_stages.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// Writes a warp's sums, finished and rounded, with the bias; then goes over those in doubt (see
// tensorcore_convolve.cuh).
template <class Arithmetic, class Shape, class T>
__device__ void store_tile(const Convolution<T>& cv, const TilePlace& place, FloatSums<Shape>& sums, int first_row) {
  using Sums = FloatSums<Shape>;
  const int g = lane() / 4, t = lane() % 4;
  const auto row = [&](int i) { return first_row + 8 * i + g; };
  const auto column = [&](int j) { return place.column + j / 2 * 8 + 2 * t + j % 2; };
  const auto offset = [&](const Odometer& at) {
    return cv.output_strides(at.high, place.group * int64_t(cv.outputs),
                             place.rows.first_out + at.middle * place.rows.out_step,
                             place.columns.first_out + at.low * place.columns.out_step);
  };
  const auto to_column = [&](int to) {
    return cv.blocks.exist ? cv.blocks.place(to) : int64_t(to) * cv.output_strides.c;
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
    store_row_at(results + (exists ? offset(at) : 0), to_column, cv.stores_channels, place.column,
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
      const int64_t to = offset(at) + to_column(column(j));
      if (Arithmetic::is_doubtful(float(results[to])))
        results[to] = T(sum_of_taps<float>(cv, place, at, column(j)) +
                        (cv.bias ? float(bias[column(j) * cv.bias_stride]) : 0.0f));
    }
  }
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
