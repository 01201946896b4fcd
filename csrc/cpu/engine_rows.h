// The engine's entries for the algorithm list: how its kernels are run (engine.cpp), what they can't do
// (engine_limits.cpp), and when each is the right one (engine_choice.cpp, engine_choice_winograd.cpp).
#pragma once
#include "../problem.h"
#include "engine.h"
#include "pixel_shares.h"
#include "reference.h"

namespace convx {
namespace cpu {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A kernel of the current instruction set; and the reference, where an infinity or NaN must not meet a padding zero.
template <Engine::Primitives Engine::* kernels>
void forward_by(const ConvProblem& pb, const Operands& o) {
  if (!(current_engine().*kernels).forward(pb, o)) forward_reference(pb, o);
}
template <Engine::Primitives Engine::* kernels>
void grad_input_by(const ConvProblem& pb, const Operands& o) {
  if (!(current_engine().*kernels).grad_input(pb, o)) grad_input_reference(pb, o);
}
template <Engine::Primitives Engine::* kernels>
void grad_weight_by(const ConvProblem& pb, const Operands& o) {
  if (!(current_engine().*kernels).grad_weight(pb, o)) grad_weight_reference(pb, o);
}
// For kernels that divide a group's results among threads.
template <Engine::Primitives Engine::* kernels>
void grad_weight_by_shares(const ConvProblem& pb, const Operands& o) {
  if (!grad_weight_in_shares((current_engine().*kernels).grad_weight, pb, o)) grad_weight_reference(pb, o);
}

void forward_amx(const ConvProblem&, const Operands&);
void grad_input_amx(const ConvProblem&, const Operands&);
void grad_weight_amx(const ConvProblem&, const Operands&);
void forward_pairs(const ConvProblem&, const Operands&);
void grad_input_pairs(const ConvProblem&, const Operands&);
void grad_weight_pairs(const ConvProblem&, const Operands&);

const char* why_not_engine(const ConvProblem&, const Operands&);
bool is_line(const ConvProblem&);  // a filter of one row or column, 3 taps or more
const char* why_not_winograd_forward(const ConvProblem&, const Operands&);
const char* why_not_winograd_grad_input(const ConvProblem&, const Operands&);
const char* why_not_winograd_grad_weight(const ConvProblem&, const Operands&);
const char* why_not_amx_forward(const ConvProblem&, const Operands&);
const char* why_not_amx_grad_input(const ConvProblem&, const Operands&);
const char* why_not_amx_grad_weight(const ConvProblem&, const Operands&);
const char* why_not_pairs_forward(const ConvProblem&, const Operands&);
const char* why_not_pairs_grad_input(const ConvProblem&, const Operands&);
const char* why_not_pairs_grad_weight(const ConvProblem&, const Operands&);
const char* why_not_channels(const ConvProblem&, const Operands&);
const char* why_not_channels_grad_input(const ConvProblem&, const Operands&);
const char* why_not_in_place_forward(const ConvProblem&, const Operands&);
const char* why_not_in_place_grad_input(const ConvProblem&, const Operands&);
const char* why_not_in_place_grad_weight(const ConvProblem&, const Operands&);
const char* why_not_pixel_rows_forward(const ConvProblem&, const Operands&);
const char* why_not_pixel_rows_grad_input(const ConvProblem&, const Operands&);

bool many_groups(const ConvProblem&, const Operands&);
bool better_in_place_forward(const ConvProblem&, const Operands&);
bool better_in_place_grad_input(const ConvProblem&, const Operands&);
bool better_in_place_grad_weight(const ConvProblem&, const Operands&);
bool fills_amx_with_taps(const ConvProblem&);
bool many_weights(const ConvProblem&);  // more than a cache holds
bool phases_suit_pixels(const ConvProblem&, const Operands&);
bool suits_winograd_forward(const ConvProblem&, const Operands&);
bool suits_winograd_grad_input(const ConvProblem&, const Operands&);
bool suits_winograd_grad_weight(const ConvProblem&, const Operands&);
bool suits_amx_forward(const ConvProblem&, const Operands&);
bool suits_amx_grad_input(const ConvProblem&, const Operands&);
bool suits_amx_grad_weight(const ConvProblem&, const Operands&);
bool suits_pairs_forward(const ConvProblem&, const Operands&);
bool suits_pairs_grad_input(const ConvProblem&, const Operands&);
bool suits_pairs_grad_weight(const ConvProblem&, const Operands&);
bool suits_pixels_forward(const ConvProblem&, const Operands&);
bool suits_pixels_grad_input(const ConvProblem&, const Operands&);
bool suits_pixel_rows_forward(const ConvProblem&, const Operands&);
bool suits_pixel_rows_grad_input(const ConvProblem&, const Operands&);
bool suits_panels_forward(const ConvProblem&, const Operands&);
bool suits_panels_grad_input(const ConvProblem&, const Operands&);
bool small_groups(const ConvProblem&, const Operands&);

}  // namespace cpu
}  // namespace convx
