// The launches of reference.cuh.
#include "reference.cuh"

#include "rows.h"
#include "types.h"

namespace convx {
namespace cuda {
namespace reference {

void forward(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    launch("forward_reference", forward_reference<T>, one_thread_each(pb.N * pb.K * pb.P * pb.Q), o.stream, pb,
           Tensors<T>{o});
  });
}

void grad_input(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    launch("grad_input_reference", grad_input_reference<T>, one_thread_each(pb.N * pb.C * pb.H * pb.W), o.stream, pb,
           Tensors<T>{o});
  });
}

void grad_weight(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    launch("grad_weight_reference", grad_weight_reference<T>,
           one_thread_each(pb.K * pb.channels_per_group() * pb.R * pb.S), o.stream, pb, Tensors<T>{o});
  });
}

}  // namespace reference
}  // namespace cuda
}  // namespace convx
