// The launches of depthwise_small_transposed.cuh, for the row `depthwise_small`.
#include "depthwise_small_transposed.cuh"

#include "depthwise_small_plan.h"

namespace convx {
namespace cuda {
namespace depthwise_small {
namespace {

template <class T, int kSize>
void launch_transposed(const SmallRoles& r, const ConvProblem& pb, const SmallTensors<T>& t, void* stream) {
  constexpr SmallLayout kChannels = SmallLayout::channels, kColumns = SmallLayout::columns;
  if (small_layout(r, pb) == kChannels)
    launch_small("small_transposed", small_transposed<T, kSize, kChannels>,
                 small_plan<TransposedTile<T, kSize, kChannels>>(r, pb), t, stream);
  else
    launch_small("small_transposed", small_transposed<T, kSize, kColumns>,
                 small_plan<TransposedTile<T, kSize, kColumns>>(r, pb), t, stream);
}

}  // namespace

void grad_input_transposed(const ConvProblem& pb, const Operands& o) {
  const SmallRoles r = small_roles(Primitive::grad_input, pb, o);
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    const SmallTensors<T> t = small_tensors<T>(Primitive::grad_input, r, pb, o);
    if (pb.R == 3) return launch_transposed<T, 3>(r, pb, t, o.stream);
    if (pb.R == 4) return launch_transposed<T, 4>(r, pb, t, o.stream);
    launch_transposed<T, 5>(r, pb, t, o.stream);
  });
}

}  // namespace depthwise_small
}  // namespace cuda
}  // namespace convx
