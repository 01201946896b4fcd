// forward and grad_input of grouped layers on tensor cores. A group of 16 channels fills a quarter of the smallest tile
// of tensorcore_convolve.cuh at best, which copies its part of the image once for each tap. Here a block has a patch of
// one image with all that its taps read (tensorcore_grouped_patch.cuh), copied once, and 64 outputs of whatever groups
// they are:
//
//   rows       results of the patch, 16 to a fragment of A
//   columns    16 outputs of a warp
//   reduction  the inputs of their groups, `steps` times 16 (of TF32 8), tap after tap
//   B          packed as fragments, [16 outputs][tap][step][term][lane]; zeros where input and output differ in their
//              group
//
// The product is block-diagonal: a tap shifts the address at which a fragment of A is read from the patch, and a step
// is multiplied only for those 16 outputs whose groups it has. Groups of 4 and 8 share a step, and zeros are
// multiplied: as these times an infinity of a neighbour group, or padding's zeros times an infinite weight, are NaN,
// results that are NaN are computed again by the definition.
//
// 16-bit numbers are multiplied as they are, float32 as TF32 or, split into three terms, as it should be
// (tensorcore_arithmetic.cuh).
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
// multiprocessors alike, 28 patches to each where two thirds had 30 and others 20. Expected: 40 to 45 us; measured: 40.
// As TF32 84 us (cuDNN 123), in three terms 151 (696).
//
// tensorcore_convolve.cuh takes 416 us, by wgmma 352, and few_channels 1151. Groups of 32 and 64 double and quadruple
// products and reads of shared memory, not bytes.
//
// Machine code of convolve_groups<Halves.*: HMMA.16816.F32, LDGSTS.128, LDSM.16.M88.4, LDS.128, STS.64, STG.128
// Machine code of convolve_groups<Rounded.*: HMMA.1688.F32.TF32, LDGSTS.128, LDSM.16.M88.4, LDS.128, STS.128, STG.128
// Machine code of convolve_groups<Three.*: HMMA.16816.F32.BF16, LDGSTS.128, LDSM.16.M88.4, LDS.128, STS.128, STG.128
#pragma once
#include "tensorcore_arithmetic.cuh"
#include "tensorcore_grouped_patch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore_grouped {

constexpr int kFragmentBytes = kWarpOutputs * 32;  // of B, of one term

// What a launch works on: a convolution in the form of input.rows and input.columns. Strides are in elements.
template <class T>
struct Convolution {
  Image<T> input;
  Groups groups;
  int steps;        // of the reduction, for each tap
  int terms;        // of a number
  int step_chunks;  // of A
  const T* weight;  // as it was given
  int64_t weight_group, weight_output, weight_input, weight_r, weight_s;
  char* packed;  // and as fragments
  const T* bias;
  int64_t bias_stride;
  T* output;
  Strides output_strides;
  bool stores_channels;  // a chunk at a time
  Patches patches;
  int patch_bytes, weight_bytes, column_tiles;
  int streams;  // blocks that share the patches of 64 outputs

  CONVX_HD int taps() const { return input.rows.taps * input.columns.taps; }
  CONVX_HD int step_bytes() const { return terms * kFragmentBytes; }
  __device__ const T* weights(int group, int output, int i, int j) const {
    const AxisPlan &rows = input.rows, &columns = input.columns;
    return weight + group * weight_group + output * weight_output + (rows.first_tap + i * rows.tap_step) * weight_r +
           (columns.first_tap + j * columns.tap_step) * weight_s;
  }
};

// A fragment of B, as pack_weights() leaves it: a lane's registers of the products with 8 and 8 outputs.
struct alignas(16) Fragment {
  uint32_t b[2][2];
};

// An arithmetic: its steps have kChunks of A, and B's words of one are made of two numbers, word w's `first` and the
// one `apart` from it, or of the first alone.
template <class T>
struct Halves : tensorcore::Plain {
  using Element = T;
  static constexpr int kTerms = 1, kChunks = 2, kApart = 1, kBlocks = 3;  // of a multiprocessor
  using A = uint32_t[1][4];
  __device__ static int first(int word, int t) { return word % 2 * 8 + t * 2; }
  __device__ static void pack(T first, T second, uint32_t (&terms)[1]) {
    terms[0] = tensorcore::as_word<T>(float(first), float(second));
  }
  __device__ static void load(A& a, const char* from) { ldmatrix_x4(a[0], from); }
  __device__ static void add(float (&d)[2][4], const A& a, const Fragment (&b)[1]) {
    mma_m16n8k16(d[0], a[0], b[0].b[0], T{});
    mma_m16n8k16(d[1], a[0], b[0].b[1], T{});
  }
};

