// grad_input, and so a transposed layer's forward, of depthwise problems of stride 2 with small kernels (3x3, 4x4 or
// 5x5, padded by (size - 1) / 2: what halves a plane, or doubles it). As depthwise_small.cuh, all in registers.
//
// A thread owns a tile of x, kRows x kColumns of some neighbouring channels. A row or column of x is reached by every
// other tap, the even ones or the odd ones. Tiles begin at even rows and columns, so which taps reach which sum from
// which row of y is known when this is compiled, and no tap is tried that reaches nothing: a quarter of the kernel for
// each x. Rows of y come from memory one after the other, and each meets the sums that it reaches.
//
// A sum is over rows of y, and in them over columns, whatever the layout and the tile. Skipped taps: as in
// depthwise_small.cuh.
//
// Limit: bytes, 5/4 of x's with y's quarter. Multiply-adds are a quarter of a forward's at stride 1: 4 of each x at
// 4x4.
//
// Machine code of small_transposed<.*, 4, .*1.?>: STG.128
#pragma once
#include "depthwise_small.cuh"

namespace convx {
namespace cuda {

// The tile of a thread. Along rows of memory, what 16 bytes of x hold (four numbers at least).
template <class T, int kSize, SmallLayout kLayout>
struct TransposedTile {
  static constexpr bool kAlong = kLayout == SmallLayout::columns;
  static constexpr int kChannels = kAlong ? 1 : small_channels(kSize, sizeof(T), true);
  static constexpr int kRows = kAlong ? 8 : 4, kColumns = kAlong && sizeof(T) == 2 ? 8 : 4;

  static constexpr int kPad = (kSize - 1) / 2, kParity = kPad % 2;
  // x[2 i] is reached by the taps of kParity's parity; by the last of them from y[i + kPad / 2 - kReach].
  static constexpr int kReach = (kSize - 1 - kParity) / 2, kFirst = kPad / 2 - kReach;
  static constexpr int kSourceRows = kReach + 1 + (kParity + kRows - 1) / 2;
  static constexpr int kSourceColumns = kReach + 1 + (kParity + kColumns - 1) / 2;
  // The tap by which the tile's row (or column) i of x is reached from its j-th of y, if it is one.
  CONVX_HD static constexpr int tap(int j, int i) { return 2 * (kReach - j) + kParity + i; }
  CONVX_HD static constexpr bool reaches(int j, int i) { return tap(j, i) >= 0 && tap(j, i) < kSize; }
};

// A row of y, as far as a tile reads it; zeros where there is none. `from` is where its first column would be.
template <class T, class Tile, SmallLayout kLayout>
struct TransposedRow {
  Pack<T, Tile::kChannels> v[Tile::kSourceColumns];

  __device__ void load(const char* from, int step, bool inside, int column, int columns) {
#pragma unroll
    for (int j = 0; j < Tile::kSourceColumns; ++j)
      v[j] =
          load_pack<T, Tile::kChannels>(from + int64_t(step) * j, inside && unsigned(column + j) < unsigned(columns));
  }
  __device__ T at(int column, int channel) const { return v[column][channel]; }
};

// Those below half of the tile's columns of x in one load, which is aligned, and what sticks out on both sides.
template <class T, class Tile>
struct TransposedRow<T, Tile, SmallLayout::columns> {
  static constexpr int kMiddle = Tile::kColumns / 2, kLeft = -Tile::kFirst;
  static constexpr int kRight = Tile::kSourceColumns - kLeft - kMiddle;
  static_assert(kLeft >= 0 && kRight >= 0, "of a kernel that is padded by half of it");
  Pack<T, 1> left[kLeft ? kLeft : 1], right[kRight ? kRight : 1];
  Pack<T, kMiddle> middle;

