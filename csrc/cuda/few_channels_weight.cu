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
// The tensor cores' tile of weights has 64 x 64: groups of 16 on both sides fill a sixteenth of it.
bool grad_weight_preferred(const ConvProblem& pb, const Operands&) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const bool suits_tiles = Kg >= 16 && Cg * pb.R * pb.S >= 16;  // as in forward
  return (Cg <= 4 && !suits_tiles) || Kg <= 4 || (pb.G > 1 && Cg <= 16 && Kg <= 16);
}
void grad_weight(const ConvProblem& pb, const Operands& o) { launch_weight<kResults, kWindow>(pb, o); }

}  // namespace few_channels
}  // namespace cuda
}  // namespace convx
