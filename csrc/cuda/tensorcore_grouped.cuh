// forward and grad_input of grouped layers on tensor cores, 16-bit numbers. A group of 16 channels fills a quarter of
// the smallest tile of tensorcore_convolve.cuh at best, which copies its part of the image once for each tap. Here a
// block has a patch of one image with all that its taps read (tensorcore_grouped_patch.cuh), copied once, and 64
// outputs of whatever groups they are:
//
//   rows       results of the patch, 16 to a fragment of A
//   columns    16 outputs of a warp
//   reduction  the inputs of their groups, `depth` chunks of 16, tap after tap
//   B          packed as fragments, [16 outputs][tap][chunk][lane]; zeros where input and output differ in their group
//
// The product is block-diagonal: a tap shifts the address at which a fragment of A is read from the patch, and a chunk
// is multiplied only for those 16 outputs whose groups it has. Groups of 4 and 8 share a chunk, and zeros are
// multiplied: as these times an infinity of a neighbour group, or padding's zeros times an infinite weight, are NaN,
// results that are NaN are computed again by the definition.
//
// Where the stride is 1 three row taps go together: what a fragment of A is for one row of results by one tap, it is
// for the row above by the next, so it is read from shared memory once for all three.
//
// grad_input reads y by the taps that one phase of the stride shares, from the last to the first, which makes it a
// convolution with weights that are turned around when they are packed: a launch to a phase.
//
// Results go through shared memory, where the patch was that has been multiplied, so that eight lanes store 128 bytes
// of a pixel.
//
// Limit: memory. For 16 x 512 x 56 x 56, 3x3 and groups of 16, 103 MB are 24 us at 4.3 TB/s. Beside it, on an H200's
// 132 multiprocessors at 1.8 GHz: 1.8 M products m16n8k16 at mma.sync's 62 % of the matrix rate, 6 us; 12 reads of 512
// bytes from shared memory for each 42 products, 9 us (without rows that go together 18); the patches with what is
// around them, 1.43 times the image, 13 us from L2; all instructions, some 900 of a warp for a patch, 14 us at best. A
// block multiplies while its next patch is on its way, and three share a multiprocessor.
//
// Measured on an H200, resnext's 56x56 layer of 32 groups: 92 us forward at first (cuDNN 69), 82 of them in
// convolve_groups. Four 16-bit numbers in a struct, meant to be stored at once, had become four stores of two bytes
// each, in 12 of a lane's 14 rows: 5.7 M parts of sectors where 1.6 M whole ones are the result, and L2 was what it
// waited for. Warps spent 36 % of their time on storing, 19 % to ask for copies, 23 % to multiply and 11 % for copies
// to come, in 1270 instructions a patch. Since then a copy takes 18 where it took 34, and there are blocks for all
// multiprocessors alike, 28 patches to each where two thirds had 30 and others 20. Expected, not measured: 40 to 45 us,
// if storing takes a fifth of what it did, copies and waiting for them half, and the rest what it took.
//
// tensorcore_convolve.cuh takes 416 us, by wgmma 352, and few_channels 1151. Groups of 32 and 64 double and quadruple
// products and reads of shared memory, not bytes.
//
// Machine code of convolve_groups<.*: HMMA.16816.F32, LDGSTS.128, LDSM.16.M88.4, LDS.128, STS.64, STG.128
#pragma once
#include "tensorcore_grouped_patch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore_grouped {

constexpr int kBlocks = 3;                                 // of a multiprocessor, by shared memory
constexpr int kFragmentBytes = kDepth * kWarpOutputs * 2;  // of B

// What a launch works on: a convolution in the form of input.rows and input.columns. Strides are in elements.
template <class T>
struct Convolution {
  Image<T> input;
  Groups groups;
  int depth;        // chunks of kDepth that a warp multiplies
  const T* weight;  // as it was given
  int64_t weight_group, weight_output, weight_input, weight_r, weight_s;
  T* packed;  // and as fragments
  const T* bias;
  int64_t bias_stride;
  T* output;
  Strides output_strides;
  bool stores_channels;  // a chunk at a time
  Patches patches;
  int patch_bytes, weight_bytes, column_tiles;
  int streams;  // blocks that share the patches of 64 outputs

