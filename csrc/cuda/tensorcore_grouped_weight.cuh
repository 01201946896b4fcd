// grad_weight of grouped layers on tensor cores. As in tensorcore_grouped.cuh a block has patches of
// y and x, 64 outputs and the channels of their groups, copied once for nine taps. For each tap a product of matrices:
//
//   rows       16 outputs of a warp         y, whose pixels are its columns: transposed by ldmatrix
//   columns    16 inputs of their groups    x, where the tap reads for these pixels; transposed, too
//   reduction  pixels, 16 of a fragment
//
// float32, as TF32 or in three terms, is read word by word, since ldmatrix transposes 16-bit numbers only.
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
// multiprocessor. Expected: 50 to 65 us. Measured on an H200: 50 us (cuDNN 98), as TF32 90 (410), in three terms 174
// (760). Groups of 32 and 64 read the patches two and four times. tensorcore_weight.cuh reads x for each tap and fills
// a sixteenth of its smallest tile with groups of 16.
//
// Machine code of weight_of_groups<HalvesWeight.*: HMMA.16816.F32, LDGSTS.128, LDSM.16.MT88.4
// Machine code of weight_of_groups<RoundedWeight.*: HMMA.1688.F32.TF32, LDGSTS.128
// Machine code of weight_of_groups<ThreeWeight.*: HMMA.16816.F32.BF16, LDGSTS.128
#pragma once
#include "tensorcore_arithmetic.cuh"
#include "tensorcore_grouped_patch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore_grouped {

constexpr int kTaps = 3;         // along either axis, that an item has
constexpr int kWarpInputs = 16;  // that it has

// What a launch works on. Strides are in elements.
template <class T>
struct WeightGradient {
  Image<T> x, y;  // y is read as by a 1x1 kernel
  Groups groups;
  int depth;  // items that the inputs of 16 outputs take, of kWarpInputs each
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

// An arithmetic: the fragments A, of 16 outputs, and B, of 16 inputs, of the 16 pixels that a lane finds from where
// a_lane() and b_lane() say it reads the first; `half` is from the first eight pixels to the others, in bytes.
template <class T>
struct HalvesWeight : tensorcore::Plain {
  using Element = T;
  static constexpr int kBlocks = 3;  // of a multiprocessor, by registers
  using A = uint32_t[4];
  using B = uint32_t[4];
  __device__ static int a_lane(const Image<T>& y, int fragments) {
    return y.lane_offset(fragments, lane() / 16, lane() / 8 % 2);
  }
  __device__ static int b_lane(const Image<T>& x, int fragments) {
    return x.lane_offset(fragments, lane() / 8 % 2, lane() / 16);
  }
  __device__ static void load_a(A& a, const char* from, int, int) { ldmatrix_x4_trans(a, from); }
  __device__ static void load_b(B& b, const char* from, int, int) { ldmatrix_x4_trans(b, from); }
  __device__ static void add(float (&d)[2][4], const A& a, const B& b) {
    const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
    mma_m16n8k16(d[0], a, left, T{});
    mma_m16n8k16(d[1], a, right, T{});
  }
};

// Word by word: pixels t and t + 4 of eight, channels g and g + 8.
struct Words {
  template <class Image>
  __device__ static int a_lane(const Image& image, int) {
    return lane() % 4 * image.pitch + lane() / 4 * int(sizeof(float));
  }
  template <class Image>
  __device__ static int b_lane(const Image& image, int fragments) {
    return a_lane(image, fragments);
  }
  __device__ static uint32_t at(const char* from, int pixel, int channel) {
    return *reinterpret_cast<const uint32_t*>(from + pixel + channel * int(sizeof(float)));
  }
};

struct RoundedWeight : Words, tensorcore::Plain {
  using Element = float;
  static constexpr int kBlocks = 2;
  using A = uint32_t[2][4];     // [half]
  using B = uint32_t[2][2][2];  // [half][eight inputs]
  __device__ static uint32_t rounded(uint32_t word) { return to_tf32(__uint_as_float(word)); }
  __device__ static void load_a(A& a, const char* from, int half, int pitch) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int i = 0; i < 4; ++i) a[h][i] = rounded(at(from, h * half + i / 2 * 4 * pitch, i % 2 * 8));
  }
  __device__ static void load_b(B& b, const char* from, int half, int pitch) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int i = 0; i < 4; ++i) b[h][i / 2][i % 2] = rounded(at(from, h * half + i % 2 * 4 * pitch, i / 2 * 8));
  }
  __device__ static void add(float (&d)[2][4], const A& a, const B& b) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int j = 0; j < 2; ++j) mma_m16n8k8_tf32(d[j], a[h], b[h][j]);
  }
};

// In three terms. A product's k are pixels t and t + 4 of eight.
struct ThreeWeight : Words {
  using Element = float;
  static constexpr int kBlocks = 2;
  using A = uint32_t[3][4];
  using B = uint32_t[3][2][2];  // [term][eight inputs][half]
  __device__ static float finished(float sum) { return tensorcore::Split::finished(sum); }
  __device__ static bool is_doubtful(float sum) { return tensorcore::Split::is_doubtful(sum); }
  __device__ static void load_a(A& a, const char* from, int half, int pitch) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int first = i / 2 * half, channel = i % 2 * 8;
      tensorcore::Split::split(at(from, first, channel), at(from, first + 4 * pitch, channel), a[0][i], a[1][i],
                               a[2][i]);
    }
  }
  __device__ static void load_b(B& b, const char* from, int half, int pitch) {
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        tensorcore::Split::split(at(from, h * half, 8 * j), at(from, h * half + 4 * pitch, 8 * j), b[0][j][h],
                                 b[1][j][h], b[2][j][h]);
  }
  __device__ static void add(float (&d)[2][4], const A& a, const B& b) {
    float sums[2][4] = {};
#pragma unroll
    for (int product = 0; product < 6; ++product) {
      constexpr int kOfA[] = {2, 0, 1, 1, 0, 0}, kOfB[] = {0, 2, 1, 0, 1, 0};
#pragma unroll
      for (int j = 0; j < 2; ++j) mma_m16n8k16(sums[j], a[kOfA[product]], b[kOfB[product]][j], BFloat16{});
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) d[e / 4][e % 4] += sums[e / 4][e % 4];
  }
};

