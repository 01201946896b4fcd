// The row `depthwise_small`: the launches of depthwise_small.cuh (depthwise_small_transposed.cu has the others).
#include "depthwise_small_plan.h"
#include "rows.h"

namespace convx {
namespace cuda {
namespace depthwise_small {
namespace {

template <class T, int kSize, int kStride, SmallLayout kLayout>
void launch_with(const SmallRoles& r, const ConvProblem& pb, const SmallTensors<T>& t, void* stream) {
  launch_small("small_depthwise", small_depthwise<T, kSize, kStride, kLayout>,
               small_plan<SmallTile<T, kSize, kStride, kLayout>>(r, pb), t, stream);
}

template <class T, int kSize, int kStride>
void launch_for(const SmallRoles& r, const ConvProblem& pb, const SmallTensors<T>& t, void* stream) {
  switch (small_layout(r, pb)) {
    case SmallLayout::channels: return launch_with<T, kSize, kStride, SmallLayout::channels>(r, pb, t, stream);
    case SmallLayout::columns: return launch_with<T, kSize, kStride, SmallLayout::columns>(r, pb, t, stream);
    case SmallLayout::any: return launch_with<T, kSize, kStride, SmallLayout::any>(r, pb, t, stream);
  }
}

void run(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  const SmallRoles r = small_roles(primitive, pb, o);
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    const SmallTensors<T> t = small_tensors<T>(primitive, r, pb, o);
    const bool strides = pb.stride_h == 2;
    if (pb.R == 4) return launch_for<T, 4, 2>(r, pb, t, o.stream);
    if (pb.R == 3) return strides ? launch_for<T, 3, 2>(r, pb, t, o.stream) : launch_for<T, 3, 1>(r, pb, t, o.stream);
    if (pb.R == 5) return strides ? launch_for<T, 5, 2>(r, pb, t, o.stream) : launch_for<T, 5, 1>(r, pb, t, o.stream);
    launch_for<T, 7, 1>(r, pb, t, o.stream);
  });
}

}  // namespace

const char* forward_why_not(const ConvProblem& pb, const Operands& o) {
  return small_why_not(Primitive::forward, pb, o);
}
const char* grad_input_why_not(const ConvProblem& pb, const Operands& o) {
  return small_why_not(Primitive::grad_input, pb, o);
}
bool forward_preferred(const ConvProblem& pb, const Operands& o) { return small_preferred(Primitive::forward, pb, o); }
bool grad_input_preferred(const ConvProblem& pb, const Operands& o) {
  return small_preferred(Primitive::grad_input, pb, o);
}
void forward(const ConvProblem& pb, const Operands& o) { run(Primitive::forward, pb, o); }
void grad_input(const ConvProblem& pb, const Operands& o) {
  pb.stride_h > 1 ? grad_input_transposed(pb, o) : run(Primitive::grad_input, pb, o);
}

}  // namespace depthwise_small
}  // namespace cuda
}  // namespace convx
