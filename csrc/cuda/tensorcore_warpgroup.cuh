// 16-bit products by warpgroups, on Hopper GPUs: what tensorcore_arithmetic.cuh is for warps, with the same loaders,
// the same tiles in shared memory (wgmma's swizzle of 64 bytes is the one of tensorcore_tile.cuh) and the same sums in
// the same lanes. What is gained over mma.sync, which keeps a Hopper's tensor cores some 62 % busy at best: operands
// need no ldmatrix, so a block's tile may be 128 x 256, and a product goes on while the next stages are asked for.
//
// Limit: 990 TFLOP/s on an H100, 512 cycles for a stage of 128 x 256 x 32. On an H200 it takes 1270, 286 TFLOP/s on
// vgg_19's 28x28 layer where mma.sync gives 203: the products keep the register file busy, and the 235 instructions
// with which each warp asks for the next stage wait for it. tensorcore_copied.cuh, which leaves that to the copy
// engine, takes less than half of the time; this is for what it can't do.
//
// Machine code of convolve<Warpgroup<.*: sm_90a: HGMMA, LDGSTS.128
// Machine code of weight_gradient<Warpgroup<.*: sm_90a: HGMMA, LDGSTS.128
#pragma once
#include "ptx_wgmma.h"
#include "tensorcore_arithmetic.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// A block of two warpgroups, each with 64 rows of the tile and all columns.
template <int kColumns_>
struct WarpgroupShape {
  static constexpr int kRows = 128, kColumns = kColumns_, kWarpRows = 16, kWarpColumns = kColumns;
  static constexpr int kThreads = 256, kBlocks = kColumns == 256 ? 1 : 2;
  static constexpr int kStages = 6;
  static constexpr int kSharedBytes = kStages * (kRows + kColumns) * kStageBytes;

  __device__ static int first_row() { return int(threadIdx.x) / 32 * kWarpRows; }
  __device__ static int first_column() { return 0; }
};

// How the layouts of tensorcore_tile.cuh are described to wgmma: `half` of a stage, of rows from `row` on, a multiple
// of 64.
template <class Layout>
struct Operand;
template <int kRows>
struct Operand<AlongReduction<kRows, 2>> {
  static constexpr bool kAcross = false;
  __device__ static uint64_t of(const char* tile, int row, int half) {
    return wgmma_operand(tile + row * kStageBytes + half * kStageBytes / 2);
  }
};
template <int kRows>
struct Operand<AcrossReduction<kRows, 2>> {
  using Layout = AcrossReduction<kRows, 2>;
  static constexpr bool kAcross = true;
  __device__ static uint64_t of(const char* tile, int row, int half) {
    return wgmma_operand_across(tile + row / 64 * Layout::kBlockBytes + half * Layout::kBlockBytes / 2,
                                Layout::kBlockBytes);
  }
};

template <class T>
struct Warpgroup : Plain {
  using Element = T;
  using Sum = float;
  template <class Shape>
  using Sums = FloatSums<Shape>;

  // Stages whose products are still being made when the next stage's begin.
  static constexpr int kInFlight = 1;

  template <class Shape, class A, class B>
  __device__ static void step(Sums<Shape>& sums, const char* a_tile, const char* b_tile) {
    const int row = int(threadIdx.x) / 128 * 64;
    wgmma_fence(registers<Shape>(sums));
#pragma unroll
    for (int half = 0; half < 2; ++half)
      wgmma_m64k16<Shape::kColumns, Operand<A>::kAcross, Operand<B>::kAcross>(
          registers<Shape>(sums), Operand<A>::of(a_tile, row, half), Operand<B>::of(b_tile, 0, half), T{});
    wgmma_commit();
  }

  __device__ static void publish() { fence_proxy_async(); }
  template <int kYoungest, class Shape>
  __device__ static void wait(Sums<Shape>& sums) {
    wgmma_wait<kYoungest>(registers<Shape>(sums));
  }

 private:
  template <class Shape>
  using Registers = float[Shape::kColumns / 2];  // a lane's sums, as wgmma wants them

  template <class Shape>
  __device__ static Registers<Shape>& registers(Sums<Shape>& sums) {
    return reinterpret_cast<Registers<Shape>&>(sums.d);
  }
};

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
