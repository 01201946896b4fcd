// grad_weight of grouped layers on tensor cores, 16-bit numbers. As in tensorcore_grouped.cuh a block has patches of
// y and x, 64 outputs and the channels of their groups, copied once for nine taps. For each tap a product of matrices:
//
//   rows       16 outputs of a warp         y, whose pixels are its columns: transposed by ldmatrix
//   columns    16 inputs of their groups    x, where the tap reads for these pixels; transposed, too
//   reduction  pixels, 16 of a fragment
//
// Of these 16 x 16 sums those are stored whose output and input are of one group: all in groups of 16, a quarter in
// groups of 4. Wider groups are several items of 16 inputs each, as are kernels of more than 3 x 3 taps.
//
// Where the stride is 1, a fragment of x is read from shared memory once for three row taps, which multiply it with
// three fragments of y; these stay in registers for all taps of a patch.
//
// The patches are dealt to `streams` of blocks, so that the GPU is full. Each writes its sums to the workspace, and a
// second kernel adds them in a fixed order. How many there are depends on sizes and the GPU alone.
//
// Zeros are multiplied, those of the padding with y and those beyond y with x, so where an infinity meets one the sum
// is NaN, and what is NaN is computed again by the definition: a pass of a warp over all pixels for each such weight.
//
// Limit: memory, as in forward: x and y once, 24 us for 16 x 512 x 56 x 56 in groups of 16 at 4.3 TB/s, and the
// streams' sums, 10 MB written and read. As many products as in forward, 6 us; 34 reads of 512 bytes of shared memory
// for each 126 of them, 9 us; from L2 72 and 57 MB, 23 us; instructions as in forward, 14 us. Two blocks share a
// multiprocessor. Expected: 50 to 65 us. Measured on an H200, when a copy took 34 instructions, since 18: 59 us (cuDNN
// 101). Groups of 32 and 64 read the patches two and four times. tensorcore_weight.cuh reads x for each tap and fills a
// sixteenth of its smallest tile with groups of 16.
//
// Machine code of weight_of_groups<.*: HMMA.16816.F32, LDGSTS.128, LDSM.16.MT88.4
#pragma once
#include "tensorcore_grouped_patch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore_grouped {

constexpr int kTaps = 3;          // along either axis, that an item has
constexpr int kWeightBlocks = 3;  // of a multiprocessor, by registers

// What a launch works on. Strides are in elements.
template <class T>
struct WeightGradient {
  Image<T> x, y;  // y is read as by a 1x1 kernel
  Groups groups;
  int depth;  // items that the inputs of 16 outputs take
  int N, x_bytes, y_bytes, column_tiles;
  Patches patches;
  int streams;
  float* partial;  // [stream][output][tap][input of its group]
  T* w;
  Strides w_strides;

  CONVX_HD int taps() const { return x.rows.taps * x.columns.taps; }
  CONVX_HD int tap_tiles_down() const { return (x.rows.taps + kTaps - 1) / kTaps; }
  CONVX_HD int tap_tiles_across() const { return (x.columns.taps + kTaps - 1) / kTaps; }
  CONVX_HD int64_t tiles() const {
    return int64_t(column_tiles) * depth * tap_tiles_down() * tap_tiles_across();  // each for all streams
  }
  CONVX_HD int64_t weights() const { return int64_t(groups.all_outputs()) * taps() * groups.inputs; }
};

// A lane's sums of each tap: of product j, outputs g and g + 8 of the warp's and inputs 8 * j + 2 * t and the next one.
struct WeightSums {
  float d[kTaps][kTaps][2][4];
};

