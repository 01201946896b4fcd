// The weight gradient of the depthwise problems of depthwise_small.cuh, with its tiles: x is the source, and y takes
// the place of the results.
//
// A thread has a sum for each weight of its channels in registers. It goes down a tile's rows of x, and each meets the
// rows of y that read it, as many as the kernel has, which stay in registers meanwhile: both are read once. A thread
// takes many tiles of its channels, all over the batch; a block, `lanes` neighbouring chunks of channels times `slots`
// threads for each.
//
// Two passes, in fixed order, without atomics: a block adds up its slots in shared memory, in pairs, and writes one
// partial sum for each weight; then a warp to a weight adds up those of all blocks, in double.
//
// Skipped taps: the padding is zeros, and so is y beyond its edges, where tiles stick out. Zero times something finite
// is zero. A thread that comes out with an infinity or NaN sums each of its weights anew from the definition.
//
// Limit: as depthwise_small.cuh. Instructions of an element of y in 16 bits: 17 at 3x3, 67 at 7x7; channels_last, 22
// and
// 82. So MobileNet's first 3x3 should take some 20 us, where window_weight.cuh took 159 on an H200, and 19 million
// elements of 7x7 some 55 (channels_last 70), where it took 419. Estimated, not measured.
//
// Machine code of small_depthwise_weight<.*, 3, 1, .*1.*>: LDG.128
#pragma once
#include "depthwise_small.cuh"

namespace convx {
namespace cuda {

// How the work is cut; made by depthwise_small_weight.cu.
struct SmallWeightPlan {
  SmallPlan tensors;
  int channels, lanes, slots;  // of all; of a block, in chunks of a thread's channels; lanes * slots threads
  int splits, tile_count;      // of a channel's tiles, over blocks
  Divider lane_blocks;
  size_t shared_bytes;
  int64_t items;
};

constexpr int kSmallWeightThreads = 128;

// A row of y, as far as a tile has it; zeros beyond.
template <class T, SmallLayout kLayout, class Tile>
struct SmallResultRow {
  static constexpr bool kAlong = kLayout == SmallLayout::columns;
  static constexpr int kChunk = kAlong ? Chunk<T>::count : Tile::kChannels, kStep = kAlong ? kChunk : 1;
  Pack<T, kChunk> v[Tile::kColumns / kStep];

