// The row `patches`: grad_input where kernel = stride, as one product whose results are scattered on storing; see
// window_gather.cuh. Every x is reached by one y and one tap.
#include "rows.h"
#include "window_launch.h"

namespace convx {
namespace cuda {
namespace patches {

constexpr int kResults = 8, kWindow = 4;

const char* why_not(const ConvProblem& pb, const Operands& o) {
  if (const char* reason = floating_only(pb, o)) return reason;
  const auto tiles = [](const Axis& a) {
    return a.kernel == a.stride && a.dilation == 1 && a.pad == 0 && a.in == a.out * a.stride;
  };
  if (!tiles(pb.rows()) || !tiles(pb.columns())) return "its kernels don't tile the input";
  return gather_plan(Primitive::grad_input, pb, o, kResults, kWindow, /*patches=*/true).items
             ? nullptr
             : "its smallest tile is beyond shared memory or 32-bit offsets";
}
// More channels on both sides, and matrix instructions gain more than reading y once.
bool preferred(const ConvProblem& pb, const Operands&) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  return pb.R * pb.S > 1 && (Cg * pb.R * pb.S <= 32 || Kg <= 16);
}
void grad_input(const ConvProblem& pb, const Operands& o) {
  const GatherPlan plan = gather_plan(Primitive::grad_input, pb, o, kResults, kWindow, /*patches=*/true);
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    launch_gather<T, kResults, kWindow>("patches", plan, gather_tensors<T>(Primitive::grad_input, pb, o), o.stream);
  });
}

}  // namespace patches
}  // namespace cuda
}  // namespace convx
