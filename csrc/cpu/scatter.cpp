// The transposed convolution as it is usually explained: every element of y stamps the kernel, scaled by its own value,
// onto the larger image x, stride apart, and overlapping stamps add up.
//
// Written so, two elements of y write to the same place, which on several threads means races or atomics. Here a thread
// owns a whole plane x[n,c,:,:] instead: it alone stamps there, in the fixed order k,p,q,r,s, so the result is the same
// bits for any number of threads. The price is that y is read once for each of the C/G planes.
//
// What it gains over the gather form (reference.cpp): no division by the stride and no test which output reaches this
// input; what it loses: partial sums live in memory, one load and one store for each multiply-add.
//
// Run it alone: `with convx.algorithm("scatter"): ...` or CONVX_ALGORITHM=scatter.
#include "scatter.h"

#include "parallel.h"
#include "../scalar.h"

#include <vector>

namespace convx {
namespace cpu {
namespace {

template <class T>
void scatter(const ConvProblem& pb, const Operands& o) {
  using Acc = typename Accumulator<T>::type;
  const T* y = static_cast<const T*>(o.y.data);
  const T* w = static_cast<const T*>(o.w.data);
  T* x = static_cast<T*>(o.x.data);
  const T* bias = static_cast<const T*>(o.bias);
  const Axis rows = pb.rows(), columns = pb.columns();
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const double plane_work = double(Kg) * pb.R * pb.S * pb.P * pb.Q;
  parallel_for(pb.N * pb.C, grain_for(plane_work), [&](int64_t begin, int64_t end) {
    std::vector<typename Sum<T>::type> plane(pb.H * pb.W);
    std::vector<Acc> kernel(pb.R * pb.S);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / pb.C, c = i % pb.C, g = c / Cg;
      plane.assign(pb.H * pb.W, {});
      for (int64_t k = g * Kg; k < (g + 1) * Kg; ++k) {
        for (int64_t r = 0; r < pb.R; ++r)
          for (int64_t s = 0; s < pb.S; ++s) kernel[r * pb.S + s] = widen(w[o.w.strides(k, c - g * Cg, r, s)]);
        for (int64_t p = 0; p < pb.P; ++p)
          for (int64_t q = 0; q < pb.Q; ++q) {
            const Acc value = widen(y[o.y.strides(n, k, p, q)]);
            for (int64_t r = 0; r < pb.R; ++r) {
              const int64_t h = rows.source(rows.virtual_position(p, r));
              if (h < 0) continue;
              for (int64_t s = 0; s < pb.S; ++s) {
                const int64_t v = columns.source(columns.virtual_position(q, s));
                if (v >= 0) plane[h * pb.W + v] += value * kernel[r * pb.S + s];
              }
            }
          }
      }
      const Acc b = bias ? widen(bias[c * o.bias_stride]) : Acc(0);
      for (int64_t h = 0; h < pb.H; ++h)
        for (int64_t v = 0; v < pb.W; ++v) x[o.x.strides(n, c, h, v)] = narrow<T>(plane[h * pb.W + v] + b);
    }
  });
}

}  // namespace

void grad_input_scatter(const ConvProblem& pb, const Operands& o) {
  with_type(o.dtype, [&](auto t) { scatter<decltype(t)>(pb, o); });
}

}  // namespace cpu
}  // namespace convx