  CONVX_HD int taps() const { return input.rows.taps * input.columns.taps; }
  __device__ const T* weights(int group, int output, int i, int j) const {
    const AxisPlan &rows = input.rows, &columns = input.columns;
    return weight + group * weight_group + output * weight_output + (rows.first_tap + i * rows.tap_step) * weight_r +
           (columns.first_tap + j * columns.tap_step) * weight_s;
  }
};

// The weights as fragments of B, a thread to a word: two numbers that are neighbours along the reduction. A lane's
// outputs are four neighbours.
template <class T>
__global__ void pack_weights(Convolution<T> cv) {
  const int words_of_tile = cv.weight_bytes / 4;
  for (int64_t item = first_item(); item < int64_t(cv.column_tiles) * words_of_tile; item += items_step()) {
    const int tile = int(item / words_of_tile), rest = int(item - int64_t(tile) * words_of_tile);
    const int word = rest % 4, in_warp = rest / 4 % 32, g = in_warp / 4, t = in_warp % 4;
    const int fragment = rest / 128, chunk = fragment % cv.depth, tap = fragment / cv.depth % cv.taps();
    const int first = tile * kOutputs + fragment / cv.depth / cv.taps() * kWarpOutputs;
    const int output = first + g / 2 * 4 + word / 2 * 2 + g % 2;
    const int input = cv.groups.first_chunk(first) * kElements + chunk * kDepth + word % 2 * 8 + t * 2;
    for (int e = 0; e < 2; ++e) {
      const int group = (input + e) / cv.groups.inputs;
      const bool is_diagonal = group < cv.groups.count && output / cv.groups.outputs == group;
      T value(0);
      if (is_diagonal)
        value = cv.weights(group, output % cv.groups.outputs, tap / cv.input.columns.taps,
                           tap % cv.input.columns.taps)[(input + e) % cv.groups.inputs * cv.weight_input];
      cv.packed[item * 2 + e] = value;
    }
  }
}

// A fragment of B, as pack_weights() leaves it: a lane's registers of the products with 8 and 8 outputs.
struct alignas(16) Fragment {
  uint32_t b[2][2];
};

// A lane's sums: of fragment f and product j, outputs 4 * t + 2 * j and the next one, of rows f and f + kFragments.
template <int kFragments>
struct Sums {
  float d[kFragments][2][4];
};

// Adds the products of a warp's patch. `patch` is where its first chunk of the first pixel is, `weights` its fragments.
template <int kFragments, int kTapRows, class T>
__device__ void multiply(const Convolution<T>& cv, Sums<kFragments>& sums, const char* patch, const char* weights) {
  const Image<T>& input = cv.input;
  const int row_bytes = input.row_bytes(), down = input.rows.stride * row_bytes;
  const char* const a_lane = patch + input.lane_offset(kFragments, lane() / 8 % 2, lane() / 16);
  const char* const b_lane = weights + lane() * sizeof(Fragment);
  const int b_row = input.columns.taps * cv.depth * kFragmentBytes;
  int r = 0;
  do {  // without taps there are none along columns, either
    for (int s = 0; s < input.columns.taps; ++s) {
      const char* a_tap =
          a_lane + r * input.rows.dilation * row_bytes + input.place(s * input.columns.dilation) * input.pitch;
      const char* b_tap = b_lane + r * b_row + s * cv.depth * kFragmentBytes;
#pragma unroll 1  // there is one chunk in groups of 16
      for (int chunk = 0; chunk < cv.depth; ++chunk, a_tap += 2 * kChunk, b_tap += kFragmentBytes) {
        Fragment b[kTapRows];
#pragma unroll
        for (int tap = 0; tap < kTapRows; ++tap) b[tap] = *reinterpret_cast<const Fragment*>(b_tap + tap * b_row);
#pragma unroll
        for (int row = 0; row < kFragments + kTapRows - 1; ++row) {
          uint32_t a[4];
          ldmatrix_x4(a, a_tap + row * down);
#pragma unroll
          for (int tap = 0; tap < kTapRows; ++tap) {
            const int f = row - tap;
            if (f < 0 || f >= kFragments) continue;
            mma_m16n8k16(sums.d[f][0], a, b[tap].b[0], T{});
            mma_m16n8k16(sums.d[f][1], a, b[tap].b[1], T{});
          }
        }
      }
    }
  } while ((r += kTapRows) < input.rows.taps);
}

