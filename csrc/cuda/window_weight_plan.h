// How window_weight.cuh cuts a problem into blocks and threads, and its launches. Host code.
#pragma once
#include <algorithm>

#include "types.h"
#include "window_plan.h"
#include "window_weight.cuh"

namespace convx {
namespace cuda {

struct WeightPlanner {
  WeightPlan plan{};
  SourceLayout x, y;
  int results_per_thread, window;
  size_t accumulator;  // bytes

  int window_step() const { return sliding(plan.rows).window_step; }
  int threads() const { return weight_threads(results_per_thread); }
  int all_strips() const { return window_step() * larger(1, divided_up(plan.rows.results, window * window_step())); }

  // Derives from the block's shares what follows; in doubles, if that could overflow.
  double shared_estimate() const {
    const double rows = double(plan.tile_rows - 1) * plan.rows.per_tap + kernel_span_h() + 1;
    const double columns = double(plan.tile_columns - 1) * plan.columns.per_tap +
                           double(plan.kernel_columns - 1) * plan.columns.per_result + 1;
    return double(accumulator) * (double(plan.groups) * plan.block_inputs * rows * columns +
                                  double(plan.groups) * y_channels() * plan.tile_rows * double(plan.tile_columns));
  }
  int y_channels() const { return plan.groups > 1 ? plan.outputs : plan.output_chunks * results_per_thread; }
  // From a block's first kernel row to its last, in positions of x.
  int kernel_span_h() const {
    const int rows = plan.strips == all_strips() ? plan.rows.results : smaller(plan.rows.results, plan.strips * window);
    return (rows - 1) * plan.rows.per_result;
  }

  void fill(const Device& device) {
    plan.x = staged_tile(
        x, plan.channels_fastest, plan.groups * plan.block_inputs, plan.groups > 1 ? plan.G * plan.inputs : plan.inputs,
        (plan.tile_rows - 1) * plan.rows.per_tap + kernel_span_h() + 1,
        (plan.tile_columns - 1) * plan.columns.per_tap + (plan.kernel_columns - 1) * plan.columns.per_result + 1);
    const int chunk = int(16 / accumulator);
    // A thread's kResults outputs lie side by side, and columns an odd number of 16 bytes apart: no bank conflicts.
    const bool channels_fastest = plan.channels_fastest || results_per_thread > 1;
    plan.y = staged_tile(y, plan.channels_fastest, plan.groups * y_channels(),
                         plan.groups > 1 ? plan.G * plan.outputs : plan.outputs, plan.tile_rows, plan.tile_columns);
    if (channels_fastest && !plan.channels_fastest) {
      plan.y.channel_pitch = 1, plan.y.column_pitch = (rounded_up(plan.y.channels, chunk) / chunk | 1) * chunk;
      plan.y.row_pitch = plan.y.columns * plan.y.column_pitch;
      plan.y.elements = plan.y.rows * plan.y.row_pitch;
    }
    plan.strip_blocks = divided_up(all_strips(), plan.strips);
    plan.kernel_column_blocks = divided_up(plan.columns.results, plan.kernel_columns);
    plan.input_blocks = divided_up(plan.inputs, plan.block_inputs);
    plan.output_blocks = divided_up(plan.outputs, plan.output_chunks * results_per_thread);
    plan.group_blocks = divided_up(plan.G, plan.groups);
    plan.row_tiles = divided_up(plan.rows.taps, plan.tile_rows);
    plan.column_tiles = divided_up(plan.columns.taps, plan.tile_columns);
    plan.slots = larger(1, smaller(plan.tile_columns, threads() / plan.owners()));
    plan.threads = rounded_up(plan.owners() * plan.slots, 32);
    const size_t sums = size_t(plan.owners()) * results_per_thread * window * (plan.slots + 1);
    const size_t tiles = size_t(rounded_up(plan.x.elements, chunk)) + size_t(plan.y.elements);
    plan.shared_bytes = accumulator * std::max(sums, tiles);
    plan.by_group = Divider(plan.groups), plan.by_slot = Divider(plan.slots);
    plan.by_kernel_column = Divider(plan.kernel_columns), plan.by_strip = Divider(plan.strips);
    plan.by_chunk = Divider(plan.output_chunks), plan.by_input = Divider(plan.block_inputs);

    const int64_t blocks = int64_t(plan.strip_blocks) * plan.kernel_column_blocks * plan.input_blocks *
                           plan.output_blocks * plan.group_blocks;
    const int64_t tile_count = int64_t(plan.N) * plan.row_tiles * plan.column_tiles;
    const double weights = double(plan.G) * plan.outputs * plan.inputs * plan.rows.results * plan.columns.results;
    const double bounded = double(kPartialBytes) / (weights * double(accumulator));
    int64_t splits = (4 * device.multiprocessors + blocks - 1) / blocks;
    splits = std::min({splits, tile_count, int64_t(std::min(bounded, 1e6))});
    plan.splits = int(std::max(splits, int64_t(1)));
    plan.items = blocks * plan.splits;
  }