// Adds the products of a warp's patch, for taps that begin at (first_r, first_s). `x` and `y` are where its first
// chunks of the first pixels are.
template <class Arithmetic, int kFragments, bool kTogether, class T>
__device__ void multiply(const WeightGradient<T>& wg, WeightSums& sums, const char* x, const char* y, int first_r,
                         int first_s) {
  typename Arithmetic::A a[kFragments];
  const char* const a_lane = y + Arithmetic::a_lane(wg.y, kFragments);
#pragma unroll
  for (int f = 0; f < kFragments; ++f)
    Arithmetic::load_a(a[f], a_lane + f * wg.y.row_bytes(), kFragments * wg.y.row_bytes(), wg.y.pitch);

  const int row_bytes = wg.x.row_bytes(), down = wg.x.rows.stride * row_bytes, half = kFragments * down;
  const char* const b_lane = x + Arithmetic::b_lane(wg.x, kFragments);
#pragma unroll
  for (int s = 0; s < kTaps; ++s) {
    if (first_s + s >= wg.x.columns.taps) break;
    const char* const b_tap = b_lane + wg.x.place(s * wg.x.columns.dilation) * wg.x.pitch;
    if (kTogether) {
#pragma unroll
      for (int row = 0; row < kFragments + kTaps - 1; ++row) {
        typename Arithmetic::B b;
        Arithmetic::load_b(b, b_tap + row * row_bytes, half, wg.x.pitch);
#pragma unroll
        for (int r = 0; r < kTaps; ++r)
          if (row - r >= 0 && row - r < kFragments) Arithmetic::add(sums.d[r][s], a[row - r], b);
      }
    } else {
#pragma unroll
      for (int f = 0; f < kFragments; ++f)
#pragma unroll
        for (int r = 0; r < kTaps; ++r) {
          if (first_r + r >= wg.x.rows.taps) break;
          typename Arithmetic::B b;
          Arithmetic::load_b(b, b_tap + r * wg.x.rows.dilation * row_bytes + f * down, half, wg.x.pitch);
          Arithmetic::add(sums.d[r][s], a[f], b);
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

template <class Arithmetic, int kFragments, bool kTogether>
__global__ void __launch_bounds__(kThreads, Arithmetic::kBlocks)
    weight_of_groups(WeightGradient<typename Arithmetic::Element> wg) {
  using T = typename Arithmetic::Element;
  char* const shared = shared_memory<char>();  // twice x and y
  const int bytes = wg.x_bytes + wg.y_bytes, warp = int(threadIdx.x) / 32;
  const Walk x_walk = Walk::of(wg.x), y_walk = Walk::of(wg.y);
  for (int64_t item = blockIdx.x; item < wg.tiles() * wg.streams; item += gridDim.x) {
    // Blocks that run at the same time share patches, as in forward.
    int rest = int(item % wg.tiles());
    const int tile = rest % wg.column_tiles;
    rest /= wg.column_tiles;
    const int chunk = rest % wg.depth * (kWarpInputs / kElements<T>);  // from the first of the outputs' groups on
    rest /= wg.depth;
    const int first_s = rest % wg.tap_tiles_across() * kTaps, first_r = rest / wg.tap_tiles_across() * kTaps;
    const int output = tile * kOutputs + warp * kWarpOutputs, first_chunk = wg.groups.first_chunk(tile * kOutputs);
    const int stream = int(item / wg.tiles());
    const auto load = [&](int patch, char* to) {
      const Patch at = Patches::at(wg.patches.place(patch), kFragments);  // divided anew, as registers are few
      load_patch(wg.x, x_walk, at, first_r, first_s, first_chunk + chunk, to);
      load_patch(wg.y, y_walk, at, 0, 0, tile * (kOutputs / kElements<T>), to + wg.x_bytes);
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
      multiply<Arithmetic, kFragments, kTogether>(wg, sums, x + (wg.groups.first_chunk(output) - first_chunk) * kChunk,
                                                  x + wg.x_bytes + warp * kWarpOutputs * int(sizeof(T)), first_r,
                                                  first_s);
    }
    if (output < wg.groups.all_outputs())
      store_sums(wg, wg.partial + stream * wg.weights(), output, (wg.groups.first_chunk(output) + chunk) * kElements<T>,
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

// Adds the streams' sums, a lane to a weight. Those in doubt are computed again one after the other, by all lanes in
// turns and in a fixed order.
template <class Arithmetic>
__global__ void add_streams(WeightGradient<typename Arithmetic::Element> wg) {
  using T = typename Arithmetic::Element;
  const int64_t count = wg.weights();
  for (int64_t first = first_item() - lane(); first < count; first += items_step()) {
    const int64_t i = first + lane();
    float sum = 0;
    if (i < count)
      for (int stream = 0; stream < wg.streams; ++stream) sum += wg.partial[stream * count + i];
    const uint32_t doubts = __ballot_sync(0xffffffffu, Arithmetic::is_doubtful(sum));
    sum = Arithmetic::finished(sum);
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
