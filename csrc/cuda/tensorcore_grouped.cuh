// forward and grad_input of grouped layers on tensor cores, 16-bit numbers. A group of 16 channels fills a quarter of
// the smallest tile of tensorcore_convolve.cuh at best, which copies its part of the image once for each tap. Here a
// block has a patch of one image with all that its taps read, copied once, and 64 outputs of whatever groups they are.
//
//   patch    16 rows of 7 or 4 pairs of rows, kFragments: results (f, 0..7) and (f + kFragments, 0..7) are the 16 rows
//            of fragment f of A, so 8 columns, and 14 rows (images of 7 * 2^n) or 8
//   warp     16 outputs of all the patch: all of its groups' inputs, in `depth` chunks of 16
//   weights  as fragments of B, [16 outputs][tap][chunk][lane], zeros where input and output are of different groups
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
// Limit: memory. For 16 x 512 x 56 x 56, 3 x 3 and groups of 16, 103 MB are 24 us at 4.3 TB/s. Besides, on 132
// multiprocessors of 1.7 GHz: 1.8 M products m16n8k16 take 4 us each four clocks of a multiprocessor's quarter, so 8
// us; ldmatrix and B's fragments 12 times 512 bytes for each 42 products, 9 us, without the rows that go together 18;
// the patches' copies, 1.43 times the image, 4 us into shared memory and 13 us from L2; all instructions, some 450 of a
// warp for a patch, 8 us. Expected: 35 to 45 us. Groups of 32 and 64 double and quadruple products and ldmatrix, not
// bytes. tensorcore_convolve.cuh asks L2 for each tap anew and fills a quarter of its tiles; few_channels has no
// matrices.
//
// Machine code of convolve_groups<.*: HMMA.16816.F32, LDGSTS.128, LDSM.16.M88.4, LDS.128
#pragma once
#include "tensorcore_loaders.cuh"

namespace convx {
namespace cuda {
namespace tensorcore_grouped {

using tensorcore::AxisPlan;
using tensorcore::kChunk;
using tensorcore::lane;
using tensorcore::Odometer;

constexpr int kThreads = 128, kWarps = kThreads / 32, kBlocks = 3;  // blocks of a multiprocessor, by shared memory
constexpr int kWarpOutputs = 16, kOutputs = kWarps * kWarpOutputs;  // of a warp, and of a block
constexpr int kDepth = 16;                                          // inputs that are multiplied together
constexpr int kColumns = 8;                                         // results of a patch's row
constexpr int kElements = kChunk / 2;
constexpr int kFragmentBytes = kDepth * kWarpOutputs * 2;  // of B

// What a launch works on: a convolution with zeros or repeated padding, in the form of `rows` and `columns`. Strides
// are in elements; all channels of a pixel are neighbours, in whole chunks.
template <class T>
struct Convolution {
  const T* input;
  int64_t input_n, input_h, input_w;
  int input_chunks;  // of a pixel
  const T* weight;   // as it was given
  int64_t weight_group, weight_output, weight_input, weight_r, weight_s;
  T* packed;  // and as fragments
  const T* bias;
  int64_t bias_stride;
  T* output;
  Strides output_strides;
  bool stores_channels;  // four at a time
  AxisPlan rows, columns;
  int N, G, inputs, outputs;  // of a group

  // The patch with its halo, in pixels; `across` of a row's pixels are a stride apart, and lie together.
  int patch_rows, patch_columns, across;
  int depth;        // chunks of kDepth that a warp multiplies
  int span, pitch;  // of a pixel in shared memory: chunks, and bytes
  int patch_bytes, weight_bytes;
  int patches_down, patches_across, column_tiles;
  int64_t patches, streams;  // of all images; blocks that share the patches of 64 outputs

