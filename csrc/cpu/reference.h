// The definition as loops; see reference.cpp.
#pragma once
#include "../problem.h"

namespace convx {
namespace cpu {
void forward_reference(const ConvProblem&, const Operands&);
void grad_input_reference(const ConvProblem&, const Operands&);
void grad_weight_reference(const ConvProblem&, const Operands&);
}  // namespace cpu
}  // namespace convx
