// forward and grad_input of 16-bit numbers on a Hopper GPU, with its copy engine: the product of
// tensorcore_convolve.cuh (rows are pixels, columns output channels, the reduction taps and input channels), but nobody
// computes addresses. One thread asks for a stage, and the engine gathers the pixels of a tap by itself: its "im2col"
// copies know where an image ends and which pixel comes next. Two warpgroups do nothing but multiply.
//
// What was gained, measured on an H200: in tensorcore_warpgroup.cuh's loop each warp issues 235 instructions for a
// stage of two products, and address arithmetic waits for the registers that the products read and write. Here a stage
// of four products takes some twenty.
//
// A block stays on its multiprocessor and takes tile after tile, so the copies of the next tile are on their way while
// one is stored. Stages are 64 numbers of the reduction, 128 bytes of each row, in a ring; full[] says that a stage's
// bytes are there, empty[] that all have multiplied it.
//
// Limit: 990 TFLOP/s by the datasheet; a plain product of large matrices reaches 790 on that GPU. Measured: 650 to 720
// on layers of 512 channels, 350 to 500 on 64 and 128, whose tiles have few stages.
//
// Machine code of convolve_copied<.*: sm_90a: HGMMA, UTMALDG
#pragma once
#include "ptx_tma.h"
#include "tensorcore_convolve.cuh"
#include "tensorcore_warpgroup.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

constexpr int kCopiedDepth = 64, kCopiedRowBytes = 2 * kCopiedDepth;
constexpr int kMostPhases = 16;  // of a stride: each has a map of 128 bytes among the kernel's parameters

// Two warpgroups that multiply, and one that copies. With kTurns each of the two has a tile of its own, all 128 rows,
// and they take turns: one multiplies while the other stores. Otherwise they share a tile, 64 rows each, which leaves
// registers for 256 columns.
template <int kColumns_, bool kTurns_ = kColumns_ <= 128>
struct CopiedShape {
  static constexpr int kRows = 128, kColumns = kColumns_, kWarpRows = 16, kWarpColumns = kColumns;
  static constexpr bool kTurns = kTurns_;
  static constexpr int kHalves = kTurns ? 2 : 1;  // times 64 rows that a warpgroup has
  static constexpr int kConsumers = 256, kThreads = kConsumers + 128;
  static constexpr int kReaders = kConsumers / 32 / kHalves;  // warps that multiply a stage
  static constexpr int kABytes = kRows * kCopiedRowBytes, kBytes = kABytes + kColumns * kCopiedRowBytes;
  static constexpr int kStages = kColumns == 256 ? 4 : kColumns == 128 ? 6 : 8;
  static constexpr int kSharedBytes = kStages * kBytes + (2 * kStages + 2) * int(sizeof(uint64_t));

  // Of the warp's sixteen rows, and of the warpgroup's, in their half of the tile.
  __device__ static int first_row(int half = 0) {
    return kTurns ? 64 * half + int(threadIdx.x) % 128 / 32 * kWarpRows : int(threadIdx.x) / 32 * kWarpRows;
  }
  __device__ static int first_of_warpgroup(int half) { return kTurns ? 64 * half : int(threadIdx.x) / 128 * 64; }
};

// What a launch works on. A map of the image for each phase, since each has a grid of pixels of its own.
template <class T>
struct CopiedConvolution {
  Convolution<T> cv;
  TensorMap weight;  // [group][output][row tap][column tap][input], or with output and input in each other's place
  TensorMap image[kMostPhases];
};

// One axis as the copy engine wants it: where result i reads by the tap that reads first, and how much further by tap
// j.
struct CopiedAxis {
  PixelAxis pixels;
  int first_offset, dilation;

  CONVX_HD static CopiedAxis of(const AxisPlan& plan) {
    const int first = plan.dilation < 0 ? (plan.taps - 1) * plan.dilation : 0;
    return {{plan.offset + first, plan.count, plan.stride}, -first, plan.dilation};
  }
  CONVX_HD int position(int i) const { return pixels.first + i * pixels.step; }
  CONVX_HD int offset(int j) const { return first_offset + j * dilation; }
};

// The ring of stages in shared memory, from one side. turns[]: the other warpgroup has begun all products of its tile,
// so this one's stages come next. (To wait for one of them earlier would be no good: a barrier tells this phase from
// the last, but not from the one before.)
template <class Shape>
struct Ring {
  char* tiles;
  uint64_t *full, *empty, *turns;
  int stage = 0;
  uint32_t parity = 0;

