// The tensor-core kernels for float32, rounded to TF32 or split.
#include "rows.h"
#include "tensorcore_launch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

void run_tf32(Primitive primitive, const ConvProblem& pb, const Operands& o) { run<Tf32>(primitive, pb, o); }
void run_split(Primitive primitive, const ConvProblem& pb, const Operands& o) { run<Split>(primitive, pb, o); }

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