  __device__ void load(const char* from, int, bool inside, int column, int columns) {
    constexpr int kBytes = int(sizeof(T));
#pragma unroll
    for (int j = 0; j < kLeft; ++j) left[j] = load_pack<T, 1>(from + j * kBytes, inside && column + j >= 0);
    middle = load_pack<T, kMiddle>(from + kLeft * kBytes, inside && column + kLeft < columns);
#pragma unroll
    for (int j = 0; j < kRight; ++j)
      right[j] =
          load_pack<T, 1>(from + (kLeft + kMiddle + j) * kBytes, inside && column + kLeft + kMiddle + j < columns);
  }
  __device__ T at(int column, int) const {
    const int j = column - kLeft;
    return j < 0 ? left[column][0] : j < kMiddle ? middle[j] : right[j - kMiddle][0];
  }
};

// A tile's results from their definition, one by one: taps that read no y are left out.
template <int kSize, class Tile, class T>
__device__ void sum_transposed_slowly(const SmallPlan& plan, const SmallTensors<T>& t, const char* source, char* result,
                                      int channel, int h0, int w0) {
  using Acc = typename Compute<T>::type;
  const auto read = [](const char* at) { return Acc(*reinterpret_cast<const T*>(at)); };
#pragma unroll 1
  for (int i = 0; i < Tile::kRows * Tile::kColumns * Tile::kChannels; ++i) {
    const int v = i % Tile::kChannels, w = w0 + i / Tile::kChannels % Tile::kColumns;
    const int h = h0 + i / Tile::kChannels / Tile::kColumns;
    if (h >= plan.result_rows || w >= plan.result_columns) continue;
    const char* const weight = t.weight + (channel + v) * t.weight_c;
    Acc sum(0);
#pragma unroll 1
    for (int tap = 0; tap < kSize * kSize; ++tap) {
      const int r = tap / kSize, s = tap % kSize, from_h = h + plan.pad_h - r, from_w = w + plan.pad_w - s;
      if (from_h < 0 || from_w < 0 || (from_h | from_w) % 2 != 0 || from_h / 2 >= plan.source_rows ||
          from_w / 2 >= plan.source_columns)
        continue;
      const int at = v * t.source_c + from_h / 2 * t.source_h + from_w / 2 * t.source_w;
      sum = multiply_add(read(weight + r * t.weight_r + s * t.weight_s), read(source + at), sum);
    }
    if (t.bias) sum += read(t.bias + (channel + v) * t.bias_c);
    *reinterpret_cast<T*>(result + (v * t.result_c + h * t.result_h + w * t.result_w)) = T(sum);
  }
}

// Adds what row j of those that the tile reads gives to the sums.
template <int kSize, class Tile, class Row, class Acc>
__device__ inline void add_transposed_row(Acc (&sums)[Tile::kRows][Tile::kColumns][Tile::kChannels],
                                          const Acc (&weights)[kSize][kSize][Tile::kChannels], const Row& row, int j) {
  constexpr int V = Tile::kChannels;
#pragma unroll
  for (int column = 0; column < Tile::kSourceColumns; ++column) {
    Acc source[V];
#pragma unroll
    for (int v = 0; v < V; ++v) source[v] = Acc(row.at(column, v));
#pragma unroll
    for (int h = 0; h < Tile::kRows; ++h)
#pragma unroll
      for (int w = 0; w < Tile::kColumns; ++w) {
        if (!Tile::reaches(j, h) || !Tile::reaches(column, w)) continue;
#pragma unroll
        for (int v = 0; v < V; ++v)
          sums[h][w][v] = multiply_add(weights[Tile::tap(j, h)][Tile::tap(column, w)][v], source[v], sums[h][w][v]);
      }
  }
}

// How many blocks a multiprocessor has registers for: 168 of them a thread, or 227.
template <class T, int kSize, SmallLayout kLayout>
constexpr int small_transposed_blocks() {
  return kLayout == SmallLayout::columns && sizeof(T) < 8 ? 4 : 3;
}

template <class T, int kSize, SmallLayout kLayout>
__global__ void __launch_bounds__(kSmallThreads, small_transposed_blocks<T, kSize, kLayout>())
    small_transposed(SmallPlan plan, SmallTensors<T> t) {
  using Tile = TransposedTile<T, kSize, kLayout>;
  using Row = TransposedRow<T, Tile, kLayout>;
  using Acc = typename Compute<T>::type;
  constexpr int V = Tile::kChannels;
  for (int64_t item = first_item(); item < plan.items; item += items_step()) {
    int i = int(item), channel = 0;
    if (kLayout == SmallLayout::channels) channel = plan.across.split(i) * V;
    const int w0 = plan.tile_columns.split(i) * Tile::kColumns;
    const int first_h = plan.tile_strips.split(i) * plan.tiles * Tile::kRows;
    if (kLayout != SmallLayout::channels) channel = plan.across.split(i);
    const char* const source = t.source + i * t.source_n + int64_t(channel) * t.source_c;
    char* const result = t.result + i * t.result_n + int64_t(channel) * t.result_c;

    Acc weights[kSize][kSize][V], bias[V];
    const bool finite = load_small_weights(weights, bias, t, channel);
    const int columns = plan.result_columns - w0, q0 = w0 / 2 + Tile::kFirst;
    const int end_h = smaller(plan.result_rows, first_h + plan.tiles * Tile::kRows);
    if (!finite) {
      for (int h0 = first_h; h0 < end_h; h0 += Tile::kRows)
        sum_transposed_slowly<kSize, Tile>(plan, t, source, result, channel, h0, w0);
      continue;
    }
    int p = first_h / 2 + Tile::kFirst;
    const char* from = source + (int64_t(p) * t.source_h + int64_t(q0) * t.source_w);
    char* to = result + (int64_t(first_h) * t.result_h + int64_t(w0) * t.result_w);
#pragma unroll 1
    for (int rows = end_h - first_h; rows > 0; rows -= Tile::kRows) {
      constexpr int kAhead = 2;  // rows that are on their way
      Row on_their_way[kAhead];
      const auto load_next = [&](Row& row) {
        row.load(from, unknown(t.source_w), unsigned(p) < unsigned(plan.source_rows), q0, plan.source_columns);
        ++p, from += t.source_h;
      };
#pragma unroll
      for (int j = 0; j < kAhead; ++j) load_next(on_their_way[j]);
      Acc sums[Tile::kRows][Tile::kColumns][V] = {};
#pragma unroll
      for (int j = 0; j < Tile::kSourceRows; ++j) {
        const Row row = on_their_way[j % kAhead];
        if (j + kAhead < Tile::kSourceRows) load_next(on_their_way[j % kAhead]);
        add_transposed_row<kSize, Tile>(sums, weights, row, j);
#pragma unroll
        for (int h = 0; h < Tile::kRows; ++h) {
          const bool completes = Tile::tap(j, h) >= 0 && Tile::tap(j, h) < 2;
          if (!completes) continue;
#pragma unroll
          for (int w = 0; w < Tile::kColumns; ++w)
#pragma unroll
            for (int v = 0; v < V; ++v) sums[h][w][v] += bias[v];
          if (h < rows) store_row<kLayout, Tile, T>(to, t.result_w, columns, sums[h]);
          to += t.result_h;
        }
      }
      constexpr int kAgain = Tile::kSourceRows - Tile::kRows / 2;  // rows that the next tile reads too
      p -= kAgain, from -= int64_t(kAgain) * t.source_h;
    }
  }
}

}  // namespace cuda
}  // namespace convx
