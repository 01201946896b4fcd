// The machine's instructions that CUDA C++ has no name for: asynchronous copies into shared memory, matrix fragments,
// and products of whole matrices by a warp. One thin function to an instruction, named after it, so that the PTX manual
// ("Parallel Thread Execution ISA") is the reference. Which lane of the warp holds which element is written at each.
//
// Where there is no nvcc the twins of tests/emulator/ptx_twins.h stand in: same names, same lanes, in plain C++.
//
// All need sm_80. Kernels that use them are also compiled for older architectures, if somebody asks for those: copies
// are made at once there, and a product ends the kernel with an error; the lists never choose such a kernel there.
#pragma once
#include <cstdint>

#include "../scalar.h"

#ifndef __CUDACC__
#include "ptx_twins.h"
#else

namespace convx {
namespace cuda {

// A pointer into shared memory as the instructions below take it.
__device__ inline uint32_t shared_address(const void* shared) { return uint32_t(__cvta_generic_to_shared(shared)); }

// cp.async: 16, 8 or 4 bytes on their way from global to shared memory without passing through registers, both aligned
// to their size. Not `valid`: zeros, and global memory is not read (the pointer should still be one that exists).
// Nothing may touch the bytes until this thread has waited, and no other thread until a barrier after that.
// Sixteen bytes bypass the L1 cache (.cg); fewer can't (.ca).
__device__ inline void cp_async_16(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : uint4{};
#endif
}
__device__ inline void cp_async_8(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 8 : 0)
               : "memory");
#else
  *static_cast<uint2*>(shared) = valid ? *static_cast<const uint2*>(global) : uint2{};
#endif
}
__device__ inline void cp_async_4(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 4 : 0)
               : "memory");
#else
  *static_cast<uint32_t*>(shared) = valid ? *static_cast<const uint32_t*>(global) : 0u;
#endif
}

// cp.async.commit_group: the copies that this thread has begun since the last one become a group (an empty one, too).
__device__ inline void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// cp.async.wait_group: until at most the N youngest of this thread's groups are still on their way.
template <int N>
__device__ inline void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// ldmatrix: 8x8 matrices of 16-bit elements from shared memory, spread over the warp as the products below want them.
// Lane 8i+j points at row j of matrix i: 16 bytes, aligned to 16. Lane l gets of matrix i, in r[i], the elements
// (l / 4, 2 * (l % 4)) and, in the upper half, (l / 4, 2 * (l % 4) + 1); with _trans, of the transposed matrix.
// For _x2 the pointers of lanes 0-15 count.
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared) {
#if __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
#else
  __trap();
#endif
}
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared) {
#if __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
#else
  __trap();
#endif
}
__device__ inline void ldmatrix_x2(uint32_t (&r)[2], const void* shared) {
#if __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared))
               : "memory");
#else
  __trap();
#endif
}
__device__ inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared) {
#if __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared))
               : "memory");
#else
  __trap();
#endif
}

// mma.sync.m16n8k16: d += a * b, a is 16 x 16, b 16 x 8, d 16 x 8. With g = lane / 4 and t = lane % 4 a lane holds
//   a[0] (g, 2t..2t+1)  a[1] (g+8, 2t..2t+1)  a[2] (g, 2t+8..2t+9)  a[3] (g+8, 2t+8..2t+9)    as (row, k)
//   b[0] (2t..2t+1, g)  b[1] (2t+8..2t+9, g)                                                  as (k, column)
//   d[0], d[1] (g, 2t..2t+1)  d[2], d[3] (g+8, 2t..2t+1)                                      as (row, column)
// with the first of two 16-bit elements in the lower half of a register.
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Half) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BFloat16) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// mma.sync.m16n8k8 of TF32, a float of which the low 13 bits are not looked at (see to_tf32). A lane holds
//   a[0] (g, t)  a[1] (g+8, t)  a[2] (g, t+4)  a[3] (g+8, t+4)     b[0] (t, g)  b[1] (t+4, g)     d as above
__device__ inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// mma.sync.m8n8k4 of float64. A lane holds a (g, t), b (t, g), d[0], d[1] (g, 2t..2t+1).
__device__ inline void mma_m8n8k4_f64(double (&d)[2], double a, double b) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(d[0]), "+d"(d[1])
      : "d"(a), "d"(b));
#else
  __trap();
#endif
}

// cvt.rna.tf32.f32: to the nearest float with 10 significand bits, ties away from zero. The other 13 bits are zero.
__device__ inline uint32_t to_tf32(float f) {
#if __CUDA_ARCH__ >= 800
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(f));
  return r;
#else
  return __float_as_uint(f);
#endif
}

// cvt.rn.bf16x2.f32: two bfloat16, to nearest, ties to even; `low` in the lower half.
__device__ inline uint32_t to_bf16x2(float low, float high) {
#if __CUDA_ARCH__ >= 800
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
#else
  return uint32_t(BFloat16(high).bits) << 16 | BFloat16(low).bits;
#endif
}

}  // namespace cuda
}  // namespace convx

#endif
