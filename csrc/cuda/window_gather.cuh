// forward and grad_input where a group has few channels: depthwise, small groups, first and last layers. Matrix tiles
// of 64 x 64 channels would be mostly padding there; here nothing is padded but the last window of a column of results.
//
// A block owns a tile of results: some groups, some of a group's result channels, `window rows` x columns of the plane.
// It brings the tile of the source that they read into shared memory (window.cuh: stage), halo and all, and the
// weights. A thread owns kResults result channels x kWindow results above one another (apart, if dilated: see Sliding),
// and slides along the source for every tap column and source channel. Neighbouring threads are neighbouring columns,
// or, in a channels_last depthwise problem, neighbouring channels: so all reading and writing is coalesced.
//
// A stride in grad_input makes phases (gather_axis.h), each a small convolution with the taps that reach it: a grid
// axis of this one launch, the fastest, so that the phases' results meet in the cache before they go to memory.
//
// Where kernel = stride, all phases read the same y, one tap each: one product, x(c,r,s; p,q) = sum of w * y, whose
// (c,r,s) are `results` here and scattered on storing. y is read once then (`patches`).
//
// Skipped taps: padding is zeros in shared memory, and zero times a finite weight is the zero that it should be. If a
// block sees an infinity or NaN among its weights, it takes the masked loop, which leaves rows in the padding out;
// columns in the padding are always left out.
//
// Limit, depthwise: bytes. An element of the result costs 2 * sizeof(T) bytes of memory traffic and the halo once more
// from L2; H100 moves 15 bytes a cycle and multiprocessor (H200 21), so 8 bytes take 0.53 (0.38) cycles, in which it
// could do 68 (49) float32 multiply-adds. kWindow = 8 needs, for an RxS kernel, S * (7 + R) / 8 loads and S * R
// multiply-adds: at 3x3 0.12 and 0.07 cycles (bound by memory, near 80-90 % of a copy), at 7x7 0.38 and 0.38 of 0.53
// (70-80 %); in 16 bits, which are half the bytes, 7x7 is bound by multiply-adds instead (0.38 of 0.26 cycles); 31x31
// by them alone (7.5 cycles), 8 of 12 instructions, so at 60-65 % of the FMA rate. Few channels: kResults * kWindow =
// 16 multiply-adds for 2 shared loads and 4 other instructions, so about 60-70 % of the FMA rate (67 TFLOP/s on an H100
// or H200). All of this is estimated, not measured.
//
// Machine code of window_gather<.*>: LDG.128
#pragma once
#include "window.cuh"

namespace convx {
namespace cuda {

// Threads of a block, and how many blocks a multiprocessor has registers for: 96 of them a thread, 128, or 168 and 255
// in float64.
constexpr int gather_threads(int results) { return results == 1 ? 128 : 256; }
template <class T>
constexpr int gather_blocks(int results) {
  return sizeof(T) == 8 ? (results == 1 ? 3 : 1) : (results == 1 ? 5 : 2);
}

// The tensors in the roles of a gather. Per group: `sources` channels are read, `results` are written.
template <class T>
struct GatherTensors {
  const T* source;
  T* result;  // or Compute<T>::type, if wide_result
  const T* weight;
  const T* bias;
  Strides source_strides, result_strides;
  int64_t bias_stride;
  int64_t weight_group, weight_result, weight_source, weight_r, weight_s;
  bool wide_result;
};

// How the work is cut; made by window_plan.h. A block's share of each dimension, and how many shares there are.
struct GatherPlan {
  Axis rows, columns;
  bool transposed;
  int stride_h, stride_w;  // phases: 1 x 1 unless transposed
  int G, sources, results;
  bool patches;  // `results` are (c, r, s) of a kernel = stride problem
  Divider patch_rows, patch_columns;

