// How window_gather.cuh cuts a problem into blocks and threads: the tensors' roles, and tiles that fit into shared
// memory. Host code; nothing is measured here, and nothing in it changes the order of any sum with the batch: the
// number of source channels that are staged at a time is settled before the batch is looked at.
#pragma once
#include <cmath>

#include "device.h"
#include "window_gather.cuh"

namespace convx {
namespace cuda {

constexpr size_t kSharedForSeveralBlocks = 44 * 1024;  // so that five blocks share a multiprocessor
constexpr int64_t kLargestAxis = int64_t(1) << 30;

// The strides and alignment that decide how a source is loaded.
struct SourceLayout {
  uint64_t address;
  size_t element;
  int64_t N, channels, H, W;
  Strides strides;

  int vector() const { return int(16 / element); }
  bool aligned(int64_t stride, int64_t size) const { return size <= 1 || stride % vector() == 0; }
  bool along_columns() const {
    return strides.w == 1 && address % 16 == 0 && aligned(strides.h, H) && aligned(strides.c, channels) &&
           aligned(strides.n, N);
  }
  // Whether offsets within `some` channels of an image fit 32 bits.
  bool has_small_offsets(int some) const {
    const auto reach = [](int64_t size, int64_t stride) { return double(size) * std::abs(double(stride)); };
    return reach(some, strides.c) + reach(H, strides.h) + reach(W, strides.w) < 2147483647.0;
  }
  bool channels_last() const { return strides.c == 1 && channels > 1 && (strides.w != 1 || W == 1); }
  bool along_channels() const {
    return channels_last() && address % 16 == 0 && aligned(strides.w, W) && aligned(strides.h, H) &&
           aligned(strides.n, N);
  }
};

inline bool fits_32_bits(const Axis& a) {
  return a.in < kLargestAxis && a.out < kLargestAxis && a.kernel < kLargestAxis && a.stride < kLargestAxis &&
         a.pad < kLargestAxis && a.dilation < kLargestAxis &&
         double(a.out) * double(a.stride) + double(a.kernel) * double(a.dilation) + double(a.pad) <
             double(kLargestAxis);
}

// Lays the tile out in shared memory and decides how it is loaded. `block_channels`: what all blocks' first channels
// are multiples of; `all_channels`: what there are, of which the last block may have fewer.
inline StagedTile staged_tile(const SourceLayout& source, bool channels_fastest, int channels, int all_channels,
                              int rows, int columns) {
  StagedTile tile{};
  const int V = source.vector();
  tile.channels = channels, tile.rows = larger(rows, 1), tile.columns = larger(columns, 1);
  if (source.along_channels() && channels % V == 0 && all_channels % V == 0)
    tile.loads = Loads::along_channels;
  else if (!channels_fastest && source.along_columns())
    tile.loads = Loads::along_columns, tile.columns = rounded_up(tile.columns + V - 1, V);
  else
    tile.loads = channels_fastest || source.channels_last() ? Loads::single_channels : Loads::single_columns;
  if (channels_fastest)
    tile.channel_pitch = 1, tile.column_pitch = channels, tile.row_pitch = tile.columns * channels;
  else
    tile.column_pitch = 1, tile.row_pitch = tile.columns, tile.channel_pitch = tile.rows * tile.columns;
  tile.elements = tile.count();
  const bool along_channels = tile.loads == Loads::along_channels || tile.loads == Loads::single_channels;
  const bool chunks = tile.loads == Loads::along_channels || tile.loads == Loads::along_columns;
  const int fastest = along_channels ? tile.channels : tile.columns;
  tile.fastest = Divider(larger(fastest / (chunks ? V : 1), 1));
  tile.middle = Divider(along_channels ? tile.columns : tile.rows);
  return tile;
}

// The axis of the phase that has the most of everything.
inline GatherAxis largest_phase(const Axis& axis, bool transposed) {
  GatherAxis most = gather_axis(axis, transposed, 0);
  const int64_t phases = transposed ? axis.stride : 1;
  for (int f = 1; f < phases && f < axis.in; ++f) {
    const GatherAxis a = gather_axis(axis, transposed, f);
    most.results = larger(most.results, a.results), most.taps = larger(most.taps, a.taps);
  }
  return most;
}

// From one end of what a tile's results read to the other.
inline int span(const GatherAxis& a, int results) {
  return a.taps ? (results - 1) * a.per_result + (a.taps - 1) * a.per_tap + 1 : 1;
}

// The share of a block while it is being looked for.
struct BlockShape {
  bool channels_fastest;
  int groups, chunk, result_chunks, strip_groups, columns;

  int items(int window_step) const { return groups * result_chunks * strip_groups * window_step * columns; }
};

struct GatherPlanner {
  GatherPlan plan{};
  GatherAxis rows, columns;
  SourceLayout source;
  int results_per_thread, window;
  size_t accumulator;  // bytes

  int window_step() const { return sliding(rows).window_step; }
  int threads() const { return gather_threads(results_per_thread); }

