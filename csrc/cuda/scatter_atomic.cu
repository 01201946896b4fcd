// The launches of scatter_atomic.cuh.
#include "scatter_atomic.cuh"

#include "rows.h"
#include "types.h"

namespace convx {
namespace cuda {
namespace scatter_atomic {

const char* why_not(const ConvProblem&, const Operands& o) {
  return o.dtype == DType::float32 || o.dtype == DType::float64 ? nullptr
                                                                : "it sums in place, in float32 or float64 only";
}

template <class T>
static void launch_scatter_atomic(const ConvProblem& pb, const Operands& o) {
  launch("fill_with_bias", fill_with_bias<T>, one_thread_each(pb.N * pb.C * pb.H * pb.W), o.stream, pb, Tensors<T>{o});
  launch("grad_input_scatter_atomic", grad_input_scatter_atomic<T>, one_thread_each(pb.N * pb.K * pb.P * pb.Q),
         o.stream, pb, Tensors<T>{o});
}

void grad_input(const ConvProblem& pb, const Operands& o) {
  o.dtype == DType::float64 ? launch_scatter_atomic<double>(pb, o) : launch_scatter_atomic<float>(pb, o);
}

}  // namespace scatter_atomic
}  // namespace cuda
}  // namespace convx
