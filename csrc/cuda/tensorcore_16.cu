// The tensor-core kernels for float16 and bfloat16.
#include "rows.h"
#include "tensorcore_launch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

void run_16(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  o.dtype == DType::float16 ? run<Direct<Half>>(primitive, pb, o) : run<Direct<BFloat16>>(primitive, pb, o);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
