// The loop that every tensor-core kernel runs: stages of the reduction are copied into a ring of kStages buffers by
// cp.async while the oldest of them is multiplied. One barrier to a stage.
#pragma once
#include "tensorcore_arithmetic.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// A number of three digits, and how it goes up by a fixed step: a thread's walk over (row tap, column tap, chunk) or
// (image, row, column), without a division.
struct Odometer {
  int high, middle, low;

  __device__ static Odometer of(int value, int middle_limit, int low_limit) {
    const int rest = value / low_limit;
    return {rest / middle_limit, rest % middle_limit, value % low_limit};
  }
  __device__ void advance(const Odometer& step, int middle_limit, int low_limit) {
    low += step.low;
    middle += step.middle;
    high += step.high;
    if (low >= low_limit) low -= low_limit, ++middle;
    if (middle >= middle_limit) middle -= middle_limit, ++high;
  }
};

// Adds the products of `steps` stages to `sums`. loader.load(a, b) begins to copy the next stage into a tile of A and
// one of B; A and B are their layouts.
//
// An arithmetic may still be at work on kInFlight stages when step() returns; wait<kInFlight>() waits until it is no
// more. Such a stage must not be overwritten, so copies run that much less ahead. publish() is what it takes, beside
// the barrier, for the products to read what a thread has copied.
template <class Arithmetic, class Shape, class A, class B, class Loader>
__device__ void multiply_tiles(typename Arithmetic::template Sums<Shape>& sums, Loader& loader, int steps,
                               char* shared) {
  constexpr int kBytes = A::kBytes + B::kBytes, kStages = Shape::kStages, kInFlight = Arithmetic::kInFlight;
  constexpr int kAhead = kStages - 1 - kInFlight;  // stages on their way while one is multiplied
  static_assert(kStages * kBytes == Shape::kSharedBytes, "the stages are all of the block's shared memory");
#pragma unroll
  for (int stage = 0; stage < kAhead; ++stage) {
    if (stage < steps) loader.load(shared + stage * kBytes, shared + stage * kBytes + A::kBytes);
    cp_async_commit();
  }
  int read = 0, write = kAhead;
  const auto load = [&](int step) {
    if (step + kAhead < steps) loader.load(shared + write * kBytes, shared + write * kBytes + A::kBytes);
    cp_async_commit();
    if (++write == kStages) write = 0;
  };
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kAhead - 1>();
    Arithmetic::publish();
    // All threads' copies of this stage are there, and all have multiplied the one that is overwritten next.
    __syncthreads();
    if (kInFlight == 0) load(step);
    Arithmetic::template step<Shape, A, B>(sums, shared + read * kBytes, shared + read * kBytes + A::kBytes);
    if (kInFlight > 0) load(step);  // while it multiplies
    Arithmetic::template wait<kInFlight, Shape>(sums);
    if (++read == kStages) read = 0;
  }
  Arithmetic::template wait<0, Shape>(sums);
  __syncthreads();  // before the next tile's copies overwrite what others still multiply
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
