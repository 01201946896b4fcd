// Which problems the copy engine can do, for tensorcore_copied.cu and tensorcore_terms.cu: those whose image and weight
// it finds its way in.
#pragma once
#include <algorithm>

#include "tensorcore_copied_weight.cuh"
#include "types.h"

namespace convx {
namespace cuda {
namespace tensorcore {

inline AxisPlan plan_of(const Axis& axis, bool is_grad_input, int phase) {
  return is_grad_input ? grad_input_plan(axis, phase) : forward_plan(axis);
}

inline int64_t phases_of(const Axis& axis, bool is_grad_input) {
  return is_grad_input ? std::min(axis.stride, axis.in) : int64_t(1);
}

// Whether the fields of an im2col map and of its copies hold every phase of an axis: see im2col_map().
inline bool can_be_copied(const Axis& axis, bool is_grad_input) {
  const auto is_small = [](int64_t value, int64_t least, int64_t most) { return value >= least && value <= most; };
  for (int phase = 0; phase < phases_of(axis, is_grad_input); ++phase) {
    const AxisPlan plan = plan_of(axis, is_grad_input, phase);
    if (plan.taps <= 0) continue;
    const CopiedAxis copied = CopiedAxis::of(plan);
    const int64_t past = copied.pixels.first + int64_t(plan.count - 1) * plan.stride + 1 - plan.in;
    if (!is_small(copied.pixels.first, -128, 127) || !is_small(past, -128, 127) || plan.stride > 8 ||
        copied.offset(0) > 255 || copied.offset(plan.taps - 1) > 255)
      return false;
  }
  return true;
}

// Why the copy engine can't do forward or grad_input, or null.
inline const char* why_not_copies(const ConvProblem& pb, bool is_grad_input) {
  if (!pb.is_zero_padded()) return "the copy engine pads with zeros";
  if (is_empty(pb)) return "a tensor is empty";
  if (phases_of(pb.rows(), is_grad_input) * phases_of(pb.columns(), is_grad_input) > kMostPhases)
    return "the stride makes more than 16 phases";
  if (!can_be_copied(pb.rows(), is_grad_input) || !can_be_copied(pb.columns(), is_grad_input))
    return "stride, padding or dilation is larger than the copy engine's fields";
  return nullptr;
}

constexpr int kFewTaps = 9, kManyTaps = 49;

// Whether the maps of every tap can be made, as can_be_copied().
inline bool taps_can_be_copied(const Axis& axis) {
  for (int r = 0; r < axis.kernel; ++r) {
    const TapRun run = TapRun::of(axis, r);
    if (run.count == 0) continue;
    const int64_t y_past = run.first + run.count - axis.out;
    const int64_t x_past = run.offset + int64_t(run.count - 1) * run.stride + 1 - axis.in;
    if (run.first > 127 || y_past < -128 || run.offset > 127 || x_past < -128 || run.stride > 8) return false;
  }
  return true;
}

// Why the copy engine can't do grad_weight, or null.
inline const char* why_not_weight_copies(const ConvProblem& pb) {
  if (!pb.is_zero_padded()) return "the copy engine pads with zeros";
  if (is_empty(pb)) return "a tensor is empty";
  if (pb.R * pb.S > kManyTaps) return "it has maps for 49 taps";
  if (!taps_can_be_copied(pb.rows()) || !taps_can_be_copied(pb.columns()))
    return "stride, padding or dilation is larger than the copy engine's fields";
  return nullptr;
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
