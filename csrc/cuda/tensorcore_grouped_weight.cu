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
  wg.groups = {int(pb.G), int(pb.channels_per_group()), int(pb.outputs_per_group()), kElements<T>};
  wg.depth = int(ceil_div(2 * wg.groups.depth() * kElements<T>, kWarpInputs)),
  wg.column_tiles = int(ceil_div(wg.groups.all_outputs(), kOutputs));
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
                                     wg.groups.span(kWarpInputs / (2 * kElements<T>)));
  const int64_t y = wg.y.set_patches(fragments, 1, 1, kOutputs / kElements<T>);
  wg.x_bytes = int(x), wg.y_bytes = int(y);
  return 2 * (x + y);
}

constexpr int64_t kMostBlocks = 3;  // of a multiprocessor

template <class T>
int64_t choose_fragments(WeightGradient<T> wg) {
  // Of float32 the larger patches would leave a multiprocessor one block.
  if (sizeof(T) == 4) return fitting_blocks(set_patches(wg, kFewestFragments), 1) * kFewestFragments;
  return choose_fragments(wg.x, kMostBlocks, [&](int64_t fragments) { return set_patches(wg, fragments); });
}

template <class Arithmetic, int kFragments>
void launch_weight(WeightGradient<typename Arithmetic::Element> wg, const Operands& o) {
  const int64_t shared = set_patches(wg, kFragments), bytes = wg.weights() * int64_t(sizeof(float));
  wg.patches = Patches::of(wg.N, wg.x.rows.count, wg.x.columns.count, kFragments);
  if (wg.patches.count > 0) {
    const int64_t most = std::max(tensorcore::kMostPartialBytes / bytes, int64_t(1));
    wg.streams =
        int(std::min(most, streams_of(wg.patches.count, fitting_blocks(shared, Arithmetic::kBlocks), wg.tiles())));
    wg.partial = static_cast<float*>(o.workspace->allocate(size_t(wg.streams * bytes)));
    launch("weight_of_groups",
           rows_together(wg.x.rows) ? weight_of_groups<Arithmetic, kFragments, true>
                                    : weight_of_groups<Arithmetic, kFragments, false>,
           {wg.tiles() * wg.streams, dim3(kThreads), size_t(shared)}, o.stream, wg);
  }
  launch("add_streams", add_streams<Arithmetic>, one_thread_each(wg.weights()), o.stream, wg);
}

template <class Arithmetic>
void run(const ConvProblem& pb, const Operands& o) {
  using T = typename Arithmetic::Element;
  if (pb.K * pb.channels_per_group() * pb.R * pb.S == 0) return;
  // All channels of a pixel together, as of one group.
  const auto packed = [&](const View& v, int64_t channels, int64_t height, int64_t width) {
    return tensorcore::channels_together<T>(v.data, v.strides, 0, pb.N, 1, channels, height, width, false, o);
  };
  WeightGradient<T> wg = sizes<T>(pb);
  wg.x.set(packed(o.x, pb.C, pb.H, pb.W));
  wg.y.set(packed(o.y, pb.K, pb.P, pb.Q));
  wg.w = static_cast<T*>(o.w.data), wg.w_strides = o.w.strides;
  if constexpr (sizeof(T) == 2)
    if (choose_fragments(wg) == kMostFragments) return launch_weight<Arithmetic, kMostFragments>(wg, o);
  launch_weight<Arithmetic, kFewestFragments>(wg, o);
}

}  // namespace

const char* grad_weight_why_not(const ConvProblem& pb, const Operands& o) {
  if (o.dtype == DType::float64) return "it has no products of float64";
  const bool in_three = o.dtype == DType::float32 && !o.allow_tf32;
  if (const char* reason = in_three ? tensorcore::why_not_split(pb, o) : tensorcore::why_not(pb, o)) return reason;
  if (const char* reason = why_not_in_patches(pb)) return reason;
  const int64_t fragments =
      o.dtype == DType::float32 ? choose_fragments(sizes<float>(pb)) : choose_fragments(sizes<Half>(pb));
  return fragments ? nullptr : "the inputs of 64 outputs are beyond shared memory";
}
void grad_weight(const ConvProblem& pb, const Operands& o) {
  switch (o.dtype) {
    case DType::float16: return run<HalvesWeight<Half>>(pb, o);
    case DType::bfloat16: return run<HalvesWeight<BFloat16>>(pb, o);
    default: return o.allow_tf32 ? run<RoundedWeight>(pb, o) : run<ThreeWeight>(pb, o);
  }
}

}  // namespace tensorcore_grouped
}  // namespace cuda
}  // namespace convx
