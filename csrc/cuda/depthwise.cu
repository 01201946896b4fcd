// The row `depthwise`: window_gather.cuh with one result channel to a thread and a window of 8.
#include "rows.h"
#include "window_launch.h"

namespace convx {
namespace cuda {
namespace depthwise {

constexpr int kResults = 1, kWindow = 8;

const char* forward_why_not(const ConvProblem& pb, const Operands& o) {
  return gather_why_not(Primitive::forward, pb, o, kResults, kWindow);
}
const char* grad_input_why_not(const ConvProblem& pb, const Operands& o) {
  return gather_why_not(Primitive::grad_input, pb, o, kResults, kWindow);
}
// A group of one channel and a few results of it (or the other way round): nothing to share between results.
bool preferred(const ConvProblem& pb, const Operands&) {
  return pb.G > 1 && pb.channels_per_group() * pb.outputs_per_group() <= 3;
}
void forward(const ConvProblem& pb, const Operands& o) { gather_forward<kResults, kWindow>(pb, o); }
void grad_input(const ConvProblem& pb, const Operands& o) { gather_grad_input<kResults, kWindow>(pb, o); }

}  // namespace depthwise
}  // namespace cuda
}  // namespace convx