struct Rounded : tensorcore::Plain {
  using Element = float;
  static constexpr int kTerms = 1, kChunks = 2, kApart = 0, kBlocks = 3;
  using A = uint32_t[1][4];
  __device__ static int first(int word, int t) { return word % 2 * 4 + t; }
  __device__ static void pack(float first, float, uint32_t (&terms)[1]) { terms[0] = to_tf32(first); }
  __device__ static void load(A& a, const char* from) {
    ldmatrix_x4(a[0], from);
    for (uint32_t& word : a[0]) word = to_tf32(__uint_as_float(word));
  }
  __device__ static void add(float (&d)[2][4], const A& a, const Fragment (&b)[1]) {
    mma_m16n8k8_tf32(d[0], a[0], b[0].b[0]);
    mma_m16n8k8_tf32(d[1], a[0], b[0].b[1]);
  }
};

// In three terms. A product's k are words t and t + 4 of eight.
struct Three {
  using Element = float;
  static constexpr bool kDoubtsItself = true;
  static constexpr int kTerms = 3, kChunks = 4, kApart = 4, kBlocks = 2;
  using A = uint32_t[3][4];
  __device__ static float finished(float sum) { return tensorcore::Split::finished(sum); }
  __device__ static bool is_doubtful(float sum) { return tensorcore::Split::is_doubtful(sum); }
  __device__ static int first(int word, int t) { return word % 2 * 8 + t; }
  __device__ static void pack(float first, float second, uint32_t (&terms)[3]) {
    tensorcore::Split::split(__float_as_uint(first), __float_as_uint(second), terms[0], terms[1], terms[2]);
  }
  __device__ static void load(A& a, const char* from) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t words[4];
      ldmatrix_x4(words, from + half * 2 * kChunk);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const int i = 2 * half + row;
        tensorcore::Split::split(words[row], words[row + 2], a[0][i], a[1][i], a[2][i]);
      }
    }
  }
  __device__ static void add(float (&d)[2][4], const A& a, const Fragment (&b)[3]) {
    float sums[2][4] = {};
#pragma unroll
    for (int product = 0; product < 6; ++product) {
      constexpr int kOfA[] = {2, 0, 1, 1, 0, 0}, kOfB[] = {0, 2, 1, 0, 1, 0};
#pragma unroll
      for (int i = 0; i < 2; ++i) mma_m16n8k16(sums[i], a[kOfA[product]], b[kOfB[product]].b[i], BFloat16{});
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) d[e / 4][e % 4] += sums[e / 4][e % 4];
  }
};

// The weights as fragments of B, a thread to a word of each term. A lane's outputs are four neighbours.
template <class Arithmetic>
__global__ void pack_weights(Convolution<typename Arithmetic::Element> cv) {
  using T = typename Arithmetic::Element;
  constexpr int kWords = kFragmentBytes / 4, kTerms = Arithmetic::kTerms, kInputs = Arithmetic::kChunks * kElements<T>;
  const int words_of_tile = cv.weight_bytes / kTerms / 4;
  for (int64_t item = first_item(); item < int64_t(cv.column_tiles) * words_of_tile; item += items_step()) {
    const int tile = int(item / words_of_tile), rest = int(item - int64_t(tile) * words_of_tile);
    const int word = rest % 4, in_warp = rest / 4 % 32, g = in_warp / 4, t = in_warp % 4;
    const int fragment = rest / kWords, step = fragment % cv.steps, tap = fragment / cv.steps % cv.taps();
    const int first = tile * kOutputs + fragment / cv.steps / cv.taps() * kWarpOutputs;
    const int output = first + g / 2 * 4 + word / 2 * 2 + g % 2;
    const int input = cv.groups.first_chunk(first) * kElements<T> + step * kInputs + Arithmetic::first(word, t);
    T values[2];
    for (int e = 0; e < 2; ++e) {
      const int mine = input + e * Arithmetic::kApart, group = mine / cv.groups.inputs;
      const bool is_diagonal = group < cv.groups.count && output / cv.groups.outputs == group;
      values[e] = T(0);
      if (is_diagonal)
        values[e] = cv.weights(group, output % cv.groups.outputs, tap / cv.input.columns.taps,
                               tap % cv.input.columns.taps)[mine % cv.groups.inputs * cv.weight_input];
    }
    uint32_t terms[kTerms];
    Arithmetic::pack(values[0], values[1], terms);
    uint32_t* const to = reinterpret_cast<uint32_t*>(cv.packed + int64_t(tile) * cv.weight_bytes) +
                         fragment * kTerms * kWords + rest % kWords;
    for (int term = 0; term < kTerms; ++term) to[term * kWords] = terms[term];
  }
}

