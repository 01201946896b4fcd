// The scatter form of the transposed convolution with atomics: one thread to an element of y, which adds its stamp to
// x in global memory, whoever else is adding there.
//
// The shortest way to write it, and what scatter.cuh is measured against. The sums come out in whatever order the
// threads arrive, so the last bits differ from run to run: never chosen by itself, and reported to
// torch.use_deterministic_algorithms. Sums are kept in x's own type, so only float32 and float64, which have an atomic
// add of full rate: a 16-bit sum would be rounded after every term. As every addition is rounded, errors are up to 2.5
// times cuDNN's in norm, the largest up to five times; and in float32 the addition flushes subnormal numbers to zero
// (PTX manual, "atom"). It is there to be read, and the accuracy that tests ask of all other rows is not asked of it.
//
// Two kernels: the first fills x with the bias, the second adds to it. The stream keeps them in order.
//
// Run it alone: `with convx.algorithm("scatter_atomic"): ...` or CONVX_ALGORITHM=scatter_atomic.
#pragma once
#include "launch.h"
#include "tensors.cuh"

namespace convx {
namespace cuda {

template <class T>
__global__ void fill_with_bias(ConvProblem pb, Tensors<T> t) {
  const int64_t count = pb.N * pb.C * pb.H * pb.W;
  for (int64_t i = first_item(); i < count; i += items_step()) {
    const int64_t w = i % pb.W, h = i / pb.W % pb.H, c = i / pb.W / pb.H % pb.C, n = i / pb.W / pb.H / pb.C;
    t.x(n, c, h, w) = narrow<T>(t.bias(c));
  }
}

template <class T>
__global__ void grad_input_scatter_atomic(ConvProblem pb, Tensors<T> t) {
  const Axis rows = pb.rows(), columns = pb.columns();
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const int64_t count = pb.N * pb.K * pb.P * pb.Q;
  for (int64_t i = first_item(); i < count; i += items_step()) {
    const int64_t q = i % pb.Q, p = i / pb.Q % pb.P, k = i / pb.Q / pb.P % pb.K, n = i / pb.Q / pb.P / pb.K;
    const int64_t first_c = k / Kg * Cg;
    const T value = t.y(n, k, p, q);
    for (int64_t r = 0; r < pb.R; ++r) {
      const int64_t h = rows.source(rows.virtual_position(p, r));
      if (h < 0) continue;
      for (int64_t s = 0; s < pb.S; ++s) {
        const int64_t w = columns.source(columns.virtual_position(q, s));
        if (w < 0) continue;
        for (int64_t c = 0; c < Cg; ++c) atomicAdd(&t.x(n, first_c + c, h, w), value * t.w(k, c, r, s));
      }
    }
  }
}

}  // namespace cuda
}  // namespace convx