  void fill(const BlockShape& b) {
    const int step = window_step();
    plan.channels_fastest = b.channels_fastest;
    plan.groups = b.groups, plan.chunk = larger(b.chunk, 1), plan.result_chunks = b.result_chunks;
    plan.strips = b.strip_groups * step;
    plan.tile_rows = plan.strips * window, plan.tile_columns = b.columns;
    plan.tap_capacity = rows.taps * columns.taps;
    plan.staged = staged_tile(source, b.channels_fastest, b.groups * plan.chunk,
                              b.groups > 1 ? plan.G * plan.sources : plan.sources,
                              span(rows, smaller(plan.tile_rows, rows.results)), span(columns, b.columns));
    const int chunk = int(16 / accumulator);
    plan.shared_bytes =
        kGatherBlockBytes +
        accumulator * (rounded_up(plan.staged.elements, chunk) +
                       size_t(rounded_up(
                           b.groups * b.result_chunks * results_per_thread * plan.chunk * plan.tap_capacity, chunk)));
    plan.threads = smaller(threads(), rounded_up(b.items(step), 32));
    plan.item_groups = Divider(b.groups), plan.item_columns = Divider(b.columns);
    plan.item_strips = Divider(plan.strips), plan.item_chunks = Divider(b.result_chunks);
    const int result_blocks = divided_up(plan.results, b.result_chunks * results_per_thread);
    const int group_blocks = divided_up(plan.G, b.groups);
    const int row_tiles = divided_up(rows.results, plan.tile_rows);
    const int column_tiles = divided_up(columns.results, plan.tile_columns);
    plan.phase_w = Divider(plan.stride_w), plan.phase_h = Divider(plan.stride_h);
    plan.column_tiles = Divider(column_tiles), plan.row_tiles = Divider(row_tiles);
    plan.result_blocks = Divider(result_blocks), plan.group_blocks = Divider(group_blocks);
    const double items =
        double(source.N) * group_blocks * result_blocks * row_tiles * column_tiles * plan.stride_h * plan.stride_w;
    plan.items = items < double(int64_t(1) << 31) ? int64_t(items) : int64_t(1) << 40;
  }

  bool too_large(const BlockShape& b, size_t shared) const {
    // A float for each byte would be beyond any shared memory; it keeps the sizes above from overflowing.
    const double elements =
        double(b.groups) * larger(b.chunk, 1) *
            span(rows, smaller(b.strip_groups * window_step() * window, rows.results)) *
            double(span(columns, b.columns)) +
        double(b.groups) * b.result_chunks * results_per_thread * larger(b.chunk, 1) * rows.taps * double(columns.taps);
    if (elements * double(accumulator) > double(shared)) return true;
    GatherPlanner trial = *this;
    trial.fill(b);
    return trial.plan.shared_bytes > shared || (b.chunk < plan.sources && b.items(window_step()) > threads());
  }

  // Halves what hurts least; false if nothing is left to halve.
  bool shrink(BlockShape& b) const {
    const auto halve = [](int& v, int least = 1) { return v > least ? (v = larger((v + 1) / 2, least), true) : false; };
    if (b.channels_fastest)
      return halve(b.groups, 16) || halve(b.strip_groups) || halve(b.columns, 4) || halve(b.groups, 8);
    if (halve(b.groups)) return true;
    if (b.items(window_step()) <= threads() && halve(b.chunk)) return true;
    return halve(b.strip_groups) || halve(b.result_chunks) || halve(b.columns);
  }

  BlockShape first_shape(bool channels_fastest) const {
    BlockShape b{};
    const int step = window_step(), most_columns = channels_fastest ? 16 : results_per_thread == 1 ? 64 : 32;
    const int strip_groups = larger(1, divided_up(rows.results, window * step));
    b.channels_fastest = channels_fastest;
    b.chunk = plan.sources;
    b.columns = larger(1, divided_up(columns.results, divided_up(larger(columns.results, 1), most_columns)));
    b.result_chunks = smaller(divided_up(plan.results, results_per_thread), 8);
    if (channels_fastest) {
      b.groups = plan.G >= 32 ? 32 : rounded_up(plan.G, 8);
      b.strip_groups = smaller(strip_groups, larger(1, 2 / step));
      return b;
    }
    // A thread of a depthwise problem takes four parts: larger tiles have less halo.
    const int wanted = results_per_thread == 1 ? 512 : threads();
    b.strip_groups = smaller(strip_groups, larger(1, wanted / (b.columns * step * b.result_chunks)));
    b.strip_groups = divided_up(strip_groups, divided_up(strip_groups, b.strip_groups));  // tiles of like height
    b.groups = 1;
    b.groups = larger(1, smaller(plan.G, threads() / b.items(step)));
    return b;
  }

  // Whether a shape was found; `plan` is it.
  bool choose(bool may_be_channels_fastest, const Device& device) {
    for (const bool channels_fastest : {true, false}) {
      if (channels_fastest && !may_be_channels_fastest) continue;
      for (const size_t shared : {kSharedForSeveralBlocks, device.shared_per_block}) {
        BlockShape b = first_shape(channels_fastest);
        while (too_large(b, shared))
          if (!shrink(b)) break;
        if (too_large(b, shared)) continue;
        fill(b);
        // Too few blocks for the machine: smaller ones, with the same chunk of source channels.
        while (plan.items < 2 * device.multiprocessors) {
          BlockShape less = b;
          if (less.strip_groups > 1)
            less.strip_groups = (less.strip_groups + 1) / 2;
          else if (less.groups > (channels_fastest ? 8 : 1))
            less.groups = (less.groups + 1) / 2;
          else
            break;
          if (channels_fastest) less.groups = larger(less.groups, 8);
          if (too_large(less, shared)) break;
          fill(b = less);
        }
        return plan.items < (int64_t(1) << 31) && source.has_small_offsets(plan.staged.channels);
      }
    }
    return false;
  }
};

}  // namespace cuda
}  // namespace convx
