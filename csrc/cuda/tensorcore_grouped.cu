// The row `tensorcore_grouped`: which problems tensorcore_grouped.cuh can do and is right for, and its launches.
#include "rows.h"
#include "tensorcore_grouped.cuh"
#include "tensorcore_launch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore_grouped {
namespace {

using tensorcore::ceil_div;

constexpr int64_t kFewestFragments = 4, kMostFragments = 7;

int64_t phases(int64_t in, int64_t stride) { return std::min(in, stride); }

AxisPlan forward_plan(const Axis& a) {
  return {int(a.in), int(a.out), int(a.kernel), int(a.stride), -int(a.pad), int(a.dilation), 0, 1, 0, 1, a.mode};
}

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
template <class T>
Convolution<T> sizes(const ConvProblem& pb, bool is_grad_input, int64_t phase_h, int64_t phase_w) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  Convolution<T> cv = {};
  cv.rows = is_grad_input ? grad_input_plan(pb.rows(), phase_h) : forward_plan(pb.rows());
  cv.columns = is_grad_input ? grad_input_plan(pb.columns(), phase_w) : forward_plan(pb.columns());
  cv.N = int(pb.N), cv.G = int(pb.G);
  cv.inputs = int(is_grad_input ? Kg : Cg), cv.outputs = int(is_grad_input ? Cg : Kg);
  const int64_t outputs = pb.G * cv.outputs;
  cv.column_tiles = int(ceil_div(outputs, kOutputs));
  int64_t depth = 0, span = 0;
  for (int64_t first = 0; first < outputs; first += kWarpOutputs) {
    const int64_t last = std::min(first + kWarpOutputs, outputs) - 1;
    const int64_t end = (last / cv.outputs + 1) * cv.inputs;
    depth = std::max(depth, ceil_div(end - cv.first_chunk(int(first)) * kElements, kDepth));
  }
  for (int64_t first = 0; first < outputs; first += kWarpOutputs)
    span = std::max(span, cv.first_chunk(int(first)) - cv.first_chunk(int(first / kOutputs * kOutputs)) + 2 * depth);
  cv.depth = int(depth), cv.span = int(span), cv.pitch = int((span | 1) * kChunk);
  return cv;
}

// Gives the plan patches of rows of 2 * fragments; returns the bytes of shared memory.
template <class T>
int64_t set_patches(Convolution<T>& cv, int64_t fragments) {
  const auto reach = [](const AxisPlan& a, int64_t results) {
    return (results - 1) * a.stride + int64_t(a.taps - 1) * a.dilation + 1;
  };
  const bool reads = cv.rows.taps > 0 && cv.columns.taps > 0 && cv.depth > 0;
  const int64_t rows = reads ? reach(cv.rows, 2 * fragments) : 0, columns = reads ? reach(cv.columns, kColumns) : 0;
  const int64_t across = ceil_div(columns, cv.columns.stride);
  const int64_t patch = rows * across * cv.columns.stride * cv.pitch;
  const int64_t weights = int64_t(cv.rows.taps) * cv.columns.taps * cv.depth * kWarps * kFragmentBytes;
  cv.patches_down = int(ceil_div(cv.rows.count, 2 * fragments));
  cv.patches_across = int(ceil_div(cv.columns.count, kColumns));
  cv.patches = int64_t(cv.N) * cv.patches_down * cv.patches_across;
  cv.patch_rows = int(rows), cv.patch_columns = int(columns), cv.across = int(across);
  cv.patch_bytes = int(patch), cv.weight_bytes = int(weights);
  return weights + 2 * patch;
}

// Blocks of so much shared memory that fit on a multiprocessor, which keeps 1 KiB for itself of each.
int64_t fitting_blocks(int64_t shared_bytes) {
  constexpr int64_t kReserved = 1024;
  return std::min(int64_t(kBlocks),
                  (int64_t(current_device().shared_per_block) + kReserved) / (shared_bytes + kReserved));
}

// How many fragments a patch has: those of which the fewest pixels are copied, but at least two blocks to a
// multiprocessor, if they fit. 0: none does. The same for every N, as the sums would be in any case.
template <class T>
int64_t choose_patches(Convolution<T> cv) {
  const auto cost = [&](int64_t fragments) {
    const int64_t blocks = fitting_blocks(set_patches(cv, fragments));
    const double pixels = double(cv.patches_down) * cv.patches_across *
                          std::max(double(cv.patch_rows) * cv.patch_columns, double(2 * fragments * kColumns));
    return blocks == 0 ? 1e300 : blocks == 1 ? pixels * 4 : pixels;
  };
  const int64_t best = cost(kMostFragments) <= cost(kFewestFragments) ? kMostFragments : kFewestFragments;
  return fitting_blocks(set_patches(cv, best)) > 0 ? best : 0;
}

