// The engine's rows in the algorithm list: runs the kernels of the chosen instruction set, and the reference where an
// infinity or NaN must not meet a padding zero.
#include "engine_rows.h"

#include "engine.h"
#include "reference.h"

namespace convx {
namespace cpu {

const Engine& current_engine() {
#if defined(__x86_64__)
  switch (current_isa()) {
    case Isa::avx512: return avx512::engine;
    case Isa::avx2: return avx2::engine;
    case Isa::baseline: break;
  }
#endif
  return baseline::engine;
}

void forward_outer_product(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().outer_product.forward(pb, o)) forward_reference(pb, o);
}

void grad_input_outer_product(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().outer_product.grad_input(pb, o)) grad_input_reference(pb, o);
}

void grad_weight_outer_product(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().outer_product.grad_weight(pb, o)) grad_weight_reference(pb, o);
}

void forward_panels(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().panels.forward(pb, o)) forward_reference(pb, o);
}

void grad_input_panels(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().panels.grad_input(pb, o)) grad_input_reference(pb, o);
}

void forward_pixels(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().pixels.forward(pb, o)) forward_reference(pb, o);
}

void grad_input_pixels(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().pixels.grad_input(pb, o)) grad_input_reference(pb, o);
}

void grad_weight_pixels(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().pixels.grad_weight(pb, o)) grad_weight_reference(pb, o);
}

void forward_in_place(const ConvProblem& pb, const Operands& o) { current_engine().in_place.forward(pb, o); }

void grad_input_in_place(const ConvProblem& pb, const Operands& o) { current_engine().in_place.grad_input(pb, o); }

void grad_weight_in_place(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().in_place.grad_weight(pb, o)) grad_weight_reference(pb, o);
}

const char* why_not_engine(const ConvProblem& pb, const Operands& o) {
  if (o.dtype == DType::int64) return "it computes in floating point";
  return nullptr;
}

// For one channel a group on the side that is summed over (`inputs`), and planes that are lines of equal length.
const char* why_not_in_place(const ConvProblem& pb, const Operands& o, int64_t inputs) {
  if (!current_engine().in_place.forward) return "it needs the masks of AVX-512";
  if (inputs != 1) return "it is for depthwise layers: one channel a group";
  if (!pb.is_unit_stride() || pb.W != pb.Q) return "it needs stride 1 and as many output as input columns";
  if (!pb.is_zero_padded()) return "it skips the padding, so it can't read other modes' values there";
  if (o.x.strides.w != 1 || o.x.strides.h != pb.W || o.y.strides.w != 1 || o.y.strides.h != pb.Q)
    return "it needs contiguous planes";
  return why_not_engine(pb, o);
}

const char* why_not_in_place_forward(const ConvProblem& pb, const Operands& o) {
  return why_not_in_place(pb, o, pb.channels_per_group());
}

const char* why_not_in_place_grad_input(const ConvProblem& pb, const Operands& o) {
  return why_not_in_place(pb, o, pb.outputs_per_group());
}

namespace {

// A convolution's sizes as the kernels see them. grad_input's are those of one phase of the stride.
struct Sizes {
  int64_t outputs, steps, pixels, columns;
  bool pointwise;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Sizes forward_sizes(const ConvProblem& pb) {
  return {pb.outputs_per_group(), pb.channels_per_group() * pb.R * pb.S, pb.N * pb.P * pb.Q, pb.Q,
          pb.R * pb.S == 1};
}

Sizes grad_input_sizes(const ConvProblem& pb) {
  const int64_t columns = ceil_div(pb.W, pb.stride_w);
  return {pb.channels_per_group(),
          pb.outputs_per_group() * ceil_div(pb.R, pb.stride_h) * ceil_div(pb.S, pb.stride_w),
          pb.N * ceil_div(pb.H, pb.stride_h) * columns, columns, pb.R <= pb.stride_h && pb.S <= pb.stride_w};
}

// Across channels, a group's outputs share vectors, and few leave most lanes idle. And a sum of few steps takes less
// time there than turning its results over.
bool suits_pixels(const Sizes& s) {
  if (s.outputs <= 4) return true;
  if (s.columns < 16) return false;
  return s.outputs <= 12 || (s.steps <= 150 && !s.pointwise);
}

// Where weights are more than a cache holds and meet few pixels, and where a tile would be a copy of the input.
// (A large filter would have a channel's tile packed again for each slab of its taps.)
bool suits_panels(const ConvProblem& pb, const Sizes& s) {
  constexpr int64_t kManyWeights = 1 << 20;
  return s.pointwise || (s.pixels <= 400 && pb.R * pb.S <= 64 && pb.K * pb.channels_per_group() * pb.R * pb.S >= kManyWeights);
}

}  // namespace

bool suits_pixels_forward(const ConvProblem& pb, const Operands&) { return suits_pixels(forward_sizes(pb)); }
bool suits_pixels_grad_input(const ConvProblem& pb, const Operands&) { return suits_pixels(grad_input_sizes(pb)); }
bool suits_panels_forward(const ConvProblem& pb, const Operands&) { return suits_panels(pb, forward_sizes(pb)); }
bool suits_panels_grad_input(const ConvProblem& pb, const Operands&) { return suits_panels(pb, grad_input_sizes(pb)); }
bool small_groups(const ConvProblem& pb, const Operands&) {
  return pb.outputs_per_group() * pb.channels_per_group() <= 8;
}

}  // namespace cpu
}  // namespace convx
