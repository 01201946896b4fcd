// The weight gradient where a group has few channels: depthwise, small groups, first and last layers.
//
// w(k,c,r,s) is a sum over all pixels of the batch, and there are few w's: so the pixels are split over the blocks, and
// within a block over `slots`. It is the gather of window_gather.cuh with other roles: results are kernel rows, taps
// are the rows of y. A thread owns kResults output channels x kWindow kernel rows of one kernel column and input
// channel. For each column of y that is its slot's, it slides down the rows: one new x and kResults y's from shared
// memory for kResults * kWindow multiply-adds. A tile of x and of y are in shared memory; each is read once from global
// memory.
//
// Two passes, in fixed order, without atomics. A block goes through its tiles, one after another, and keeps a sum for
// each tile apart from the total, so that sums of many terms lose little; then adds up its slots, and writes one
// partial sum for each w into the workspace. The second kernel adds the partial sums of all blocks. The number of
// blocks follows the multiprocessors, and the workspace is bounded (kPartialBytes).
//
// Skipped taps: padding is zeros in x's tile, and zero times a finite y is zero. A tile of y with an infinity or NaN
// takes the masked loop.
//
// Limit, depthwise: bytes, 2 * sizeof(T) an element of the input, as for forward: 0.53 cycles of an H100's
// multiprocessor in float32 (0.38 of an H200's). The loop needs 2 * S shared loads and S * kWindow multiply-adds for a
// pixel: at 3x3 0.19 and 0.09 cycles, at 7x7 0.44 and 0.44: 60-80 % of a copy. Few channels: kResults = 4 with a window
// of 4, 16 multiply-adds for 2 loads, 50-60 % of the FMA rate. All of this is estimated, not measured.
//
// Machine code of window_weight<.*>: LDG.128
#pragma once
#include "window.cuh"

namespace convx {
namespace cuda {

// Threads of a block, and how many blocks a multiprocessor has registers for: 128 of them a thread, 168, or 255.
constexpr int weight_threads(int results) { return results == 1 ? 256 : 128; }
template <class T>
constexpr int weight_blocks(int results) {
  return (results == 1 ? 2 : 3) - int(sizeof(T) == 8);
}
constexpr size_t kPartialBytes = size_t(64) << 20;  // for all partial sums, if there are several

// How the work is cut; made by window_weight_plan.h.
struct WeightPlan {
  GatherAxis rows, columns;   // results: kernel, taps: y, source: x
  int N, G, inputs, outputs;  // channels of a group
  bool channels_fastest;
  int groups, block_inputs, output_chunks;  // of a block; chunks of kResults outputs
  int kernel_columns, strips, slots;        // of a block: S, windows of kernel rows, shares of a tile's columns
  int strip_blocks, kernel_column_blocks, input_blocks, output_blocks, group_blocks;
  int tile_rows, tile_columns;  // of y
  int row_tiles, column_tiles, splits;
  int threads;
  StagedTile x, y;
  Divider by_group, by_slot, by_kernel_column, by_strip, by_chunk, by_input;
  size_t shared_bytes;
  int64_t items;