  __device__ explicit Ring(char* shared)
      : tiles(shared),
        full(reinterpret_cast<uint64_t*>(shared + Shape::kStages * Shape::kBytes)),
        empty(full + Shape::kStages),
        turns(empty + Shape::kStages) {}
  __device__ void prepare() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < Shape::kStages; ++i) {
        mbarrier_init(full + i, 1);
        mbarrier_init(empty + i, Shape::kReaders);
      }
      if (Shape::kTurns)
        for (int i = 0; i < 2; ++i) mbarrier_init(turns + i, Shape::kReaders);
      fence_mbarrier_init();
    }
    __syncthreads();
  }
  __device__ char* a() const { return tiles + stage * Shape::kBytes; }
  __device__ char* b() const { return a() + Shape::kABytes; }
  __device__ void next() {
    if (++stage == Shape::kStages) stage = 0, parity ^= 1;
  }
  __device__ void skip(int stages) {
    stage += stages;
    parity ^= uint32_t(stage / Shape::kStages) & 1;
    stage %= Shape::kStages;
  }
};

// The tile of a block's turn, or false: a phase that has fewer.
template <class T, class Shape>
__device__ bool find_tile(const Convolution<T>& cv, int64_t tile, TilePlace& place, int& phase) {
  const int64_t row_tile = tile / cv.column_tiles / cv.G % cv.row_tiles;
  phase = int(tile / cv.column_tiles / cv.G / cv.row_tiles);
  place.rows = cv.plan(cv.rows, phase / cv.phases_across);
  place.columns = cv.plan(cv.columns, phase % cv.phases_across);
  place.group = int(tile / cv.column_tiles % cv.G);
  place.column = int(tile % cv.column_tiles) * Shape::kColumns;
  const int64_t first = row_tile * Shape::kRows;
  if (first >= int64_t(cv.N) * place.plane()) return false;
  place.n = int(first / place.plane()), place.pixel = int(first % place.plane());
  return true;
}

// Asks for all stages of all tiles; one thread.
template <class Shape, bool kTurned, class T>
__device__ void copy_stages(const CopiedConvolution<T>& work, Ring<Shape> ring) {
  const Convolution<T>& cv = work.cv;
  for (int64_t tile = blockIdx.x; tile < cv.tiles; tile += gridDim.x) {
    TilePlace place;
    int phase;
    if (!find_tile<T, Shape>(cv, tile, place, phase)) continue;
    const CopiedAxis rows = CopiedAxis::of(place.rows), columns = CopiedAxis::of(place.columns);
    const Odometer first = place.result(0);
    const int h = rows.position(first.middle), w = columns.position(first.low);
    for (int i = 0; i < place.rows.taps; ++i)
      for (int j = 0; j < place.columns.taps; ++j) {
        const int r = place.rows.first_tap + i * place.rows.tap_step;
        const int s = place.columns.first_tap + j * place.columns.tap_step;
        for (int input = 0; input < cv.inputs; input += kCopiedDepth) {
          mbarrier_wait(ring.empty + ring.stage, ring.parity ^ 1);
          uint64_t* const full = ring.full + ring.stage;
          mbarrier_expect(full, Shape::kBytes);
          copy_im2col(ring.a(), work.image[phase], full, place.group * cv.inputs + input, w, h, first.high,
                      columns.offset(j), rows.offset(i));
          if (!kTurned)
            copy_tile(ring.b(), work.weight, full, input, s, r, place.column, place.group);
          else
            for (int block = 0; block < Shape::kColumns; block += 64)
              copy_tile(ring.b() + block * kCopiedRowBytes, work.weight, full, place.column + block, s, r, input,
                        place.group);
          ring.next();
        }
      }
  }
}

// One operand of a stage from its row `row` on, a multiple of 64, and from number k of the reduction on: rows of 64
// numbers, or, across the reduction, blocks of 64 rows, with a line for each number.
template <bool kAcross>
__device__ uint64_t copied_operand(const char* tile, int row, int k) {
  return kAcross ? wgmma_operand_across(tile + row * kCopiedRowBytes + k * kCopiedRowBytes, 64 * kCopiedRowBytes)
                 : wgmma_operand_128(tile + row * kCopiedRowBytes + 2 * k);
}

// Adds the products of all stages of a tile; the warpgroup's rows. `next`, if any, is told when all have begun.
template <class Shape, bool kAcrossA, bool kAcrossB, class T>
__device__ void multiply_stages(FloatSums<Shape> (&sums)[Shape::kHalves], Ring<Shape>& ring, int steps,
                                uint64_t* next = nullptr) {
  using Registers = float[Shape::kColumns / 2];
  const auto registers = [&](int half) -> Registers& { return reinterpret_cast<Registers&>(sums[half].d); };
  uint64_t* before = nullptr;
  for (int step = 0; step < steps; ++step) {
    mbarrier_wait(ring.full + ring.stage, ring.parity);
#pragma unroll
    for (int half = 0; half < Shape::kHalves; ++half) wgmma_fence(registers(half));
#pragma unroll
    for (int k = 0; k < kCopiedDepth; k += 16)
#pragma unroll
      for (int half = 0; half < Shape::kHalves; ++half)
        wgmma_m64k16<Shape::kColumns, kAcrossA, kAcrossB>(
            registers(half), copied_operand<kAcrossA>(ring.a(), Shape::first_of_warpgroup(half), k),
            copied_operand<kAcrossB>(ring.b(), 0, k), T{});
    wgmma_commit();
#pragma unroll
    for (int half = 0; half < Shape::kHalves; ++half) wgmma_wait<1>(registers(half));
    if (before && lane() == 0) mbarrier_arrive(before);  // the stage before this one has been multiplied
    before = ring.empty + ring.stage;
    ring.next();
  }
  if (next && lane() == 0) mbarrier_arrive(next);
#pragma unroll
  for (int half = 0; half < Shape::kHalves; ++half) wgmma_wait<0>(registers(half));
  if (before && lane() == 0) mbarrier_arrive(before);
}

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

