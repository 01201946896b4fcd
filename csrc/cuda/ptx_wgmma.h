// Products of whole matrices by a warpgroup, four warps whose first one's number is divisible by four: wgmma, which
// only Hopper GPUs have, and only code compiled for sm_90a. Both operands stay in shared memory, so that no fragment
// passes through registers, and the product is made while the threads go on. As in ptx.h, a function to an instruction;
// the PTX manual's section is "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Operations".
//
// Where there is no nvcc the twins of tests/emulator/ptx_wgmma_twins.h stand in. Compiled for other architectures than
// sm_90a a product ends the kernel with an error; the lists never choose such a kernel there.
#pragma once
#include <type_traits>

#include "ptx.h"

// Where it can be: in code for sm_90a, and on the emulator. Elsewhere a kernel that is made of it has nothing to do.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CONVX_HAS_WGMMA 1
#endif

#ifndef __CUDACC__
#include "ptx_wgmma_twins.h"
#else

namespace convx {
namespace cuda {

// fence.proxy.async: what this thread has written to shared memory (its cp.async included, once waited for) may be read
// by wgmma after the next barrier.
__device__ inline void fence_proxy_async() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Makes the compiler believe that the sums change here, so that nothing that reads or writes them is moved past.
template <int kCount>
__device__ inline void pin(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// wgmma.fence: before the first product that adds to these registers after anything else wrote them.
template <int kCount>
__device__ inline void wgmma_fence(float (&d)[kCount]) {
  pin(d);
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// wgmma.commit_group: the products begun since the last one become a group.
__device__ inline void wgmma_commit() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// wgmma.wait_group: until at most the N youngest groups are still at work. Before that their operands must not be
// overwritten; the sums may be touched after a wait for all.
template <int N, int kCount>
__device__ inline void wgmma_wait(float (&d)[kCount]) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
  if (N == 0) pin(d);
}

// clang-format off
#define CONVX_D32                                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"             \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CONVX_D64                                                                    \
  CONVX_D32                                                                          \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define CONVX_D128                                                                                   \
  CONVX_D64                                                                                          \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"                 \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"                 \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"     \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// clang-format on
#define CONVX_SUMS8(i)                                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define CONVX_SUMS32(i) CONVX_SUMS8(i), CONVX_SUMS8(i + 8), CONVX_SUMS8(i + 16), CONVX_SUMS8(i + 24)
#define CONVX_WGMMA(n, types, registers, operands, ...)                                                  \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." types " {" registers "}, " operands ";" \
               : __VA_ARGS__                                                                             \
               : "l"(a), "l"(b), "n"(kAcrossA), "n"(kAcrossB)                                            \
               : "memory")
#define CONVX_WGMMA_OF_ANY_WIDTH(types)                                                                       \
  if constexpr (N == 64)                                                                                      \
    CONVX_WGMMA(64, types, CONVX_D32, "%32, %33, 1, 1, 1, %34, %35", CONVX_SUMS32(0));                        \
  else if constexpr (N == 128)                                                                                \
    CONVX_WGMMA(128, types, CONVX_D64, "%64, %65, 1, 1, 1, %66, %67", CONVX_SUMS32(0), CONVX_SUMS32(32));     \
  else                                                                                                        \
    CONVX_WGMMA(256, types, CONVX_D128, "%128, %129, 1, 1, 1, %130, %131", CONVX_SUMS32(0), CONVX_SUMS32(32), \
                CONVX_SUMS32(64), CONVX_SUMS32(96))
// TF32 has no operands across the reduction.
#define CONVX_WGMMA_TF32(n, registers, operands, ...)                                                   \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k8.f32.tf32.tf32 {" registers "}, " operands ";" \
               : __VA_ARGS__                                                                            \
               : "l"(a), "l"(b)                                                                         \
               : "memory")

// wgmma.mma_async.m64nNk16: d += a * b, a is 64 x 16, b 16 x N, each as wgmma_operand describes it or, across the
// reduction, wgmma_operand_across. Warp w of the four has rows 16w..16w+15; with g = lane / 4 and t = lane % 4 a lane
// holds in d[4j], d[4j+1] (16w+g, 8j+2t..8j+2t+1) and in d[4j+2], d[4j+3] the same of row 16w+g+8.
template <int N, bool kAcrossA, bool kAcrossB, class T>
__device__ inline void wgmma_m64k16(float (&d)[N / 2], uint64_t a, uint64_t b, T) {
  static_assert(N == 64 || N == 128 || N == 256, "what is written out here");
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (std::is_same_v<T, Half>) {
    CONVX_WGMMA_OF_ANY_WIDTH("f16.f16");
  } else {
    static_assert(std::is_same_v<T, BFloat16>, "the types that are written out here");
    CONVX_WGMMA_OF_ANY_WIDTH("bf16.bf16");
  }
#else
  __trap();
#endif
}

// wgmma.mma_async.m64nNk8 of TF32: float32 of which the upper 19 bits are looked at. Operands along the reduction only;
// sums as above.
template <int N>
__device__ inline void wgmma_m64k8_tf32(float (&d)[N / 2], uint64_t a, uint64_t b) {
  static_assert(N == 64 || N == 128 || N == 256, "what is written out here");
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (N == 64)
    CONVX_WGMMA_TF32(64, CONVX_D32, "%32, %33, 1, 1, 1", CONVX_SUMS32(0));
  else if constexpr (N == 128)
    CONVX_WGMMA_TF32(128, CONVX_D64, "%64, %65, 1, 1, 1", CONVX_SUMS32(0), CONVX_SUMS32(32));
  else
    CONVX_WGMMA_TF32(256, CONVX_D128, "%128, %129, 1, 1, 1", CONVX_SUMS32(0), CONVX_SUMS32(32), CONVX_SUMS32(64),
                     CONVX_SUMS32(96));
#else
  __trap();
#endif
}

#undef CONVX_D32
#undef CONVX_D64
#undef CONVX_D128
#undef CONVX_SUMS8
#undef CONVX_SUMS32
#undef CONVX_WGMMA
#undef CONVX_WGMMA_OF_ANY_WIDTH
#undef CONVX_WGMMA_TF32

}  // namespace cuda
}  // namespace convx

