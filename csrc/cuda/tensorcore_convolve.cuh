// forward and grad_input on tensor cores, as one product of matrices without ever writing them down (an implicit GEMM):
//
//   rows       results of all images, a pixel each         (n, i, j)
//   columns    output channels of a group
//   reduction  row tap, column tap, input channel          in chunks of 16 bytes of channels
//
// A is gathered from the image while it is copied: a thread works out where its chunk's tap falls, and asks for zeros
// if that is in the padding. B is the weight, [output][tap][input]. grad_input is the same over the phases of the
// stride (as in plans.h of the CPU): results whose positions leave the same remainder are read by the same taps,
// so each phase is a convolution of y with some of the taps, and all phases are tiles of one launch.
//
// Zeros times an infinite weight are NaN, where a skipped tap is nothing at all. So a NaN in the result of a pixel that
// reads padding is in doubt, and is computed again tap by tap, as are the sums that Split doubts. No pass over the
// weights is needed to know, and each result depends on its own operands alone.
//
// Limit: dense layers have hundreds of multiply-adds to a byte, so the matrix rate: mma.sync reaches about 660 of 990
// TFLOP/s in 16 bits on an H100, half of it in TF32, a sixth by Split, 60 in float64 by DMMA. A warp's tile of 64 x 64
// reads 8 KiB of fragments from shared memory for each 128 KiFLOP: 70 % of what shared memory gives. Expected: 70 to
// 80 % of these rates on layers of 128 channels or more, where L2 can feed them: 16 bits on a Hopper it holds to 580,
// by the tile of 256 x 128 (tensorcore_launch.cuh). 1x1 layers of few channels are limited by memory.
#pragma once
#include "tensorcore_loaders.cuh"
#include "vectors.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// The definition of one result, for those in doubt: skipped taps are skipped.
template <class Sum, class T>
__device__ Sum sum_of_taps(const Convolution<T>& cv, const TilePlace& place, const Odometer& at, int output) {
  Sum sum = 0;
  for (int i = 0; i < place.rows.taps; ++i) {
    const int64_t h = place.rows.source(place.rows.position(at.middle, i));
    if (h < 0) continue;
    for (int j = 0; j < place.columns.taps; ++j) {
      const int64_t w = place.columns.source(place.columns.position(at.low, j));
      if (w < 0) continue;
      const T* x = cv.input + place.group * cv.input_group + at.high * cv.input_n + h * cv.input_h + w * cv.input_w;
      const T* v = cv.weight + place.group * cv.weight_group + int64_t(output) * cv.weight_output +
                   (place.rows.first_tap + i * place.rows.tap_step) * cv.weight_r +
                   (place.columns.first_tap + j * place.columns.tap_step) * cv.weight_s;
      for (int c = 0; c < cv.channels; ++c, v += cv.weight_c, x += cv.input_c) sum = fma(Sum(*v), Sum(*x), sum);
    }
  }
  return sum;
}