// A lane's sums: of fragment f and product j, outputs 4 * t + 2 * j and the next one, of rows f and f + kFragments.
template <int kFragments>
struct Sums {
  float d[kFragments][2][4];
};

// Adds the products of a warp's patch. `patch` is where its first chunk of the first pixel is, `weights` its fragments.
template <class Arithmetic, int kFragments, int kTapRows, class T>
__device__ void multiply(const Convolution<T>& cv, Sums<kFragments>& sums, const char* patch, const char* weights) {
  constexpr int kTerms = Arithmetic::kTerms, kStepBytes = kTerms * kFragmentBytes;
  const Image<T>& input = cv.input;
  const int row_bytes = input.row_bytes(), down = input.rows.stride * row_bytes;
  const char* const a_lane = patch + input.lane_offset(kFragments, lane() / 8 % 2, lane() / 16);
  const char* const b_lane = weights + lane() * sizeof(Fragment);
  const int b_row = input.columns.taps * cv.steps * kStepBytes;
  int r = 0;
  do {  // without taps there are none along columns, either
    for (int s = 0; s < input.columns.taps; ++s) {
      const char* a_tap =
          a_lane + r * input.rows.dilation * row_bytes + input.place(s * input.columns.dilation) * input.pitch;
      const char* b_tap = b_lane + r * b_row + s * cv.steps * kStepBytes;
#pragma unroll 1  // of 16-bit numbers there is one step in groups of 16
      for (int step = 0; step < cv.steps; ++step, a_tap += Arithmetic::kChunks * kChunk, b_tap += kStepBytes) {
        Fragment b[kTapRows][kTerms];
#pragma unroll
        for (int tap = 0; tap < kTapRows; ++tap)
#pragma unroll
          for (int term = 0; term < kTerms; ++term)
            b[tap][term] = *reinterpret_cast<const Fragment*>(b_tap + tap * b_row + term * kFragmentBytes);
#pragma unroll
        for (int row = 0; row < kFragments + kTapRows - 1; ++row) {
          typename Arithmetic::A a;
          Arithmetic::load(a, a_tap + row * down);
#pragma unroll
          for (int tap = 0; tap < kTapRows; ++tap) {
            const int f = row - tap;
            if (f >= 0 && f < kFragments) Arithmetic::add(sums.d[f], a, b[tap]);
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
template <class T>
constexpr int kResultPitch = kOutputs * int(sizeof(T)) + 2 * kChunk;
template <class T>
constexpr int64_t results_bytes(int64_t fragments) {
  return 2 * fragments * kColumns * kResultPitch<T>;
}

// Stores four neighbours at once, rounded. (As a struct of four 16-bit numbers they may be stored one by one.)
template <class T>
__device__ void store_four(char* to, const float (&values)[4]) {
  const T four[4] = {T(values[0]), T(values[1]), T(values[2]), T(values[3])};
  std::conditional_t<sizeof(T) == 2, uint2, uint4> words;
  memcpy(&words, four, sizeof words);
  *reinterpret_cast<decltype(words)*>(to) = words;
}

// Writes a warp's sums, rounded, to where its outputs of the first pixel are in shared memory; then goes over those in
// doubt. `bias` is that of the lane's four outputs.
template <class Arithmetic, int kFragments, class T>
__device__ void gather_results(const Convolution<T>& cv, const Patch& patch, int first_output,
                               const Sums<kFragments>& sums, const float (&bias)[4], char* results) {
  constexpr int kPitch = kResultPitch<T>;
  char* const mine = results + lane() / 4 * kPitch + lane() % 4 * 4 * int(sizeof(T));
  float total[4] = {};  // in doubt if one of the sums is
#pragma unroll
  for (int at = 0; at < 2 * kFragments; ++at) {
    const float (&d)[2][4] = sums.d[at % kFragments];
    const int first = at / kFragments * 2;
    float values[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float sum = d[e / 2][first + e % 2];
      total[e] += sum;
      values[e] = Arithmetic::kDoubtsItself ? Arithmetic::finished(sum) + bias[e] : sum;
    }
    store_four<T>(mine + at * kColumns * kPitch, values);
  }
  if (!Arithmetic::is_doubtful(total[0] + total[1] + (total[2] + total[3]))) return;

  const int column = patch.column + lane() / 4, output = first_output + lane() % 4 * 4;
  if (column >= cv.input.columns.count) return;
  for (int at = 0; at < 2 * kFragments && patch.row + at < cv.input.rows.count; ++at)
    for (int e = 0; e < 4 && output + e < cv.groups.all_outputs(); ++e) {
      T& result = reinterpret_cast<T*>(mine + at * kColumns * kPitch)[e];
      if (Arithmetic::is_doubtful(float(result)))
        result = T(sum_of_taps(cv, patch.n, patch.row + at, column, output + e) + bias[e]);
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
    constexpr int kChunks = kOutputs / kElements<T>, kRows = kThreads / kChunks / kColumns;  // at once
    const int pixel = thread / kChunks, chunk = thread % kChunks;
    const int row = patch.row + pixel / kColumns, column = patch.column + pixel % kColumns;
    const int output = first_output + chunk * kElements<T>;
    if (column >= columns.count || output >= cv.groups.all_outputs()) return;
    T* to = first(row, column, output);
    const char* const from = results + pixel * kResultPitch<T> + chunk * kChunk;
#pragma unroll
    for (int at = 0; at < 2 * kFragments; at += kRows, to += kRows * down)
      if (row + at < rows.count)
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from + at * kColumns * kResultPitch<T>);
  } else {
    constexpr int kAtOnce = kThreads / kColumns;
    const int pixel = thread % kColumns, channel = thread / kColumns, column = patch.column + pixel;
    const int count = min(cv.groups.all_outputs() - first_output, kOutputs);
    if (column >= columns.count || channel >= count) return;
    T* to = first(patch.row, column, first_output + channel);
    const char* from = results + pixel * kResultPitch<T> + channel * int(sizeof(T));
    for (int at = 0; at < 2 * kFragments && patch.row + at < rows.count;
         ++at, to += down, from += kColumns * kResultPitch<T>)
#pragma unroll
      for (int c = 0; c < kOutputs; c += kAtOnce)
        if (channel + c < count) to[c * cv.output_strides.c] = *reinterpret_cast<const T*>(from + c * int(sizeof(T)));
  }
}

// A block takes 64 outputs and every `streams`-th patch, and keeps the weights; the next patch is on its way while one
// is multiplied, and its results take the place of what was multiplied.
template <class Arithmetic, int kFragments, int kTapRows>
__global__ void __launch_bounds__(kThreads, Arithmetic::kBlocks)
    convolve_groups(Convolution<typename Arithmetic::Element> cv) {
  using T = typename Arithmetic::Element;
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
    const char* const packed = cv.packed + int64_t(tile) * cv.weight_bytes;
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
        for (int e = 0; e < 8; ++e) fragment[e / 4][e % 4] = Arithmetic::kDoubtsItself ? 0 : bias[e / 4 * 2 + e % 2];
      multiply<Arithmetic, kFragments, kTapRows>(cv, sums, of_patch + chunk * kChunk, of_warp);
      __syncthreads();  // all have multiplied the patch, which is overwritten by its results
      gather_results<Arithmetic, kFragments>(cv, current, output, sums, bias,
                                             of_patch + warp * kWarpOutputs * int(sizeof(T)));
      __syncthreads();
      store_results<kFragments>(cv, current, tile * kOutputs, of_patch);
    }
    __syncthreads();  // before the next item's patch overwrites what others still store
  }
}

}  // namespace tensorcore_grouped
}  // namespace cuda
}  // namespace convx