// The definition of one result, for those in doubt: skipped taps are skipped.
template <class T>
__device__ float sum_of_taps(const Convolution<T>& cv, int n, int row, int column, int output) {
  const Image<T>& in = cv.input;
  const int group = output / cv.groups.outputs;
  float sum = 0;
  for (int i = 0; i < in.rows.taps; ++i) {
    const int h = source(in.rows, in.rows.position(row, i));
    if (h < 0) continue;
    for (int j = 0; j < in.columns.taps; ++j) {
      const int w = source(in.columns, in.columns.position(column, j));
      if (w < 0) continue;
      const T* x = in.data + n * in.n + h * in.h + w * in.w + group * cv.groups.inputs;
      const T* v = cv.weights(group, output % cv.groups.outputs, i, j);
      for (int c = 0; c < cv.groups.inputs; ++c) sum = fma(float(v[c * cv.weight_input]), float(x[c]), sum);
    }
  }
  return sum;
}

// A patch's results lie in shared memory before they are stored, pixel by pixel. With this pitch the 32 bytes that a
// warp writes of each of four pixels are in different banks.
constexpr int kResultPitch = kOutputs * 2 + 2 * kChunk;
constexpr int64_t results_bytes(int64_t fragments) { return 2 * fragments * kColumns * kResultPitch; }

// Four neighbours of T in a row, rounded.
template <class T>
__device__ uint2 rounded(float a, float b, float c, float d) {
  const T four[4] = {T(a), T(b), T(c), T(d)};
  uint2 words;
  memcpy(&words, four, sizeof words);
  return words;
}

// Writes a warp's sums, rounded, to where its outputs of the first pixel are in shared memory; then goes over those in
// doubt. `bias` is that of the lane's four outputs.
template <int kFragments, class T>
__device__ void gather_results(const Convolution<T>& cv, const Patch& patch, int first_output,
                               const Sums<kFragments>& sums, const float (&bias)[4], char* results) {
  char* const mine = results + lane() / 4 * kResultPitch + lane() % 4 * 8;
  float total[4] = {};  // NaN if one of the sums is
#pragma unroll
  for (int at = 0; at < 2 * kFragments; ++at) {
    const float (&d)[2][4] = sums.d[at % kFragments];
    const int e = at / kFragments * 2;
    *reinterpret_cast<uint2*>(mine + at * kColumns * kResultPitch) =
        rounded<T>(d[0][e], d[0][e + 1], d[1][e], d[1][e + 1]);
    total[0] += d[0][e], total[1] += d[0][e + 1], total[2] += d[1][e], total[3] += d[1][e + 1];
  }
  const float all = total[0] + total[1] + (total[2] + total[3]);
  if (all == all) return;

  const int column = patch.column + lane() / 4, output = first_output + lane() % 4 * 4;
  if (column >= cv.input.columns.count) return;
  for (int at = 0; at < 2 * kFragments && patch.row + at < cv.input.rows.count; ++at)
    for (int e = 0; e < 4 && output + e < cv.groups.all_outputs(); ++e) {
      T& result = reinterpret_cast<T*>(mine + at * kColumns * kResultPitch)[e];
      const float value = float(result);
      if (value != value) result = T(sum_of_taps(cv, patch.n, patch.row + at, column, output + e) + bias[e]);
    }
}

// Stores a block's results of a patch: of a pixel eight lanes 128 bytes, or else eight neighbours of each output.
template <int kFragments, class T>
__device__ void store_results(const Convolution<T>& cv, const Patch& patch, int first_output, const char* results) {
  const AxisPlan &rows = cv.input.rows, &columns = cv.input.columns;
  const int thread = int(threadIdx.x);
  const auto first = [&](int row, int column, int output) {
    return cv.output + cv.output_strides(patch.n, output, rows.first_out + row * rows.out_step,
                                         columns.first_out + column * columns.out_step);
  };
  const int64_t down = rows.out_step * cv.output_strides.h;
  if (cv.stores_channels) {
    constexpr int kChunks = kOutputs / kElements, kRows = kThreads / kChunks / kColumns;  // at once
    const int pixel = thread / kChunks, chunk = thread % kChunks;
    const int row = patch.row + pixel / kColumns, column = patch.column + pixel % kColumns;
    const int output = first_output + chunk * kElements;
    if (column >= columns.count || output >= cv.groups.all_outputs()) return;
    T* to = first(row, column, output);
    const char* const from = results + pixel * kResultPitch + chunk * kChunk;
#pragma unroll
    for (int at = 0; at < 2 * kFragments; at += kRows, to += kRows * down)
      if (row + at < rows.count)
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from + at * kColumns * kResultPitch);
  } else {
    constexpr int kAtOnce = kThreads / kColumns;
    const int pixel = thread % kColumns, channel = thread / kColumns, column = patch.column + pixel;
    const int count = min(cv.groups.all_outputs() - first_output, kOutputs);
    if (column >= columns.count || channel >= count) return;
    T* to = first(patch.row, column, first_output + channel);
    const char* from = results + pixel * kResultPitch + channel * 2;
    for (int at = 0; at < 2 * kFragments && patch.row + at < rows.count;
         ++at, to += down, from += kColumns * kResultPitch)
#pragma unroll
      for (int c = 0; c < kOutputs; c += kAtOnce)
        if (channel + c < count) to[c * cv.output_strides.c] = *reinterpret_cast<const T*>(from + c * 2);
  }
}

