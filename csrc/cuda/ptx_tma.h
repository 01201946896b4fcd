// Hopper's copy engine (the Tensor Memory Accelerator), and the barriers in shared memory that it reports to: one
// thread asks for a whole tile, in the swizzle that wgmma reads, and nobody computes addresses. As in ptx.h, a function
// to an instruction; the PTX manual's sections are "cp.async.bulk.tensor", "Tensor: im2col mode" and "mbarrier".
//
// Where there is no nvcc the twins of tests/emulator/ptx_tma_twins.h stand in. All need sm_90, setmaxnreg sm_90a;
// compiled for older architectures they end the kernel with an error, and the lists never choose such a kernel there.
#pragma once
#include <cstdint>

#include "ptx_wgmma.h"
#include "tensor_map.h"

#ifndef __CUDACC__
#include "ptx_tma_twins.h"
#else

#define CONVX_GRID_CONSTANT __grid_constant__

namespace convx {
namespace cuda {

// mbarrier.init: a phase of the barrier is over when `arrivals` threads have arrived and all bytes that were announced
// in it are there; then the next one begins. By one thread, before a __syncthreads().
__device__ inline void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#else
  __trap();
#endif
}

// fence.mbarrier_init: the barriers initialised so far may be used by the copy engine.
__device__ inline void fence_mbarrier_init() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ inline void mbarrier_arrive(uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
  __trap();
#endif
}

// mbarrier.arrive.expect_tx: arrives, and announces bytes that copies will bring.
__device__ inline void mbarrier_expect(uint64_t* barrier, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#else
  __trap();
#endif
}

// mbarrier.try_wait.parity, until the phase of this parity is over. Phases are numbered from 0, so a fresh barrier's
// phase of parity 1 counts as over.
__device__ inline void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
  uint32_t is_over;
  do {
    asm volatile(
        "{\n\t.reg .pred over;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, over;\n\t}"
        : "=r"(is_over)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!is_over);
#else
  __trap();
#endif
}

// cp.async.bulk.tensor, mode tile: the box of a map made by tile_map() that begins at these coordinates, the fastest
// dimension first. Elements outside of the tensor are zeros. `shared` is a multiple of 1024.
__device__ inline void copy_tile(void* shared, const TensorMap& map, uint64_t* barrier, int c0, int c1, int c2, int c3,
                                 int c4) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, "
      "%7}], [%2];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
#else
  __trap();
#endif
}

// cp.async.bulk.tensor, mode im2col: of a map made by im2col_map() its number of pixels from (w, h, n) on, in the order
// columns, rows, images, each `across` columns and `down` rows further; and of each pixel its number of channels from
// `channel` on. What is outside of the image is zeros.
__device__ inline void copy_im2col(void* shared, const TensorMap& map, uint64_t* barrier, int channel, int w, int h,
                                   int n, int across, int down) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
      "%6}], [%2], {%7, %8};" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(channel), "r"(w), "r"(h), "r"(n), "h"(uint16_t(across)),
      "h"(uint16_t(down))
      : "memory");
#else
  __trap();
#endif
}

// setmaxnreg: registers that the threads of a warpgroup give back, for others to take. The kernel is compiled with
// __launch_bounds__(threads, 1), and kCount is a multiple of 8.
template <int kCount>
__device__ inline void give_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}
template <int kCount>
__device__ inline void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

}  // namespace cuda
}  // namespace convx

#endif
