// The weight gradient of the row `depthwise_small`: how depthwise_small_weight.cuh cuts its problems, and its launches.
#include "depthwise_small_weight.cuh"

#include <algorithm>

#include "depthwise_small_plan.h"
#include "rows.h"

namespace convx {
namespace cuda {
namespace depthwise_small {
namespace {

constexpr size_t kSmallPartialBytes = size_t(64) << 20;  // for all partial sums, if there are several

// Of a block, a power of two: as few as leave few idle.
int lanes_for(int across) {
  for (int lanes = 32; lanes > 8; lanes /= 2)
    if (8 * rounded_up(across, lanes) <= 9 * across) return lanes;
  int lanes = 8;
  while (lanes / 2 >= across) lanes /= 2;
  return lanes;
}

template <class T, int kSize, int kStride, SmallLayout kLayout>
void launch_with(const SmallRoles& r, const ConvProblem& pb, const Operands& o) {
  using Tile = SmallTile<T, kSize, kStride, kLayout>;
  using Acc = typename Compute<T>::type;
  SmallWeightPlan plan{};
  SmallPlan& tensors = plan.tensors;
  tensors.source_rows = int(r.source.H), tensors.source_columns = int(r.source.W);
  tensors.result_rows = int(r.result.H), tensors.result_columns = int(r.result.W);
  tensors.pad_h = r.pad_h, tensors.pad_w = r.pad_w;
  const int across = int(pb.C) / Tile::kChannels;
  const int columns = divided_up(tensors.result_columns, Tile::kColumns);
  const int strips = divided_up(tensors.result_rows, Tile::kRows);
  tensors.tile_columns = Divider(columns), tensors.tile_strips = Divider(strips);
  plan.channels = int(pb.C), plan.tile_count = int(pb.N) * columns * strips;
  plan.lanes = kLayout == SmallLayout::channels ? lanes_for(across) : 1;
  plan.slots = kSmallWeightThreads / plan.lanes;
  const int lane_blocks = divided_up(across, plan.lanes);
  plan.lane_blocks = Divider(lane_blocks);
  // Four blocks to a multiprocessor, with as many tiles to a thread each; more, if there are ever so many tiles.
  const int64_t weights = pb.C * kSize * kSize;
  const double bounded = double(kSmallPartialBytes) / (double(weights) * sizeof(Acc));
  const int64_t wanted = std::max<int64_t>(1, 4 * current_device().multiprocessors / lane_blocks);
  const int64_t by_threads = std::min<int64_t>(wanted * plan.slots, plan.tile_count);
  const int64_t tiles = std::min<int64_t>(divided_up(plan.tile_count, int(by_threads)), 32);
  const int64_t splits = (plan.tile_count + tiles * plan.slots - 1) / (tiles * plan.slots);
  plan.splits = int(std::max<int64_t>(1, std::min<int64_t>(splits, int64_t(std::min(bounded, 1e6)))));
  plan.items = int64_t(lane_blocks) * plan.splits;
  plan.shared_bytes = size_t(kSize * kSize * Tile::kChannels * kSmallWeightThreads) * sizeof(Acc);
  Acc* const partial = static_cast<Acc*>(o.workspace->allocate(size_t(plan.splits) * size_t(weights) * sizeof(Acc)));
  launch("small_depthwise_weight", small_depthwise_weight<T, kSize, kStride, kLayout>,
         Grid{plan.items, dim3(kSmallWeightThreads), plan.shared_bytes}, o.stream, plan,
         small_tensors<T>(Primitive::grad_weight, r, pb, o), partial);
  launch("sum_small_weights", sum_small_weights<T>,
         Grid{(weights + 3) / 4, dim3(kSmallWeightThreads), kSmallWeightThreads * sizeof(double)}, o.stream,
         static_cast<const Acc*>(partial), plan.splits, weights, static_cast<T*>(o.w.data), o.w.strides, kSize);
}

template <class T, int kSize, int kStride>
void launch_for(const SmallRoles& r, const ConvProblem& pb, const Operands& o) {
  switch (small_layout(r, pb)) {
    case SmallLayout::channels: return launch_with<T, kSize, kStride, SmallLayout::channels>(r, pb, o);
    case SmallLayout::columns: return launch_with<T, kSize, kStride, SmallLayout::columns>(r, pb, o);
    case SmallLayout::any: return launch_with<T, kSize, kStride, SmallLayout::any>(r, pb, o);
  }
}

}  // namespace

const char* grad_weight_why_not(const ConvProblem& pb, const Operands& o) {
  return small_why_not(Primitive::grad_weight, pb, o);
}
bool grad_weight_preferred(const ConvProblem& pb, const Operands& o) {
  return small_preferred(Primitive::grad_weight, pb, o);
}
void grad_weight(const ConvProblem& pb, const Operands& o) {
  const SmallRoles r = small_roles(Primitive::grad_weight, pb, o);
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    const bool strides = pb.stride_h == 2;
    if (pb.R == 4) return launch_for<T, 4, 2>(r, pb, o);
    if (pb.R == 3) return strides ? launch_for<T, 3, 2>(r, pb, o) : launch_for<T, 3, 1>(r, pb, o);
    if (pb.R == 5) return strides ? launch_for<T, 5, 2>(r, pb, o) : launch_for<T, 5, 1>(r, pb, o);
    launch_for<T, 7, 1>(r, pb, o);
  });
}

}  // namespace depthwise_small
}  // namespace cuda
}  // namespace convx
