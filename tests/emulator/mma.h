// Products of small matrices by a warp, and loads of their fragments: what ptx_twins.h is made of. The lanes and the
// arithmetic are in mma.cpp.
#pragma once
#include <cstdint>

#include "cuda_emulator.h"

namespace emulator {

// ldmatrix of `count` matrices into r[0..count).
void load_matrices(const char* what, uint32_t* r, int count, bool transposed, const void* row, Place);

// d += a * b for one lane's fragments, of the m16n8k16, m16n8k16, m16n8k8 and m8n8k4 shapes.
void multiply_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place);
void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place);
void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place);
void multiply_f64(double (&d)[2], double a, double b, Place);

}  // namespace emulator
