// What the lists of algorithms.cpp refer to: a namespace for each algorithm, with its launches and, where it has some
// of its own, its predicates. Each is defined in the .cu file of its name, so that nvcc compiles them one by one.
#pragma once
#include "../algorithm.h"

namespace convx {
namespace cuda {

namespace reference {
void forward(const ConvProblem&, const Operands&);
void grad_input(const ConvProblem&, const Operands&);
void grad_weight(const ConvProblem&, const Operands&);
}  // namespace reference

namespace direct {
const char* why_not(const ConvProblem&, const Operands&);
bool forward_preferred(const ConvProblem&, const Operands&);
bool grad_input_preferred(const ConvProblem&, const Operands&);
bool grad_weight_preferred(const ConvProblem&, const Operands&);
void forward(const ConvProblem&, const Operands&);
void grad_input(const ConvProblem&, const Operands&);
void grad_weight(const ConvProblem&, const Operands&);
}  // namespace direct

namespace scatter {
void grad_input(const ConvProblem&, const Operands&);
}

namespace scatter_atomic {
const char* why_not(const ConvProblem&, const Operands&);
void grad_input(const ConvProblem&, const Operands&);
}  // namespace scatter_atomic

}  // namespace cuda
}  // namespace convx
