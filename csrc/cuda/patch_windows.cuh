// First layers on tensor cores, forward: the results of a patch (patch_windows_plan.cuh) are a product of matrices,
//
//   rows       results of the patch, 16 neighbours of a row to a fragment of A
//   columns    32 or 64 output channels of a block
//   reduction  the numbers of a window, row tap after row tap
//
// whose A is read from the patch in shared memory: a lane's rows are results, so its words lie at where their windows
// begin, plus an offset that all rows share. The offsets are a table, two words of it to a lane and step. A result may
// begin at an odd number; 16-bit patches then lie there twice, once shifted by one, so that words are aligned. B is
// packed once, and a block keeps it.
//
// A fragment of A is used for all columns, so a step of 16 x 64 results is four loads of A, four ldmatrix and eight
// products, and shared memory and tensor cores are even.
//
// Zeros (of the padding, and where a run ends within a word) times an infinity are NaN: results that are NaN are
// computed again by the definition, as are the sums that Split doubts.
//
// What came before, and stays for windows that are dilated or far apart: row_windows.cuh writes the windows down and
// leaves them to kernels that read them once for each row tap.
//
// Limit: memory; 26 MB of results and 5 MB of image in a ResNet's first layer of 16, 7 us at 4.3 TB/s. Products: 4.8
// GFLOP, 8 us by mma.sync. Measured on an H200 36 us, where cuDNN takes 45 and row_windows 87, with three times the
// instructions to load a patch that there are now.
//
// Machine code of convolve_windows<Halves.*: HMMA.16816.F32, LDSM.16.M88.4, LDGSTS.128
// Machine code of convolve_windows<Rounded.*: HMMA.1688.F32.TF32, LDSM.16.M88.4, LDGSTS.128
// Machine code of convolve_windows<Three.*: HMMA.16816.F32.BF16, LDSM.16.M88.4, LDGSTS.128
#pragma once
#include "patch_windows_plan.cuh"
#include "reference.cuh"
#include "store_row.cuh"

namespace convx {
namespace cuda {
namespace patch_windows {

using tensorcore::lane;

// What a launch works on.
template <class T>
struct Windows {
  ConvProblem pb;
  Tensors<T> t;
  Pixels pixels;
  Patches patches;
  int copies;        // of a patch: 2 if windows begin at odd numbers
  int words_of_run;  // of four bytes, the last filled up
  int words;         // of a window, whole steps
  int weight_pitch;  // bytes of an output's window: an odd number of chunks, so that eight are in different banks
  int term_bytes;    // of a block's outputs; terms lie one behind the other
  int weight_bytes;  // of all terms
  char* packed;      // for each tile of outputs
  int column_tiles;
  int64_t streams;       // blocks that share the patches of a tile of outputs
  bool stores_channels;  // in vectors

  // The j-th number of an output's window, counted with what fills up the runs.
  __device__ T weight(int k, int run_numbers, int j) const {
    const int r = j / run_numbers, i = j - r * run_numbers, s = i / pixels.C;
    return k < pb.K && r < pixels.runs && i < pixels.run ? t.w(k, i - s * pixels.C, r, s) : T(0);
  }
};

// An arithmetic says how the words of A and B become products. kWords: of A, in a step; B's step is always 32 bytes of
// each term.

// One term, the words as they are: Multiply is one mma.
template <class Multiply>
struct OneTerm : tensorcore::Plain {
  static constexpr int kTerms = 1, kWords = 8;