  CONVX_HD int taps() const { return rows.taps * columns.taps; }
  // The first chunk of a pixel that outputs from `output` on read.
  CONVX_HD int first_chunk(int output) const { return output / outputs * inputs / kElements; }
  // In shared memory pixels of a row that a stride takes one after the other are neighbours: their eight chunks lie in
  // eight different places of 128 bytes, as the pitch is an odd number of chunks.
  __device__ int place(int column) const {
    return columns.stride == 1 ? column : column % columns.stride * across + column / columns.stride;
  }
  __device__ int places() const { return columns.stride == 1 ? patch_columns : across * columns.stride; }
  __device__ const T* weights(int group, int output, int i, int j) const {
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
    const int input = cv.first_chunk(first) * kElements + chunk * kDepth + word % 2 * 8 + t * 2;
    for (int e = 0; e < 2; ++e) {
      const int group = (input + e) / cv.inputs;
      const bool is_diagonal = group < cv.G && output / cv.outputs == group;
      T value(0);
      if (is_diagonal)
        value = cv.weights(group, output % cv.outputs, tap / cv.columns.taps,
                           tap % cv.columns.taps)[(input + e) % cv.inputs * cv.weight_input];
      cv.packed[item * 2 + e] = value;
    }
  }
}

// A patch: an image and its first result there.
struct Patch {
  int n, row, column;
  template <class T>
  __device__ static Patch of(const Convolution<T>& cv, int64_t patch, int rows) {
    const int in_image = int(patch % (cv.patches_down * cv.patches_across));
    return {int(patch / (cv.patches_down * cv.patches_across)), in_image / cv.patches_across * rows,
            in_image % cv.patches_across * kColumns};
  }
};

// What is read at a position, or -1 if nothing; also if no result reads it.
__device__ inline int source(const AxisPlan& axis, int position) {
  if (unsigned(position) < unsigned(axis.in)) return position;
  if (axis.mode == PaddingMode::zeros || position > axis.position(axis.count - 1, axis.taps - 1)) return -1;
  return axis.source(position);
}

// A thread's chunks of every patch: (row, column, chunk of the pixel), from `first` on in steps of all threads.
struct Walk {
  Odometer first, step;
  template <class T>
  __device__ static Walk of(const Convolution<T>& cv) {
    const int columns = max(cv.patch_columns, 1), span = max(cv.span, 1);
    return {Odometer::of(int(threadIdx.x), columns, span), Odometer::of(kThreads, columns, span)};
  }
};

// Begins to copy a patch, from a chunk of its pixels on.
template <class T>
__device__ void load_patch(const Convolution<T>& cv, const Walk& walk, const Patch& patch, int first_chunk, char* to) {
  const int top = cv.rows.position(patch.row, 0), left = cv.columns.position(patch.column, 0), places = cv.places();
  const T* const image = cv.input + patch.n * cv.input_n;
  for (Odometer o = walk.first; o.high < cv.patch_rows; o.advance(walk.step, cv.patch_columns, cv.span)) {
    const int h = source(cv.rows, top + o.high), w = source(cv.columns, left + o.middle), chunk = first_chunk + o.low;
    const bool reads = h >= 0 && w >= 0 && chunk < cv.input_chunks;
    cp_async_16(to + (o.high * places + cv.place(o.middle)) * cv.pitch + o.low * kChunk,
                reads ? image + h * cv.input_h + w * cv.input_w + chunk * kElements : cv.input, reads);
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
  const int i = lane() / 8, j = lane() % 8;
  const int row_bytes = cv.places() * cv.pitch, down = cv.rows.stride * row_bytes;
  const char* const a_lane = patch + i % 2 * kFragments * down + j * cv.pitch + i / 2 * kChunk;
  const char* const b_lane = weights + lane() * sizeof(Fragment);
  const int b_row = cv.columns.taps * cv.depth * kFragmentBytes;
  for (int r = 0; r < cv.rows.taps; r += kTapRows)
    for (int s = 0; s < cv.columns.taps; ++s) {
      const char* a_tap = a_lane + r * cv.rows.dilation * row_bytes + cv.place(s * cv.columns.dilation) * cv.pitch;
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
  const int group = output / cv.outputs;
  float sum = 0;
  for (int i = 0; i < cv.rows.taps; ++i) {
    const int h = source(cv.rows, cv.rows.position(row, i));
    if (h < 0) continue;
    for (int j = 0; j < cv.columns.taps; ++j) {
      const int w = source(cv.columns, cv.columns.position(column, j));
      if (w < 0) continue;
      const T* x = cv.input + n * cv.input_n + h * cv.input_h + w * cv.input_w + group * cv.inputs;
      const T* v = cv.weights(group, output % cv.outputs, i, j);
      for (int c = 0; c < cv.inputs; ++c) sum = fma(float(v[c * cv.weight_input]), float(x[c]), sum);
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
  const int count = cv.G * cv.outputs - output;  // of the lane's outputs, those that exist
  if (column >= cv.columns.count || count <= 0) return;
  const auto bias = [&](int e) { return cv.bias && e < count ? float(cv.bias[(output + e) * cv.bias_stride]) : 0.0f; };
  const auto result = [&](int at) {  // of row `at` of the patch
    return cv.output + cv.output_strides(patch.n, output, cv.rows.first_out + (patch.row + at) * cv.rows.out_step,
                                         cv.columns.first_out + column * cv.columns.out_step);
  };
  const float b[4] = {bias(0), bias(1), bias(2), bias(3)};
  bool doubt = false;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
      if (patch.row + f + half * kFragments >= cv.rows.count) break;
      T* const to = result(f + half * kFragments);
      Four<T> four;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float sum = sums.d[f][e / 2][2 * half + e % 2];
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
  for (int at = 0; at < 2 * kFragments && patch.row + at < cv.rows.count; ++at)
    for (int e = 0; e < 4 && e < count; ++e) {
      T* const to = result(at) + e * cv.output_strides.c;
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
  const Walk walk = Walk::of(cv);
  const int warp = int(threadIdx.x) / 32;
  for (int64_t item = blockIdx.x; item < cv.column_tiles * cv.streams; item += gridDim.x) {
    // Blocks that run at the same time share patches: what is between their outputs' channels comes from memory once.
    const int tile = int(item % cv.column_tiles);
    const int output = tile * kOutputs + warp * kWarpOutputs;
    const int first_chunk = cv.first_chunk(tile * kOutputs);
    const char* const packed = reinterpret_cast<const char*>(cv.packed) + int64_t(tile) * cv.weight_bytes;
    for (int at = int(threadIdx.x) * kChunk; at < cv.weight_bytes; at += kThreads * kChunk)
      cp_async_16(weights + at, packed + at, true);
    int64_t next = item / cv.column_tiles;
    Patch patch = Patch::of(cv, next, 2 * kFragments);
    load_patch(cv, walk, patch, first_chunk, patches);
    for (int buffer = 0; next < cv.patches; buffer ^= 1) {
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();  // all threads' copies are there, and all have multiplied the patch that is overwritten next
      const Patch current = patch;
      next += cv.streams;
      if (next < cv.patches) {
        patch = Patch::of(cv, next, 2 * kFragments);
        load_patch(cv, walk, patch, first_chunk, patches + (buffer ^ 1) * cv.patch_bytes);
      }
      if (output >= cv.G * cv.outputs) continue;
      Sums<kFragments> sums = {};
      multiply<kFragments, kTapRows>(
          cv, sums, patches + buffer * cv.patch_bytes + (cv.first_chunk(output) - first_chunk) * kChunk,
          weights + warp * (cv.weight_bytes / kWarps));
      store_results<kFragments>(cv, current, output, sums);
    }
    __syncthreads();  // before the next item's weights and patch overwrite what others still multiply
  }
}

}  // namespace tensorcore_grouped
}  // namespace cuda
}  // namespace convx
