// The row `few_channels`: window_gather.cuh with several result channels to a thread, for small groups, first and last
// layers. Four results and a window of 8 where a group has no more than four, eight and a window of 4 elsewhere; and in
// grad_input with kernel = stride, where the results of a group are C/G * R * S.
#include "rows.h"
#include "window_launch.h"

#include <type_traits>

namespace convx {
namespace cuda {
namespace few_channels {

namespace {

// Calls f with the numbers of results and of the window as types' values.
template <class F>
auto with_shape(int64_t results, F&& f) {
  return results <= 4 ? f(std::integral_constant<int, 4>{}, std::integral_constant<int, 8>{})
                      : f(std::integral_constant<int, 8>{}, std::integral_constant<int, 4>{});
}

const char* why_not(Primitive primitive, int64_t results, const ConvProblem& pb, const Operands& o) {
  return with_shape(results, [&](auto k, auto w) { return gather_why_not(primitive, pb, o, k, w); });
}

}  // namespace

const char* forward_why_not(const ConvProblem& pb, const Operands& o) {
  return why_not(Primitive::forward, pb.outputs_per_group(), pb, o);
}
const char* grad_input_why_not(const ConvProblem& pb, const Operands& o) {
  return why_not(Primitive::grad_input, pb.channels_per_group(), pb, o);
}
// A side of a group that is 4 channels or fewer would leave a matrix tile nearly empty; groups of up to 16 on both
// sides leave it mostly so.
bool preferred(const ConvProblem& pb, const Operands&) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  return Cg <= 4 || Kg <= 4 || (pb.G > 1 && Cg <= 16 && Kg <= 16);
}
// Where kernel = stride, y is read once here: with few of either side, that is what counts.
bool grad_input_preferred(const ConvProblem& pb, const Operands& o) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  return preferred(pb, o) || (is_patches(pb) && (Cg * pb.R * pb.S <= 32 || Kg <= 16));
}
void forward(const ConvProblem& pb, const Operands& o) {
  with_shape(pb.outputs_per_group(),
             [&](auto k, auto w) { gather_forward<decltype(k)::value, decltype(w)::value>(pb, o); });
}
void grad_input(const ConvProblem& pb, const Operands& o) {
  if (is_patches(pb)) {
    constexpr int kResults = 8, kWindow = 4;
    const GatherPlan plan = gather_plan(Primitive::grad_input, pb, o, kResults, kWindow, /*patches=*/true);
    if (plan.items) return gather_patches<kResults, kWindow>(pb, o, plan);
  }
  with_shape(pb.channels_per_group(),
             [&](auto k, auto w) { gather_grad_input<decltype(k)::value, decltype(w)::value>(pb, o); });
}

}  // namespace few_channels
}  // namespace cuda
}  // namespace convx
