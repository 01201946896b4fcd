// The tensor-core kernels for float64.
#include "rows.h"
#include "tensorcore_launch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

void run_64(Primitive primitive, const ConvProblem& pb, const Operands& o) { run<Double>(primitive, pb, o); }

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
