// forward, and grad_input without strides, of depthwise problems with small kernels (3x3, 5x5 or 7x7, and 4x4 at stride
// 2; a result to each channel of the source), all in registers.
//
// A thread owns a tile of results, kRows x kColumns of some neighbouring channels, and its kernels. It goes down the
// rows of the source that the tile reads: a row's elements come straight from global memory into registers, are
// converted once, and meet every tap of every result that wants them there. All of it is unrolled; sums and kernels
// never leave the registers. What neighbouring tiles read twice comes from L1 and L2. No shared memory, no barriers:
// loads of a row are on their way while the rows before it are multiplied.
//
// A result is summed over the rows of its kernel, and in them over the columns, whatever the layout and the tile: so
// its bits depend on nothing else.
//
// Skipped taps: the padding is zeros in registers, and zero times a finite weight is the zero that it should be. A
// thread whose kernels have an infinity or NaN goes over its results one by one instead, and leaves taps out.
//
// Limit: bytes at 3x3, multiply-adds at 7x7. Instructions of a result in 16 bits, counted in the machine code, whole
// rows of columns: 19 at 3x3, 9 of them multiply-adds; 69 at 7x7, 49 of them; channels_last, 24 and 86. A
// multiprocessor issues 128 in a cycle at best, in which an H200's moves 19 bytes, so at 3x3 a result's 4 bytes take
// 0.21 cycles and its instructions 0.15 (0.19); at 7x7 they take 0.53 (0.67), in which memory is idle half the time. At
// three of four issue slots, 12.8 million results of 3x3 in float16, MobileNet's first, should take 15 to 20 us, where
// memory allows 12 and the staged tiles of window_gather.cuh took 79; 19 million of 7x7 some 60 (channels_last 75),
// where window_gather.cuh took 260. Those were measured on an H200; this kernel's times are estimated.
//
// Rows that are not whole chunks of 16 bytes are read an element at a time, neighbouring threads 7 columns apart: 7
// wavefronts of L1 or more for each load. That is what limits them, and planes below 16 columns are left to
// window_gather.cuh.
//
// Machine code of small_depthwise<.*, 3, 1, .*1.?>: LDG.128, STG.128
#pragma once
#include <type_traits>

#include "window.cuh"

namespace convx {
namespace cuda {

// What lies side by side in memory, on both sides: several channels of a pixel, a row's columns in whole chunks of 16
// bytes with the padding of half a kernel, or nothing that is known of.
enum class SmallLayout { channels, columns, any };

// How many neighbouring channels a thread takes that finds them side by side.
constexpr int small_channels(int size, int element_bytes, bool transposed = false) {
  const int channels = size == 3 || (size == 4 && transposed) ? 4 : size == 7 ? 1 : 2;
  return element_bytes == 8 && channels > 1 ? channels / 2 : channels;
}

// The tile of a thread. Seven rows, for networks halve 224: planes have 112, 56, 28, 14 or 7 rows; four where seven
// would not fit. Of columns and channels, as many as there are registers for.
template <class T, int kSize, int kStride, SmallLayout kLayout>
struct SmallTile {
  static constexpr bool kAcross = kLayout == SmallLayout::channels, kAlong = kLayout == SmallLayout::columns;
  static constexpr int kRows = kAlong && kSize == 7 ? 4 : 7;
  static constexpr int kChannels = kAcross ? small_channels(kSize, sizeof(T)) : 1;
  static constexpr int columns() {
    if (kAcross && kSize < 7) return kSize == 3 ? 2 : 4;
    if (sizeof(T) == 8 && kAlong && kSize * kStride >= 8) return 2;
    if (sizeof(T) == 8 || (sizeof(T) == 4 && kAlong && kSize * kStride > 5)) return 4;
    return kAlong ? 8 : 7;
  }
  static constexpr int kColumns = columns();
  static constexpr int kSourceRows = (kRows - 1) * kStride + kSize;
  static constexpr int kSourceColumns = (kColumns - 1) * kStride + kSize;
};

// The tensors in their roles: one is read, one is written. Distances in bytes.
template <class T>
struct SmallTensors {
  const char* source;
  char* result;
  const char* weight;  // of the tap that reads the first row and column
  const char* bias;
  int64_t source_n, result_n, weight_c, bias_c;
  int source_c, source_h, source_w, result_c, result_h, result_w, weight_r, weight_s;
  bool weights_in_words;  // see SmallWeights
};

// Made by depthwise_small.cu.
struct SmallPlan {
  int source_rows, source_columns, result_rows, result_columns;
  int pad_h, pad_w;
  int tiles;                                  // that a thread takes, one below the other
  Divider across, tile_columns, tile_strips;  // of a thread's number: chunks of channels, or channels; tiles
  int64_t items;
};

// kCount numbers that lie side by side, aligned, as they are loaded. 16-bit ones stay in whole words, from which they
// are converted one at a time: taken apart, each would take a register.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T v[kCount];
  CONVX_HD T operator[](int j) const { return v[j]; }
};
template <class T, int kCount>
struct alignas(2 * kCount) PackOf16 {
  using Word = std::conditional_t<kCount == 1, uint16_t, uint32_t>;
  Word v[(kCount + 1) / 2];
  CONVX_HD T operator[](int j) const {
    T value;
    value.bits = uint16_t(j % 2 ? v[j / 2] >> 16 : v[j / 2]);
    return value;
  }
};
template <int kCount>
struct Pack<Half, kCount> : PackOf16<Half, kCount> {};
template <int kCount>
struct Pack<BFloat16, kCount> : PackOf16<BFloat16, kCount> {};

template <class T, int kCount>
__device__ inline Pack<T, kCount> load_pack(const char* from, bool inside) {
  Pack<T, kCount> pack{};
  if (inside) pack = *reinterpret_cast<const Pack<T, kCount>*>(from);
  return pack;
}

// The same for results, each converted on its own.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) StoredPack {
  T v[kCount];
};

