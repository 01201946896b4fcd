// The engine's entries for the algorithm list; see outer_product.h and pixels.h for the methods.
#pragma once
#include "../problem.h"

namespace convx {
namespace cpu {

void forward_outer_product(const ConvProblem&, const Operands&);
void grad_input_outer_product(const ConvProblem&, const Operands&);
void grad_weight_outer_product(const ConvProblem&, const Operands&);
void forward_pixels(const ConvProblem&, const Operands&);
void grad_input_pixels(const ConvProblem&, const Operands&);
void grad_weight_pixels(const ConvProblem&, const Operands&);

const char* why_not_engine(const ConvProblem&, DType);
const char* why_not_engine_grad_input(const ConvProblem&, DType);

bool few_outputs(const ConvProblem&, DType);
bool few_inputs(const ConvProblem&, DType);
bool small_groups(const ConvProblem&, DType);

}  // namespace cpu
}  // namespace convx
