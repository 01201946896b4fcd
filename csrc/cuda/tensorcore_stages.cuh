// Stages of a product brought into shared memory by a Hopper GPU's copy engine, for the kernels of
// tensorcore_copied.cuh: the shape of a block's tile, the ring of its stages, and the thread that asks for them. The
// engine gathers the pixels of a tap by itself: its "im2col" copies know where an image ends and which pixel comes
// next.
//
// A stage has 128 bytes of each row, 64 numbers of the reduction: of one term, the operands' 16-bit numbers, or of each
// of the terms whose sum a float32 is (tensorcore_terms.cuh). Or 32, of float32 that is rounded to TF32. full[] says
// that a stage's bytes are there, empty[] that all have multiplied it.
#pragma once
#include "ptx_tma.h"
#include "tensorcore_convolve.cuh"
#include "tensorcore_warpgroup.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

constexpr int kCopiedRowBytes = 128, kCopiedDepth = kCopiedRowBytes / 2;  // of 16-bit numbers
constexpr int kMostPhases = 16;  // of a stride: each has a map of 128 bytes among the kernel's parameters

// Two warpgroups that multiply, and one that copies. With kTurns each of the two has a tile of its own, all 128 rows,
// and they take turns: one multiplies while the other stores. Otherwise they share a tile, 64 rows each, which leaves
// registers for 256 columns, or for the sums of terms that are added to the total one by one.
template <int kTerms_, int kColumns_, bool kTurns_ = kTerms_ == 1 && kColumns_ <= 128, int kElementBytes = 2>
struct CopiedShape {
  static constexpr int kTerms = kTerms_, kDepth = kCopiedRowBytes / kElementBytes;
  static constexpr int kRows = 128, kColumns = kColumns_, kWarpRows = 16, kWarpColumns = kColumns;
  static constexpr bool kTurns = kTurns_;
  static constexpr int kHalves = kTurns ? 2 : 1;  // times 64 rows that a warpgroup has
  static constexpr int kConsumers = 256, kThreads = kConsumers + 128;
  static constexpr int kReaders = kConsumers / 32 / kHalves;  // warps that multiply a stage
  static constexpr int kTermOfA = kRows * kCopiedRowBytes, kTermOfB = kColumns * kCopiedRowBytes;  // bytes
  static constexpr int kABytes = kTerms * kTermOfA, kBytes = kABytes + kTerms * kTermOfB;
  static constexpr int kMostStages = 216 * 1024 / kBytes, kStages = kMostStages < 8 ? kMostStages : 8;
  static constexpr int kSharedBytes = kStages * kBytes + (2 * kStages + 2) * int(sizeof(uint64_t));

  // Of the warp's sixteen rows, and of the warpgroup's, in their half of the tile.
  __device__ static int first_row(int half = 0) {
    return kTurns ? 64 * half + int(threadIdx.x) % 128 / 32 * kWarpRows : int(threadIdx.x) / 32 * kWarpRows;
  }
  __device__ static int first_of_warpgroup(int half) { return kTurns ? 64 * half : int(threadIdx.x) / 128 * 64; }
};

// What a launch works on: the operands themselves, and maps of them or of their terms, which have cv.inputs channels to
// a group. A map of the image for each phase, since each has a grid of pixels of its own.
template <class T>
struct CopiedConvolution {
  Convolution<T> cv;
  TensorMap weight;              // [group][output][row tap][column tap][term][input], or turned: see copy_stages
  TensorMap image[kMostPhases];  // [pixel][group][term][channel]
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
  __device__ char* a(int term = 0) const { return tiles + stage * Shape::kBytes + term * Shape::kTermOfA; }
  __device__ char* b(int term = 0) const { return a() + Shape::kABytes + term * Shape::kTermOfB; }
  // Waits until the stage may be filled; its copies are to report to the barrier that is returned.
  __device__ uint64_t* fill() {
    mbarrier_wait(empty + stage, parity ^ 1);
    mbarrier_expect(full + stage, Shape::kBytes);
    return full + stage;
  }
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
template <class Shape, class T>
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

// Asks for all stages of all tiles; one thread. kTurned: of the weight's numbers outputs are neighbours, not inputs.
template <class Shape, bool kTurned, class T>
__device__ void copy_stages(const CopiedConvolution<T>& work, Ring<Shape> ring) {
  static_assert(!kTurned || (Shape::kTerms == 1 && Shape::kDepth == kCopiedDepth), "what wgmma can read across");
  const Convolution<T>& cv = work.cv;
  for (int64_t tile = blockIdx.x; tile < cv.tiles; tile += gridDim.x) {
    TilePlace place;
    int phase;
    if (!find_tile<Shape>(cv, tile, place, phase)) continue;
    const CopiedAxis rows = CopiedAxis::of(place.rows), columns = CopiedAxis::of(place.columns);
    const Odometer first = place.result(0);
    const int h = rows.position(first.middle), w = columns.position(first.low);
    for (int i = 0; i < place.rows.taps; ++i)
      for (int j = 0; j < place.columns.taps; ++j) {
        const int r = place.rows.first_tap + i * place.rows.tap_step;
        const int s = place.columns.first_tap + j * place.columns.tap_step;
        for (int input = 0; input < cv.inputs; input += Shape::kDepth) {
          uint64_t* const full = ring.fill();
          for (int term = 0; term < Shape::kTerms; ++term) {
            copy_im2col(ring.a(term), work.image[phase], full, (place.group * Shape::kTerms + term) * cv.inputs + input,
                        w, h, first.high, columns.offset(j), rows.offset(i));
            if (!kTurned)
              copy_tile(ring.b(term), work.weight, full, term * cv.inputs + input, s, r, place.column, place.group);
          }
          if (kTurned)
            for (int block = 0; block < Shape::kColumns; block += 64)
              copy_tile(ring.b() + block * kCopiedRowBytes, work.weight, full, place.column + block, s, r, input,
                        place.group);
          ring.next();
        }
      }
  }
}

// One operand of a product, of which a stage has four, from the stage's row `row` on, a multiple of 64: 32 bytes of its
// rows, or, across the reduction, blocks of 64 rows, with a line for each of sixteen numbers.
constexpr int kCopiedProducts = 4;
template <bool kAcross>
__device__ uint64_t copied_operand(const char* tile, int row, int product) {
  return kAcross ? wgmma_operand_across(tile + (row + 16 * product) * kCopiedRowBytes, 64 * kCopiedRowBytes)
                 : wgmma_operand_128(tile + row * kCopiedRowBytes + 32 * product);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