template <class T, int kFragments>
void launch_convolve(Convolution<T> cv, const Operands& o) {
  const int64_t shared = set_patches(cv, kFragments);
  // As many blocks as run at a time, each with as many patches as the others.
  const int64_t wanted = ceil_div(current_device().multiprocessors * fitting_blocks(shared), cv.column_tiles);
  cv.streams = ceil_div(cv.patches, ceil_div(cv.patches, std::min(wanted, cv.patches)));
  const int64_t packed_bytes = int64_t(cv.column_tiles) * cv.weight_bytes;
  if (packed_bytes > 0) {
    cv.packed = static_cast<T*>(o.workspace->allocate(size_t(packed_bytes)));
    launch("pack_weights", pack_weights<T>, one_thread_each(packed_bytes / 4), o.stream, cv);
  }
  const bool rows_together = cv.rows.stride == 1 && cv.rows.dilation == 1 && cv.rows.taps % 3 == 0;
  launch("convolve_groups", rows_together ? convolve_groups<T, kFragments, 3> : convolve_groups<T, kFragments, 1>,
         {cv.column_tiles * cv.streams, dim3(kThreads), size_t(shared)}, o.stream, cv);
}

template <class T>
void run(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  const View &from = is_grad_input ? o.y : o.x, &to = is_grad_input ? o.x : o.y;
  const int64_t channels = is_grad_input ? pb.K : pb.C, results = is_grad_input ? pb.C : pb.K;
  if (pb.N * results * (is_grad_input ? pb.H * pb.W : pb.P * pb.Q) == 0) return;
  // All channels of a pixel together, as of one group.
  const tensorcore::Packed<T> image =
      tensorcore::channels_together<T>(from.data, from.strides, 0, pb.N, 1, channels, is_grad_input ? pb.P : pb.H,
                                       is_grad_input ? pb.Q : pb.W, false, o);
  const Strides &s = to.strides, &w = o.w.strides;
  const auto whole = [](int64_t stride) { return stride % 4 == 0; };
  const int64_t down = is_grad_input ? phases(pb.H, pb.stride_h) : 1;
  const int64_t across = is_grad_input ? phases(pb.W, pb.stride_w) : 1;
  for (int64_t phase = 0; phase < down * across; ++phase) {
    Convolution<T> cv = sizes<T>(pb, is_grad_input, phase / across, phase % across);
    cv.input = image.data, cv.input_n = image.n, cv.input_h = image.h, cv.input_w = image.w;
    cv.input_chunks = image.channels / kElements;
    cv.weight = static_cast<const T*>(o.w.data), cv.weight_group = pb.outputs_per_group() * w.n;
    cv.weight_output = is_grad_input ? w.c : w.n, cv.weight_input = is_grad_input ? w.n : w.c;
    cv.weight_r = w.h, cv.weight_s = w.w;
    cv.bias = static_cast<const T*>(o.bias), cv.bias_stride = o.bias_stride;
    cv.output = static_cast<T*>(to.data), cv.output_strides = s;
    cv.stores_channels = s.c == 1 && results % 4 == 0 && whole(s.n) && whole(s.h) && whole(s.w) &&
                         reinterpret_cast<uintptr_t>(to.data) % sizeof(Four<T>) == 0;
    choose_patches(cv) == kMostFragments ? launch_convolve<T, kMostFragments>(cv, o)
                                         : launch_convolve<T, kFewestFragments>(cv, o);
  }
}

void run(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  o.dtype == DType::float16 ? run<Half>(pb, o, is_grad_input) : run<BFloat16>(pb, o, is_grad_input);
}

const char* why_not(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  if (o.dtype != DType::float16 && o.dtype != DType::bfloat16) return "it multiplies 16-bit numbers";
  if (const char* reason = tensorcore::why_not(pb, o)) return reason;
  if (pb.C == 0 || pb.K == 0) return nullptr;  // nothing to copy
  if (is_grad_input && !pb.is_zero_padded()) return "it has no gradient of padding that repeats the input";
  const int64_t down = is_grad_input ? phases(pb.H, pb.stride_h) : 1;
  const int64_t across = is_grad_input ? phases(pb.W, pb.stride_w) : 1;
  for (int64_t phase = 0; phase < down * across; ++phase)
    if (!choose_patches(sizes<Half>(pb, is_grad_input, phase / across, phase % across)))
      return "the inputs and weights of 64 outputs are beyond shared memory";
  return nullptr;
}

// Groups that fill little of a tile elsewhere, and images that fill a patch here: 8 x 8 results, or a half of them.
bool preferred(const ConvProblem& pb, int64_t height, int64_t width) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const int64_t patches = ceil_div(height, 2 * kFewestFragments) * ceil_div(width, kColumns);
  return pb.G > 1 && std::min(Cg, Kg) >= 4 && std::max(Cg, Kg) <= 64 && pb.multiply_adds() >= 1 << 20 &&
         2 * height * width >= patches * 2 * kFewestFragments * kColumns;
}

}  // namespace

const char* forward_why_not(const ConvProblem& pb, const Operands& o) { return why_not(pb, o, false); }
const char* grad_input_why_not(const ConvProblem& pb, const Operands& o) { return why_not(pb, o, true); }
bool forward_preferred(const ConvProblem& pb, const Operands&) { return preferred(pb, pb.P, pb.Q); }
bool grad_input_preferred(const ConvProblem& pb, const Operands&) {
  return preferred(pb, pb.H / pb.stride_h, pb.W / pb.stride_w);
}
void forward(const ConvProblem& pb, const Operands& o) { run(pb, o, false); }
void grad_input(const ConvProblem& pb, const Operands& o) { run(pb, o, true); }

}  // namespace tensorcore_grouped
}  // namespace cuda
}  // namespace convx
