// The transposed convolution in its scatter form; see scatter.cpp.
#pragma once
#include "../problem.h"

namespace convx {
namespace cpu {
void grad_input_scatter(const ConvProblem&, const Operands&);
}  // namespace cpu
}  // namespace convx