  template <int kFragments, int kTiles, class Sums>
  __device__ static void multiply(Sums& sums, const char* const (&rows)[2], int down, const int2* table, int words,
                                  const char* weights, int pitch, int) {
    for (int step = 0; step < words / kWords; ++step) {
      const int2 at = table[step * 4];
      uint32_t a[kFragments][4];
#pragma unroll
      for (int f = 0; f < kFragments; ++f)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          a[f][i] = *reinterpret_cast<const uint32_t*>(rows[i % 2] + f * down + (i < 2 ? at.x : at.y));
#pragma unroll
      for (int j = 0; j < kTiles; j += 2) {
        uint32_t b[4];
        ldmatrix_x4(b, weights + j * 8 * pitch + step * 32);
        const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
        for (int f = 0; f < kFragments; ++f) {
          Multiply::add(sums.d[f][j], a[f], low);
          Multiply::add(sums.d[f][j + 1], a[f], high);
        }
      }
    }
  }
};

template <class T>
struct MultiplyHalves {
  __device__ static void add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16(d, a, b, T{});
  }
};
template <class T>
struct Halves : OneTerm<MultiplyHalves<T>> {
  using Element = T;
  static constexpr int kNumbers = 2, kBlocks = 4;  // of a word, and of a multiprocessor, by registers
  __device__ static T stored(T value) { return value; }
  __device__ static void pack(const Windows<T>& wd, int k, int word, uint32_t (&terms)[1]) {
    const int run = wd.words_of_run * 2;
    terms[0] = tensorcore::as_word<T>(float(wd.weight(k, run, 2 * word)), float(wd.weight(k, run, 2 * word + 1)));
  }
};

// float32, rounded to TF32 where it is stored.
struct MultiplyTf32 {
  __device__ static void add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k8_tf32(d, a, b);
  }
};
struct Rounded : OneTerm<MultiplyTf32> {
  using Element = float;
  static constexpr int kNumbers = 1, kBlocks = 3;
  __device__ static float stored(float value) { return __uint_as_float(to_tf32(value)); }
  __device__ static void pack(const Windows<float>& wd, int k, int word, uint32_t (&terms)[1]) {
    terms[0] = to_tf32(wd.weight(k, wd.words_of_run, word));
  }
};

// float32 as it should be, in three terms (tensorcore_arithmetic.cuh). A product's k are words t and t + 4 of eight.
struct Three {
  using Element = float;
  static constexpr int kTerms = 3, kWords = 16, kNumbers = 1, kBlocks = 2;

  __device__ static float finished(float sum) { return tensorcore::Split::finished(sum); }
  __device__ static bool is_doubtful(float sum) { return tensorcore::Split::is_doubtful(sum); }
  __device__ static float stored(float value) { return value; }
  __device__ static void pack(const Windows<float>& wd, int k, int word, uint32_t (&terms)[3]) {
    const int first = word / 8 * 16 + word / 4 % 2 * 8 + word % 4;
    tensorcore::Split::split(__float_as_uint(wd.weight(k, wd.words_of_run, first)),
                             __float_as_uint(wd.weight(k, wd.words_of_run, first + 4)), terms[0], terms[1], terms[2]);
  }

  template <int kFragments, int kTiles, class Sums>
  __device__ static void multiply(Sums& sums, const char* const (&rows)[2], int down, const int2* table, int words,
                                  const char* weights, int pitch, int term_bytes) {
    for (int step = 0; step < words / kWords; ++step) {
      uint32_t a[3][kFragments][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int2 at = table[step * 8 + half * 4];
#pragma unroll
        for (int f = 0; f < kFragments; ++f)
#pragma unroll
          for (int row = 0; row < 2; ++row) {
            const char* const from = rows[row] + f * down;
            const int i = 2 * half + row;
            tensorcore::Split::split(*reinterpret_cast<const uint32_t*>(from + at.x),
                                     *reinterpret_cast<const uint32_t*>(from + at.y), a[0][f][i], a[1][f][i],
                                     a[2][f][i]);
          }
      }
#pragma unroll
      for (int j = 0; j < kTiles; j += 2) {
        uint32_t b[3][4];
#pragma unroll
        for (int term = 0; term < 3; ++term)
          ldmatrix_x4(b[term], weights + term * term_bytes + j * 8 * pitch + step * 32);
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          float d[kFragments][4] = {};
#pragma unroll
          for (int product = 0; product < 6; ++product) {
            constexpr int kOfA[] = {2, 0, 1, 1, 0, 0}, kOfB[] = {0, 2, 1, 0, 1, 0};
            const uint32_t (&of_b)[4] = b[kOfB[product]];
            const uint32_t both[2] = {of_b[2 * tile], of_b[2 * tile + 1]};
#pragma unroll
            for (int f = 0; f < kFragments; ++f) mma_m16n8k16(d[f], a[kOfA[product]][f], both, BFloat16{});
          }
#pragma unroll
          for (int f = 0; f < kFragments; ++f)
            for (int e = 0; e < 4; ++e) sums.d[f][j + tile][e] += d[f][e];
        }
      }
    }
  }
};