// A block takes 64 outputs and every `streams`-th patch, and keeps the weights; the next patch is on its way while one
// is multiplied, and its results take the place of what was multiplied.
template <class T, int kFragments, int kTapRows>
__global__ void __launch_bounds__(kThreads, kBlocks) convolve_groups(Convolution<T> cv) {
  char* const weights = shared_memory<char>();
  char* const patches = weights + cv.weight_bytes;  // two
  const Walk walk = Walk::of(cv.input);
  const Odometer step = cv.patches.place(cv.streams);
  const int warp = int(threadIdx.x) / 32;
  for (int64_t item = blockIdx.x; item < int64_t(cv.column_tiles) * cv.streams; item += gridDim.x) {
    // Blocks that run at the same time share patches: what is between their outputs' channels comes from memory once.
    const int tile = int(item % cv.column_tiles);
    const int output = tile * kOutputs + warp * kWarpOutputs;
    const int first_chunk = cv.groups.first_chunk(tile * kOutputs);
    const char* const packed = reinterpret_cast<const char*>(cv.packed) + int64_t(tile) * cv.weight_bytes;
    for (int at = int(threadIdx.x) * kChunk; at < cv.weight_bytes; at += kThreads * kChunk)
      cp_async_16(weights + at, packed + at, true);
    // A warp beyond the last output multiplies zeros.
    const bool exists = output < cv.groups.all_outputs();
    const int chunk = exists ? cv.groups.first_chunk(output) - first_chunk : 0;
    const char* const of_warp = weights + warp * (cv.weight_bytes / kWarps);
    int next = int(item / cv.column_tiles);
    Odometer place = cv.patches.place(next);
    Patch patch = Patches::at(place, kFragments);
    load_patch(cv.input, walk, patch, 0, 0, first_chunk, patches);
    float bias[4] = {};
    for (int e = 0; e < 4; ++e) {
      const int mine = output + lane() % 4 * 4 + e;
      if (cv.bias && mine < cv.groups.all_outputs()) bias[e] = float(cv.bias[mine * cv.bias_stride]);
    }
    for (int buffer = 0; next < cv.patches.count; buffer ^= 1) {
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();  // all threads' copies are there, and all have stored what is overwritten next
      const Patch current = patch;
      char* const of_patch = patches + buffer * cv.patch_bytes;
      next += cv.streams;
      if (next < cv.patches.count) {
        place.advance(step, cv.patches.down, cv.patches.across);
        patch = Patches::at(place, kFragments);
        load_patch(cv.input, walk, patch, 0, 0, first_chunk, patches + (buffer ^ 1) * cv.patch_bytes);
      }
      Sums<kFragments> sums;
#pragma unroll
      for (auto& fragment : sums.d)
#pragma unroll
        for (int e = 0; e < 8; ++e) fragment[e / 4][e % 4] = bias[e / 4 * 2 + e % 2];
      multiply<kFragments, kTapRows>(cv, sums, of_patch + chunk * kChunk, of_warp);
      __syncthreads();  // all have multiplied the patch, which is overwritten by its results
      gather_results<kFragments>(cv, current, output, sums, bias, of_patch + warp * kWarpOutputs * 2);
      __syncthreads();
      store_results<kFragments>(cv, current, tile * kOutputs, of_patch);
    }
    __syncthreads();  // before the next item's patch overwrites what others still store
  }
}

}  // namespace tensorcore_grouped
}  // namespace cuda
}  // namespace convx
