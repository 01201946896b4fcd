// The row `tensorcore_grouped`: which problems tensorcore_grouped.cuh can do and is right for, and its launches.
#include "rows.h"
#include "tensorcore_grouped.cuh"
#include "tensorcore_launch.cuh"
#include "types.h"

namespace convx {
namespace cuda {
namespace tensorcore_grouped {
namespace {

constexpr int64_t kMostPhases = 16, kMostBlocks = 3;  // of a multiprocessor

int64_t phases(int64_t in, int64_t stride) { return std::min(in, stride); }

// x[h] is read by tap r of output p if h = p * stride - pad + r * dilation, so the taps of a phase are those of one
// remainder. From the last to the first the positions in y go up.
AxisPlan grad_input_plan(const Axis& a, int64_t phase) {
  AxisPlan plan = {
      int(a.out),        int((a.in - 1 - phase) / a.stride + 1), 0, 1, 0, 1, 0, 1, int(phase), int(a.stride),
      PaddingMode::zeros};
  for (int64_t r = 0; r < a.kernel; ++r) {
    const int64_t distance = phase + a.pad - r * a.dilation;
    if (distance % a.stride != 0) continue;
    if (plan.taps > 0) plan.tap_step = plan.first_tap - int(r), plan.dilation = plan.offset - int(distance / a.stride);
    plan.first_tap = int(r), plan.offset = int(distance / a.stride);
    ++plan.taps;
  }
  return plan;
}

// The sizes of a launch, all that why_not() has to know; the kernel's pointers are left out.
template <class Arithmetic>
Convolution<typename Arithmetic::Element> sizes(const ConvProblem& pb, bool is_grad_input, int64_t phase_h,
                                                int64_t phase_w) {
  using T = typename Arithmetic::Element;
  const int Cg = int(pb.channels_per_group()), Kg = int(pb.outputs_per_group());
  Convolution<T> cv = {};
  cv.input.rows = is_grad_input ? grad_input_plan(pb.rows(), phase_h) : forward_plan(pb.rows());
  cv.input.columns = is_grad_input ? grad_input_plan(pb.columns(), phase_w) : forward_plan(pb.columns());
  if (cv.taps() == 0) cv.input.rows.taps = cv.input.columns.taps = 0;
  constexpr int kPerChunk = kElements<T>;
  cv.groups = is_grad_input ? Groups{int(pb.G), Kg, Cg, kPerChunk} : Groups{int(pb.G), Cg, Kg, kPerChunk};
  cv.column_tiles = int(ceil_div(cv.groups.all_outputs(), kOutputs));
  cv.steps = int(ceil_div(2 * cv.groups.depth(), Arithmetic::kChunks)), cv.terms = Arithmetic::kTerms;
  cv.step_chunks = Arithmetic::kChunks;
  return cv;
}

// Returns the bytes of shared memory of a block whose patches have so many fragments.
template <class T>
int64_t set_patches(Convolution<T>& cv, int64_t fragments) {
  const AxisPlan &rows = cv.input.rows, &columns = cv.input.columns;
  const int64_t patch =
      std::max(cv.input.set_patches(fragments, rows.taps, columns.taps, cv.groups.span(cv.steps * cv.step_chunks / 2)),
               results_bytes<T>(fragments));
  const int64_t weights = int64_t(rows.taps) * columns.taps * cv.steps * kWarps * cv.step_bytes();
  cv.patch_bytes = int(patch), cv.weight_bytes = int(weights);
  return weights + 2 * patch;
}

template <class T>
int64_t choose_fragments(Convolution<T> cv) {
  // With the terms of the weights the larger patches would leave a multiprocessor one block.
  if (cv.terms == 3) return fitting_blocks(set_patches(cv, kFewestFragments), 1) * kFewestFragments;
  return choose_fragments(cv.input, kMostBlocks, [&](int64_t fragments) { return set_patches(cv, fragments); });
}

template <class Arithmetic, int kFragments>
void launch_convolve(Convolution<typename Arithmetic::Element> cv, int64_t N, const Operands& o) {
  const int64_t shared = set_patches(cv, kFragments);
  cv.patches = Patches::of(N, cv.input.rows.count, cv.input.columns.count, kFragments);
  cv.streams = int(streams_of(cv.patches.count, fitting_blocks(shared, Arithmetic::kBlocks), cv.column_tiles));
  const int64_t packed_bytes = int64_t(cv.column_tiles) * cv.weight_bytes;
  if (packed_bytes > 0) {
    cv.packed = static_cast<char*>(o.workspace->allocate(size_t(packed_bytes)));
    launch("pack_weights", pack_weights<Arithmetic>, one_thread_each(packed_bytes / 4 / cv.terms), o.stream, cv);
  }
  launch("convolve_groups",
         rows_together(cv.input.rows) ? convolve_groups<Arithmetic, kFragments, 3>
                                      : convolve_groups<Arithmetic, kFragments, 1>,
         {int64_t(cv.column_tiles) * cv.streams, dim3(kThreads), size_t(shared)}, o.stream, cv);
}

template <class Arithmetic>
void run(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  using T = typename Arithmetic::Element;
  const View &from = is_grad_input ? o.y : o.x, &to = is_grad_input ? o.x : o.y;
  const int64_t channels = is_grad_input ? pb.K : pb.C, results = is_grad_input ? pb.C : pb.K;
  if (pb.N * results * (is_grad_input ? pb.H * pb.W : pb.P * pb.Q) == 0) return;
  // All channels of a pixel together, as of one group.
  const tensorcore::Packed<T> image =
      tensorcore::channels_together<T>(from.data, from.strides, 0, pb.N, 1, channels, is_grad_input ? pb.P : pb.H,
                                       is_grad_input ? pb.Q : pb.W, false, o);
  const Strides &s = to.strides, &w = o.w.strides;
  const auto whole = [](int64_t stride) { return stride % kElements<T> == 0; };
  const int64_t down = is_grad_input ? phases(pb.H, pb.stride_h) : 1;
  const int64_t across = is_grad_input ? phases(pb.W, pb.stride_w) : 1;
  for (int64_t phase = 0; phase < down * across; ++phase) {
    Convolution<T> cv = sizes<Arithmetic>(pb, is_grad_input, phase / across, phase % across);
    cv.input.set(image);
    cv.weight = static_cast<const T*>(o.w.data), cv.weight_group = pb.outputs_per_group() * w.n;
    cv.weight_output = is_grad_input ? w.c : w.n, cv.weight_input = is_grad_input ? w.n : w.c;
    cv.weight_r = w.h, cv.weight_s = w.w;
    cv.bias = static_cast<const T*>(o.bias), cv.bias_stride = o.bias_stride;
    cv.output = static_cast<T*>(to.data), cv.output_strides = s;
    cv.stores_channels = s.c == 1 && results % kElements<T> == 0 && whole(s.n) && whole(s.h) && whole(s.w) &&
                         reinterpret_cast<uintptr_t>(to.data) % kChunk == 0;
    if constexpr (Arithmetic::kTerms == 1)
      if (choose_fragments(cv) == kMostFragments) {
        launch_convolve<Arithmetic, kMostFragments>(cv, pb.N, o);
        continue;
      }
    launch_convolve<Arithmetic, kFewestFragments>(cv, pb.N, o);
  }
}

void run(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  switch (o.dtype) {
    case DType::float16: return run<Halves<Half>>(pb, o, is_grad_input);
    case DType::bfloat16: return run<Halves<BFloat16>>(pb, o, is_grad_input);
    default: return o.allow_tf32 ? run<Rounded>(pb, o, is_grad_input) : run<Three>(pb, o, is_grad_input);
  }
}

template <class Arithmetic>
bool fits(const ConvProblem& pb, bool is_grad_input, int64_t phase_h, int64_t phase_w) {
  return choose_fragments(sizes<Arithmetic>(pb, is_grad_input, phase_h, phase_w)) > 0;
}

const char* why_not(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  if (o.dtype == DType::float64) return "it has no products of float64";
  const bool in_three = o.dtype == DType::float32 && !o.allow_tf32;
  if (const char* reason = in_three ? tensorcore::why_not_split(pb, o) : tensorcore::why_not(pb, o)) return reason;
  if (const char* reason = why_not_in_patches(pb)) return reason;
  if (is_grad_input && !pb.is_zero_padded()) return "it has no gradient of padding that repeats the input";
  const int64_t down = is_grad_input ? phases(pb.H, pb.stride_h) : 1;
  const int64_t across = is_grad_input ? phases(pb.W, pb.stride_w) : 1;
  if (down * across > kMostPhases) return "each phase of its stride would be a launch";
  const auto fits_this = in_three ? fits<Three> : o.dtype == DType::float32 ? fits<Rounded> : fits<Halves<Half>>;
  for (int64_t phase = 0; phase < down * across; ++phase)
    if (!fits_this(pb, is_grad_input, phase / across, phase % across))
      return "the inputs and weights of 64 outputs are beyond shared memory";
  return nullptr;
}

// Groups that fill little of a tile elsewhere, one of them if both sides are that small; and images that fill a patch
// here: 8 x 8 results, or a half of them.
bool preferred(const ConvProblem& pb, int64_t height, int64_t width) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const int64_t patches = ceil_div(height, 2 * kFewestFragments) * ceil_div(width, kColumns);
  const int64_t most = pb.G > 1 ? 64 : pb.is_pointwise() ? 0 : 32;
  return std::min(Cg, Kg) >= 4 && std::max(Cg, Kg) <= most && multiply_adds_of_image(pb) >= 1 << 17 &&
         2 * height * width >= patches * 2 * kFewestFragments * kColumns;
}

}  // namespace

const char* forward_why_not(const ConvProblem& pb, const Operands& o) { return why_not(pb, o, false); }
const char* grad_input_why_not(const ConvProblem& pb, const Operands& o) { return why_not(pb, o, true); }
bool preferred(const ConvProblem& pb, const Operands&) { return preferred(pb, pb.P, pb.Q); }
bool grad_input_preferred(const ConvProblem& pb, const Operands&) {
  return preferred(pb, pb.H / pb.stride_h, pb.W / pb.stride_w);
}
void forward(const ConvProblem& pb, const Operands& o) { run(pb, o, false); }
void grad_input(const ConvProblem& pb, const Operands& o) { run(pb, o, true); }

}  // namespace tensorcore_grouped
}  // namespace cuda
}  // namespace convx
