// First layers on tensor cores, grad_weight: over the results of all patches (patch_windows_plan.cuh) the product of
//
//   rows       32 or 64 output channels of a block
//   columns    numbers of a window, a fourth of a block's to each warp
//   reduction  results, the 16 of a patch's row at a time
//
// A is a tile of y, copied to shared memory and read across; B is read from the image's patch: a lane has one number of
// a window and two neighbouring results, whose windows begin `across` numbers apart. So of 16-bit numbers the patch
// holds words, each number beside the one that far on, and a word of B is one load.
//
// A block sums over every splits-th patch; a second kernel adds the splits in a fixed order, and computes again by the
// definition what came out NaN (or, of sums that Split doubts, not finite): zeros of the padding times an infinity are.
//
// Limit: y is read once for each 160 numbers of a window, 26 MB in a ResNet's first layer of 16, 6 us; products 8 us;
// the splits' sums, 38 KB each, of three blocks to a multiprocessor are written and read again in 7 us. Measured on an
// H200 70 us, where cuDNN takes 76 and row_windows 112, with three times the instructions to load a patch that there
// are now.
//
// Machine code of weigh_windows<HalvesWeight.*: HMMA.16816.F32, LDSM.16.MT88.4
// Machine code of weigh_windows<RoundedWeight.*: HMMA.1688.F32.TF32
// Machine code of weigh_windows<ThreeWeight.*: HMMA.16816.F32.BF16
#pragma once
#include "patch_windows.cuh"

namespace convx {
namespace cuda {
namespace patch_windows {

constexpr int kWeightRows = 4;  // of results, of a patch

template <class T>
struct WeightWindows {
  ConvProblem pb;
  Tensors<T> t;
  Pixels pixels;
  Patches patches;
  int numbers;                   // of a window
  int row_tiles, column_blocks;  // of outputs, and of numbers
  int splits;
  bool copies_chunks;  // of y, sixteen bytes of channels
  float* partial;      // [split][output][number]

  CONVX_HD int offset(int number) const {
    const int r = number / pixels.run;
    return number < numbers ? r * pixels.step + (number - r * pixels.run) : 0;
  }
};

// A tile of y: [result][channel], the pitch such that what a warp reads is in different banks.
template <class T>
CONVX_HD constexpr int tile_pitch(int rows) {
  return rows * int(sizeof(T)) + (sizeof(T) == 2 ? 16 : 32);
}

// An arithmetic: how a patch lies in shared memory, and what a warp adds for 16 results. kBlocks, of a
// multiprocessor, is what registers allow. kM times 16 outputs, kN times
// eight numbers; `tile` is the first result's first channel, `from` where the windows of the first result begin, and
// `at` the lane's numbers, all offsets of words.
template <class T>
struct HalvesWeight : tensorcore::Plain {
  using Element = T;
  static constexpr int kBlocks = 3;
  __device__ static void store(T* words, int at, int across, T value) {
    words[2 * at] = value;
    if (at >= across) words[2 * (at - across) + 1] = value;
  }

  template <int kM, int kN>
  __device__ static void add(float (&d)[kM][kN][4], const char* tile, int pitch, const uint32_t* from, int across,
                             const int (&at)[kN]) {
    const int i = lane() / 8, t = lane() % 4;
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m)
      ldmatrix_x4_trans(a[m], tile + (i / 2 * 8 + lane() % 8) * pitch + (2 * m + i % 2) * 16);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const uint32_t b[2] = {from[2 * t * across + at[n]], from[(2 * t + 8) * across + at[n]]};
#pragma unroll
      for (int m = 0; m < kM; ++m) mma_m16n8k16(d[m][n], a[m], b, T{});
    }
  }
};

struct RoundedWeight : tensorcore::Plain {
  using Element = float;
  static constexpr int kBlocks = 3;
  __device__ static void store(float* words, int at, int, float value) { words[at] = __uint_as_float(to_tf32(value)); }

  template <int kM, int kN>
  __device__ static void add(float (&d)[kM][kN][4], const char* tile, int pitch, const uint32_t* from, int across,
                             const int (&at)[kN]) {
    const int g = lane() / 4, t = lane() % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int first = half * 8 + t;  // result, and first + 4
      uint32_t a[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          a[m][i] = to_tf32(*reinterpret_cast<const float*>(tile + (first + i / 2 * 4) * pitch +
                                                            (16 * m + i % 2 * 8 + g) * int(sizeof(float))));
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const uint32_t b[2] = {from[first * across + at[n]], from[(first + 4) * across + at[n]]};
#pragma unroll
        for (int m = 0; m < kM; ++m) mma_m16n8k8_tf32(d[m][n], a[m], b);
      }
    }
  }
};

