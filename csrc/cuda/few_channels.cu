// The row `few_channels`: window_gather.cuh with four result channels to a thread and a window of 4, for small groups,
// first and last layers; and in grad_input with kernel = stride, where the results of a group are C/G * R * S.
#include "rows.h"
#include "window_launch.h"

namespace convx {
namespace cuda {
namespace few_channels {

constexpr int kResults = 4, kWindow = 4;

const char* forward_why_not(const ConvProblem& pb, const Operands& o) {
  return gather_why_not(Primitive::forward, pb, o, kResults, kWindow);
}
const char* grad_input_why_not(const ConvProblem& pb, const Operands& o) {
  return gather_why_not(Primitive::grad_input, pb, o, kResults, kWindow);
}
// Few results of many channels: here a thread sums all of them, which takes an image that has threads enough (64 x 64
// of 512 channels: 1340 us, by direct's tiles 93; 512 x 512 of 128 channels: 370 and 860; on an H200 in float32).
static bool suits_few_results(const ConvProblem& pb, int64_t results, int64_t others, int64_t pixels) {
  return results <= 4 && (pb.G > 1 || others < 16 || pixels >= 1 << 15);
}
// A side of a group that is 4 channels or fewer would leave a matrix tile nearly empty; groups of fewer than 16 on both
// sides leave it mostly so. (Groups of 16 take direct's tiles half the time of these sums, on an H200 in float32; first
// layers whose filters have 16 numbers or more take them a half to two thirds.)
bool forward_preferred(const ConvProblem& pb, const Operands&) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const bool suits_tiles = Kg >= 16 && Cg * pb.R * pb.S >= 16;
  return (Cg <= 4 && !suits_tiles) || suits_few_results(pb, Kg, Cg, pb.P * pb.Q) || (pb.G > 1 && Cg < 16 && Kg < 16);
}
// Where kernel = stride, y is read once here: with few of either side, that is what counts.
bool grad_input_preferred(const ConvProblem& pb, const Operands&) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const bool suits_tiles = Cg >= 16 && Kg * pb.R * pb.S >= 16 * pb.stride_h * pb.stride_w;
  const bool suits =
      suits_few_results(pb, Cg, Kg, pb.H * pb.W) || (pb.G > 1 && Cg < 16 && Kg < 16) || (Kg <= 4 && !suits_tiles);
  return suits || (is_patches(pb) && (Cg * pb.R * pb.S <= 32 || Kg <= 16));
}
void forward(const ConvProblem& pb, const Operands& o) { gather_forward<kResults, kWindow>(pb, o); }
void grad_input(const ConvProblem& pb, const Operands& o) {
  if (is_patches(pb)) {
    const GatherPlan plan = gather_plan(Primitive::grad_input, pb, o, kResults, kWindow, /*patches=*/true);
    if (plan.items) return gather_patches<kResults, kWindow>(pb, o, plan);
  }
  gather_grad_input<kResults, kWindow>(pb, o);
}

}  // namespace few_channels
}  // namespace cuda
}  // namespace convx