// Writes a warp's sums, rounded, with the bias; then goes over those in doubt.
template <class Arithmetic, class Shape, class T>
__device__ void store_results(const Convolution<T>& cv, const TilePlace& place,
                              typename Arithmetic::template Sums<Shape>& sums) {
  using Sum = typename Arithmetic::Sum;
  using Sums = typename Arithmetic::template Sums<Shape>;
  constexpr int kRows = Sums::kRows, kColumns = Sums::kColumns;
  constexpr int kElements = kChunk / sizeof(T), kPixels = kRows < kElements ? kRows : kElements;
  const int g = lane() / 4, t = lane() % 4;
  const int first_output = place.column + Shape::first_column() + t * kColumns;
  const auto row = [&](int i) { return Shape::first_row() + (cv.rows_apart ? 8 * i + g : kRows * g + i); };
  const auto offset = [&](const Odometer& at, int output) {
    return cv.output_strides(at.high, place.group * int64_t(cv.outputs) + output,
                             place.rows.first_out + at.middle * place.rows.out_step,
                             place.columns.first_out + at.low * place.columns.out_step);
  };
  T* const results = static_cast<T*>(cv.output);
  const auto store = [&](int64_t to, Sum sum) {
    if (cv.stores_sums)
      static_cast<Sum*>(cv.output)[to] = sum;
    else
      results[to] = T(sum);
  };
  const int count = cv.outputs - first_output;  // of the lane's columns, those that exist
  const T* const bias = cv.bias + (cv.bias ? (place.group * int64_t(cv.outputs) + first_output) * cv.bias_stride : 0);

  bool doubt = false;
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    const Sum b = cv.bias && j < count ? Sum(bias[j * cv.bias_stride]) : Sum(0);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      doubt = doubt || Arithmetic::is_doubtful(sums.at(i, j));
      sums.at(i, j) = Arithmetic::finished(sums.at(i, j)) + b;
    }
  }

  if (cv.stores_pixels) {
#pragma unroll
    for (int i = 0; i < kRows; i += kPixels) {
      const Odometer at = place.result(row(i));
      if (at.high >= cv.N) break;
      T* const to = results + offset(at, first_output);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (j >= count) break;
        Vector<T, kPixels> v;
        for (int e = 0; e < kPixels; ++e) v.v[e] = T(sums.at(i + e, j));
        *reinterpret_cast<Vector<T, kPixels>*>(to + j * cv.output_strides.c) = v;
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const Odometer at = place.result(row(i));
      if (at.high >= cv.N) break;
      const int64_t to = offset(at, first_output);
#pragma unroll
      for (int j = 0; j < kColumns; j += kElements) {
        if (cv.stores_channels) {
          if (j >= count) break;
          Vector<T, kElements> v;
          for (int e = 0; e < kElements; ++e) v.v[e] = T(sums.at(i, j + e));
          *reinterpret_cast<Vector<T, kElements>*>(results + to + j) = v;
        } else {
#pragma unroll
          for (int e = 0; e < kElements; ++e)
            if (j + e < count) store(to + (j + e) * cv.output_strides.c, sums.at(i, j + e));
        }
      }
    }
  }

  if (!doubt) return;
  for (int i = 0; i < kRows; ++i) {
    const Odometer at = place.result(row(i));
    if (at.high >= cv.N) break;
    const bool skips = place.rows.mode == PaddingMode::zeros &&
                       (place.rows.reads_padding(at.middle) || place.columns.reads_padding(at.low));
    if (!skips && !Arithmetic::kDoubtsItself) continue;
    for (int j = 0; j < kColumns && j < count; ++j) {
      const int64_t to = offset(at, first_output + j);
      const Sum stored = cv.stores_sums ? static_cast<const Sum*>(cv.output)[to] : Sum(results[to]);
      if (Arithmetic::is_doubtful(stored))
        store(to,
              sum_of_taps<Sum>(cv, place, at, first_output + j) + (cv.bias ? Sum(bias[j * cv.bias_stride]) : Sum(0)));
    }
  }
}

template <class Arithmetic, class Shape, template <class, class> class LoaderOf>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    convolve(Convolution<typename Arithmetic::Element> cv) {
  using T = typename Arithmetic::Element;
  using Loader = LoaderOf<T, Shape>;
  for (int64_t tile = blockIdx.x; tile < cv.tiles; tile += gridDim.x) {
    // Blocks that run at the same time share rows: their part of the image stays in the L2 cache.
    const int64_t row_tile = tile / cv.column_tiles / cv.G % cv.row_tiles;
    const int phase = int(tile / cv.column_tiles / cv.G / cv.row_tiles);
    TilePlace place;
    place.rows = cv.plan(cv.rows, phase / cv.phases_across);
    place.columns = cv.plan(cv.columns, phase % cv.phases_across);
    place.group = int(tile / cv.column_tiles % cv.G);
    place.column = int(tile % cv.column_tiles) * Shape::kColumns;
    const int64_t first = row_tile * Shape::kRows;
    place.n = int(first / place.plane()), place.pixel = int(first % place.plane());
    if (place.n >= cv.N) continue;  // a smaller phase; for the whole block: no barrier is missed

    typename Arithmetic::template Sums<Shape> sums;
    sums.clear();
    if (place.rows.taps > 0 && place.columns.taps > 0 && cv.inputs > 0) {
      Loader loader(cv, place);
      multiply_tiles<Arithmetic, Shape, typename Loader::A, typename Loader::B>(sums, loader, loader.steps(),
                                                                                shared_memory<char>());
    }
    store_results<Arithmetic, Shape>(cv, place, sums);
  }
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