// The same number, which the compiler knows nothing of: else it would work out the places of all columns ahead of the
// loop over tiles, and keep them in registers that there aren't.
__device__ inline int unknown(int value) {
#ifdef __CUDACC__
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// A row of the source, as far as a tile reads it; zeros where there is none. `from` is where its first column would be.
template <class T, int kSize, int kStride, SmallLayout kLayout>
struct SmallRow {
  using Tile = SmallTile<T, kSize, kStride, kLayout>;
  Pack<T, Tile::kChannels> v[Tile::kSourceColumns];

  __device__ void load(const char* from, const SmallPlan& plan, int step, bool inside, int column) {
    if (inside && column >= 0 && column + Tile::kSourceColumns <= plan.source_columns) {
#pragma unroll
      for (int j = 0; j < Tile::kSourceColumns; ++j)
        v[j] = *reinterpret_cast<const Pack<T, Tile::kChannels>*>(from + int64_t(step) * j);
    } else {
#pragma unroll
      for (int j = 0; j < Tile::kSourceColumns; ++j)
        v[j] = load_pack<T, Tile::kChannels>(from + int64_t(step) * j,
                                             inside && unsigned(column + j) < unsigned(plan.source_columns));
    }
  }
  __device__ T at(int column, int channel) const { return v[column][channel]; }
};

// In whole chunks from the tile's first column less the padding on, which is aligned; and what sticks out on both
// sides.
template <class T, int kSize, int kStride>
struct SmallRow<T, kSize, kStride, SmallLayout::columns> {
  using Tile = SmallTile<T, kSize, kStride, SmallLayout::columns>;
  static constexpr int kPad = (kSize - 1) / 2, kChunk = Chunk<T>::count, kRest = Tile::kSourceColumns - kPad;
  static constexpr int kSide = kPad == 1 ? 1 : kPad == 2 || kChunk == 2 ? 2 : 4;
  static constexpr int kLefts = (kPad + kSide - 1) / kSide, kChunks = kRest / kChunk;
  static constexpr int kRights = (kRest - kChunks * kChunk + kSide - 1) / kSide;
  Pack<T, kSide> left[kLefts], right[kRights ? kRights : 1];
  Pack<T, kChunk> chunks[kChunks];

  __device__ void load(const char* from, const SmallPlan& plan, int, bool inside, int column) {
    constexpr int kBytes = int(sizeof(T));
    const char* const aligned = from + kPad * kBytes;
    const int first = column + kPad;
#pragma unroll
    for (int j = 0; j < kLefts; ++j)
      left[j] = load_pack<T, kSide>(aligned + (j - kLefts) * kSide * kBytes, inside && first > 0);
#pragma unroll
    for (int j = 0; j < kChunks; ++j)
      chunks[j] = load_pack<T, kChunk>(aligned + j * 16, inside && first + j * kChunk < plan.source_columns);
#pragma unroll
    for (int j = 0; j < kRights; ++j)
      right[j] = load_pack<T, kSide>(aligned + kChunks * 16 + j * kSide * kBytes,
                                     inside && first + kChunks * kChunk + j * kSide < plan.source_columns);
  }
  __device__ T at(int column, int) const {
    const int j = column - kPad, l = j + kLefts * kSide, r = j - kChunks * kChunk;
    return j < 0 ? left[l / kSide][l % kSide] : r < 0 ? chunks[j / kChunk][j % kChunk] : right[r / kSide][r % kSide];
  }
};

// A tile's results from their definition, one by one: taps in the padding are left out.
template <int kSize, int kStride, class Tile, class T>
__device__ void sum_slowly(const SmallPlan& plan, const SmallTensors<T>& t, const char* source, char* result,
                           int channel, int p0, int q0) {
  using Acc = typename Compute<T>::type;
  const auto read = [](const char* at) { return Acc(*reinterpret_cast<const T*>(at)); };
#pragma unroll 1
  for (int i = 0; i < Tile::kRows * Tile::kColumns * Tile::kChannels; ++i) {
    const int v = i % Tile::kChannels, q = q0 + i / Tile::kChannels % Tile::kColumns;
    const int p = p0 + i / Tile::kChannels / Tile::kColumns;
    if (p >= plan.result_rows || q >= plan.result_columns) continue;
    const char* const weight = t.weight + (channel + v) * t.weight_c;
    Acc sum(0);
#pragma unroll 1
    for (int tap = 0; tap < kSize * kSize; ++tap) {
      const int r = tap / kSize, s = tap % kSize, h = p * kStride - plan.pad_h + r, w = q * kStride - plan.pad_w + s;
      if (unsigned(h) >= unsigned(plan.source_rows) || unsigned(w) >= unsigned(plan.source_columns)) continue;
      const int at = v * t.source_c + h * t.source_h + w * t.source_w;
      sum = multiply_add(read(weight + r * t.weight_r + s * t.weight_s), read(source + at), sum);
    }
    if (t.bias) sum += read(t.bias + (channel + v) * t.bias_c);
    *reinterpret_cast<T*>(result + (v * t.result_c + p * t.result_h + q * t.result_w)) = T(sum);
  }
}

// One row of a tile's results, of which `columns` exist. `to` is the first one's place.
template <SmallLayout kLayout, class Tile, class T, class Acc>
__device__ inline void store_row(char* to, int step, int columns, const Acc (&sums)[Tile::kColumns][Tile::kChannels]) {
  constexpr bool kAlong = kLayout == SmallLayout::columns;
  constexpr int kChunk = kAlong ? Chunk<T>::count : Tile::kChannels;
#pragma unroll
  for (int q = 0; q < Tile::kColumns; q += kAlong ? kChunk : 1) {
    StoredPack<T, kChunk> pack;
#pragma unroll
    for (int j = 0; j < kChunk; ++j) pack.v[j] = T(kAlong ? sums[q + j][0] : sums[q][j]);
    char* const at = kAlong ? to + q * int(sizeof(T)) : to + int64_t(step) * q;
    if (q < columns) *reinterpret_cast<StoredPack<T, kChunk>*>(at) = pack;
  }
}

// Adds what one row of the source gives to the sums: row i of those that the tile reads.
template <int kSize, int kStride, class Tile, class Row, class Acc>
__device__ inline void add_row(Acc (&sums)[Tile::kRows][Tile::kColumns][Tile::kChannels],
                               const Acc (&weights)[kSize][kSize][Tile::kChannels], const Row& row, int i) {
  Acc source[Tile::kSourceColumns][Tile::kChannels];
#pragma unroll
  for (int j = 0; j < Tile::kSourceColumns; ++j)
#pragma unroll
    for (int v = 0; v < Tile::kChannels; ++v) source[j][v] = Acc(row.at(j, v));
#pragma unroll
  for (int p = 0; p < Tile::kRows; ++p) {
    const int r = i - p * kStride;
    if (r < 0 || r >= kSize) continue;
#pragma unroll
    for (int s = 0; s < kSize; ++s)
#pragma unroll
      for (int q = 0; q < Tile::kColumns; ++q)
#pragma unroll
        for (int v = 0; v < Tile::kChannels; ++v)
          sums[p][q][v] = multiply_add(weights[r][s][v], source[q * kStride + s][v], sums[p][q][v]);
  }
}

// How the kernels of a thread's V channels are loaded where they follow one another in memory: in words so large as
// their size is a multiple of. One by one, neighbouring threads' would each be in another line of 128 bytes, as often
// as a kernel has numbers.
template <class T, int kSize, int V>
struct SmallWeights {
  static constexpr int kCount = V * kSize * kSize, kBytes = kCount * int(sizeof(T));
  static constexpr int kWord = kBytes % 16 == 0 ? 16 : kBytes % 8 == 0 ? 8 : 4, kOfWord = kWord / int(sizeof(T));
  static constexpr bool kInWords = V > 1 && kBytes % 4 == 0 && kOfWord > 1;
};

// A thread's kernels and biases, of V channels from `channel` on; whether the kernels are finite.
template <int kSize, int V, class Acc, class T>
__device__ inline bool load_small_weights(Acc (&weights)[kSize][kSize][V], Acc (&bias)[V], const SmallTensors<T>& t,
                                          int channel) {
  using Words = SmallWeights<T, kSize, V>;
  if (Words::kInWords && t.weights_in_words) {
    constexpr int kTaps = kSize * kSize, kOfWord = Words::kInWords ? Words::kOfWord : 1;
    const bool turned = t.weight_s < 0;
    const char* const from = t.weight + (channel * t.weight_c + (turned ? (kTaps - 1) * t.weight_s : 0));
    Pack<T, kOfWord> words[Words::kCount / kOfWord];
#pragma unroll
    for (int i = 0; i < Words::kCount / kOfWord; ++i)
      words[i] = *reinterpret_cast<const Pack<T, kOfWord>*>(from + i * Words::kWord);
#pragma unroll
    for (int i = 0; i < Words::kCount; ++i) {
      const int v = i / kTaps, tap = i % kTaps, j = v * kTaps + kTaps - 1 - tap;
      const T straight = words[i / kOfWord][i % kOfWord], around = words[j / kOfWord][j % kOfWord];
      weights[tap / kSize][tap % kSize][v] = Acc(turned ? around : straight);
    }
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const char* weight = t.weight + (channel + v) * t.weight_c;
#pragma unroll
      for (int r = 0; r < kSize; ++r, weight += t.weight_r)
#pragma unroll
        for (int s = 0; s < kSize; ++s)
          weights[r][s][v] = Acc(*reinterpret_cast<const T*>(weight + int64_t(t.weight_s) * s));
    }
  }
  Acc special(0);  // NaN from the first infinity or NaN on
#pragma unroll
  for (int v = 0; v < V; ++v) {
#pragma unroll
    for (int r = 0; r < kSize; ++r) {
      Acc of_row(0);
#pragma unroll
      for (int s = 0; s < kSize; ++s) of_row = multiply_add(weights[r][s][v], Acc(0), of_row);
      special += of_row;
    }
    bias[v] = t.bias ? Acc(*reinterpret_cast<const T*>(t.bias + (channel + v) * t.bias_c)) : Acc(0);
  }
  return is_finite(special);
}

