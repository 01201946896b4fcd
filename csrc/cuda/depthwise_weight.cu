// The weight gradient of the row `depthwise`: window_weight.cuh with one output channel to a thread, and windows of 4
// or 8 kernel rows.
#include "rows.h"
#include "window_weight_plan.h"

namespace convx {
namespace cuda {
namespace depthwise {

constexpr int kResults = 1, kShortWindow = 4, kLongWindow = 8;

const char* grad_weight_why_not(const ConvProblem& pb, const Operands& o) {
  return weight_why_not(pb, o, kResults, pb.R <= kShortWindow ? kShortWindow : kLongWindow);
}
void grad_weight(const ConvProblem& pb, const Operands& o) {
  pb.R <= kShortWindow ? launch_weight<kResults, kShortWindow>(pb, o) : launch_weight<kResults, kLongWindow>(pb, o);
}

}  // namespace depthwise
}  // namespace cuda
}  // namespace convx
