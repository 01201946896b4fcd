// The launch of scatter.cuh.
#include "scatter.cuh"

#include "rows.h"
#include "types.h"

namespace convx {
namespace cuda {
namespace scatter {

void grad_input(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    launch("grad_input_scatter", grad_input_scatter<T>, scatter_grid(pb, sizeof(typename Accumulator<T>::type)),
           o.stream, pb, Tensors<T>{o});
  });
}

}  // namespace scatter
}  // namespace cuda
}  // namespace convx