#endif

namespace convx {
namespace cuda {

// "Matrix descriptors", in bits 0-13 address / 16; 16-29 and 32-45 two distances / 16; 62-63 the swizzle.
//
// Where the first row of an operand is, whose rows of 64 bytes (of which a product reads 32) lie one behind the other,
// their chunks of 16 bytes swizzled: chunk c of row r is at c ^ (r / 2 % 4). Rows of b are its columns, so both
// operands have the reduction along their rows. The tile begins at a multiple of 512 bytes; the second half of its rows
// is 32 bytes on. The second distance is from eight rows to the next eight; the first is not looked at.
__device__ inline uint64_t wgmma_operand(const void* shared) {
  constexpr uint64_t kEightRows = 8 * 64, kSwizzle64 = 2;
  return uint64_t((shared_address(shared) & 0x3ffff) >> 4) | uint64_t(1) << 16 | (kEightRows >> 4) << 32 |
         kSwizzle64 << 62;
}

// The same of rows of 128 bytes, as the copy engine lays them out (tensor_map.h): chunk c of row r is at c ^ r % 8. The
// tile begins at a multiple of 1024 bytes; the next 32 bytes of its rows, sixteen numbers or eight, are 32 bytes on.
__device__ inline uint64_t wgmma_operand_128(const void* shared) {
  constexpr uint64_t kEightRows = 8 * 128, kSwizzle128 = 1;
  return uint64_t((shared_address(shared) & 0x3ffff) >> 4) | uint64_t(1) << 16 | (kEightRows >> 4) << 32 |
         kSwizzle128 << 62;
}

// Where the first of an operand's sixteen lines is: line k holds number k of the reduction of 64 rows, 128 bytes whose
// chunks are swizzled, chunk c at c ^ k % 8. The next 64 rows are `block` bytes on, the first distance; the second is
// from eight lines to the next eight. All begin at multiples of 1024 bytes.
__device__ inline uint64_t wgmma_operand_across(const void* shared, uint32_t block) {
  constexpr uint64_t kEightLines = 8 * 128, kSwizzle128 = 1;
  return uint64_t((shared_address(shared) & 0x3ffff) >> 4) | uint64_t(block >> 4) << 16 | (kEightLines >> 4) << 32 |
         kSwizzle128 << 62;
}

}  // namespace cuda
}  // namespace convx
