// The twins of csrc/cuda/ptx.h: the same instructions as functions of the emulator, with the lanes of the PTX manual.
// mma.h has the arithmetic.
#pragma once
#include <cstdint>

#include "../../csrc/scalar.h"
#include "cuda_emulator.h"
#include "mma.h"

namespace convx {
namespace cuda {

using emulator::Place;

inline void cp_async_16(void* shared, const void* global, bool valid, Place place = Place::of()) {
  emulator::copy_async(shared, global, 16, valid, place);
}
inline void cp_async_8(void* shared, const void* global, bool valid, Place place = Place::of()) {
  emulator::copy_async(shared, global, 8, valid, place);
}
inline void cp_async_4(void* shared, const void* global, bool valid, Place place = Place::of()) {
  emulator::copy_async(shared, global, 4, valid, place);
}
inline void cp_async_commit() { emulator::copy_async_commit(); }
template <int N>
void cp_async_wait(Place place = Place::of()) {
  static_assert(N >= 0, "as many groups may still be on their way");
  emulator::copy_async_wait(N, place);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared, Place place = Place::of()) {
  emulator::load_matrices("ldmatrix_x4", r, 4, false, shared, place);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared, Place place = Place::of()) {
  emulator::load_matrices("ldmatrix_x4_trans", r, 4, true, shared, place);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* shared, Place place = Place::of()) {
  emulator::load_matrices("ldmatrix_x2", r, 2, false, shared, place);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared, Place place = Place::of()) {
  emulator::load_matrices("ldmatrix_x2_trans", r, 2, true, shared, place);
}

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Half,
                         Place place = Place::of()) {
  emulator::multiply_fp16(d, a, b, place);
}
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BFloat16,
                         Place place = Place::of()) {
  emulator::multiply_bf16(d, a, b, place);
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place = Place::of()) {
  emulator::multiply_tf32(d, a, b, place);
}
inline void mma_m8n8k4_f64(double (&d)[2], double a, double b, Place place = Place::of()) {
  emulator::multiply_f64(d, a, b, place);
}

inline uint32_t to_tf32(float f) {
  const uint32_t u = bit_cast<uint32_t>(f);
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  return nan ? 0x7fffffffu & ~0x1fffu : (u + 0x1000u) & ~0x1fffu;  // a half more, then cut: ties go away from zero
}

inline uint32_t to_bf16x2(float low, float high) { return uint32_t(BFloat16(high).bits) << 16 | BFloat16(low).bits; }

}  // namespace cuda
}  // namespace convx
