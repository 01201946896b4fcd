// Which problems the tensor-core kernels (tensorcore_convolve.cuh, tensorcore_weight.cuh) can do and are right for, and
// which of their arithmetics a type takes.
#include "device.h"
#include "rows.h"
#include "types.h"

namespace convx {
namespace cuda {
namespace tensorcore {
namespace {

constexpr int kTile = 64;  // columns of the smallest tile, and rows of the weight gradient's

// The share of a tile that `count` rows or columns fill.
double filled(int64_t count, int64_t tile) { return double(count) / ((count + tile - 1) / tile * tile); }

// How much faster than ordinary multiply-adds these kernels may be, all of a tile filled, by datasheet rates: so little
// of it may be filled for them to win.
double least_filled(const Operands& o) {
  switch (o.dtype) {
    case DType::float16:
    case DType::bfloat16: return 0.1;
    case DType::float32: return o.allow_tf32 ? 0.2 : 0.6;
    default: return 0.6;
  }
}

// What the tiles of ordinary multiply-adds, 32 columns at least, leave empty of few results, too.
double filled_elsewhere(int64_t outputs) { return outputs < kTile / 2 ? filled(outputs, kTile / 2) : 1; }

bool is_large(const ConvProblem& pb) { return multiply_adds_of_image(pb) >= 1 << 17; }

bool preferred(const ConvProblem& pb, const Operands& o, int64_t inputs, int64_t outputs) {
  constexpr int64_t kStage = 32;  // numbers of the reduction that are multiplied together
  return is_large(pb) && inputs >= 8 &&
         filled(outputs, kTile) * filled(inputs * pb.R * pb.S, kStage) >= least_filled(o) * filled_elsewhere(outputs);
}

const char* why_not_at_all(const ConvProblem& pb, const Operands& o) {
  if (o.dtype == DType::int64) return "int64 is for the CPU only";
  if (current_device().capability < 80) return "it needs a GPU of compute capability 8.0";
  constexpr int64_t kMost = int64_t(1) << 29;
  const auto large = [](const Axis& a) {
    return a.in > kMost || a.out > kMost || a.kernel * a.dilation + a.pad + a.out * a.stride > kMost;
  };
  const auto far = [](const View& v, int64_t height, int64_t width, int64_t channels) {
    const int64_t span = height * v.strides.h + width * v.strides.w;
    return (span > height * width * channels ? span : height * width * channels) > 2 * kMost;
  };
  const bool is_far =
      far(o.x, pb.H, pb.W, pb.C) || far(o.y, pb.P, pb.Q, pb.K) || far(o.w, pb.R, pb.S, pb.C > pb.K ? pb.C : pb.K);
  const int64_t filter = o.w.strides.n > o.w.strides.c ? o.w.strides.n : o.w.strides.c;
  if (pb.N > kMost || pb.C > kMost || pb.K > kMost || filter > 2 * kMost || large(pb.rows()) || large(pb.columns()) ||
      is_far)
    return "an image has more elements than its 32-bit offsets reach";
  return nullptr;
}

}  // namespace

const char* why_not(const ConvProblem& pb, const Operands& o) {
  if (o.dtype == DType::float32 && !o.allow_tf32)
    return "float32 is not to be rounded to TF32 (torch.backends.cudnn.conv.fp32_precision says so)";
  return why_not_at_all(pb, o);
}

const char* why_not_split(const ConvProblem& pb, const Operands& o) {
  return o.dtype == DType::float32 ? why_not_at_all(pb, o) : "it is float32 that it splits";
}

const char* why_not_wgmma(const ConvProblem& pb, const Operands& o) {
  if (o.dtype != DType::float16 && o.dtype != DType::bfloat16) return "it multiplies 16-bit numbers";
  if (!current_device().has_wgmma) return "it needs a GPU of compute capability 9.0 and kernels built for 9.0a";
  return why_not_at_all(pb, o);
}

bool preferred(const ConvProblem& pb, const Operands& o) {
  return preferred(pb, o, pb.channels_per_group(), pb.outputs_per_group());
}

bool preferred_for_grad_input(const ConvProblem& pb, const Operands& o) {
  return preferred(pb, o, pb.outputs_per_group(), pb.channels_per_group());
}

bool preferred_for_grad_weight(const ConvProblem& pb, const Operands& o) {
  return is_large(pb) &&
         filled(pb.channels_per_group(), kTile) * filled(pb.outputs_per_group(), kTile) >= least_filled(o);
}

// Stages of the copy engine's kernels have 64 inputs, of float32 32; half of them empty is what those kernels gain over
// the others.
static bool fills_stages(const Operands& o, int64_t inputs) {
  return filled(inputs, o.dtype == DType::float32 ? kTile / 2 : kTile) >= 0.5;
}
bool preferred_copied(const ConvProblem& pb, const Operands& o) {
  return preferred(pb, o) && fills_stages(o, pb.channels_per_group());
}
bool preferred_copied_for_grad_input(const ConvProblem& pb, const Operands& o) {
  return preferred_for_grad_input(pb, o) && fills_stages(o, pb.outputs_per_group());
}

// Terms are padded to whole stages of 64 and made by a pass over each operand, which pays if the image's numbers are
// used some 160 times each (1x1, on an H200 in float32: 512 to 192 channels 23 us instead of 33; 256 to 128 more than
// 178); and images should have a tile's pixels, or enough of them for a GPU. The products take half of Split's time.
static bool prefers_terms(const ConvProblem& pb, const Operands& o, int64_t inputs, int64_t outputs, double uses) {
  constexpr int64_t kTileRows = 128;
  return multiply_adds_of_image(pb) >= (pb.P * pb.Q >= kTileRows ? 1 << 24 : 1 << 26) && uses >= 160 &&
         filled(inputs, kTile) * filled(outputs, kTile) >= (o.allow_tf32 ? 0.25 : 0.4) * filled_elsewhere(outputs);
}
static double uses_of_image(const ConvProblem& pb, int64_t outputs) {
  return double(outputs) * pb.R * pb.S / (double(pb.stride_h) * pb.stride_w);
}
bool preferred_terms(const ConvProblem& pb, const Operands& o) {
  const int64_t outputs = pb.outputs_per_group();
  return prefers_terms(pb, o, pb.channels_per_group(), outputs, uses_of_image(pb, outputs));
}
bool preferred_terms_for_grad_input(const ConvProblem& pb, const Operands& o) {
  const int64_t outputs = pb.channels_per_group();  // y is read by each phase
  return prefers_terms(pb, o, pb.outputs_per_group(), outputs, double(outputs) * pb.R * pb.S);
}
bool preferred_terms_for_grad_weight(const ConvProblem& pb, const Operands& o) {
  const int64_t outputs = pb.outputs_per_group();
  return prefers_terms(pb, o, pb.channels_per_group(), outputs, uses_of_image(pb, outputs));
}

static void run(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  switch (o.dtype) {
    case DType::float16:
    case DType::bfloat16: return run_16(primitive, pb, o);
    case DType::float32: return run_tf32(primitive, pb, o);
    default: return run_64(primitive, pb, o);
  }
}

void forward(const ConvProblem& pb, const Operands& o) { run(Primitive::forward, pb, o); }
void grad_input(const ConvProblem& pb, const Operands& o) { run(Primitive::grad_input, pb, o); }
void grad_weight(const ConvProblem& pb, const Operands& o) { run(Primitive::grad_weight, pb, o); }

void forward_wgmma(const ConvProblem& pb, const Operands& o) { run_wgmma(Primitive::forward, pb, o); }
void grad_input_wgmma(const ConvProblem& pb, const Operands& o) { run_wgmma(Primitive::grad_input, pb, o); }
void grad_weight_wgmma(const ConvProblem& pb, const Operands& o) { run_wgmma(Primitive::grad_weight, pb, o); }

void forward_split(const ConvProblem& pb, const Operands& o) { run_split(Primitive::forward, pb, o); }
void grad_input_split(const ConvProblem& pb, const Operands& o) { run_split(Primitive::grad_input, pb, o); }
void grad_weight_split(const ConvProblem& pb, const Operands& o) { run_split(Primitive::grad_weight, pb, o); }

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