  bool halve(int& v, int least = 1) const { return v > least ? (v = larger((v + 1) / 2, least), true) : false; }
  // Chunks of a window step go together.
  bool halve_strips() {
    if (plan.strips <= 1 || plan.strips % (2 * window_step())) return false;
    plan.strips /= 2;
    return true;
  }
  // Fewer owners, for a block has no more threads.
  bool fewer_owners() {
    const int least = plan.channels_fastest ? 8 : 1;
    return halve(plan.groups, least) || halve(plan.block_inputs, smaller(plan.block_inputs, 4)) ||
           halve(plan.output_chunks, smaller(plan.output_chunks, 2)) || halve(plan.kernel_columns) || halve_strips() ||
           halve(plan.block_inputs) || halve(plan.output_chunks);
  }
  bool less_shared() {
    const int least = plan.channels_fastest ? 8 : 1;
    return halve(plan.tile_rows, 8) || halve(plan.groups, least) || halve(plan.tile_columns, 8) ||
           halve(plan.block_inputs) || halve(plan.tile_rows) || halve(plan.tile_columns) || halve_strips() ||
           halve(plan.kernel_columns) || halve(plan.output_chunks);
  }

  bool choose(bool may_be_channels_fastest, const Device& device) {
    for (const bool channels_fastest : {true, false}) {
      if (channels_fastest && !may_be_channels_fastest) continue;
      for (const size_t shared : {kSharedForSeveralBlocks, device.shared_per_block}) {
        plan.channels_fastest = channels_fastest;
        const int most_columns = channels_fastest ? 16 : 64;
        plan.tile_columns = divided_up(plan.columns.taps, divided_up(plan.columns.taps, most_columns));
        plan.tile_rows = smaller(plan.rows.taps, channels_fastest ? 16 : 32);
        plan.block_inputs = plan.inputs;
        plan.output_chunks = divided_up(plan.outputs, results_per_thread);
        plan.kernel_columns = plan.columns.results, plan.strips = all_strips();
        plan.groups = 1;
        if (channels_fastest) {
          plan.groups = plan.G >= 32 ? 32 : rounded_up(plan.G, 8);
        } else if (results_per_thread == 1 || plan.outputs % results_per_thread == 0) {
          const double wanted = double(plan.owners()) * plan.tile_columns;
          plan.groups = larger(1, int(std::min(double(plan.G), threads() / wanted)));
        }
        bool found = true;
        while (found && (plan.owners() > threads() || plan.owners() <= 0)) found = fewer_owners();
        if (!found) continue;
        for (; found; found = less_shared()) {
          if (plan.groups > 1 &&
              (plan.block_inputs < plan.inputs || plan.output_chunks * results_per_thread < plan.outputs))
            plan.groups = 1;  // a group's channels lie side by side only if they are all there
          if (shared_estimate() > double(shared)) continue;
          fill(device);
          if (plan.shared_bytes <= shared)
            return x.has_small_offsets(plan.x.channels) && y.has_small_offsets(plan.y.channels);
        }
      }
    }
    return false;
  }
};

inline WeightPlan weight_plan(const ConvProblem& pb, const Operands& o, int results_per_thread, int window) {
  WeightPlanner planner;
  WeightPlan& plan = planner.plan;
  plan.items = 0;
  if (!fits_32_bits(pb.rows()) || !fits_32_bits(pb.columns()) || pb.C >= kLargestAxis || pb.K >= kLargestAxis ||
      pb.N >= kLargestAxis)
    return plan;
  plan.rows = grad_weight_axis(pb.rows()), plan.columns = grad_weight_axis(pb.columns());
  plan.N = int(pb.N), plan.G = int(pb.G);
  plan.inputs = int(pb.channels_per_group()), plan.outputs = int(pb.outputs_per_group());
  const size_t element = o.dtype == DType::float64 ? 8 : o.dtype == DType::float32 ? 4 : 2;
  planner.x = {reinterpret_cast<uint64_t>(o.x.data), element, pb.N, pb.C, pb.H, pb.W, o.x.strides};
  planner.y = {reinterpret_cast<uint64_t>(o.y.data), element, pb.N, pb.K, pb.P, pb.Q, o.y.strides};
  planner.results_per_thread = results_per_thread, planner.window = window;
  planner.accumulator = o.dtype == DType::float64 ? 8 : 4;
  const bool channels_fastest =
      results_per_thread == 1 && pb.G >= 8 && planner.x.channels_last() && planner.y.channels_last();
  if (!planner.choose(channels_fastest, current_device())) plan.items = 0;
  return plan;
}

inline const char* weight_why_not(const ConvProblem& pb, const Operands& o, int results_per_thread, int window) {
  if (const char* reason = floating_only(pb, o)) return reason;
  return weight_plan(pb, o, results_per_thread, window).items
             ? nullptr
             : "its smallest tile is beyond shared memory or 32-bit offsets";
}

template <int kResults, int kWindow>
void launch_weight(const ConvProblem& pb, const Operands& o) {
  const WeightPlan plan = weight_plan(pb, o, kResults, kWindow);
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    using Acc = typename Compute<T>::type;
    const int64_t Cg = pb.channels_per_group(), count = pb.K * Cg * pb.R * pb.S;
    Acc* const partial = static_cast<Acc*>(o.workspace->allocate(size_t(plan.splits) * size_t(count) * sizeof(Acc)));
    const WeightTensors<T> t = {static_cast<const T*>(o.x.data), static_cast<const T*>(o.y.data), o.x.strides,
                                o.y.strides, partial};
    launch("window_weight", window_weight<T, kResults, kWindow>,
           Grid{plan.items, dim3(unsigned(plan.threads)), plan.shared_bytes}, o.stream, plan, t);
    launch("sum_partial_weights", sum_partial_weights<T>, one_thread_each(count), o.stream,
           static_cast<const Acc*>(partial), plan.splits, static_cast<T*>(o.w.data), o.w.strides, pb.K, Cg, pb.R, pb.S);
  });
}

}  // namespace cuda
}  // namespace convx
