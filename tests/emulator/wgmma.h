// Products of matrices by a warpgroup: what ptx_wgmma_twins.h is made of.
//
// They are asynchronous, so a product is made as late as the hardware may make it: at the wait for its group. Until
// then its sums are NaN to the kernel, and its operands count as read both when it begins and when it is made, so that
// who overwrites them meanwhile is found.
#pragma once
#include <cstdint>

#include "cuda_emulator.h"

namespace emulator {

// An address in shared memory as wgmma's operands have it: from the beginning of the block's.
uint32_t shared_offset(const void* shared);

// A matrix descriptor, and whether it is of an operand across the reduction.
struct WgmmaOperand {
  uint64_t descriptor;
  bool across;
};

// Begins d[count] += a * b for one lane's sums, of the m64nNk16 shapes, or of TF32's m64nNk8: N = 2 * count.
void begin_product_fp16(float* d, int count, WgmmaOperand a, WgmmaOperand b, Place);
void begin_product_bf16(float* d, int count, WgmmaOperand a, WgmmaOperand b, Place);
void begin_product_tf32(float* d, int count, WgmmaOperand a, WgmmaOperand b, Place);
void commit_products();
void wait_for_products(int youngest, Place);
void fence_sums(Place);

// What the scheduler tells: a block begins, a thread has ended.
void forget_products();
void check_no_product_is_left(int thread);

}  // namespace emulator