// In three terms; a product's k are results t and t + 4 of eight.
struct ThreeWeight {
  using Element = float;
  static constexpr int kBlocks = 2;
  __device__ static float finished(float sum) { return tensorcore::Split::finished(sum); }
  __device__ static bool is_doubtful(float sum) { return tensorcore::Split::is_doubtful(sum); }
  __device__ static void store(float* words, int at, int, float value) { words[at] = value; }

  template <int kM, int kN>
  __device__ static void add(float (&d)[kM][kN][4], const char* tile, int pitch, const uint32_t* from, int across,
                             const int (&at)[kN]) {
    const int g = lane() / 4, t = lane() % 4;
    uint32_t a[3][kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const char* const first = tile + (i / 2 * 8 + t) * pitch + (16 * m + i % 2 * 8 + g) * int(sizeof(float));
        tensorcore::Split::split(*reinterpret_cast<const uint32_t*>(first),
                                 *reinterpret_cast<const uint32_t*>(first + 4 * pitch), a[0][m][i], a[1][m][i],
                                 a[2][m][i]);
      }
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      uint32_t b[3][2];
#pragma unroll
      for (int half = 0; half < 2; ++half)
        tensorcore::Split::split(from[(half * 8 + t) * across + at[n]], from[(half * 8 + t + 4) * across + at[n]],
                                 b[0][half], b[1][half], b[2][half]);
      float sums[kM][4] = {};
#pragma unroll
      for (int product = 0; product < 6; ++product) {
        constexpr int kOfA[] = {2, 0, 1, 1, 0, 0}, kOfB[] = {0, 2, 1, 0, 1, 0};
#pragma unroll
        for (int m = 0; m < kM; ++m) mma_m16n8k16(sums[m], a[kOfA[product]][m], b[kOfB[product]], BFloat16{});
      }
#pragma unroll
      for (int m = 0; m < kM; ++m)
        for (int e = 0; e < 4; ++e) d[m][n][e] += sums[m][e];
    }
  }
};

// Copies a patch's part of y, `channels` from `first` on; zeros where there is no result.
template <class T>
__device__ void load_results(const WeightWindows<T>& ww, const Patch& patch, int first, int channels, char* tile,
                             int pitch) {
  constexpr int kResults = kWeightRows * kColumns, kElements = 16 / int(sizeof(T));
  const Strides& y = ww.t.o.y.strides;
  const T* const image = static_cast<const T*>(ww.t.o.y.data) + patch.n * y.n + first * y.c;
  const int K = int(ww.pb.K) - first;
  const auto exists = [&](int result) {
    return patch.row + result / kColumns < ww.pb.P && patch.column + result % kColumns < ww.pb.Q;
  };
  const auto at = [&](int result) {
    return (patch.row + result / kColumns) * y.h + (patch.column + result % kColumns) * y.w;
  };
  if (ww.copies_chunks) {
    const int chunks = channels / kElements;
    for (int i = int(threadIdx.x); i < kResults * chunks; i += kThreads) {
      const int result = i / chunks, channel = (i - result * chunks) * kElements;
      const bool reads = exists(result) && channel < K;
      cp_async_16(tile + result * pitch + channel * int(sizeof(T)), reads ? image + at(result) + channel : image,
                  reads);
    }
    cp_async_commit();
    return;
  }
  constexpr int kAhead = 4;  // numbers that a thread waits for at once
  const bool by_channel = y.c <= y.w;
  for (int i = int(threadIdx.x); i < kResults * channels; i += kAhead * kThreads) {
    T values[kAhead];
#pragma unroll
    for (int e = 0; e < kAhead; ++e) {
      const int item = i + e * kThreads;  // kResults * channels is a multiple of kAhead * kThreads
      const int result = by_channel ? item / channels : item % kResults;
      const int channel = by_channel ? item % channels : item / kResults;
      values[e] = exists(result) && channel < K ? image[at(result) + channel * y.c] : T(0);
    }
#pragma unroll
    for (int e = 0; e < kAhead; ++e) {
      const int item = i + e * kThreads;
      const int result = by_channel ? item / channels : item % kResults;
      const int channel = by_channel ? item % channels : item / kResults;
      *reinterpret_cast<T*>(tile + result * pitch + channel * int(sizeof(T))) = values[e];
    }
  }
}

// Of a warp at most: five leave registers for the sums of 64 outputs, and are what a window of 7x7 and three channels
// has.
constexpr int kMostEights = 5;
template <class Arithmetic, int kN>
constexpr int kWeightBlocks = kN > 4 ? 2 : Arithmetic::kBlocks;

