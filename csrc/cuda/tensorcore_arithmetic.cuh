// What a warp does with a stage of 64 bytes, type by type. Each arithmetic has the type of the operands (Element), of
// the sums (Sum), the sums a warp keeps (Sums: number (i, j) is row i and column j of those that a lane holds, see
// row_at), and step(), which adds a stage's products to them.
//
//   Direct<Half>, Direct<BFloat16>   mma.m16n8k16, exact products, float32 sums
//   Tf32                             mma.m16n8k8 of float32 rounded to 11 significant bits; twice the time
//   Split                            float32 as it should be, from bfloat16: below
//   Double                           mma.m8n8k4 of float64, the rounding of fused multiply-adds
//   Warpgroup<Half>, <BFloat16>      wgmma, on Hopper: tensorcore_warpgroup.cuh
//
// Split. A float32 has 24 significant bits, a bfloat16 eight and the same range of exponents: rounding, subtracting and
// rounding again gives three bfloat16 whose sum is the float32 exactly. Of the nine products of two such sums, the six
// largest are computed, each exact; the others are below 2^-25 of the product. Six products at the rate of 16-bit
// numbers are a sixth of it, 110 of mma.sync's 660 TFLOP/s on an H100, where float32 multiply-adds end at 67. (Three
// products of TF32 take the same time and keep 22 bits of 24.)
//
// Tensor cores cut sums off instead of rounding them, always toward zero, which adds up: so they only sum 16 products
// here, small terms first, and what they sum is added to the total by an ordinary rounded addition.
//
// The third term of a number is up to 2^-24 times as large as the number, and would underflow for numbers near the
// smallest; so all operands are multiplied by 2^24 first, and sums divided by 2^48 at the end. Then every float32, the
// subnormal ones too, splits exactly as long as nothing overflows: results up to 2^80 are what they should be. Beyond,
// and for infinities (whose difference to themselves is NaN) the sum comes out as an infinity or NaN; the kernels see
// that and compute this result again one product after another. Each result by itself, so it does not depend on its
// neighbours.
//
// Machine code of convolve<Direct<.*: HMMA.16816.F32, LDGSTS.128, LDSM
// Machine code of convolve<Tf32.*: HMMA.1688.F32.TF32, LDGSTS.128, LDSM
// Machine code of convolve<Split.*: HMMA.16816.F32.BF16, LDGSTS.128, LDSM
// Machine code of convolve<Double.*: DMMA, LDGSTS.128, LDS.128
// Machine code of weight_gradient<Direct<.*: HMMA.16816.F32, LDGSTS.128, LDSM
// Machine code of weight_gradient<Tf32.*: HMMA.1688.F32.TF32, LDGSTS.128
// Machine code of weight_gradient<Split.*: HMMA.16816.F32.BF16, LDGSTS.128
// Machine code of weight_gradient<Double.*: DMMA, LDGSTS.128
#pragma once
#include "../scalar.h"
#include "tensorcore_tile.cuh"
#include "vectors.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// Two numbers of 16 bits, rounded.
template <class T>
__device__ uint32_t as_word(float low, float high) {
  const Vector<T, 2> pair = {{T(low), T(high)}};
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}

// The sums of mma.m16n8: d[0], d[1] are row g, d[2], d[3] row g + 8.
template <class Shape>
struct FloatSums {
  static constexpr int kTilesDown = Shape::kWarpRows / 16, kTilesAcross = Shape::kWarpColumns / 8;
  static constexpr int kRows = 2 * kTilesDown, kColumns = 2 * kTilesAcross;
  float d[kTilesDown][kTilesAcross][4];

  __device__ void clear() {
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kColumns; ++j) at(i, j) = 0;
  }
  __device__ float& at(int i, int j) { return d[i / 2][j / 2][i % 2 * 2 + j % 2]; }
};

// A stage as two products of 32 bytes of the reduction each; Multiply is one mma.
template <class Shape, class A, class B, class Prepare, class Multiply>
__device__ inline void step_by_halves(FloatSums<Shape>& sums, const char* a_tile, const char* b_tile, Prepare prepare,
                                      Multiply multiply) {
  using Sums = FloatSums<Shape>;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t a[Sums::kTilesDown][4], b[Sums::kTilesAcross][2];
#pragma unroll
    for (int i = 0; i < Sums::kTilesDown; ++i) {
      A::load_a(a[i], a_tile, Shape::first_row() + 16 * i, half);
      for (uint32_t& word : a[i]) word = prepare(word);
    }
#pragma unroll
    for (int j = 0; j < Sums::kTilesAcross; j += 2) {
      B::load_b(b[j], b[j + 1], b_tile, Shape::first_column() + 8 * j, half);
      for (uint32_t& word : b[j]) word = prepare(word);
      for (uint32_t& word : b[j + 1]) word = prepare(word);
    }
#pragma unroll
    for (int i = 0; i < Sums::kTilesDown; ++i)
#pragma unroll
      for (int j = 0; j < Sums::kTilesAcross; ++j) multiply(sums.d[i][j], a[i], b[j]);
  }
}

// Arithmetics whose products are done when step() returns: see multiply_tiles() for what others say here.
struct AtOnce {
  static constexpr int kInFlight = 0;
  __device__ static void publish() {}
  template <int kYoungest, class Shape, class Sums>
  __device__ static void wait(Sums&) {}
};

// What arithmetics say of a finished sum, if it takes no more to finish it: only NaN is in doubt, and only where zeros
// stood in for skipped taps.
struct Plain {
  static constexpr bool kDoubtsItself = false;
  template <class Sum>
  __device__ static Sum finished(Sum sum) {
    return sum;
  }
  template <class Sum>
  __device__ static bool is_doubtful(Sum sum) {
    return sum != sum;
  }
};

