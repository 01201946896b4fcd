// Copies a tensor such that its channels are neighbours, in whole chunks of 16 bytes: what kernels that copy in chunks
// want of an operand, and what channels_last tensors of suitable sizes are already. Filled up with zeros.
//
// Limit: memory; each element is read and written once. Both sides are contiguous where the source has anything
// contiguous: a tile of positions x channels is read along one and written along the other, through shared memory. A
// lane has two positions, and of 16-bit numbers two channels, so that a warp's accesses are 128 bytes and more; and all
// that a thread reads of a tile is on its way at once.
#pragma once
#include <type_traits>

#include "vectors.cuh"

namespace convx {
namespace cuda {

// from[a, b, c, h, w], any strides, as lines of channels: [a][h][w][b] if `positions_first`, else [a][b][h][w].
template <class T>
struct Packing {
  const T* from;
  int64_t from_a, from_b, from_c, from_h, from_w;
  int64_t A, B, C, H, W, channels;  // channels: C rounded up
  bool positions_first;

  // Whether positions are equally far apart, and whether pairs of them can be read at once.
  __device__ bool is_flat() const { return from_h == W * from_w; }
  __device__ bool has_pairs() const {
    return from_w == 1 && is_flat() && (from_a | from_b | from_c) % 2 == 0 && is_aligned<2>(from);
  }
};

constexpr int kPackThreads = 256;

template <class T>
struct PackTile {
  static constexpr int kLanes = 32, kTogether = sizeof(T) == 2 ? 2 : 1;  // channels of a lane
  static constexpr int kPositions = 2 * kLanes, kChannels = kTogether * kLanes;
  static constexpr int kStep = kPackThreads / kLanes;
  // [channel][position], with two positions to spare: lanes that read neighbouring channels meet in few banks.
  static constexpr int kPitch = kPositions + 2;
  static constexpr int kBytes = kChannels * kPitch * int(sizeof(T));
};

// The bits of two positions. Taken apart where they are loaded, each load would be waited for before the next.
template <class T>
using PackPair = std::conditional_t<sizeof(T) == 2, uint32_t, std::conditional_t<sizeof(T) == 4, uint2, uint4>>;

// Reads a tile, lanes along positions.
template <class T>
__device__ void read_positions(const Packing<T>& p, const T* from, int64_t position, int64_t channel, T* tile) {
  using Tile = PackTile<T>;
  constexpr int kPasses = Tile::kChannels / Tile::kStep;
  const int x = int(threadIdx.x) % Tile::kLanes * 2, first = int(threadIdx.x) / Tile::kLanes;
  const int64_t positions = p.H * p.W, at = position + x;
  const bool pairs = p.has_pairs();
  const auto offset = [&](int64_t i) { return p.is_flat() ? i * p.from_w : i / p.W * p.from_h + i % p.W * p.from_w; };
  const T* const low = from + (at < positions ? offset(at) : 0);
  const T* const high = from + (at + 1 < positions ? offset(at + 1) : 0);
  PackPair<T> values[kPasses];
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int64_t c = channel + first + i * Tile::kStep;
    values[i] = {};
    if (c < p.C && pairs && at + 1 < positions) {
      values[i] = *reinterpret_cast<const PackPair<T>*>(low + c * p.from_c);
    } else if (c < p.C) {
      Vector<T, 2> pair;
      pair.v[0] = at < positions ? low[c * p.from_c] : T(0);
      pair.v[1] = at + 1 < positions ? high[c * p.from_c] : T(0);
      memcpy(&values[i], &pair, sizeof pair);
    }
  }
#pragma unroll
  for (int i = 0; i < kPasses; ++i)
    *reinterpret_cast<PackPair<T>*>(tile + (first + i * Tile::kStep) * Tile::kPitch + x) = values[i];
}

// Reads a tile, lanes along channels.
template <class T>
__device__ void read_channels(const Packing<T>& p, const T* from, int64_t position, int64_t channel, T* tile) {
  using Tile = PackTile<T>;
  constexpr int kPasses = Tile::kPositions / Tile::kStep;
  const int lane = int(threadIdx.x) % Tile::kLanes, first = int(threadIdx.x) / Tile::kLanes;
  T values[kPasses][Tile::kTogether];
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int64_t at = position + first + i * Tile::kStep, row = p.is_flat() ? 0 : at / p.W;
    const T* const pixel = from + row * p.from_h + (at - row * p.W) * p.from_w;
#pragma unroll
    for (int e = 0; e < Tile::kTogether; ++e) {
      const int64_t c = channel + lane + e * Tile::kLanes;
      values[i][e] = at < p.H * p.W && c < p.C ? pixel[c * p.from_c] : T(0);
    }
  }
#pragma unroll
  for (int i = 0; i < kPasses; ++i)
#pragma unroll
    for (int e = 0; e < Tile::kTogether; ++e)
      tile[(lane + e * Tile::kLanes) * Tile::kPitch + first + i * Tile::kStep] = values[i][e];
}

