// The weight gradient of the row `tensorcore_grouped`: the launches of tensorcore_grouped_weight.cuh.
#include "rows.h"
#include "tensorcore_grouped_weight.cuh"
#include "tensorcore_launch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore_grouped {
namespace {

template <class T>
WeightGradient<T> sizes(const ConvProblem& pb) {
  WeightGradient<T> wg = {};
  wg.groups = {int(pb.G), int(pb.channels_per_group()), int(pb.outputs_per_group())};
  wg.depth = wg.groups.depth(), wg.column_tiles = int(ceil_div(wg.groups.all_outputs(), kOutputs));
  wg.N = int(pb.N);
  wg.x.rows = forward_plan(pb.rows()), wg.x.columns = forward_plan(pb.columns());
  wg.y.rows = forward_plan({pb.P, 1, pb.P, 1, 0, 1, PaddingMode::zeros});
  wg.y.columns = forward_plan({pb.Q, 1, pb.Q, 1, 0, 1, PaddingMode::zeros});
  return wg;
}

// Returns the bytes of shared memory of a block whose patches have so many fragments.
template <class T>
int64_t set_patches(WeightGradient<T>& wg, int64_t fragments) {
  const int64_t x = wg.x.set_patches(fragments, std::min(wg.x.rows.taps, kTaps), std::min(wg.x.columns.taps, kTaps),
                                     wg.groups.span(1));
  const int64_t y = wg.y.set_patches(fragments, 1, 1, kOutputs / kElements);
  wg.x_bytes = int(x), wg.y_bytes = int(y);
  return 2 * (x + y);
}

template <class T>
int64_t choose_fragments(WeightGradient<T> wg) {
  return choose_fragments(wg.x, kWeightBlocks, [&](int64_t fragments) { return set_patches(wg, fragments); });
}

template <class T, int kFragments>
void launch_weight(WeightGradient<T> wg, const Operands& o) {
  const int64_t shared = set_patches(wg, kFragments), bytes = wg.weights() * int64_t(sizeof(float));
  wg.patches = Patches::of(wg.N, wg.x.rows.count, wg.x.columns.count, kFragments);
  if (wg.patches.count > 0) {
    const int64_t most = std::max(tensorcore::kMostPartialBytes / bytes, int64_t(1));
    wg.streams = int(std::min(most, streams_of(wg.patches.count, fitting_blocks(shared, kWeightBlocks), wg.tiles())));
    wg.partial = static_cast<float*>(o.workspace->allocate(size_t(wg.streams * bytes)));
    launch("weight_of_groups",
           rows_together(wg.x.rows) ? weight_of_groups<T, kFragments, true> : weight_of_groups<T, kFragments, false>,
           {wg.tiles() * wg.streams, dim3(kThreads), size_t(shared)}, o.stream, wg);
  }
  launch("add_streams", add_streams<T>, one_thread_each(wg.weights()), o.stream, wg);
}

template <class T>
void run(const ConvProblem& pb, const Operands& o) {
  if (pb.K * pb.channels_per_group() * pb.R * pb.S == 0) return;
  // All channels of a pixel together, as of one group.
  const auto packed = [&](const View& v, int64_t channels, int64_t height, int64_t width) {
    return tensorcore::channels_together<T>(v.data, v.strides, 0, pb.N, 1, channels, height, width, false, o);
  };
  WeightGradient<T> wg = sizes<T>(pb);
  wg.x.set(packed(o.x, pb.C, pb.H, pb.W));
  wg.y.set(packed(o.y, pb.K, pb.P, pb.Q));
  wg.w = static_cast<T*>(o.w.data), wg.w_strides = o.w.strides;
  choose_fragments(wg) == kMostFragments ? launch_weight<T, kMostFragments>(wg, o)
                                         : launch_weight<T, kFewestFragments>(wg, o);
}

}  // namespace

const char* grad_weight_why_not(const ConvProblem& pb, const Operands& o) {
  if (o.dtype != DType::float16 && o.dtype != DType::bfloat16) return "it multiplies 16-bit numbers";
  if (const char* reason = tensorcore::why_not(pb, o)) return reason;
  if (const char* reason = why_not_in_patches(pb)) return reason;
  return choose_fragments(sizes<Half>(pb)) ? nullptr : "the inputs of 64 outputs are beyond shared memory";
}
void grad_weight(const ConvProblem& pb, const Operands& o) {
  o.dtype == DType::float16 ? run<Half>(pb, o) : run<BFloat16>(pb, o);
}

}  // namespace tensorcore_grouped
}  // namespace cuda
}  // namespace convx