  __device__ void load(const char* from, int step, bool inside, int columns) {
#pragma unroll
    for (int j = 0; j < Tile::kColumns / kStep; ++j)
      v[j] = load_pack<T, kChunk>(kAlong ? from + 16 * j : from + int64_t(step) * j, inside && j * kStep < columns);
  }
  __device__ T at(int column, int channel) const { return v[column / kStep][kAlong ? column % kStep : channel]; }
};

// Where a tile is: its first result, and the image.
struct SmallTilePlace {
  int p0, q0, n;
};
template <class Tile>
__device__ inline SmallTilePlace tile_place(const SmallPlan& plan, int tile) {
  const int q0 = plan.tile_columns.split(tile) * Tile::kColumns, p0 = plan.tile_strips.split(tile) * Tile::kRows;
  return {p0, q0, tile};
}

// Adds a tile of y times the x that it reads to the sums of a thread.
template <class T, int kSize, int kStride, SmallLayout kLayout, class Acc, int V>
__device__ inline void add_tile(Acc (&sums)[kSize][kSize][V], const SmallPlan& plan, const SmallTensors<T>& t,
                                const char* x, const char* y, const SmallTilePlace& place) {
  using Tile = SmallTile<T, kSize, kStride, kLayout>;
  using Row = SmallRow<T, kSize, kStride, kLayout>;
  using ResultRow = SmallResultRow<T, kLayout, Tile>;
  const int rows = plan.result_rows - place.p0, columns = plan.result_columns - place.q0;
  const int w0 = place.q0 * kStride - plan.pad_w;
  int h = place.p0 * kStride - plan.pad_h, p = 0;
  const char* from = x + (place.n * t.source_n + int64_t(h) * t.source_h + int64_t(w0) * t.source_w);
  const char* from_y = y + (place.n * t.result_n + int64_t(place.p0) * t.result_h + int64_t(place.q0) * t.result_w);
  const auto load_next = [&](Row& row) {
    row.load(from, plan, unknown(t.source_w), unsigned(h) < unsigned(plan.source_rows), w0);
    ++h, from += t.source_h;
  };
  const auto load_next_y = [&](ResultRow& row) {
    row.load(from_y, unknown(t.result_w), p < rows, columns);
    ++p, from_y += t.result_h;
  };
  Row on_its_way;  // the one after the one that is multiplied
  ResultRow y_on_its_way;
  load_next(on_its_way);
  load_next_y(y_on_its_way);
  Acc results[Tile::kRows][Tile::kColumns][V];  // of which the last kSize rows are needed
#pragma unroll
  for (int j = 0; j < Tile::kSourceRows; ++j) {
    const Row row = on_its_way;
    if (j + 1 < Tile::kSourceRows) load_next(on_its_way);
    if (j % kStride == 0 && j / kStride < Tile::kRows) {
#pragma unroll
      for (int q = 0; q < Tile::kColumns; ++q)
#pragma unroll
        for (int v = 0; v < V; ++v) results[j / kStride][q][v] = Acc(y_on_its_way.at(q, v));
      if (j / kStride + 1 < Tile::kRows) load_next_y(y_on_its_way);
    }
    Acc source[Tile::kSourceColumns][V];
#pragma unroll
    for (int i = 0; i < Tile::kSourceColumns; ++i)
#pragma unroll
      for (int v = 0; v < V; ++v) source[i][v] = Acc(row.at(i, v));
#pragma unroll
    for (int q = 0; q < Tile::kColumns; ++q)
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i) {
        const int r = j - i * kStride;
        if (r < 0 || r >= kSize) continue;
#pragma unroll
        for (int s = 0; s < kSize; ++s)
#pragma unroll
          for (int v = 0; v < V; ++v)
            sums[r][s][v] = multiply_add(results[i][q][v], source[q * kStride + s][v], sums[r][s][v]);
      }
  }
}

// What add_tile adds to one sum, from the definition: pixels in the padding are left out.
template <class T, int kStride, class Tile, class Acc>
__device__ Acc tile_sum_slowly(const SmallPlan& plan, const SmallTensors<T>& t, const char* x, const char* y,
                               const SmallTilePlace& place, int r, int s) {
  Acc sum(0);
#pragma unroll 1
  for (int i = 0; i < Tile::kRows * Tile::kColumns; ++i) {
    const int p = place.p0 + i / Tile::kColumns, q = place.q0 + i % Tile::kColumns;
    const int h = p * kStride - plan.pad_h + r, w = q * kStride - plan.pad_w + s;
    if (p >= plan.result_rows || q >= plan.result_columns || unsigned(h) >= unsigned(plan.source_rows) ||
        unsigned(w) >= unsigned(plan.source_columns))
      continue;
    const char* const at_x = x + (place.n * t.source_n + (h * t.source_h + w * t.source_w));
    const char* const at_y = y + (place.n * t.result_n + (p * t.result_h + q * t.result_w));
    sum = multiply_add(Acc(*reinterpret_cast<const T*>(at_x)), Acc(*reinterpret_cast<const T*>(at_y)), sum);
  }
  return sum;
}

// How many blocks a multiprocessor has registers for: 128 of them a thread, 168, or 255.
template <class T, int kSize, int kStride, SmallLayout kLayout>
constexpr int small_weight_blocks() {
  if (sizeof(T) == 8) return kSize == 3 ? 3 : 2;
  if (kSize == 4 && kLayout == SmallLayout::columns) return 2;
  if (sizeof(T) == 4 && kSize == 7 && kLayout == SmallLayout::columns) return 2;
  return kSize == 3 && kLayout != SmallLayout::channels && (kStride == 1 || sizeof(T) == 2) ? 4 : 3;
}

// partial: [channel][r][s][split]
template <class T, int kSize, int kStride, SmallLayout kLayout>
__global__ void __launch_bounds__(kSmallWeightThreads, small_weight_blocks<T, kSize, kStride, kLayout>())
    small_depthwise_weight(SmallWeightPlan plan, SmallTensors<T> t, typename Compute<T>::type* partial) {
  using Tile = SmallTile<T, kSize, kStride, kLayout>;
  using Acc = typename Compute<T>::type;
  constexpr int V = Tile::kChannels;
  Acc* const shared = shared_memory<Acc>();  // [r][s][v][thread]
  const int thread = int(threadIdx.x), lane = thread % plan.lanes, slot = thread / plan.lanes;
  for (int64_t item = blockIdx.x; item < plan.items; item += gridDim.x) {
    int split = int(item);
    const int first_channel = plan.lane_blocks.split(split) * plan.lanes * V, channel = first_channel + lane * V;
    const int first_tile = split * plan.slots + slot, step = plan.splits * plan.slots;
    const char* const x = t.source + int64_t(channel) * t.source_c;
    const char* const y = t.result + int64_t(channel) * t.result_c;
    const int tiles = channel < plan.channels ? plan.tile_count : 0;
    Acc sums[kSize][kSize][V] = {};
#pragma unroll 1
    for (int tile = first_tile; tile < tiles; tile += step)
      add_tile<T, kSize, kStride, kLayout>(sums, plan.tensors, t, x, y, tile_place<Tile>(plan.tensors, tile));

    Acc all(0);
#pragma unroll
    for (int r = 0; r < kSize; ++r)
#pragma unroll
      for (int s = 0; s < kSize; ++s)
#pragma unroll
        for (int v = 0; v < V; ++v) {
          all = multiply_add(sums[r][s][v], Acc(0), all);
          shared[((r * kSize + s) * V + v) * kSmallWeightThreads + thread] = sums[r][s][v];
        }
    if (!is_finite(all)) {
#pragma unroll 1
      for (int i = 0; i < kSize * kSize * V; ++i) {
        const int v = i % V, r = i / V / kSize, s = i / V % kSize;
        Acc sum(0);
#pragma unroll 1
        for (int tile = first_tile; tile < tiles; tile += step)
          sum += tile_sum_slowly<T, kStride, Tile, Acc>(plan.tensors, t, x + int64_t(v) * t.source_c,
                                                        y + int64_t(v) * t.result_c,
                                                        tile_place<Tile>(plan.tensors, tile), r, s);
        shared[i * kSmallWeightThreads + thread] = sum;
      }
    }
    for (int half = plan.slots / 2; half > 0; half /= 2) {
      __syncthreads();  // before the other half's sums are read
      if (slot < half)
#pragma unroll 1
        for (int i = 0; i < kSize * kSize * V; ++i)
          shared[i * kSmallWeightThreads + thread] += shared[i * kSmallWeightThreads + thread + half * plan.lanes];
    }
    if (slot == 0 && channel < plan.channels) {
#pragma unroll 1
      for (int i = 0; i < kSize * kSize * V; ++i) {
        const int64_t weight = int64_t(channel + i % V) * (kSize * kSize) + i / V;
        partial[weight * plan.splits + split] = shared[i * kSmallWeightThreads + thread];
      }
    }
    __syncthreads();  // before the next item's sums overwrite these
  }
}

// The second pass: 32 threads to a weight.
template <class T>
__global__ void sum_small_weights(const typename Compute<T>::type* partial, int splits, int64_t count, T* w,
                                  Strides strides, int size) {
  double* const shared = shared_memory<double>();
  const int thread = int(threadIdx.x), lane = thread % 32;
  for (int64_t first = int64_t(blockIdx.x) * blockDim.x; first < count * 32; first += items_step()) {
    const int64_t i = (first + thread) / 32;
    double sum = 0;
    for (int split = lane; i < count && split < splits; split += 32) sum += double(partial[i * splits + split]);
    shared[thread] = sum;
    for (int half = 16; half > 0; half /= 2) {
      __syncthreads();  // before the other half's sums are read
      if (lane < half) shared[thread] += shared[thread + half];
    }
    if (lane == 0 && i < count)
      w[strides(i / (size * size), 0, i / size % size, i % size)] = T(typename Compute<T>::type(shared[thread]));
    __syncthreads();  // before the next weights' sums overwrite these
  }
}

}  // namespace cuda
}  // namespace convx
