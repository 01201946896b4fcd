// What the copy engine can do of a problem, for the launches of tensorcore_copied.cu and tensorcore_terms.cu.
#pragma once
#include <algorithm>
#include <stdexcept>

#include "device.h"
#include "tensorcore_copied_weight.cuh"
#include "tensorcore_launch.cuh"

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

// A dimension's stride, or for a dimension that nobody walks along, one that the copy engine takes.
inline int64_t stride_of(int64_t size, int64_t stride) { return size > 1 ? stride : 8; }

inline void must(bool made) {
  if (!made) throw std::runtime_error("the driver refused a tensor map of one of convx's kernels");
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

// Into how many parts the pixels are split. Blocks take turns, and the last turn may leave some without work; if there
// is more than one part (or the kernel does not store results itself), their sums are written and read again. In
// microseconds, by the rates of an H200; `stage` is one's time.
inline int best_splits(double stage, bool stores_itself, int64_t tiles, int64_t stages, int64_t weights) {
  constexpr int64_t kFewest = 4, kMost = 64;              // stages of a split, splits
  constexpr double kTile = 2, kLaunch = 2, kBytes = 3e6;  // to begin and end a tile; the second kernel; memory
  const int64_t most = std::min({kMost, stages / kFewest, kMostPartialBytes / (weights * int64_t(sizeof(float)))});
  double least = 0;
  int best = 1;
  for (int64_t splits = 1; splits == 1 || splits <= most; ++splits) {
    const int64_t turns = ceil_div(tiles * splits, current_device().multiprocessors);
    const double partial = double(weights) * double(splits) * sizeof(float), result = double(weights) * 2;
    const double sums = splits == 1 && stores_itself ? 0 : kLaunch + (2 * partial + result) / kBytes;
    const double time = double(turns) * (stage * double(ceil_div(stages, splits)) + kTile) + sums;
    if (splits == 1 || time < least) least = time, best = int(splits);
  }
  return best;
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