// Adds the products of a warp's patch, for taps that begin at (first_r, first_s). `x` and `y` are where its first
// chunks of the first pixels are.
template <int kFragments, bool kTogether, class T>
__device__ void multiply(const WeightGradient<T>& wg, WeightSums& sums, const char* x, const char* y, int first_r,
                         int first_s) {
  const auto add = [&](int r, int s, const uint32_t (&a)[4], const uint32_t (&b)[4]) {
    const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
    mma_m16n8k16(sums.d[r][s][0], a, left, T{});
    mma_m16n8k16(sums.d[r][s][1], a, right, T{});
  };
  uint32_t a[kFragments][4];
  const char* const a_lane = y + wg.y.lane_offset(kFragments, lane() / 16, lane() / 8 % 2);
#pragma unroll
  for (int f = 0; f < kFragments; ++f) ldmatrix_x4_trans(a[f], a_lane + f * wg.y.row_bytes());

  const int row_bytes = wg.x.row_bytes(), down = wg.x.rows.stride * row_bytes;
  const char* const b_lane = x + wg.x.lane_offset(kFragments, lane() / 8 % 2, lane() / 16);
#pragma unroll
  for (int s = 0; s < kTaps; ++s) {
    if (first_s + s >= wg.x.columns.taps) break;
    const char* const b_tap = b_lane + wg.x.place(s * wg.x.columns.dilation) * wg.x.pitch;
    if (kTogether) {
#pragma unroll
      for (int row = 0; row < kFragments + kTaps - 1; ++row) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, b_tap + row * row_bytes);
#pragma unroll
        for (int r = 0; r < kTaps; ++r)
          if (row - r >= 0 && row - r < kFragments) add(r, s, a[row - r], b);
      }
    } else {
#pragma unroll
      for (int f = 0; f < kFragments; ++f)
#pragma unroll
        for (int r = 0; r < kTaps; ++r) {
          if (first_r + r >= wg.x.rows.taps) break;
          uint32_t b[4];
          ldmatrix_x4_trans(b, b_tap + r * wg.x.rows.dilation * row_bytes + f * down);
          add(r, s, a[f], b);
        }
    }
  }
}

// Writes the sums of a warp's outputs and inputs, both from the given one on, to a stream's part of the workspace.
template <class T>
__device__ void store_sums(const WeightGradient<T>& wg, float* partial, int first_output, int first_input, int first_r,
                           int first_s, const WeightSums& sums) {
  const int g = lane() / 4, t = lane() % 4, taps = wg.taps();
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int output = first_output + 8 * half + g, input = first_input + 8 * j + 2 * t + e;
        const int group = output / wg.groups.outputs;
        if (group >= wg.groups.count || input / wg.groups.inputs != group) continue;
        float* const to = partial + int64_t(output) * taps * wg.groups.inputs + input % wg.groups.inputs;
#pragma unroll
        for (int r = 0; r < kTaps; ++r)
#pragma unroll
          for (int s = 0; s < kTaps; ++s) {
            if (first_r + r >= wg.x.rows.taps || first_s + s >= wg.x.columns.taps) continue;
            to[((first_r + r) * wg.x.columns.taps + first_s + s) * wg.groups.inputs] = sums.d[r][s][j][2 * half + e];
          }
      }
}

template <class T, int kFragments, bool kTogether>
__global__ void __launch_bounds__(kThreads, kWeightBlocks) weight_of_groups(WeightGradient<T> wg) {
  char* const shared = shared_memory<char>();  // twice x and y
  const int bytes = wg.x_bytes + wg.y_bytes, warp = int(threadIdx.x) / 32;
  const Walk x_walk = Walk::of(wg.x), y_walk = Walk::of(wg.y);
  for (int64_t item = blockIdx.x; item < wg.tiles() * wg.streams; item += gridDim.x) {
    // Blocks that run at the same time share patches, as in forward.
    int rest = int(item % wg.tiles());
    const int tile = rest % wg.column_tiles;
    rest /= wg.column_tiles;
    const int chunk = 2 * (rest % wg.depth);  // from the first of the outputs' groups on
    rest /= wg.depth;
    const int first_s = rest % wg.tap_tiles_across() * kTaps, first_r = rest / wg.tap_tiles_across() * kTaps;
    const int output = tile * kOutputs + warp * kWarpOutputs, first_chunk = wg.groups.first_chunk(tile * kOutputs);
    const int stream = int(item / wg.tiles());
    const auto load = [&](int patch, char* to) {
      const Patch at = Patches::at(wg.patches.place(patch), kFragments);  // divided anew, as registers are few
      load_patch(wg.x, x_walk, at, first_r, first_s, first_chunk + chunk, to);
      load_patch(wg.y, y_walk, at, 0, 0, tile * (kOutputs / kElements), to + wg.x_bytes);
    };
    WeightSums sums = {};
    load(stream, shared);
    int buffer = 0;
    for (int patch = stream; patch < wg.patches.count; patch += wg.streams, buffer ^= 1) {
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();  // all threads' copies are there, and all have multiplied the patch that is overwritten next
      if (patch + wg.streams < wg.patches.count) load(patch + wg.streams, shared + (buffer ^ 1) * bytes);
      if (output >= wg.groups.all_outputs()) continue;
      const char* const x = shared + buffer * bytes;
      multiply<kFragments, kTogether>(wg, sums, x + (wg.groups.first_chunk(output) - first_chunk) * kChunk,
                                      x + wg.x_bytes + warp * kWarpOutputs * 2, first_r, first_s);
    }
    if (output < wg.groups.all_outputs())
      store_sums(wg, wg.partial + stream * wg.weights(), output, (wg.groups.first_chunk(output) + chunk) * kElements,
                 first_r, first_s, sums);
    __syncthreads();  // before the next item's patches overwrite what others still multiply
  }
}