constexpr int kSmallThreads = 96;
// How many blocks a multiprocessor has registers for: 136 of them a thread, 168, or 255.
template <class T, int kSize, int kStride, SmallLayout kLayout>
constexpr int small_blocks() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  if (kSize == 7 && sizeof(T) == 2) return 2;  // with the 168 registers that do on a Hopper it would spill
#endif
  if (kSize == 3 && (kLayout == SmallLayout::columns || (kStride == 1 && sizeof(T) == 2))) return 5;
  return kSize > 3 && sizeof(T) == 8 ? 2 : 4;
}

template <class T, int kSize, int kStride, SmallLayout kLayout>
__global__ void __launch_bounds__(kSmallThreads, small_blocks<T, kSize, kStride, kLayout>())
    small_depthwise(SmallPlan plan, SmallTensors<T> t) {
  using Tile = SmallTile<T, kSize, kStride, kLayout>;
  using Row = SmallRow<T, kSize, kStride, kLayout>;
  using Acc = typename Compute<T>::type;
  constexpr int V = Tile::kChannels;
  for (int64_t item = first_item(); item < plan.items; item += items_step()) {
    int i = int(item), channel = 0;
    if (kLayout == SmallLayout::channels) channel = plan.across.split(i) * V;
    const int q0 = plan.tile_columns.split(i) * Tile::kColumns;
    const int first_p = plan.tile_strips.split(i) * plan.tiles * Tile::kRows;
    if (kLayout != SmallLayout::channels) channel = plan.across.split(i);
    const char* const source = t.source + i * t.source_n + int64_t(channel) * t.source_c;
    char* const result = t.result + i * t.result_n + int64_t(channel) * t.result_c;

    Acc weights[kSize][kSize][V], bias[V];
    const bool finite = load_small_weights(weights, bias, t, channel);
    const int columns = plan.result_columns - q0, w0 = q0 * kStride - plan.pad_w;
    const int end_p = smaller(plan.result_rows, first_p + plan.tiles * Tile::kRows);
    if (!finite) {
      for (int p0 = first_p; p0 < end_p; p0 += Tile::kRows)
        sum_slowly<kSize, kStride, Tile>(plan, t, source, result, channel, p0, q0);
      continue;
    }
    int h = first_p * kStride - plan.pad_h;
    const char* from = source + (int64_t(h) * t.source_h + int64_t(w0) * t.source_w);
    char* to = result + (int64_t(first_p) * t.result_h + int64_t(q0) * t.result_w);
#pragma unroll 1
    for (int rows = end_p - first_p; rows > 0; rows -= Tile::kRows) {
      constexpr int kAhead = kSize * kStride < 7 ? 2 : 1;  // rows that are on their way
      Row on_their_way[kAhead];
      const auto load_next = [&](Row& row) {
        row.load(from, plan, unknown(t.source_w), unsigned(h) < unsigned(plan.source_rows), w0);
        ++h, from += t.source_h;
      };
#pragma unroll
      for (int j = 0; j < kAhead; ++j) load_next(on_their_way[j]);
      Acc sums[Tile::kRows][Tile::kColumns][V];
#pragma unroll
      for (int p = 0; p < Tile::kRows; ++p)
#pragma unroll
        for (int q = 0; q < Tile::kColumns; ++q)
#pragma unroll
          for (int v = 0; v < V; ++v) sums[p][q][v] = Acc(0);
#pragma unroll
      for (int j = 0; j < Tile::kSourceRows; ++j) {
        const Row row = on_their_way[j % kAhead];
        if (j + kAhead < Tile::kSourceRows) load_next(on_their_way[j % kAhead]);
        add_row<kSize, kStride, Tile>(sums, weights, row, j);
        const int done = j - kSize + 1, p = done / kStride;  // the row of results that this one completes, if it does
        if (done < 0 || done % kStride) continue;
#pragma unroll
        for (int q = 0; q < Tile::kColumns; ++q)
#pragma unroll
          for (int v = 0; v < V; ++v) sums[p][q][v] += bias[v];
        if (p < rows) store_row<kLayout, Tile, T>(to, t.result_w, columns, sums[p]);
        to += t.result_h;
      }
      constexpr int kAgain = Tile::kSourceRows - Tile::kRows * kStride;  // rows that the next tile reads too
      h -= kAgain, from -= int64_t(kAgain) * t.source_h;
    }
  }
}

}  // namespace cuda
}  // namespace convx
