// float32 on a Hopper GPU's tensor cores: tensorcore_arithmetic.cuh's Split (each number is the sum of three bfloat16,
// and six of their nine products are computed) with the kernels of tensorcore_copied.cuh. The terms are made once
// (split_terms.cuh), and lie one behind the other for each pixel:
//
//   image    [pixel][group][term][channel]
//   weight   [group][output][row tap][column tap][term][input]
//
// so a stage brings all terms of 64 numbers of the reduction, and each term is multiplied with several of the other
// operand's. Where float32 may be rounded to TF32 two terms and three products do: 16 significant bits instead of 11,
// in 1.5 times the time of TF32's products. Weight gradients take them, since wgmma reads operands across the reduction
// only of 16-bit numbers.
//
// As in Split, tensor cores cut sums off, so they sum 16 numbers of the reduction, small terms first, and what they sum
// is added to the total by an ordinary rounded addition: one warpgroup adds while the other multiplies. (Two terms are
// less precise than that anyway: a whole stage.) Operands are scaled by 2^24, sums by 2^-48; a sum that comes out
// infinite or NaN is computed again by the definition.
//
// Limit: a sixth of the rate of 16-bit products, 110 to 130 TFLOP/s on an H200 where float32 multiply-adds were
// measured at 51; a third of it with two terms. And the pass that makes the terms: 10 bytes for each number of the
// operands, or 8. Measured there on dense layers: 44 to 85 TFLOP/s, 80 to 180 with two terms.
//
// Machine code of convolve_copied<Terms.*: sm_90a: HGMMA.64x128x16.F32.BF16|HGMMA.64x64x16.F32.BF16, UTMALDG
// Machine code of weight_gradient_copied<Terms.*: sm_90a: HGMMA.64x128x16.F32.BF16|HGMMA.64x64x16.F32.BF16, UTMALDG
#pragma once
#include "tensorcore_copied_weight.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// An arithmetic as OneTerm, of as many terms as the shape says.
struct Terms : Split {
  // Adds the products of all stages of a tile; the warpgroup's 64 rows.
  template <bool kAcrossA, bool kAcrossB, class Shape>
  __device__ static void multiply(FloatSums<Shape> (&sums)[1], Ring<Shape>& ring, int steps, uint64_t* = nullptr) {
    using Registers = float[Shape::kColumns / 2];
    // Pairs of terms whose numbers add up to less than kTerms, the smallest first.
    constexpr int kProducts = Shape::kTerms == 3 ? 6 : 3;
    constexpr int kOfA[2][6] = {{1, 0, 0}, {2, 0, 1, 1, 0, 0}}, kOfB[2][6] = {{0, 1, 0}, {0, 2, 1, 0, 1, 0}};
    constexpr int kSummed = Shape::kTerms == 3 ? 1 : kCopiedProducts;  // 16 numbers of the reduction each
    const int row = Shape::first_of_warpgroup(0);
    for (int step = 0; step < steps; ++step) {
      mbarrier_wait(ring.full + ring.stage, ring.parity);
#pragma unroll
      for (int first = 0; first < kCopiedProducts; first += kSummed) {
        FloatSums<Shape> part;
        part.clear();
        Registers& d = reinterpret_cast<Registers&>(part.d);
        wgmma_fence(d);
#pragma unroll
        for (int product = 0; product < kProducts; ++product) {
          const char* const a = ring.a(kOfA[Shape::kTerms - 2][product]);
          const char* const b = ring.b(kOfB[Shape::kTerms - 2][product]);
#pragma unroll
          for (int k = first; k < first + kSummed; ++k)
            wgmma_m64k16<Shape::kColumns, kAcrossA, kAcrossB>(d, copied_operand<kAcrossA>(a, row, k),
                                                              copied_operand<kAcrossB>(b, 0, k), BFloat16{});
        }
        wgmma_commit();
        wgmma_wait<0>(d);
        if (first + kSummed == kCopiedProducts && lane() == 0) mbarrier_arrive(ring.empty + ring.stage);
#pragma unroll
        for (int j = 0; j < FloatSums<Shape>::kColumns; ++j)
          for (int i = 0; i < FloatSums<Shape>::kRows; ++i) sums[0].at(i, j) += part.at(i, j);
      }
      ring.next();
    }
  }
};

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
