// The tensor-core kernels for float16 and bfloat16 by warpgroups.
#include "rows.h"
#include "tensorcore_launch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

void run_wgmma(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  o.dtype == DType::float16 ? run<Warpgroup<Half>>(primitive, pb, o) : run<Warpgroup<BFloat16>>(primitive, pb, o);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
