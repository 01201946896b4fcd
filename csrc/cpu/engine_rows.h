// The engine's entries for the algorithm list; see outer_product.h, pixels.h, depthwise.h and
// depthwise_channels.h for the methods.
#pragma once
#include "../problem.h"

namespace convx {
namespace cpu {

void forward_outer_product(const ConvProblem&, const Operands&);
void grad_input_outer_product(const ConvProblem&, const Operands&);
void grad_weight_outer_product(const ConvProblem&, const Operands&);
void forward_winograd(const ConvProblem&, const Operands&);
void grad_input_winograd(const ConvProblem&, const Operands&);
void grad_weight_winograd(const ConvProblem&, const Operands&);
void forward_amx(const ConvProblem&, const Operands&);
void grad_input_amx(const ConvProblem&, const Operands&);
void grad_weight_amx(const ConvProblem&, const Operands&);
void forward_panels(const ConvProblem&, const Operands&);
void grad_input_panels(const ConvProblem&, const Operands&);
void forward_pixels(const ConvProblem&, const Operands&);
void grad_input_pixels(const ConvProblem&, const Operands&);
void grad_weight_pixels(const ConvProblem&, const Operands&);
void forward_pixel_rows(const ConvProblem&, const Operands&);
void grad_input_pixel_rows(const ConvProblem&, const Operands&);
void forward_channels(const ConvProblem&, const Operands&);
void grad_input_channels(const ConvProblem&, const Operands&);
void grad_weight_channels(const ConvProblem&, const Operands&);
void forward_in_place(const ConvProblem&, const Operands&);
void grad_input_in_place(const ConvProblem&, const Operands&);
void grad_weight_in_place(const ConvProblem&, const Operands&);

const char* why_not_engine(const ConvProblem&, const Operands&);
const char* why_not_winograd_forward(const ConvProblem&, const Operands&);
const char* why_not_winograd_grad_input(const ConvProblem&, const Operands&);
const char* why_not_winograd_grad_weight(const ConvProblem&, const Operands&);
const char* why_not_amx_forward(const ConvProblem&, const Operands&);
const char* why_not_amx_grad_input(const ConvProblem&, const Operands&);
const char* why_not_amx_grad_weight(const ConvProblem&, const Operands&);
const char* why_not_channels(const ConvProblem&, const Operands&);
const char* why_not_channels_grad_input(const ConvProblem&, const Operands&);
const char* why_not_in_place_forward(const ConvProblem&, const Operands&);
const char* why_not_in_place_grad_input(const ConvProblem&, const Operands&);
const char* why_not_in_place_grad_weight(const ConvProblem&, const Operands&);
const char* why_not_pixel_rows_forward(const ConvProblem&, const Operands&);
const char* why_not_pixel_rows_grad_input(const ConvProblem&, const Operands&);

bool many_groups(const ConvProblem&, const Operands&);
bool better_in_place(const ConvProblem&, const Operands&);
bool better_in_place_grad_weight(const ConvProblem&, const Operands&);
bool suits_winograd_forward(const ConvProblem&, const Operands&);
bool suits_winograd_grad_input(const ConvProblem&, const Operands&);
bool suits_winograd_grad_weight(const ConvProblem&, const Operands&);
bool suits_amx_forward(const ConvProblem&, const Operands&);
bool suits_amx_grad_input(const ConvProblem&, const Operands&);
bool suits_amx_grad_weight(const ConvProblem&, const Operands&);
bool suits_pixels_forward(const ConvProblem&, const Operands&);
bool suits_pixels_grad_input(const ConvProblem&, const Operands&);
bool suits_pixel_rows_forward(const ConvProblem&, const Operands&);
bool suits_pixel_rows_grad_input(const ConvProblem&, const Operands&);
bool suits_panels_forward(const ConvProblem&, const Operands&);
bool suits_panels_grad_input(const ConvProblem&, const Operands&);
bool small_groups(const ConvProblem&, const Operands&);

}  // namespace cpu
}  // namespace convx
