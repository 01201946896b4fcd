// What the lists of algorithms.cpp refer to: a namespace for each algorithm, with its launches and, where it has some
// of its own, its predicates. Each is defined in the .cu file of its name, so that nvcc compiles them one by one.
#pragma once
#include "../algorithm.h"
#include "column_blocks.h"

namespace convx {
namespace cuda {

namespace reference {
void forward(const ConvProblem&, const Operands&);
void grad_input(const ConvProblem&, const Operands&);
void grad_weight(const ConvProblem&, const Operands&);
}  // namespace reference

namespace depthwise_small {
const char* forward_why_not(const ConvProblem&, const Operands&);
const char* grad_input_why_not(const ConvProblem&, const Operands&);
const char* grad_weight_why_not(const ConvProblem&, const Operands&);
bool forward_preferred(const ConvProblem&, const Operands&);
bool grad_input_preferred(const ConvProblem&, const Operands&);
bool grad_weight_preferred(const ConvProblem&, const Operands&);
void forward(const ConvProblem&, const Operands&);
void grad_input(const ConvProblem&, const Operands&);
void grad_weight(const ConvProblem&, const Operands&);
}  // namespace depthwise_small

namespace depthwise {
const char* forward_why_not(const ConvProblem&, const Operands&);
const char* grad_input_why_not(const ConvProblem&, const Operands&);
const char* grad_weight_why_not(const ConvProblem&, const Operands&);
bool preferred(const ConvProblem&, const Operands&);
void forward(const ConvProblem&, const Operands&);
void grad_input(const ConvProblem&, const Operands&);
void grad_weight(const ConvProblem&, const Operands&);
}  // namespace depthwise

namespace few_channels {
const char* forward_why_not(const ConvProblem&, const Operands&);
const char* grad_input_why_not(const ConvProblem&, const Operands&);
const char* grad_weight_why_not(const ConvProblem&, const Operands&);
bool forward_preferred(const ConvProblem&, const Operands&);
bool grad_input_preferred(const ConvProblem&, const Operands&);
bool grad_weight_preferred(const ConvProblem&, const Operands&);
void forward(const ConvProblem&, const Operands&);
void grad_input(const ConvProblem&, const Operands&);
void grad_weight(const ConvProblem&, const Operands&);
}  // namespace few_channels

namespace patch_windows {
const char* forward_why_not(const ConvProblem&, const Operands&);
const char* grad_input_why_not(const ConvProblem&, const Operands&);
const char* grad_weight_why_not(const ConvProblem&, const Operands&);
bool forward_preferred(const ConvProblem&, const Operands&);
bool grad_input_preferred(const ConvProblem&, const Operands&);
bool grad_weight_preferred(const ConvProblem&, const Operands&);
void forward(const ConvProblem&, const Operands&);
void grad_input(const ConvProblem&, const Operands&);
void grad_weight(const ConvProblem&, const Operands&);
}  // namespace patch_windows

namespace row_windows {
const char* why_not(const ConvProblem&, const Operands&);
bool preferred(const ConvProblem&, const Operands&);
void forward(const ConvProblem&, const Operands&);
void grad_weight(const ConvProblem&, const Operands&);
}  // namespace row_windows

namespace output_blocks {
const char* forward_why_not(const ConvProblem&, const Operands&);
const char* grad_input_why_not(const ConvProblem&, const Operands&);
bool forward_preferred(const ConvProblem&, const Operands&);
bool grad_input_preferred(const ConvProblem&, const Operands&);
void forward(const ConvProblem&, const Operands&);
void grad_input(const ConvProblem&, const Operands&);
}  // namespace output_blocks

namespace tensorcore_grouped {
const char* forward_why_not(const ConvProblem&, const Operands&);
const char* grad_input_why_not(const ConvProblem&, const Operands&);
const char* grad_weight_why_not(const ConvProblem&, const Operands&);
bool preferred(const ConvProblem&, const Operands&);
bool grad_input_preferred(const ConvProblem&, const Operands&);
void forward(const ConvProblem&, const Operands&);
void grad_input(const ConvProblem&, const Operands&);
void grad_weight(const ConvProblem&, const Operands&);
}  // namespace tensorcore_grouped

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

namespace tensorcore {
const char* why_not(const ConvProblem&, const Operands&);
const char* why_not_split(const ConvProblem&, const Operands&);
const char* why_not_wgmma(const ConvProblem&, const Operands&);
bool preferred(const ConvProblem&, const Operands&);
bool preferred_for_grad_weight(const ConvProblem&, const Operands&);
bool preferred_for_grad_input(const ConvProblem&, const Operands&);
void forward(const ConvProblem&, const Operands&);
void grad_input(const ConvProblem&, const Operands&);
void grad_weight(const ConvProblem&, const Operands&);
void forward_split(const ConvProblem&, const Operands&);
void grad_input_split(const ConvProblem&, const Operands&);
void grad_weight_split(const ConvProblem&, const Operands&);
const char* forward_why_not_copied(const ConvProblem&, const Operands&);
const char* grad_input_why_not_copied(const ConvProblem&, const Operands&);
const char* grad_weight_why_not_copied(const ConvProblem&, const Operands&);
bool preferred_copied(const ConvProblem&, const Operands&);
bool preferred_copied_for_grad_input(const ConvProblem&, const Operands&);
void forward_copied(const ConvProblem&, const Operands&);
void forward_copied_in_blocks(const ConvProblem&, const Operands&, const ColumnBlocks&);
void grad_input_copied(const ConvProblem&, const Operands&);
void grad_weight_copied(const ConvProblem&, const Operands&);
const char* forward_why_not_terms(const ConvProblem&, const Operands&);
const char* grad_input_why_not_terms(const ConvProblem&, const Operands&);
const char* grad_weight_why_not_terms(const ConvProblem&, const Operands&);
bool preferred_terms(const ConvProblem&, const Operands&);
bool preferred_terms_for_grad_input(const ConvProblem&, const Operands&);
bool preferred_terms_for_grad_weight(const ConvProblem&, const Operands&);
void forward_terms(const ConvProblem&, const Operands&);
void grad_input_terms(const ConvProblem&, const Operands&);
void grad_weight_terms(const ConvProblem&, const Operands&);
void forward_wgmma(const ConvProblem&, const Operands&);
void grad_input_wgmma(const ConvProblem&, const Operands&);
void grad_weight_wgmma(const ConvProblem&, const Operands&);

// By the type that is multiplied; each in a file of its own.
void run_16(Primitive, const ConvProblem&, const Operands&);
void run_tf32(Primitive, const ConvProblem&, const Operands&);
void run_split(Primitive, const ConvProblem&, const Operands&);
void run_64(Primitive, const ConvProblem&, const Operands&);
void run_wgmma(Primitive, const ConvProblem&, const Operands&);
}  // namespace tensorcore

}  // namespace cuda
}  // namespace convx
