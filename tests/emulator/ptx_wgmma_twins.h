// The twins of csrc/cuda/ptx_wgmma.h; wgmma.cpp has the arithmetic.
#pragma once
#include <cstdint>

#include "../../csrc/scalar.h"
#include "checker.h"
#include "cuda_emulator.h"
#include "wgmma.h"

namespace convx {
namespace cuda {

inline uint32_t shared_address(const void* shared) { return emulator::shared_offset(shared); }

inline void fence_proxy_async(Place place = Place::of()) { emulator::fence_async(place); }

template <int kCount>
void wgmma_fence(float (&)[kCount], Place place = Place::of()) {
  emulator::fence_sums(place);
}
inline void wgmma_commit() { emulator::commit_products(); }
template <int N, int kCount>
void wgmma_wait(float (&)[kCount], Place place = Place::of()) {
  static_assert(N >= 0, "as many groups may still be at work");
  emulator::wait_for_products(N, place);
}
template <int N, bool kAcrossA, bool kAcrossB>
void wgmma_m64k16(float (&d)[N / 2], uint64_t a, uint64_t b, Half, Place place = Place::of()) {
  emulator::begin_product_fp16(d, N / 2, {a, kAcrossA}, {b, kAcrossB}, place);
}
template <int N, bool kAcrossA, bool kAcrossB>
void wgmma_m64k16(float (&d)[N / 2], uint64_t a, uint64_t b, BFloat16, Place place = Place::of()) {
  emulator::begin_product_bf16(d, N / 2, {a, kAcrossA}, {b, kAcrossB}, place);
}

template <int N>
void wgmma_m64k8_tf32(float (&d)[N / 2], uint64_t a, uint64_t b, Place place = Place::of()) {
  emulator::begin_product_tf32(d, N / 2, {a, false}, {b, false}, place);
}

}  // namespace cuda
}  // namespace convx