// Writes a tile, lanes along channels, each two positions.
template <class T>
__device__ void write_channels(const Packing<T>& p, T* to, int64_t step, int64_t position, int64_t channel,
                               const T* tile) {
  using Tile = PackTile<T>;
  constexpr int kTogether = Tile::kTogether;
  const int lane = int(threadIdx.x) % Tile::kLanes, first = int(threadIdx.x) / Tile::kLanes;
  const int64_t positions = p.H * p.W, c = channel + lane * kTogether;
  if (c >= p.channels) return;
#pragma unroll
  for (int i = first; i < Tile::kLanes; i += Tile::kStep) {
    Vector<T, 2> values[kTogether];
#pragma unroll
    for (int e = 0; e < kTogether; ++e)
      values[e] = load_vector<2>(tile + (lane * kTogether + e) * Tile::kPitch + 2 * i);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int64_t at = position + 2 * i + j;
      Vector<T, kTogether> channels;
      for (int e = 0; e < kTogether; ++e) channels.v[e] = values[e].v[j];
      if (at < positions) store_vector(to + at * step + c, channels);
    }
  }
}

// Reads tile after tile, and has each written: write(line, step, position, channel, tile), by all threads; position i
// is line + i * step.
template <class T, class Write>
__device__ void pack_tiles(const Packing<T>& p, Write write) {
  using Tile = PackTile<T>;
  T* const tile = shared_memory<T>();
  const int64_t positions = p.H * p.W;
  const int64_t across = (p.channels + Tile::kChannels - 1) / Tile::kChannels;
  const int64_t down = (positions + Tile::kPositions - 1) / Tile::kPositions;
  for (int64_t i = blockIdx.x; i < p.A * p.B * across * down; i += gridDim.x) {
    const int64_t rest = i / across;
    const int64_t channel = (i - rest * across) * Tile::kChannels;
    const int64_t image = rest / down, position = (rest - image * down) * Tile::kPositions;
    const int64_t a = image / p.B, b = image - a * p.B;
    const T* const from = p.from + a * p.from_a + b * p.from_b;
    if (p.from_c < p.from_w)
      read_channels(p, from, position, channel, tile);
    else
      read_positions(p, from, position, channel, tile);
    __syncthreads();
    write(p.positions_first ? a * positions * p.B + b : image * positions, p.positions_first ? p.B : int64_t(1),
          position, channel, tile);
    __syncthreads();  // before the next tile overwrites this one
  }
}

template <class T>
__global__ void pack(Packing<T> p, T* to) {
  pack_tiles(p, [&](int64_t line, int64_t step, int64_t position, int64_t channel, const T* tile) {
    write_channels(p, to + line * p.channels, step * p.channels, position, channel, tile);
  });
}

template <class T>
Grid pack_grid(const Packing<T>& p) {
  using Tile = PackTile<T>;
  const auto tiles = [](int64_t n, int64_t size) { return (n + size - 1) / size; };
  return {p.A * p.B * tiles(p.channels, Tile::kChannels) * tiles(p.H * p.W, Tile::kPositions), dim3(kPackThreads),
          size_t(Tile::kBytes)};
}

}  // namespace cuda
}  // namespace convx
