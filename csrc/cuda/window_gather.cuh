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
// (c,r,s) are `results` here and scattered on storing. y is read once then. (`patches`)
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
// by them alone (7.5 cycles), at 80-85 % of the FMA rate. Few channels: kResults * kWindow = 32 multiply-adds for 3
// shared loads, so about 70-80 % of the FMA rate (67 TFLOP/s on an H100 or H200). All of this is estimated, not
// measured.
#pragma once
#include "window.cuh"

namespace convx {
namespace cuda {

constexpr int kGatherThreads = 256;

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

// Returns whether this thread saw an infinity or NaN.
template <class T, int kResults>
__device__ bool stage_weights(typename Compute<T>::type* shared, const GatherPlan& plan, const GatherTensors<T>& t,
                              const StagedWeights& layout, const GatherAxis& rows, const GatherAxis& columns,
                              int first_group, int first_result, int first_source) {
  using Acc = typename Compute<T>::type;
  const int results = plan.result_chunks * kResults;
  const int count = plan.groups * results * plan.chunk * rows.taps * columns.taps;
  bool special = false;
  for (int item = int(threadIdx.x); item < count; item += int(blockDim.x)) {
    int i = item;
    const int s = i % columns.taps;
    i /= columns.taps;
    const int r = i % rows.taps;
    i /= rows.taps;
    const int source = i % plan.chunk;
    i /= plan.chunk;
    const int k = i % results, group = i / results;
    Acc value(0);
    if (first_group + group < plan.G && first_result + k < plan.results && first_source + source < plan.sources)
      value =
          Acc(t.weight[(first_group + group) * t.weight_group + weight_offset(plan, t, first_result + k) +
                       (first_source + source) * t.weight_source + (rows.tap_first + r * rows.tap_step) * t.weight_r +
                       (columns.tap_first + s * columns.tap_step) * t.weight_s]);
    special |= !is_finite(value);
    shared[group * layout.group_pitch + source * layout.source_pitch + s * layout.column_pitch + r * layout.row_pitch +
           k / kResults * layout.chunk_pitch + k % kResults] = value;
  }
  return special;
}

// The sums of one thread's window over the staged source channels. `strip_row` is its first result within the tile.
template <bool kMasked, int kResults, int kWindow, class Acc>
__device__ void gather_window(Acc (&sums)[kResults][kWindow], const GatherPlan& plan, const StagedWeights& layout,
                              const GatherAxis& rows, const GatherAxis& columns, const Acc* source, const Acc* weights,
                              int sources, int virtual_row, int virtual_column, int strip_row) {
  const Sliding along = sliding(rows);
  const StagedTile& staged = plan.staged;
  const int residues = along.tap_residues < rows.taps ? along.tap_residues : rows.taps;
  for (int e = 0; e < residues; ++e) {  // the taps e, e + residues, ... share a window
    const int row = strip_row * rows.per_result + e * rows.per_tap, v = virtual_row + row;
    int first = 0, last = (staged.rows - 1 - row) / along.slide;
    if (row > staged.rows - 1) last = -1;
    if (kMasked && rows.mode == PaddingMode::zeros) {
      if (v < 0) first = divided_up(-v, along.slide);
      const int inside = rows.source - 1 - v;
      last = inside < 0 ? -1 : smaller(last, inside / along.slide);
    }
    const int taps = divided_up(rows.taps - e, along.tap_residues);
    for (int c = 0; c < sources; ++c)
      for (int s = 0; s < columns.taps; ++s) {
        if (columns.skips(virtual_column + s * columns.per_tap)) continue;
        slide<kMasked>(
            sums,
            source + c * staged.channel_pitch + row * staged.row_pitch + s * columns.per_tap * staged.column_pitch,
            along.slide * staged.row_pitch, first, last,
            weights + c * layout.source_pitch + s * layout.column_pitch + e * layout.row_pitch,
            along.tap_residues * layout.row_pitch, taps);
      }
  }
}

template <class T, int kResults>
__device__ inline void store_results(const GatherPlan& plan, const GatherTensors<T>& t, int64_t n, int group,
                                     int result, int h, int w, const typename Compute<T>::type (&sums)[kResults]) {
  using Acc = typename Compute<T>::type;
  const Strides& to = t.result_strides;
  if (plan.patches) {
    const int64_t channels = plan.results / int(plan.patch_rows.divisor * plan.patch_columns.divisor);
#pragma unroll
    for (int k = 0; k < kResults; ++k) {
      int c = result + k;
      if (c >= plan.results) break;
      const int s = plan.patch_columns.split(c), r = plan.patch_rows.split(c);
      const int64_t channel = group * channels + c;
      const Acc bias = t.bias ? Acc(t.bias[channel * t.bias_stride]) : Acc(0);
      t.result[to(n, channel, int64_t(h) * plan.patch_rows.divisor + r, int64_t(w) * plan.patch_columns.divisor + s)] =
          T(sums[k] + bias);
    }
    return;
  }
  const int64_t channel = int64_t(group) * plan.results + result;
#pragma unroll
  for (int k = 0; k < kResults; ++k) {
    if (result + k >= plan.results) break;
    const Acc sum = sums[k] + (t.bias ? Acc(t.bias[(channel + k) * t.bias_stride]) : Acc(0));
    const int64_t at = to(n, channel + k, h, w);
    if (t.wide_result)
      reinterpret_cast<Acc*>(t.result)[at] = sum;
    else
      t.result[at] = T(sum);
  }
}

template <class T, int kResults, int kWindow>
__global__ void __launch_bounds__(kGatherThreads) window_gather(GatherPlan plan, GatherTensors<T> t) {
  using Acc = typename Compute<T>::type;
  Acc* const staged = shared_memory<Acc>();
  Acc* const weights = staged + rounded_up(plan.staged.elements, Chunk<Acc>::count);

  for (int64_t block_item = blockIdx.x; block_item < plan.items; block_item += gridDim.x) {
    int i = int(block_item);
    const int phase_w = plan.phase_w.split(i), phase_h = plan.phase_h.split(i);
    const int column_tile = plan.column_tiles.split(i), row_tile = plan.row_tiles.split(i);
    const int first_result = plan.result_blocks.split(i) * plan.result_chunks * kResults;
    const int first_group = plan.group_blocks.split(i) * plan.groups;
    const int64_t n = i;
    const GatherAxis rows = gather_axis(plan.rows, plan.transposed, phase_h);
    const GatherAxis columns = gather_axis(plan.columns, plan.transposed, phase_w);
    const int row0 = row_tile * plan.tile_rows, column0 = column_tile * plan.tile_columns;
    const int virtual_row = rows.position(row0, 0), virtual_column = columns.position(column0, 0);
    const int staged_column = plan.staged.first_column<T>(virtual_column);
    const int window_step = sliding(rows).window_step;
    const StagedWeights layout = weights_layout<kResults>(plan, rows.taps, columns.taps);
    const int count = plan.groups * plan.tile_columns * plan.strips * plan.result_chunks;

    Acc sums[kResults][kWindow];
    for (int first_source = 0;; first_source += plan.chunk) {
      const int64_t channel = int64_t(first_group) * plan.sources + first_source;
      const int exist = plan.groups > 1 ? (plan.G - first_group) * plan.sources : plan.sources - first_source;
      stage(staged, plan.staged,
            SourcePlane<T>{t.source + n * t.source_strides.n + channel * t.source_strides.c, exist, t.source_strides.c,
                           t.source_strides.h, t.source_strides.w},
            rows, columns, virtual_row, staged_column);
      const bool special =
          stage_weights<T, kResults>(weights, plan, t, layout, rows, columns, first_group, first_result, first_source);
      const bool masked = __syncthreads_or(special);  // before what one thread has staged is read by another
      const bool last_chunk = first_source + plan.chunk >= plan.sources;

      // More than one item a thread only if all source channels are staged at once: sums live from chunk to chunk.
      for (int item = int(threadIdx.x); item < count; item += int(blockDim.x)) {
        int j = item;
        int group, column, strip, chunk;
        if (plan.channels_fastest) {
          group = plan.item_groups.split(j), column = plan.item_columns.split(j);
          strip = plan.item_strips.split(j), chunk = j;
        } else {
          column = plan.item_columns.split(j), strip = plan.item_strips.split(j);
          chunk = plan.item_chunks.split(j), group = j;
        }
        const int strip_row = strip / window_step * window_step * kWindow + strip % window_step;
        const int result = first_result + chunk * kResults;
        if (first_source == 0) {
#pragma unroll
          for (int k = 0; k < kResults; ++k)
#pragma unroll
            for (int w = 0; w < kWindow; ++w) sums[k][w] = Acc(0);
        }
        if (row0 + strip_row >= rows.results || column0 + column >= columns.results || first_group + group >= plan.G ||
            result >= plan.results)
          continue;
        const Acc* const from =
            staged + group * plan.chunk * plan.staged.channel_pitch +
            (virtual_column - staged_column + column * columns.per_result) * plan.staged.column_pitch;
        const Acc* const factors = weights + group * layout.group_pitch + chunk * layout.chunk_pitch;
        const int sources = smaller(plan.chunk, plan.sources - first_source);
        const int at_column = virtual_column + column * columns.per_result;
        if (masked)
          gather_window<true>(sums, plan, layout, rows, columns, from, factors, sources, virtual_row, at_column,
                              strip_row);
        else
          gather_window<false>(sums, plan, layout, rows, columns, from, factors, sources, virtual_row, at_column,
                               strip_row);
        if (!last_chunk) continue;
        const int w = columns.result_first + (column0 + column) * columns.result_step;
#pragma unroll
        for (int m = 0; m < kWindow; ++m) {
          const int row = row0 + strip_row + m * window_step;
          if (row >= rows.results) break;
          Acc one[kResults];
#pragma unroll
          for (int k = 0; k < kResults; ++k) one[k] = sums[k][m];
          store_results<T, kResults>(plan, t, n, first_group + group, result,
                                     rows.result_first + row * rows.result_step, w, one);
        }
      }
      __syncthreads();  // before the next tile overwrites this one
      if (last_chunk) break;
    }
  }
}

}  // namespace cuda
}  // namespace convx