// A lane has rows g and g + 8 of its warp's sixteen, and of every eight columns two; the four lanes of a row exchange
// what they have of 32 columns, so that each gets eight neighbours, rounded: of the lane's columns those from j on, of
// the tile those from first_neighbour(j) on.
template <class T, class Sums>
__device__ uint4 eight_neighbours(Sums& sums, int i, int j) {
  uint32_t words[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) words[e] = as_word<T>(sums.at(i, j + 2 * e), sums.at(i, j + 2 * e + 1));
  transpose_words(words);
  return make_uint4(words[0], words[1], words[2], words[3]);
}
__device__ inline int first_neighbour(int j) { return 4 * j + 8 * (lane() % 4); }

// Writes a warp's sums, rounded, with the bias; then goes over those in doubt (see tensorcore_convolve.cuh).
template <class Shape, class T>
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
      doubt = doubt || sums.at(i, j) != sums.at(i, j);
      sums.at(i, j) += b;
    }
  }

#pragma unroll
  for (int i = 0; i < Sums::kRows; ++i) {
    const Odometer at = place.result(row(i));
    const bool exists = at.high < cv.N;
    const int64_t to = exists ? offset(at, 0) : 0;
    if (cv.stores_channels) {
#pragma unroll
      for (int j = 0; j < Sums::kColumns; j += 8) {  // 32 columns of the tile
        const uint4 neighbours = eight_neighbours<T>(sums, i, j);
        const int first = place.column + first_neighbour(j);
        if (exists && first < cv.outputs) *reinterpret_cast<uint4*>(results + to + first) = neighbours;
      }
    } else if (exists) {
#pragma unroll
      for (int j = 0; j < Sums::kColumns; ++j)
        if (column(j) < cv.outputs) results[to + column(j) * cv.output_strides.c] = T(sums.at(i, j));
    }
  }

  if (!__any_sync(0xffffffffu, doubt)) return;
  __syncwarp();  // other lanes have stored this one's results
  for (int i = 0; i < Sums::kRows; ++i) {
    const Odometer at = place.result(row(i));
    if (at.high >= cv.N) break;
    if (!place.rows.reads_padding(at.middle) && !place.columns.reads_padding(at.low)) continue;
    for (int j = 0; j < Sums::kColumns && column(j) < cv.outputs; ++j) {
      const int64_t to = offset(at, column(j));
      const float stored = float(results[to]);
      if (stored != stored)
        results[to] = T(sum_of_taps<float>(cv, place, at, column(j)) +
                        (cv.bias ? float(bias[column(j) * cv.bias_stride]) : 0.0f));
    }
  }
}

template <class T, class Shape, bool kTurned>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    convolve_copied(const CONVX_GRID_CONSTANT CopiedConvolution<T> work) {
#ifdef CONVX_HAS_WGMMA
  Ring<Shape> ring(shared_memory<char>());
  ring.prepare();
  if (threadIdx.x >= Shape::kConsumers) {
    give_registers<40>();
    if (threadIdx.x == Shape::kConsumers) copy_stages<Shape, kTurned>(work, ring);
  } else {
    take_registers<232>();
    const Convolution<T>& cv = work.cv;
    const int chunks = (cv.inputs + kCopiedDepth - 1) / kCopiedDepth;
    const int warpgroup = int(threadIdx.x) / 128;
    int turn = 0;
    for (int64_t tile = blockIdx.x; tile < cv.tiles; tile += gridDim.x) {
      TilePlace place;
      int phase;
      if (!find_tile<T, Shape>(cv, tile, place, phase)) continue;
      const int steps = place.rows.taps * place.columns.taps * chunks;
      const bool is_mine = !Shape::kTurns || turn % 2 == warpgroup;
      // The n-th tile of the block follows the n-1st, which is the other's (n - 1) / 2-th.
      if (Shape::kTurns && is_mine && turn > 0) mbarrier_wait(ring.turns + warpgroup, (turn - 1) / 2 & 1);
      ++turn;
      if (!is_mine) {
        ring.skip(steps);
        continue;
      }
      FloatSums<Shape> sums[Shape::kHalves];
      for (auto& half : sums) half.clear();
      multiply_stages<Shape, false, kTurned, T>(sums, ring, steps, Shape::kTurns ? ring.turns + !warpgroup : nullptr);
#pragma unroll
      for (int half = 0; half < Shape::kHalves; ++half)
        store_tile<Shape>(cv, place, sums[half], Shape::first_row(half));
    }
  }
#else
  __trap();  // see ptx_wgmma.h
#endif
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
