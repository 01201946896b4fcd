// The weight gradient of the row `few_channels`: window_weight.cuh with four output channels to a thread and windows of
// 4 kernel rows.
#include "rows.h"
#include "window_weight_plan.h"

namespace convx {
namespace cuda {
namespace few_channels {

constexpr int kResults = 4, kWindow = 4;

const char* grad_weight_why_not(const ConvProblem& pb, const Operands& o) {
  return weight_why_not(pb, o, kResults, kWindow);
}
void grad_weight(const ConvProblem& pb, const Operands& o) { launch_weight<kResults, kWindow>(pb, o); }

}  // namespace few_channels
}  // namespace cuda
}  // namespace convx
