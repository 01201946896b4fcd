// The row `depthwise_small`: the launches of depthwise_small.cuh.
#include "depthwise_small_plan.h"
#include "rows.h"

namespace convx {
namespace cuda {
namespace depthwise_small {
namespace {

template <class T, int kSize, int kStride, SmallLayout kLayout>
void launch_with(const SmallRoles& r, const ConvProblem& pb, const SmallTensors<T>& t, void* stream) {
  using Tile = SmallTile<T, kSize, kStride, kLayout>;
  SmallPlan plan{};
  plan.source_rows = int(r.source.H), plan.source_columns = int(r.source.W);
  plan.result_rows = int(r.result.H), plan.result_columns = int(r.result.W);
  plan.pad_h = r.pad_h, plan.pad_w = r.pad_w;
  const int across = int(pb.C) / Tile::kChannels, columns = divided_up(plan.result_columns, Tile::kColumns);
  const int rows = divided_up(plan.result_rows, Tile::kRows);
  // Several tiles to a thread, so that its kernels are read once for them, as long as there are threads for all.
  const double threads = double(pb.N) * across * columns * rows, enough = 1.5 * 512 * current_device().multiprocessors;
  plan.tiles = 1;
  while (plan.tiles < 8 && plan.tiles < rows && threads / (2 * plan.tiles) >= enough) plan.tiles *= 2;
  const int strips = divided_up(rows, plan.tiles);
  plan.across = Divider(across), plan.tile_columns = Divider(columns), plan.tile_strips = Divider(strips);
  plan.items = pb.N * across * columns * strips;
  launch("small_depthwise", small_depthwise<T, kSize, kStride, kLayout>,
         Grid{(plan.items + kSmallThreads - 1) / kSmallThreads, dim3(kSmallThreads)}, stream, plan, t);
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
void grad_input(const ConvProblem& pb, const Operands& o) { run(Primitive::grad_input, pb, o); }

}  // namespace depthwise_small
}  // namespace cuda
}  // namespace convx
