// forward and grad_input on a Hopper GPU, with its copy engine: the product of tensorcore_convolve.cuh (rows are
// pixels, columns output channels, the reduction taps and input channels), but nobody computes addresses. One thread
// asks for a stage (tensorcore_stages.cuh), and two warpgroups do nothing but multiply: 16-bit numbers as they are,
// float32 that is rounded to TF32 as it is copied, or the terms of a float32 (tensorcore_terms.cuh).
//
// What was gained, measured on an H200: in tensorcore_warpgroup.cuh's loop each warp issues 235 instructions for a
// stage of two products, and address arithmetic waits for the registers that the products read and write. Here a stage
// of four products takes some twenty.
//
// A block stays on its multiprocessor and takes tile after tile, so the copies of the next tile are on their way while
// one is stored.
//
// Limit, in 16 bits: 990 TFLOP/s by the datasheet; a plain product of large matrices reaches 790 on that GPU. Measured:
// 650 to 720 on layers of 512 channels, 350 to 500 on 64 and 128, whose tiles have few stages. TF32 has half of that
// rate: 370 on 256 to 512 channels.
//
// Machine code of convolve_copied<.*: sm_90a: HGMMA, UTMALDG
#pragma once
#include "tensorcore_copied_store.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// An arithmetic (tensorcore_arithmetic.cuh) for stages of the copy engine: numbers as they come, 16-bit ones or TF32.
template <class T>
struct OneTerm : Plain {
  using Element = T;
  using Sum = float;

  // Adds the products of all stages of a tile; the warpgroup's rows. `next`, if any, is told when all have begun.
  template <bool kAcrossA, bool kAcrossB, class Shape>
  __device__ static void multiply(FloatSums<Shape> (&sums)[Shape::kHalves], Ring<Shape>& ring, int steps,
                                  uint64_t* next = nullptr) {
    using Registers = float[Shape::kColumns / 2];
    const auto registers = [&](int half) -> Registers& { return reinterpret_cast<Registers&>(sums[half].d); };
    uint64_t* before = nullptr;
    for (int step = 0; step < steps; ++step) {
      mbarrier_wait(ring.full + ring.stage, ring.parity);
#pragma unroll
      for (int half = 0; half < Shape::kHalves; ++half) wgmma_fence(registers(half));
#pragma unroll
      for (int product = 0; product < kCopiedProducts; ++product)
#pragma unroll
        for (int half = 0; half < Shape::kHalves; ++half) {
          const uint64_t a = copied_operand<kAcrossA>(ring.a(), Shape::first_of_warpgroup(half), product);
          const uint64_t b = copied_operand<kAcrossB>(ring.b(), 0, product);
          if constexpr (std::is_same_v<T, float>)
            wgmma_m64k8_tf32<Shape::kColumns>(registers(half), a, b);
          else
            wgmma_m64k16<Shape::kColumns, kAcrossA, kAcrossB>(registers(half), a, b, T{});
        }
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
};

template <class Arithmetic, class Shape, bool kTurned>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    convolve_copied(const CONVX_GRID_CONSTANT CopiedConvolution<typename Arithmetic::Element> work) {
#ifdef CONVX_HAS_WGMMA
  Ring<Shape> ring(shared_memory<char>());
  ring.prepare();
  if (threadIdx.x >= Shape::kConsumers) {
    give_registers<40>();
    if (threadIdx.x == Shape::kConsumers) copy_stages<Shape, kTurned>(work, ring);
  } else {
    take_registers<232>();
    const auto& cv = work.cv;
    const int chunks = (cv.inputs + Shape::kDepth - 1) / Shape::kDepth;
    const int warpgroup = int(threadIdx.x) / 128;
    int turn = 0;
    for (int64_t tile = blockIdx.x; tile < cv.tiles; tile += gridDim.x) {
      TilePlace place;
      int phase;
      if (!find_tile<Shape>(cv, tile, place, phase)) continue;
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
      Arithmetic::template multiply<false, kTurned>(sums, ring, steps,
                                                    Shape::kTurns ? ring.turns + !warpgroup : nullptr);
#pragma unroll
      for (int half = 0; half < Shape::kHalves; ++half)
        store_tile<Arithmetic, Shape>(cv, place, sums[half], Shape::first_row(half));
    }
  }
#else
  __trap();  // see ptx_wgmma.h
#endif
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