  CONVX_HD int owners() const { return groups * block_inputs * output_chunks * kernel_columns * strips; }
};

template <class T>
struct WeightTensors {
  const T *x, *y;
  Strides x_strides, y_strides;
  typename Compute<T>::type* partial;  // splits x K x C/G x R x S
};

// What a thread owns, within its block.
struct WeightOwner {
  int group, slot, kernel_column, strip, chunk, input;
  CONVX_HD int number(const WeightPlan& p) const {  // the same for all slots
    return (((input * p.output_chunks + chunk) * p.strips + strip) * p.kernel_columns + kernel_column) * p.groups +
           group;
  }
};
CONVX_HD inline WeightOwner weight_owner(const WeightPlan& plan, int thread) {
  WeightOwner o;
  o.group = 0;
  if (plan.channels_fastest) o.group = plan.by_group.split(thread);
  o.slot = plan.by_slot.split(thread), o.kernel_column = plan.by_kernel_column.split(thread);
  o.strip = plan.by_strip.split(thread), o.chunk = plan.by_chunk.split(thread);
  o.input = plan.by_input.split(thread);
  if (!plan.channels_fastest) o.group = thread;
  return o;
}

// The first results and channels of a block.
struct WeightBlock {
  int split, strip, kernel_column, input, output, group;
};
CONVX_HD inline WeightBlock weight_block(const WeightPlan& plan, int64_t item, int results) {
  WeightBlock b;
  b.split = int(item % plan.splits), item /= plan.splits;
  b.strip = int(item % plan.strip_blocks) * plan.strips, item /= plan.strip_blocks;
  b.kernel_column = int(item % plan.kernel_column_blocks) * plan.kernel_columns, item /= plan.kernel_column_blocks;
  b.input = int(item % plan.input_blocks) * plan.block_inputs, item /= plan.input_blocks;
  b.output = int(item % plan.output_blocks) * plan.output_chunks * results, item /= plan.output_blocks;
  b.group = int(item) * plan.groups;
  return b;
}

// The sums of one thread over its columns of one tile, of which `rows` x `columns` elements of y exist.
template <bool kMasked, int kResults, int kWindow, class Acc>
__device__ void weight_window(Acc (&totals)[kResults][kWindow], const WeightPlan& plan, const Acc* x, const Acc* y,
                              int slot, int rows, int columns, int virtual_row, int virtual_column, int x_row) {
  const Sliding along = sliding(plan.rows);
  const int residues = smaller(along.tap_residues, rows);
  for (int e = 0; e < residues; ++e) {
    const int row = x_row + e * plan.rows.per_tap, v = virtual_row + row;
    int first = 0, last = row < plan.x.rows ? quotient(plan.x.rows - 1 - row, along.slide) : -1;
    if (kMasked && plan.rows.mode == PaddingMode::zeros) {
      if (v < 0) first = divided_up(-v, along.slide);
      const int inside = plan.rows.source - 1 - v;
      last = inside < 0 ? -1 : smaller(last, inside / along.slide);
    }
    const int taps = quotient(rows - e + along.tap_residues - 1, along.tap_residues);
    for (int q = slot; q < columns; q += plan.slots) {
      const int column = q * plan.columns.per_tap;
      if (plan.columns.skips(virtual_column + column)) continue;
      Acc sums[kResults][kWindow] = {};  // long sums lose less in pieces
      slide<kMasked>(sums, x + row * plan.x.row_pitch + column * plan.x.column_pitch, along.slide * plan.x.row_pitch,
                     first, last, y + e * plan.y.row_pitch + q * plan.y.column_pitch,
                     along.tap_residues * plan.y.row_pitch, taps);
      add_to(totals, sums);
    }
  }
}

template <class T, int kResults, int kWindow>
__global__ void __launch_bounds__(weight_threads(kResults), weight_blocks<T>(kResults))
    window_weight(WeightPlan plan, WeightTensors<T> t) {
  using Acc = typename Compute<T>::type;
  Acc* const staged_x = shared_memory<Acc>();
  Acc* const staged_y = staged_x + rounded_up(plan.x.elements, Chunk<Acc>::count);
  const GatherAxis y_rows = {0, 0, 0, 0, 0, 0, 0, 0, 0, plan.rows.taps, PaddingMode::zeros};
  const GatherAxis y_columns = {0, 0, 0, 0, 0, 0, 0, 0, 0, plan.columns.taps, PaddingMode::zeros};
  const int window_step = sliding(plan.rows).window_step;
  const WeightOwner owner = weight_owner(plan, int(threadIdx.x));
  const bool owns = int(threadIdx.x) < plan.owners() * plan.slots;
  const int64_t tiles = int64_t(plan.N) * plan.row_tiles * plan.column_tiles;
  const int64_t weights = int64_t(plan.G) * plan.outputs * plan.inputs * plan.rows.results * plan.columns.results;

  for (int64_t item = blockIdx.x; item < plan.items; item += gridDim.x) {
    const WeightBlock block = weight_block(plan, item, kResults);
    const int first_row = strip_row(block.strip, window_step, kWindow);
    Acc totals[kResults][kWindow] = {};
    for (int64_t tile = block.split; tile < tiles; tile += plan.splits) {
      const int q0 = int(tile % plan.column_tiles) * plan.tile_columns;
      const int p0 = int(tile / plan.column_tiles % plan.row_tiles) * plan.tile_rows;
      const int64_t n = tile / plan.column_tiles / plan.row_tiles;
      const int virtual_row = plan.rows.position(first_row, p0);
      const int virtual_column = plan.columns.position(block.kernel_column, q0);
      const int staged_column = plan.x.first_column<T>(virtual_column);
      const int64_t c = int64_t(block.group) * plan.inputs + block.input;
      const int64_t k = int64_t(block.group) * plan.outputs + block.output;
      const bool several = plan.groups > 1;
      stage(staged_x, plan.x,
            SourcePlane<T>{t.x + n * t.x_strides.n + c * t.x_strides.c,
                           several ? (plan.G - block.group) * plan.inputs : plan.inputs - block.input,
                           int(t.x_strides.c), int(t.x_strides.h), int(t.x_strides.w)},
            plan.rows, plan.columns, virtual_row, staged_column);
      const bool special =
          stage<T, true>(staged_y, plan.y,
                         SourcePlane<T>{t.y + n * t.y_strides.n + k * t.y_strides.c,
                                        several ? (plan.G - block.group) * plan.outputs : plan.outputs - block.output,
                                        int(t.y_strides.c), int(t.y_strides.h), int(t.y_strides.w)},
                         y_rows, y_columns, p0, plan.y.first_column<T>(q0));
      const bool masked = __syncthreads_or(special);  // before what one thread has staged is read by another

      if (owns) {
        const int x_row =
            (strip_row(block.strip + owner.strip, window_step, kWindow) - first_row) * plan.rows.per_result;
        const int x_column = owner.kernel_column * plan.columns.per_result;
        const Acc* const x = staged_x + (owner.group * plan.inputs + owner.input) * plan.x.channel_pitch +
                             (virtual_column - staged_column + x_column) * plan.x.column_pitch;
        const Acc* const y = staged_y + (owner.group * plan.outputs + owner.chunk * kResults) * plan.y.channel_pitch +
                             (q0 - plan.y.first_column<T>(q0)) * plan.y.column_pitch;
        const int rows = smaller(plan.tile_rows, plan.rows.taps - p0);
        const int columns = smaller(plan.tile_columns, plan.columns.taps - q0);
        if (masked)
          weight_window<true>(totals, plan, x, y, owner.slot, rows, columns, virtual_row, virtual_column + x_column,
                              x_row);
        else
          weight_window<false>(totals, plan, x, y, owner.slot, rows, columns, virtual_row, virtual_column + x_column,
                               x_row);
      }
      __syncthreads();  // before the next tile, or the sums, overwrite this one
    }

    // The slots' totals, side by side; one more apart than there are, so that no two threads meet in a bank.
    Acc* const sums = staged_x;
    if (owns) {
#pragma unroll
      for (int k = 0; k < kResults; ++k)
#pragma unroll
        for (int m = 0; m < kWindow; ++m)
          sums[((k * kWindow + m) * plan.owners() + owner.number(plan)) * (plan.slots + 1) + owner.slot] = totals[k][m];
    }
    __syncthreads();  // before the slots are added up
    const int count = plan.owners() * kResults * kWindow;
    for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) {
      int rest = i / plan.owners();
      const int m = rest % kWindow, k = block.output + rest / kWindow;
      rest = i % plan.owners();
      const int group = block.group + rest % plan.groups;
      rest /= plan.groups;
      const int s = block.kernel_column + rest % plan.kernel_columns;
      rest /= plan.kernel_columns;
      const int r = strip_row(block.strip + rest % plan.strips, window_step, kWindow) + m * window_step;
      rest /= plan.strips;
      const int output = k + rest % plan.output_chunks * kResults, input = block.input + rest / plan.output_chunks;
      if (group >= plan.G || s >= plan.columns.results || r >= plan.rows.results || output >= plan.outputs ||
          input >= plan.inputs)
        continue;
      Acc sum(0);
      for (int slot = 0; slot < plan.slots; ++slot) sum += sums[i * (plan.slots + 1) + slot];
      const int64_t at = ((int64_t(group) * plan.outputs + output) * plan.inputs + input) * plan.rows.results + r;
      t.partial[block.split * weights + at * plan.columns.results + s] = sum;
    }
    __syncthreads();  // before the next item's tile overwrites the sums
  }
}

// The second pass: one thread to a weight.
template <class T>
__global__ void sum_partial_weights(const typename Compute<T>::type* partial, int splits, T* w, Strides strides,
                                    int64_t K, int64_t Cg, int64_t R, int64_t S) {
  const int64_t count = K * Cg * R * S;
  for (int64_t i = first_item(); i < count; i += items_step()) {
    double sum = 0;
    for (int split = 0; split < splits; ++split) sum += double(partial[split * count + i]);
    w[strides(i / S / R / Cg, i / S / R % Cg, i / S % R, i % S)] = T(typename Compute<T>::type(sum));
  }
}

}  // namespace cuda
}  // namespace convx
