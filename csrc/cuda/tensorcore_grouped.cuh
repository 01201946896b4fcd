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
// Limit: memory. For 16 x 512 x 56 x 56, 3x3 and groups of 16, 103 MB are 24 us at 4.3 TB/s. Beside it, on an H200's
// 132 multiprocessors at 1.7 GHz: 1.8 M products m16n8k16 at mma.sync's 62 % of the matrix rate, 6 us; 12 reads of 512
// bytes from shared memory for each 42 products, 9 us (without rows that go together 18); the patches with what is
// around them, 1.43 times the image, 13 us from L2; all instructions, some 900 of a warp for a patch, 14 us, more than
// a third of them to find out what is copied. A block multiplies while its next patch is on its way, and three share a
// multiprocessor. Expected: 35 to 50 us, where tensorcore_convolve.cuh takes 416, by wgmma 352, and few_channels 1151.
// Groups of 32 and 64 double and quadruple products and reads of shared memory, not bytes.
//
// Machine code of convolve_groups<.*: HMMA.16816.F32, LDGSTS.128, LDSM.16.M88.4, LDS.128
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
  bool stores_channels;  // four at a time
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
  const int64_t words = int64_t(cv.column_tiles) * cv.weight_bytes / 4;
  for (int64_t item = first_item(); item < words; item += items_step()) {
    const int word = int(item % 4), in_warp = int(item / 4 % 32), g = in_warp / 4, t = in_warp % 4;
    const int64_t fragment = item / 128;
    const int chunk = int(fragment % cv.depth), tap = int(fragment / cv.depth % cv.taps());
    const int first = int(fragment / cv.depth / cv.taps()) * kWarpOutputs;
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
  for (int r = 0; r < input.rows.taps; r += kTapRows)
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

template <class T>
struct alignas(8) Four {
  T v[4];
};

// Writes a warp's sums, rounded, with the bias; then goes over those in doubt. Four lanes store 32 bytes of a pixel.
template <int kFragments, class T>
__device__ void store_results(const Convolution<T>& cv, const Patch& patch, int first_output,
                              const Sums<kFragments>& sums) {
  const int column = patch.column + lane() / 4, output = first_output + lane() % 4 * 4;
  const int count = cv.groups.all_outputs() - output;  // of the lane's outputs, those that exist
  const AxisPlan &rows = cv.input.rows, &columns = cv.input.columns;
  if (column >= columns.count || count <= 0) return;
  const auto bias = [&](int e) { return cv.bias && e < count ? float(cv.bias[(output + e) * cv.bias_stride]) : 0.0f; };
  T* const first = cv.output + cv.output_strides(patch.n, output, rows.first_out + patch.row * rows.out_step,
                                                 columns.first_out + column * columns.out_step);
  const int64_t down = rows.out_step * cv.output_strides.h;
  const float b[4] = {bias(0), bias(1), bias(2), bias(3)};
  T* to = first;
  bool doubt = false;
#pragma unroll
  for (int at = 0; at < 2 * kFragments; ++at, to += down) {
    if (patch.row + at >= rows.count) break;
    Four<T> four;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float sum = sums.d[at % kFragments][e / 2][at / kFragments * 2 + e % 2];
      doubt = doubt || sum != sum;
      four.v[e] = T(sum + b[e]);
    }
    if (cv.stores_channels) {
      *reinterpret_cast<Four<T>*>(to) = four;
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (e < count) to[e * cv.output_strides.c] = four.v[e];
    }
  }

  if (!doubt) return;
  for (int at = 0; at < 2 * kFragments && patch.row + at < rows.count; ++at)
    for (int e = 0; e < 4 && e < count; ++e) {
      T* const to = first + at * down + e * cv.output_strides.c;
      const float stored = float(*to);
      if (stored != stored) *to = T(sum_of_taps(cv, patch.n, patch.row + at, column, output + e) + bias(e));
    }
}

// A block takes 64 outputs and every `streams`-th patch, and keeps the weights; the next patch is on its way while one
// is multiplied.
template <class T, int kFragments, int kTapRows>
__global__ void __launch_bounds__(kThreads, kBlocks) convolve_groups(Convolution<T> cv) {
  char* const weights = shared_memory<char>();
  char* const patches = weights + cv.weight_bytes;  // two
  const Walk walk = Walk::of(cv.input);
  const int warp = int(threadIdx.x) / 32;
  for (int64_t item = blockIdx.x; item < int64_t(cv.column_tiles) * cv.streams; item += gridDim.x) {
    // Blocks that run at the same time share patches: what is between their outputs' channels comes from memory once.
    const int tile = int(item % cv.column_tiles);
    const int output = tile * kOutputs + warp * kWarpOutputs;
    const int first_chunk = cv.groups.first_chunk(tile * kOutputs);
    const char* const packed = reinterpret_cast<const char*>(cv.packed) + int64_t(tile) * cv.weight_bytes;
    for (int at = int(threadIdx.x) * kChunk; at < cv.weight_bytes; at += kThreads * kChunk)
      cp_async_16(weights + at, packed + at, true);
    int next = int(item / cv.column_tiles);
    Patch patch = cv.patches.at(next, kFragments);
    load_patch(cv.input, walk, patch, 0, 0, first_chunk, patches);
    for (int buffer = 0; next < cv.patches.count; buffer ^= 1) {
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();  // all threads' copies are there, and all have multiplied the patch that is overwritten next
      const Patch current = patch;
      next += cv.streams;
      if (next < cv.patches.count) {
        patch = cv.patches.at(next, kFragments);
        load_patch(cv.input, walk, patch, 0, 0, first_chunk, patches + (buffer ^ 1) * cv.patch_bytes);
      }
      if (output >= cv.groups.all_outputs()) continue;
      Sums<kFragments> sums = {};
      multiply<kFragments, kTapRows>(
          cv, sums, patches + buffer * cv.patch_bytes + (cv.groups.first_chunk(output) - first_chunk) * kChunk,
          weights + warp * (cv.weight_bytes / kWarps));
      store_results<kFragments>(cv, current, output, sums);
    }
    __syncthreads();  // before the next item's weights and patch overwrite what others still multiply
  }
}

}  // namespace tensorcore_grouped
}  // namespace cuda
}  // namespace convx
