// grad_weight on a Hopper GPU, with its copy engine: the products of tensorcore_weight.cuh (for each
// tap: rows are output channels, columns input channels, the reduction pixels), copied and multiplied as in
// tensorcore_copied.cuh. Both operands have their rows contiguous and the reduction across it, which wgmma reads as it
// is.
//
// An im2col map walks over the pixels of a box, so each tap has two: the outputs that it serves, and the inputs that it
// reads for them. Nothing is multiplied by a zero of the padding, so infinities need no second look.
//
// Limit: the matrix rate, and the splits' sums: each is written and read again by add_splits, 8 bytes an element. If
// the pixels are not split the result is stored at once.
//
// Machine code of weight_gradient_copied<.*: sm_90a: HGMMA, UTMALDG
#pragma once
#include "tensorcore_copied.cuh"
#include "tensorcore_weight.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// kMostTaps: how many maps there are room for; what a kernel is given is copied with each launch.
template <class T, int kMostTaps>
struct CopiedWeightGradient {
  WeightGradient<T, float> wg;
  bool stores_vectors;                              // of eight neighbouring inputs, if the pixels are not split
  TensorMap outputs[kMostTaps], inputs[kMostTaps];  // y and x or their terms, by tap: [pixel][group][term][channel]
};

// One split's share of one tile.
struct WeightUnit {
  int row, column, tap, group, split;
  PixelRun pixels;

  __device__ int steps() const {
    return pixels.begin < pixels.end ? int((pixels.end - pixels.begin + kCopiedDepth - 1) / kCopiedDepth) : 0;
  }
};

template <class Shape, class W>
__device__ WeightUnit weight_unit(const W& wg, int64_t unit) {
  WeightUnit u;
  u.column = int(unit % wg.column_tiles) * Shape::kColumns;
  unit /= wg.column_tiles;
  u.row = int(unit % wg.row_tiles) * Shape::kRows;
  unit /= wg.row_tiles;
  u.tap = int(unit % wg.taps());
  unit /= wg.taps();
  u.group = int(unit % wg.G), u.split = int(unit / wg.G);
  u.pixels.rows = TapRun::of(wg.rows, u.tap / int(wg.columns.kernel));
  u.pixels.columns = TapRun::of(wg.columns, u.tap % int(wg.columns.kernel));
  const int64_t all = wg.N * u.pixels.rows.count * u.pixels.columns.count;
  const int64_t stages = (all + kCopiedDepth - 1) / kCopiedDepth;
  u.pixels.begin = stages * u.split / wg.splits * kCopiedDepth;
  u.pixels.end = min(all, stages * (u.split + 1) / wg.splits * kCopiedDepth);
  return u;
}

template <class W>
__device__ int64_t weight_units(const W& wg) {
  return int64_t(wg.splits) * wg.G * wg.taps() * wg.row_tiles * wg.column_tiles;
}

template <class Shape, class T, int kMostTaps>
__device__ void copy_weight_stages(const CopiedWeightGradient<T, kMostTaps>& work, Ring<Shape> ring) {
  constexpr int kBlockBytes = kCopiedDepth * kCopiedRowBytes;  // of 64 channels
  const auto& wg = work.wg;
  for (int64_t i = blockIdx.x; i < weight_units(wg); i += gridDim.x) {
    const WeightUnit u = weight_unit<Shape>(wg, i);
    const int steps = u.steps();
    if (steps == 0) continue;
    const TapRun &rows = u.pixels.rows, &columns = u.pixels.columns;
    Odometer at = u.pixels.at(u.pixels.begin);
    const Odometer step = Odometer::of(kCopiedDepth, rows.count, columns.count);
    for (int s = 0; s < steps; ++s) {
      uint64_t* const full = ring.fill();
      for (int term = 0; term < Shape::kTerms; ++term) {
        for (int block = 0; block < Shape::kRows; block += 64)
          copy_im2col(ring.a(term) + block / 64 * kBlockBytes, work.outputs[u.tap], full,
                      (u.group * Shape::kTerms + term) * wg.y_channels + u.row + block, columns.first + at.low,
                      rows.first + at.middle, at.high, 0, 0);
        for (int block = 0; block < Shape::kColumns; block += 64)
          copy_im2col(ring.b(term) + block / 64 * kBlockBytes, work.inputs[u.tap], full,
                      (u.group * Shape::kTerms + term) * wg.x_channels + u.column + block,
                      columns.offset + at.low * columns.stride, rows.offset + at.middle * rows.stride, at.high, 0, 0);
      }
      at.advance(step, rows.count, columns.count);
      ring.next();
    }
  }
}

// A split's sums, to the workspace.
template <class Shape, class T>
__device__ void store_partial(const WeightGradient<T, float>& wg, const WeightUnit& u, FloatSums<Shape>& sums) {
  float* const partial =
      wg.partial + u.split * wg.partial_size() + (int64_t(u.group) * wg.taps() + u.tap) * wg.outputs * wg.inputs;
#pragma unroll
  for (int i = 0; i < FloatSums<Shape>::kRows; ++i) {
    const int k = u.row + Shape::first_row() + lane() / 4 + 8 * i;
    if (k >= wg.outputs) break;
    store_row(partial + int64_t(k) * wg.inputs, 1, wg.inputs % 2 == 0, u.column, wg.inputs, sums, i);
  }
}

// All of a tile's sums, rounded, to the result.
template <class Shape, class T>
__device__ void store_weights(const WeightGradient<T, float>& wg, bool in_vectors, const WeightUnit& u,
                              FloatSums<Shape>& sums) {
  const int r = u.tap / int(wg.columns.kernel), s = u.tap % int(wg.columns.kernel);
#pragma unroll
  for (int i = 0; i < FloatSums<Shape>::kRows; ++i) {
    const int k = u.row + Shape::first_row() + lane() / 4 + 8 * i;
    store_row(wg.w + wg.w_strides(int64_t(u.group) * wg.outputs + k, 0, r, s), wg.w_strides.c, in_vectors, u.column,
              k < wg.outputs ? wg.inputs : 0, sums, i);
  }
}

template <class Arithmetic, class Shape, int kMostTaps>
__global__ void __launch_bounds__(Shape::kThreads, 1) weight_gradient_copied(
    const CONVX_GRID_CONSTANT CopiedWeightGradient<typename Arithmetic::Element, kMostTaps> work) {
#ifdef CONVX_HAS_WGMMA
  Ring<Shape> ring(shared_memory<char>());
  ring.prepare();
  if (threadIdx.x >= Shape::kConsumers) {
    give_registers<40>();
    if (threadIdx.x == Shape::kConsumers) copy_weight_stages<Shape>(work, ring);
  } else {
    take_registers<232>();
    const auto& wg = work.wg;
    for (int64_t i = blockIdx.x; i < weight_units(wg); i += gridDim.x) {
      const WeightUnit u = weight_unit<Shape>(wg, i);
      FloatSums<Shape> sums[1];
      sums[0].clear();
      Arithmetic::template multiply<true, true>(sums, ring, u.steps());
      // Sums that may be in doubt are left to add_splits, however few.
      if (Arithmetic::kDoubtsItself || wg.splits > 1)
        store_partial(wg, u, sums[0]);
      else
        store_weights(wg, work.stores_vectors, u, sums[0]);
    }
  }
#else
  __trap();  // see ptx_wgmma.h
#endif
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