  bool channels_fastest;                // threads and shared memory: neighbours are channels (else columns)
  int groups, chunk, result_chunks;     // groups of a block; source channels staged at a time; times kResults
  int strips, tile_rows, tile_columns;  // windows above one another; results
  int tap_capacity;                     // taps of the phase that has most, rows * columns
  int threads;
  StagedTile staged;
  size_t shared_bytes;
  int64_t items;
  // Of an item, fastest first: phases, column tiles, row tiles, result blocks, group blocks; the rest is n.
  Divider phase_w, phase_h, column_tiles, row_tiles, result_blocks, group_blocks;
  // Of a thread's items: groups, columns, strips, result chunks (channels_fastest), or columns, strips, result chunks,
  // groups.
  Divider item_groups, item_columns, item_strips, item_chunks;
};

// Rows and columns of one phase.
CONVX_HD inline GatherAxis gather_axis(const Axis& axis, bool transposed, int phase) {
  return transposed ? grad_input_axis(axis, phase) : forward_axis(axis);
}

// Where the block's weights lie in shared memory: a window's factors for one tap side by side; channels_fastest, the
// groups beside one another.
struct StagedWeights {
  int group_pitch, source_pitch, column_pitch, row_pitch, chunk_pitch;
};
template <int kResults>
__device__ inline StagedWeights weights_layout(const GatherPlan& plan, int taps_h, int taps_w) {
  if (plan.channels_fastest) {
    const int r = plan.groups * plan.result_chunks;  // kResults is 1
    return {1, r * taps_h * taps_w, r * taps_h, r, plan.groups};
  }
  const int r = plan.result_chunks * kResults;
  return {r * taps_h * taps_w * plan.chunk, r * taps_h * taps_w, r * taps_h, r, kResults};
}

template <class T>
__device__ inline int64_t weight_offset(const GatherPlan& plan, const GatherTensors<T>& t, int result) {
  if (!plan.patches) return result * t.weight_result;
  const int s = plan.patch_columns.split(result), r = plan.patch_rows.split(result);
  return result * t.weight_result + r * t.weight_r + s * t.weight_s;
}

// What all threads of a block share of one item; in shared memory, for it would take a third of the registers.
struct GatherBlock {
  int64_t n;
  int first_group, first_result;
  int row0, column0;                               // first results of the tile
  int virtual_row, virtual_column, staged_column;  // first positions of the source
  GatherAxis rows, columns;
  Sliding along;
  StagedWeights layout;
};

template <class T, int kResults>
__device__ inline void describe_block(GatherBlock& b, const GatherPlan& plan, int item) {
  const int phase_w = plan.phase_w.split(item), phase_h = plan.phase_h.split(item);
  b.column0 = plan.column_tiles.split(item) * plan.tile_columns;
  b.row0 = plan.row_tiles.split(item) * plan.tile_rows;
  b.first_result = plan.result_blocks.split(item) * plan.result_chunks * kResults;
  b.first_group = plan.group_blocks.split(item) * plan.groups;
  b.n = item;
  b.rows = gather_axis(plan.rows, plan.transposed, phase_h);
  b.columns = gather_axis(plan.columns, plan.transposed, phase_w);
  b.virtual_row = b.rows.position(b.row0, 0), b.virtual_column = b.columns.position(b.column0, 0);
  b.staged_column = plan.staged.first_column<T>(b.virtual_column);
  b.along = sliding(b.rows);
  b.layout = weights_layout<kResults>(plan, b.rows.taps, b.columns.taps);
}

constexpr int kGatherBlockBytes = (int(sizeof(GatherBlock)) + 15) / 16 * 16;

// Returns whether this thread saw an infinity or NaN.
template <class T, int kResults>
__device__ bool stage_weights(typename Compute<T>::type* shared, const GatherPlan& plan, const GatherTensors<T>& t,
                              const GatherBlock& b, int first_source) {
  using Acc = typename Compute<T>::type;
  const int results = plan.result_chunks * kResults;
  const int count = plan.groups * results * plan.chunk * b.rows.taps * b.columns.taps;
  bool special = false;
  for (int item = int(threadIdx.x); item < count; item += int(blockDim.x)) {
    int i = item;
    const int s = i % b.columns.taps;
    i /= b.columns.taps;
    const int r = i % b.rows.taps;
    i /= b.rows.taps;
    const int source = i % plan.chunk;
    i /= plan.chunk;
    const int k = i % results, group = i / results;
    Acc value(0);
    if (b.first_group + group < plan.G && b.first_result + k < plan.results && first_source + source < plan.sources)
      value = Acc(
          t.weight[(b.first_group + group) * t.weight_group + weight_offset(plan, t, b.first_result + k) +
                   (first_source + source) * t.weight_source + (b.rows.tap_first + r * b.rows.tap_step) * t.weight_r +
                   (b.columns.tap_first + s * b.columns.tap_step) * t.weight_s]);
    special |= !is_finite(value);
    shared[group * b.layout.group_pitch + source * b.layout.source_pitch + s * b.layout.column_pitch +
           r * b.layout.row_pitch + k / kResults * b.layout.chunk_pitch + k % kResults] = value;
  }
  return special;
}

// The sums of one thread's window over `sources` staged channels. `source`: the thread's column of the tile; `column`:
// its position; `row`: of its first result, within the tile.
template <bool kMasked, int kResults, int kWindow, class Acc>
__device__ void gather_window(Acc (&sums)[kResults][kWindow], const StagedTile& staged, const GatherBlock& b,
                              const Acc* source, const Acc* weights, int sources, int column, int row) {
  const int residues = smaller(b.along.tap_residues, b.rows.taps), step = b.along.slide * staged.row_pitch;
  for (int c = 0; c < sources; ++c) {
    Acc of_source[kResults][kWindow] = {};  // long sums lose less in pieces
    int from = row * b.rows.per_result;
    for (int e = 0; e < residues; ++e, from += b.rows.per_tap) {  // the taps e, e + residues, ... share a window
      const int v = b.virtual_row + from;
      int first = 0, last = from < staged.rows ? quotient(staged.rows - 1 - from, b.along.slide) : -1;
      if (kMasked && b.rows.mode == PaddingMode::zeros) {
        if (v < 0) first = divided_up(-v, b.along.slide);
        const int inside = b.rows.source - 1 - v;
        last = inside < 0 ? -1 : smaller(last, inside / b.along.slide);
      }
      const int taps = quotient(b.rows.taps - e + b.along.tap_residues - 1, b.along.tap_residues);
      for (int s = 0; s < b.columns.taps; ++s) {
        const int offset = s * b.columns.per_tap;
        if (b.columns.skips(column + offset)) continue;
        slide<kMasked>(
            of_source, source + c * staged.channel_pitch + from * staged.row_pitch + offset * staged.column_pitch, step,
            first, last, weights + c * b.layout.source_pitch + s * b.layout.column_pitch + e * b.layout.row_pitch,
            b.along.tap_residues * b.layout.row_pitch, taps);
      }
    }
    add_to(sums, of_source);
  }
}

// Writes a thread's sums: kResults channels from `result` on, a window's rows from `row` of the tile on.
template <class T, class Out, int kResults, int kWindow>
__device__ inline void store_window(const GatherPlan& plan, const GatherTensors<T>& t, const GatherBlock& b, Out* data,
                                    int group, int result, int row, int column,
                                    const typename Compute<T>::type (&sums)[kResults][kWindow]) {
  using Acc = typename Compute<T>::type;
  const int rows = quotient(b.rows.results - b.row0 - row + b.along.window_step - 1, b.along.window_step);
  const int64_t channels =
      plan.patches ? plan.results / int(plan.patch_rows.divisor * plan.patch_columns.divisor) : plan.results;
#pragma unroll
  for (int k = 0; k < kResults; ++k) {
    if (result + k >= plan.results) break;
    int c = result + k;
    int64_t h = b.rows.result_first + (b.row0 + row) * b.rows.result_step;
    int64_t w = b.columns.result_first + (b.column0 + column) * b.columns.result_step;
    int64_t step = b.along.window_step * b.rows.result_step * t.result_strides.h;
    if (plan.patches) {
      w = w * plan.patch_columns.divisor + plan.patch_columns.split(c);
      h = h * plan.patch_rows.divisor + plan.patch_rows.split(c);
      step *= plan.patch_rows.divisor;
    }
    const int64_t channel = (b.first_group + group) * channels + c;
    const Acc bias = t.bias ? Acc(t.bias[channel * t.bias_stride]) : Acc(0);
    Out* to = data + t.result_strides(b.n, channel, h, w);
#pragma unroll
    for (int m = 0; m < kWindow; ++m, to += step)
      if (m < rows) *to = Out(sums[k][m] + bias);
  }
}

template <class T, int kResults, int kWindow>
__global__ void __launch_bounds__(gather_threads(kResults), gather_blocks<T>(kResults))
    window_gather(GatherPlan plan, GatherTensors<T> t) {
  using Acc = typename Compute<T>::type;
  GatherBlock& b = *shared_memory<GatherBlock>();
  Acc* const staged = reinterpret_cast<Acc*>(shared_memory<unsigned char>() + kGatherBlockBytes);
  Acc* const weights = staged + rounded_up(plan.staged.elements, Chunk<Acc>::count);
  const int count = plan.groups * plan.tile_columns * plan.strips * plan.result_chunks;

  for (int64_t item = blockIdx.x; item < plan.items; item += gridDim.x) {
    if (threadIdx.x == 0) describe_block<T, kResults>(b, plan, int(item));
    __syncthreads();  // before the others read it
    Acc sums[kResults][kWindow];
    for (int first_source = 0;; first_source += plan.chunk) {
      const int64_t channel = int64_t(b.first_group) * plan.sources + first_source;
      stage(staged, plan.staged,
            SourcePlane<T>{t.source + b.n * t.source_strides.n + channel * t.source_strides.c,
                           (plan.groups > 1 ? (plan.G - b.first_group) * plan.sources : plan.sources) - first_source,
                           int(t.source_strides.c), int(t.source_strides.h), int(t.source_strides.w)},
            b.rows, b.columns, b.virtual_row, b.staged_column);
      const bool special = stage_weights<T, kResults>(weights, plan, t, b, first_source);
      const bool masked = __syncthreads_or(special);  // before what one thread has staged is read by another
      const bool last_chunk = first_source + plan.chunk >= plan.sources;

      // More than one part a thread only if all source channels are staged at once: sums live from chunk to chunk.
      for (int part = int(threadIdx.x); part < count; part += int(blockDim.x)) {
        int i = part, group = 0;
        if (plan.channels_fastest) group = plan.item_groups.split(i);
        const int column = plan.item_columns.split(i);
        const int row = strip_row(plan.item_strips.split(i), b.along.window_step, kWindow);
        const int chunk = plan.item_chunks.split(i);
        if (!plan.channels_fastest) group = i;
        if (first_source == 0) {
#pragma unroll
          for (int k = 0; k < kResults; ++k)
#pragma unroll
            for (int m = 0; m < kWindow; ++m) sums[k][m] = Acc(0);
        }
        const int result = b.first_result + chunk * kResults;
        if (b.row0 + row >= b.rows.results || b.column0 + column >= b.columns.results ||
            b.first_group + group >= plan.G || result >= plan.results)
          continue;
        const int position = b.virtual_column + column * b.columns.per_result;
        const Acc* const from = staged + group * plan.chunk * plan.staged.channel_pitch +
                                (position - b.staged_column) * plan.staged.column_pitch;
        const Acc* const factors = weights + group * b.layout.group_pitch + chunk * b.layout.chunk_pitch;
        const int sources = smaller(plan.chunk, plan.sources - first_source);
        if (masked)
          gather_window<true>(sums, plan.staged, b, from, factors, sources, position, row);
        else
          gather_window<false>(sums, plan.staged, b, from, factors, sources, position, row);
        if (!last_chunk) continue;
        if (t.wide_result)
          store_window(plan, t, b, reinterpret_cast<Acc*>(t.result), group, result, row, column, sums);
        else
          store_window(plan, t, b, t.result, group, result, row, column, sums);
      }
      __syncthreads();  // before the next tile overwrites this one
      if (last_chunk) break;
    }
  }
}

}  // namespace cuda
}  // namespace convx