template <class Arithmetic, int kM, int kN>
__global__ void __launch_bounds__(kThreads, (kWeightBlocks<Arithmetic, kN>))
    weigh_windows(WeightWindows<typename Arithmetic::Element> ww) {
  using T = typename Arithmetic::Element;
  constexpr int kChannels = 16 * kM, kPitch = tile_pitch<T>(kChannels);
  const Pixels& pixels = ww.pixels;
  char* const tile = shared_memory<char>();
  uint32_t* const words = reinterpret_cast<uint32_t*>(tile + kWeightRows * kColumns * kPitch);
  const int g = lane() / 4, t = lane() % 4, warp = int(threadIdx.x) / 32;
  const PixelWalk walk = PixelWalk::of(pixels, ww.t.o.x.strides, ww.pb.W);

  const int64_t units = int64_t(ww.row_tiles) * ww.column_blocks * ww.splits;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const int column_block = int(unit % ww.column_blocks);
    const int row_tile = int(unit / ww.column_blocks % ww.row_tiles);
    const int split = int(unit / ww.column_blocks / ww.row_tiles);
    const int first_number = (column_block * kWarps + warp) * 8 * kN;
    int at[kN];
#pragma unroll
    for (int n = 0; n < kN; ++n) at[n] = ww.offset(first_number + 8 * n + g);
    float d[kM][kN][4] = {};
    for (int64_t i = split; i < ww.patches.count; i += ww.splits) {
      const Patch patch = Patch::of(ww.patches, i);
      load_results(ww, patch, row_tile * kChannels, kChannels, tile, kPitch);
      load_pixels(ww.pb, ww.t, pixels, walk, patch, [&](int number, T value) {
        Arithmetic::store(reinterpret_cast<T*>(words), number, pixels.across, value);
      });
      cp_async_wait<0>();
      __syncthreads();
      if (first_number < ww.numbers)
        for (int row = 0; row < kWeightRows; ++row)
          Arithmetic::template add<kM, kN>(d, tile + row * kColumns * kPitch, kPitch, words + row * pixels.down,
                                           pixels.across, at);
      __syncthreads();  // before the next patch overwrites this one
    }
    float* const partial = ww.partial + split * ww.pb.K * ww.numbers;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int k = row_tile * kChannels + 16 * m + e / 2 * 8 + g, number = first_number + 8 * n + 2 * t + e % 2;
          if (k < ww.pb.K && number < ww.numbers) partial[int64_t(k) * ww.numbers + number] = d[m][n][e];
        }
  }
}

// The definition of one weight's gradient, by a warp's lanes in turns and in a fixed order.
template <class T>
__device__ float sum_over_results(const ConvProblem& pb, const Tensors<T>& t, int64_t k, int64_t c, int64_t r,
                                  int64_t s) {
  const Axis rows = pb.rows(), columns = pb.columns();
  float sum = 0;
  for (int64_t result = lane(); result < pb.N * pb.P * pb.Q; result += 32) {
    const int64_t q = result % pb.Q, p = result / pb.Q % pb.P, n = result / pb.Q / pb.P;
    const int64_t h = rows.source(rows.virtual_position(p, r)), w = columns.source(columns.virtual_position(q, s));
    if (h >= 0 && w >= 0) sum += float(t.y(n, k, p, q)) * float(t.x(n, c, h, w));
  }
  for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
  return sum;
}

constexpr int kAddThreads = 256, kAddGroups = kAddThreads / 32;

// Adds the splits of 32 neighbouring numbers: eight groups of lanes every eighth split, and then the eight sums.
template <class Arithmetic>
__global__ void __launch_bounds__(kAddThreads) add_windows(WeightWindows<typename Arithmetic::Element> ww) {
  using T = typename Arithmetic::Element;
  float* const sums = shared_memory<float>();
  const int group = int(threadIdx.x) / 32;
  const int64_t all = ww.pb.K * ww.numbers;
  for (int64_t first = int64_t(blockIdx.x) * 32; first < all; first += int64_t(gridDim.x) * 32) {
    const int64_t mine = first + lane();
    float sum = 0;
    if (mine < all)
#pragma unroll 8
      for (int split = group; split < ww.splits; split += kAddGroups) sum += ww.partial[split * all + mine];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int i = group; i < 32 && first + i < all; i += kAddGroups) {  // a warp to a result
      float total = 0;
      for (int other = 0; other < kAddGroups; ++other) total += sums[other * 32 + i];
      const int64_t k = (first + i) / ww.numbers, number = first + i - k * ww.numbers;
      const int64_t r = number / ww.pixels.run, c = (number - r * ww.pixels.run) % ww.pb.C;
      const int64_t s = (number - r * ww.pixels.run) / ww.pb.C;
      total = Arithmetic::is_doubtful(total) ? sum_over_results(ww.pb, ww.t, k, c, r, s) : Arithmetic::finished(total);
      if (lane() == 0) ww.t.w(k, c, r, s) = T(total);
    }
    __syncthreads();  // before the next sums overwrite these
  }
}

}  // namespace patch_windows
}  // namespace cuda
}  // namespace convx