// The weights as B, a thread to a word of each term.
template <class Arithmetic>
__global__ void pack_windows(Windows<typename Arithmetic::Element> wd) {
  const int words_of_pitch = wd.weight_pitch / 4, words_of_term = wd.term_bytes / 4;
  const int used = wd.words * 8 / Arithmetic::kWords;
  const int columns = words_of_term / words_of_pitch;
  for (int64_t item = first_item(); item < int64_t(wd.column_tiles) * words_of_term; item += items_step()) {
    const int tile = int(item / words_of_term), rest = int(item - int64_t(tile) * words_of_term);
    const int column = rest / words_of_pitch, word = rest - column * words_of_pitch;
    uint32_t terms[Arithmetic::kTerms] = {};
    if (word < used) Arithmetic::pack(wd, tile * columns + column, word, terms);
    for (int term = 0; term < Arithmetic::kTerms; ++term)
      *reinterpret_cast<uint32_t*>(wd.packed + int64_t(tile) * wd.weight_bytes + term * wd.term_bytes + rest * 4) =
          terms[term];
  }
}

template <int kFragments, int kTiles>
struct WarpShape {
  static constexpr int kWarpRows = 16 * kFragments, kWarpColumns = 8 * kTiles;
};

// Writes a warp's sums, finished and rounded, with the bias; then goes over those in doubt.
template <class Arithmetic, int kFragments, class Sums, class T>
__device__ void store_results(const Windows<T>& wd, const Patch& patch, int first_output, Sums& sums) {
  const int g = lane() / 4, t = lane() % 4, K = int(wd.pb.K);
  const int first_row = patch.row + int(threadIdx.x) / 32 * kFragments;
  const Strides& y = wd.t.o.y.strides;
  T* const results = static_cast<T*>(wd.t.o.y.data);
  const auto output = [&](int j) { return first_output + j / 2 * 8 + 2 * t + j % 2; };
  bool doubt = false;
#pragma unroll
  for (int j = 0; j < Sums::kColumns; ++j) {
    const float bias = output(j) < K ? float(wd.t.bias(output(j))) : 0.0f;
#pragma unroll
    for (int i = 0; i < Sums::kRows; ++i) {
      doubt = doubt || Arithmetic::is_doubtful(sums.at(i, j));
      sums.at(i, j) = Arithmetic::finished(sums.at(i, j)) + bias;
    }
  }
#pragma unroll
  for (int i = 0; i < Sums::kRows; ++i) {
    const int row = first_row + i / 2, column = patch.column + g + i % 2 * 8;
    const bool exists = row < wd.pb.P && column < wd.pb.Q;
    tensorcore::store_row(results + (exists ? y(patch.n, 0, row, column) : 0), y.c, wd.stores_channels, first_output,
                          exists ? K : 0, sums, i);
  }
  if (!__any_sync(0xffffffffu, doubt)) return;
  __syncwarp();  // other lanes have stored this one's results
  for (int i = 0; i < Sums::kRows; ++i) {
    const int row = first_row + i / 2, column = patch.column + g + i % 2 * 8;
    if (row >= wd.pb.P || column >= wd.pb.Q) continue;
    for (int j = 0; j < Sums::kColumns && output(j) < K; ++j) {
      T& result = results[y(patch.n, output(j), row, column)];
      if (!Arithmetic::is_doubtful(float(result))) continue;
      const float sum = forward_sum<float>(wd.pb, wd.t, 0, wd.pb.C, patch.n, output(j), row, column);
      result = T(sum + float(wd.t.bias(output(j))));
    }
  }
}

