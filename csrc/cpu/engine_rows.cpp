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

void forward_pixels(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().pixels.forward(pb, o)) forward_reference(pb, o);
}

void grad_input_pixels(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().pixels.grad_input(pb, o)) grad_input_reference(pb, o);
}

void grad_weight_pixels(const ConvProblem& pb, const Operands& o) {
  if (!current_engine().pixels.grad_weight(pb, o)) grad_weight_reference(pb, o);
}

const char* why_not_engine(const ConvProblem& pb, DType dtype) {
  if (dtype == DType::int64) return "it computes in floating point";
  if (pb.R > 64 || pb.S > 64) return "its tables hold at most 64 taps along an axis";
  return nullptr;
}

const char* why_not_engine_grad_input(const ConvProblem& pb, DType dtype) {
  if (!pb.is_zero_padded()) return "an input element read through the padding belongs to several phases";
  return why_not_engine(pb, dtype);
}

// Across channels, a group's outputs share vectors: below half a vector of 16 more than half the lanes idle.
bool few_outputs(const ConvProblem& pb, DType) { return pb.outputs_per_group() <= 4; }
bool few_inputs(const ConvProblem& pb, DType) { return pb.channels_per_group() <= 4; }
bool small_groups(const ConvProblem& pb, DType) { return pb.outputs_per_group() * pb.channels_per_group() <= 8; }

}  // namespace cpu
}  // namespace convx
