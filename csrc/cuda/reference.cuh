// Start reading the CUDA kernels here: the definition of the three primitives, one thread to one element of the result.
//
// Each thread gathers all terms of its own sum, in one fixed order, and writes it once: no two threads write the same
// place, so there are no atomics, nothing to synchronize, and the same bits on every run. Every dtype, stride,
// dilation, group, padding mode and memory layout; indices are 64-bit throughout. Taps outside the input are skipped,
// not multiplied by zero: an infinite weight must not become NaN in the padding.
//
// The taps are the outer loops and the channels the inner one, so that finding where a tap falls is paid once and not
// once for each channel. The CPU's reference has the same sums; see there for the formulas.
//
// Limit: every multiply-add loads both of its factors from memory (the caches help, nothing here asks them to) and, for
// float32, runs on the float64 units that the reference accumulates in. grad_weight also has only K*C/G*R*S threads,
// each with a sum over the batch and the image. It is the judge, not a contender.
//
// Run it alone: `with convx.algorithm("reference"): ...` or CONVX_ALGORITHM=reference.
//
// The gather form keeps the places that a padding mode copies one input to in a small array of its own.
// Machine code of grad_input_reference<.*>: LOCAL
#pragma once
#include "launch.h"
#include "tensors.cuh"

namespace convx {
namespace cuda {

// y[n,k,p,q] = bias[k] + sum over r,s,c of w[k,c,r,s] * x[n,c,source(p,r),source(q,s)]; here the sum of one result, for
// whoever has one in doubt, too. It reads Cg channels from first_c on.
template <class Total, class T>
__device__ Total forward_sum(const ConvProblem& pb, const Tensors<T>& t, int64_t first_c, int64_t Cg, int64_t n,
                             int64_t k, int64_t p, int64_t q) {
  const Axis rows = pb.rows(), columns = pb.columns();
  Total sum{};
  for (int64_t r = 0; r < pb.R; ++r) {
    const int64_t h = rows.source(rows.virtual_position(p, r));
    if (h < 0) continue;
    for (int64_t s = 0; s < pb.S; ++s) {
      const int64_t w = columns.source(columns.virtual_position(q, s));
      if (w < 0) continue;
      for (int64_t c = 0; c < Cg; ++c) sum += widen(t.w(k, c, r, s)) * widen(t.x(n, first_c + c, h, w));
    }
  }
  return sum;
}

template <class T>
__global__ void forward_reference(ConvProblem pb, Tensors<T> t) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const int64_t count = pb.N * pb.K * pb.P * pb.Q;
  for (int64_t i = first_item(); i < count; i += items_step()) {
    const int64_t q = i % pb.Q, p = i / pb.Q % pb.P, k = i / pb.Q / pb.P % pb.K, n = i / pb.Q / pb.P / pb.K;
    const auto sum = forward_sum<typename Sum<T>::type>(pb, t, k / Kg * Cg, Cg, n, k, p, q);
    t.y(n, k, p, q) = narrow<T>(sum + t.bias(k));
  }
}

// x[n,c,h,w] = bias[c] + sum of w[k,c,r,s] * y[n,k,p,q] over the taps (r,s) and the outputs (p,q) that read (h,w) by
// them, and over k. In gather form: each input asks which outputs read it, and so divides by the stride; a padding mode
// other than zeros adds the padded positions that are copies of this input.
template <class T>
__global__ void grad_input_reference(ConvProblem pb, Tensors<T> t) {
  const Axis rows = pb.rows(), columns = pb.columns();
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const int64_t count = pb.N * pb.C * pb.H * pb.W;
  for (int64_t item = first_item(); item < count; item += items_step()) {
    const int64_t w = item % pb.W, h = item / pb.W % pb.H, c = item / pb.W / pb.H % pb.C;
    const int64_t n = item / pb.W / pb.H / pb.C, g = c / Cg;
    Run copies_h[3], copies_w[3];  // the padded positions that read row h, and column w
    const int count_h = rows.preimage(h, copies_h), count_w = columns.preimage(w, copies_w);
    typename Sum<T>::type sum{};
    for (int64_t r = 0; r < pb.R; ++r)
      for (int i = 0; i < count_h; ++i)
        for (int64_t v = copies_h[i].first; v <= copies_h[i].last; ++v) {
          const int64_t p = rows.output_reading(v, r);
          if (p < 0) continue;
          for (int64_t s = 0; s < pb.S; ++s)
            for (int j = 0; j < count_w; ++j)
              for (int64_t u = copies_w[j].first; u <= copies_w[j].last; ++u) {
                const int64_t q = columns.output_reading(u, s);
                if (q < 0) continue;
                for (int64_t k = g * Kg; k < (g + 1) * Kg; ++k)
                  sum += widen(t.w(k, c - g * Cg, r, s)) * widen(t.y(n, k, p, q));
              }
        }
    t.x(n, c, h, w) = narrow<T>(sum + t.bias(c));
  }
}

// w[k,c,r,s] = sum over n,p,q of y[n,k,p,q] * x[n,c,source(p,r),source(q,s)]
template <class T>
__global__ void grad_weight_reference(ConvProblem pb, Tensors<T> t) {
  const Axis rows = pb.rows(), columns = pb.columns();
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const int64_t count = pb.K * Cg * pb.R * pb.S;
  for (int64_t i = first_item(); i < count; i += items_step()) {
    const int64_t s = i % pb.S, r = i / pb.S % pb.R, c = i / pb.S / pb.R % Cg, k = i / pb.S / pb.R / Cg;
    const int64_t x_channel = k / Kg * Cg + c;
    typename Sum<T>::type sum{};
    for (int64_t n = 0; n < pb.N; ++n)
      for (int64_t p = 0; p < pb.P; ++p) {
        const int64_t h = rows.source(rows.virtual_position(p, r));
        if (h < 0) continue;
        for (int64_t q = 0; q < pb.Q; ++q) {
          const int64_t w = columns.source(columns.virtual_position(q, s));
          if (w >= 0) sum += widen(t.y(n, k, p, q)) * widen(t.x(n, x_channel, h, w));
        }
      }
    t.w(k, c, r, s) = narrow<T>(sum);
  }
}

}  // namespace cuda
}  // namespace convx