// A block takes a tile of outputs and every streams-th patch, and keeps the weights. Several share a multiprocessor, so
// that one multiplies while others wait for their patches.
template <class Arithmetic, int kFragments, int kTiles>
__global__ void __launch_bounds__(kThreads, Arithmetic::kBlocks)
    convolve_windows(Windows<typename Arithmetic::Element> wd) {
  using T = typename Arithmetic::Element;
  const Pixels& pixels = wd.pixels;
  char* const weights = shared_memory<char>();
  int2* const table = reinterpret_cast<int2*>(weights + wd.weight_bytes);
  T* const numbers = reinterpret_cast<T*>(table + wd.words / 2);
  const int count = pixels.count(), g = lane() / 4, warp = int(threadIdx.x) / 32;

  // Words t and t + 4 of each eight, as offsets in bytes.
  const auto offset = [&](int word) {
    const int r = word / wd.words_of_run, i = (word - r * wd.words_of_run) * Arithmetic::kNumbers;
    return r < pixels.runs ? (r * pixels.step + i) * int(sizeof(T)) : 0;
  };
  for (int i = int(threadIdx.x); i < wd.words / 2; i += kThreads)
    table[i] = make_int2(offset(i / 4 * 8 + i % 4), offset(i / 4 * 8 + i % 4 + 4));

  clear_pixels(numbers, wd.copies * count);
  const PixelWalk walk = PixelWalk::of(pixels, wd.t.o.x.strides, wd.pb.W);

  const int first = g * pixels.across, row = warp * kFragments * pixels.down;
  const bool is_odd = wd.copies == 2 && first % 2 == 1;
  const char* const begin = reinterpret_cast<const char*>(numbers + row + (is_odd ? count + first - 1 : first));
  const char* const rows[2] = {begin, begin + 8 * pixels.across * int(sizeof(T))};
  const char* const b_lane = weights + (lane() / 16 * 8 + lane() % 8) * wd.weight_pitch + lane() / 8 % 2 * 16;

  for (int64_t item = blockIdx.x; item < wd.column_tiles * wd.streams; item += gridDim.x) {
    const int tile = int(item % wd.column_tiles);
    const char* const packed = wd.packed + int64_t(tile) * wd.weight_bytes;
    for (int at = int(threadIdx.x) * 16; at < wd.weight_bytes; at += kThreads * 16)
      cp_async_16(weights + at, packed + at, true);
    cp_async_commit();
    __syncthreads();  // zeros are there, and others have stored their last patch
    for (int64_t i = item / wd.column_tiles; i < wd.patches.count; i += wd.streams) {
      const Patch patch = Patch::of(wd.patches, i);
      load_pixels(wd.pb, wd.t, pixels, walk, patch, [&](int at, T value) {
        value = Arithmetic::stored(value);
        numbers[at] = value;
        if (wd.copies == 2 && at > 0) numbers[count + at - 1] = value;
      });
      cp_async_wait<0>();
      __syncthreads();
      tensorcore::FloatSums<WarpShape<kFragments, kTiles>> sums;
      sums.clear();
      Arithmetic::template multiply<kFragments, kTiles>(sums, rows, pixels.down * int(sizeof(T)), table + lane() % 4,
                                                        wd.words, b_lane, wd.weight_pitch, wd.term_bytes);
      store_results<Arithmetic, kFragments>(wd, patch, tile * 8 * kTiles, sums);
      __syncthreads();  // before the next patch overwrites this one
    }
  }
}

}  // namespace patch_windows
}  // namespace cuda
}  // namespace convx
