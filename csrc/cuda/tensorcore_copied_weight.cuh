// grad_weight of 16-bit numbers on a Hopper GPU, with its copy engine: the products of tensorcore_weight.cuh (for each
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
  bool stores_chunks;                               // of eight neighbouring inputs, if the pixels are not split
  TensorMap outputs[kMostTaps], inputs[kMostTaps];  // y and x, by tap
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
      mbarrier_wait(ring.empty + ring.stage, ring.parity ^ 1);
      uint64_t* const full = ring.full + ring.stage;
      mbarrier_expect(full, Shape::kBytes);
      for (int block = 0; block < Shape::kRows; block += 64)
        copy_im2col(ring.a() + block / 64 * kBlockBytes, work.outputs[u.tap], full,
                    u.group * wg.y_channels + u.row + block, columns.first + at.low, rows.first + at.middle, at.high, 0,
                    0);
      for (int block = 0; block < Shape::kColumns; block += 64)
        copy_im2col(ring.b() + block / 64 * kBlockBytes, work.inputs[u.tap], full,
                    u.group * wg.x_channels + u.column + block, columns.offset + at.low * columns.stride,
                    rows.offset + at.middle * rows.stride, at.high, 0, 0);
      at.advance(step, rows.count, columns.count);
      ring.next();
    }
  }
}

// A split's sums, to the workspace.
template <class Shape, class T>
__device__ void store_partial(const WeightGradient<T, float>& wg, const WeightUnit& u, FloatSums<Shape>& sums) {
  using Sums = FloatSums<Shape>;
  float* const partial =
      wg.partial + u.split * wg.partial_size() + (int64_t(u.group) * wg.taps() + u.tap) * wg.outputs * wg.inputs;
  const int k = u.row + Shape::first_row() + lane() / 4, c = u.column + lane() % 4 * 2;
#pragma unroll
  for (int row = 0; row < Sums::kRows; ++row) {
    const int to_k = k + 8 * row;
    if (to_k >= wg.outputs) break;
    float* const to = partial + int64_t(to_k) * wg.inputs;
#pragma unroll
    for (int j = 0; j < Sums::kColumns; j += 2) {
      const int to_c = c + 4 * j;
      if (wg.inputs % 2 == 0) {
        if (to_c < wg.inputs) *reinterpret_cast<float2*>(to + to_c) = make_float2(sums.at(row, j), sums.at(row, j + 1));
      } else {
        if (to_c < wg.inputs) to[to_c] = sums.at(row, j);
        if (to_c + 1 < wg.inputs) to[to_c + 1] = sums.at(row, j + 1);
      }
    }
  }
}

// All of a tile's sums, rounded, to the result.
template <class Shape, class T>
__device__ void store_weights(const WeightGradient<T, float>& wg, bool chunks, const WeightUnit& u,
                              FloatSums<Shape>& sums) {
  using Sums = FloatSums<Shape>;
  const int r = u.tap / int(wg.columns.kernel), s = u.tap % int(wg.columns.kernel);
  const int k = u.row + Shape::first_row() + lane() / 4, c = u.column + lane() % 4 * 2;
#pragma unroll
  for (int row = 0; row < Sums::kRows; ++row) {
    const int to_k = k + 8 * row;
    T* const to = wg.w + wg.w_strides(int64_t(u.group) * wg.outputs + to_k, 0, r, s);
    if (chunks) {
#pragma unroll
      for (int j = 0; j < Sums::kColumns; j += 8) {  // 32 columns of the tile
        const uint4 neighbours = eight_neighbours<T>(sums, row, j);
        const int first = u.column + first_neighbour(j);
        if (to_k < wg.outputs && first < wg.inputs) *reinterpret_cast<uint4*>(to + first) = neighbours;
      }
    } else if (to_k < wg.outputs) {
#pragma unroll
      for (int j = 0; j < Sums::kColumns; ++j) {
        const int to_c = c + j / 2 * 8 + j % 2;
        if (to_c < wg.inputs) to[to_c * wg.w_strides.c] = T(sums.at(row, j));
      }
    }
  }
}

template <class T, class Shape, int kMostTaps>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    weight_gradient_copied(const CONVX_GRID_CONSTANT CopiedWeightGradient<T, kMostTaps> work) {
#ifdef CONVX_HAS_WGMMA
  Ring<Shape> ring(shared_memory<char>());
  ring.prepare();
  if (threadIdx.x >= Shape::kConsumers) {
    give_registers<40>();
    if (threadIdx.x == Shape::kConsumers) copy_weight_stages<Shape>(work, ring);
  } else {
    take_registers<232>();
    using Sums = FloatSums<Shape>;
    const auto& wg = work.wg;
    for (int64_t i = blockIdx.x; i < weight_units(wg); i += gridDim.x) {
      const WeightUnit u = weight_unit<Shape>(wg, i);
      Sums all[1], &sums = all[0];
      sums.clear();
      multiply_stages<Shape, true, true, T>(all, ring, u.steps());
      if (wg.splits > 1)
        store_partial<Shape>(wg, u, sums);
      else
        store_weights<Shape>(wg, work.stores_chunks, u, sums);
    }
  }
#else
  __trap();  // see ptx_wgmma.h
#endif
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