// The definition of one element: skipped taps are skipped. A lane's part of the pixels.
template <class T>
__device__ float sum_of_pixels(const WeightGradient<T>& wg, int output, int i, int j, int input) {
  const AxisPlan &rows = wg.x.rows, &columns = wg.x.columns;
  const Odometer step = Odometer::of(32, rows.count, columns.count);
  float sum = 0;
  for (Odometer pixel = Odometer::of(lane(), rows.count, columns.count); pixel.high < wg.N;
       pixel.advance(step, rows.count, columns.count)) {
    const int n = pixel.high, p = pixel.middle, q = pixel.low;
    const int h = source(rows, rows.position(p, i)), w = source(columns, columns.position(q, j));
    if (h < 0 || w < 0) continue;
    const T y = wg.y.data[n * wg.y.n + p * wg.y.h + q * wg.y.w + output];
    const T x = wg.x.data[n * wg.x.n + h * wg.x.h + w * wg.x.w + input];
    sum = fma(float(y), float(x), sum);
  }
  return sum;
}

// A weight by its number: [output][tap][input of its group].
struct WeightPlace {
  int output, r, s, input;
  template <class T>
  __device__ static WeightPlace of(const WeightGradient<T>& wg, int64_t i) {
    const int tap = int(i / wg.groups.inputs % wg.taps());
    return {int(i / wg.groups.inputs / wg.taps()), tap / wg.x.columns.taps, tap % wg.x.columns.taps,
            int(i % wg.groups.inputs)};
  }
};

// Adds the streams' sums, a lane to a weight. Those that are NaN are computed again one after the other, by all lanes
// in turns and in a fixed order.
template <class T>
__global__ void add_streams(WeightGradient<T> wg) {
  const int64_t count = wg.weights();
  for (int64_t first = first_item() - lane(); first < count; first += items_step()) {
    const int64_t i = first + lane();
    float sum = 0;
    if (i < count)
      for (int stream = 0; stream < wg.streams; ++stream) sum += wg.partial[stream * count + i];
    const uint32_t doubts = __ballot_sync(0xffffffffu, sum != sum);
    for (int other = 0; other < 32 && doubts >> other; ++other) {
      if (!(doubts >> other & 1)) continue;
      const WeightPlace at = WeightPlace::of(wg, first + other);
      float again =
          sum_of_pixels(wg, at.output, at.r, at.s, at.output / wg.groups.outputs * wg.groups.inputs + at.input);
      for (int bit = 16; bit > 0; bit /= 2) again += __shfl_xor_sync(0xffffffffu, again, bit);
      if (lane() == other) sum = again;
    }
    if (i >= count) continue;
    const WeightPlace at = WeightPlace::of(wg, i);
    wg.w[wg.w_strides(at.output, at.input, at.r, at.s)] = T(sum);
  }
}

}  // namespace tensorcore_grouped
}  // namespace cuda
}  // namespace convx
