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

// Across channels, a group's outputs share vectors: below half a vector of 16 more than half the lanes idle.
bool few_outputs(const ConvProblem& pb, const Operands&) { return pb.outputs_per_group() <= 4; }
bool few_inputs(const ConvProblem& pb, const Operands&) { return pb.channels_per_group() <= 4; }
// Where weights are many for the pixels they meet, or rows too short for register tiles.
bool few_pixels(const ConvProblem& pb, const Operands&) { return pb.P * pb.Q <= 400; }
bool few_pixels_grad_input(const ConvProblem& pb, const Operands&) {
  return pb.H * pb.W <= 400 * pb.stride_h * pb.stride_w;
}
bool small_groups(const ConvProblem& pb, const Operands&) {
  return pb.outputs_per_group() * pb.channels_per_group() <= 8;
}

}  // namespace cpu
}  // namespace convx