template <class T>
struct Direct : Plain, AtOnce {
  using Element = T;
  using Sum = float;
  template <class Shape>
  using Sums = FloatSums<Shape>;

  template <class Shape, class A, class B>
  __device__ static void step(Sums<Shape>& sums, const char* a_tile, const char* b_tile) {
    step_by_halves<Shape, A, B>(
        sums, a_tile, b_tile, [](uint32_t word) { return word; },
        [](float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_m16n8k16(d, a, b, T{}); });
  }
};

struct Tf32 : Plain, AtOnce {
  using Element = float;
  using Sum = float;
  template <class Shape>
  using Sums = FloatSums<Shape>;

  template <class Shape, class A, class B>
  __device__ static void step(Sums<Shape>& sums, const char* a_tile, const char* b_tile) {
    step_by_halves<Shape, A, B>(
        sums, a_tile, b_tile, [](uint32_t word) { return to_tf32(__uint_as_float(word)); },
        [](float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_m16n8k8_tf32(d, a, b); });
  }
};

struct Split : AtOnce {
  using Element = float;
  using Sum = float;
  template <class Shape>
  using Sums = FloatSums<Shape>;

  static constexpr bool kDoubtsItself = true;
  __device__ static float finished(float sum) { return sum * 0x1p-48f; }
  __device__ static bool is_doubtful(float sum) { return !(sum - sum == 0); }  // infinite or NaN

  template <class Shape, class A, class B>
  __device__ static void step(Sums<Shape>& sums, const char* a_tile, const char* b_tile) {
    constexpr int kDown = Sums<Shape>::kTilesDown, kAcross = Sums<Shape>::kTilesAcross;
    // Which k a register's two numbers have is free, as long as it is the same in a and b: words t of two chunks.
    uint32_t a[3][kDown][4];  // [term]
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t words[4];
        A::load_a(words, a_tile, Shape::first_row() + 16 * i, half);
        for (int row = 0; row < 2; ++row)
          split(words[row], words[row + 2], a[0][i][2 * half + row], a[1][i][2 * half + row], a[2][i][2 * half + row]);
      }
#pragma unroll
    for (int j = 0; j < kAcross; j += 2) {
      uint32_t words[2][2][2];  // [half][tile]
#pragma unroll
      for (int half = 0; half < 2; ++half)
        B::load_b(words[half][0], words[half][1], b_tile, Shape::first_column() + 8 * j, half);
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        uint32_t b[3][2];  // [term]
        for (int half = 0; half < 2; ++half)
          split(words[half][tile][0], words[half][tile][1], b[0][half], b[1][half], b[2][half]);
        float d[kDown][4] = {};
        // Products that wait for one another are kDown apart.
#pragma unroll
        for (int product = 0; product < 6; ++product) {
          constexpr int kTermOfA[] = {2, 0, 1, 1, 0, 0}, kTermOfB[] = {0, 2, 1, 0, 1, 0};
#pragma unroll
          for (int i = 0; i < kDown; ++i) mma_m16n8k16(d[i], a[kTermOfA[product]][i], b[kTermOfB[product]], BFloat16{});
        }
#pragma unroll
        for (int i = 0; i < kDown; ++i)
          for (int e = 0; e < 4; ++e) sums.d[i][j + tile][e] += d[i][e];
      }
    }
  }

  // Two float32 as three terms, each a pair of bfloat16.
  __device__ static void split(uint32_t low, uint32_t high, uint32_t& first, uint32_t& second, uint32_t& third) {
    float x = __uint_as_float(low) * 0x1p24f, y = __uint_as_float(high) * 0x1p24f;
    first = to_bf16x2(x, y);
    x -= __uint_as_float(first << 16), y -= __uint_as_float(first & 0xffff0000u);
    second = to_bf16x2(x, y);
    x -= __uint_as_float(second << 16), y -= __uint_as_float(second & 0xffff0000u);
    third = to_bf16x2(x, y);
  }
};

struct Double : Plain, AtOnce {
  using Element = double;
  using Sum = double;

  template <class Shape>
  struct Sums {
    static constexpr int kRows = Shape::kWarpRows / 8, kColumns = Shape::kWarpColumns / 4;
    double d[kRows][kColumns / 2][2];

    __device__ void clear() {
      for (int i = 0; i < kRows; ++i)
        for (int j = 0; j < kColumns; ++j) at(i, j) = 0;
    }
    __device__ double& at(int i, int j) { return d[i][j / 2][j % 2]; }
  };

  // A lane brings the k of its pair one after the other: 0, 2, 4, 6 of the stage's eight, then 1, 3, 5, 7. The eight
  // are summed from zero: in one chain of all numbers a long sum has two to six times cuDNN's error.
  template <class Shape, class A, class B>
  __device__ static void step(Sums<Shape>& sums, const char* a_tile, const char* b_tile) {
    constexpr int kDown = Sums<Shape>::kRows, kAcross = Sums<Shape>::kColumns / 2;
    double2 b[kAcross];
#pragma unroll
    for (int j = 0; j < kAcross; ++j) b[j] = B::load_pair(b_tile, Shape::first_column() + 8 * j);
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
      const double2 a = A::load_pair(a_tile, Shape::first_row() + 8 * i);
      double d[kAcross][2] = {};
#pragma unroll
      for (int j = 0; j < kAcross; ++j) mma_m8n8k4_f64(d[j], a.x, b[j].x);
#pragma unroll
      for (int j = 0; j < kAcross; ++j) mma_m8n8k4_f64(d[j], a.y, b[j].y);
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
        for (int e = 0; e < 2; ++e) sums.d[i][j][e] += d[j][e];
    }
  }
};

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
