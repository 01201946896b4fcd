// Copies a tensor such that its channels are neighbours, in whole chunks of 16 bytes: what kernels that copy in chunks
// want of an operand, and what channels_last tensors of suitable sizes are already. Filled up with zeros.
//
// Limit: memory; each element is read and written once. Both sides are contiguous where the source has anything
// contiguous: a tile of 32 positions x 32 channels is read along one and written along the other, through shared
// memory.
#pragma once
#include "launch.h"

namespace convx {
namespace cuda {

// from[a, b, c, h, w], any strides, to [a][h][w][b][channels] if `positions_first`, else to [a][b][h][w][channels].
template <class T>
struct Packing {
  const T* from;
  int64_t from_a, from_b, from_c, from_h, from_w;
  T* to;
  int64_t A, B, C, H, W, channels;  // channels: C rounded up
  bool positions_first;
};

constexpr int kPackTile = 32, kPackThreads = 256;

template <class T>
__global__ void pack(Packing<T> p) {
  T* const tile = shared_memory<T>();  // [channel][position], a column to spare against bank conflicts
  constexpr int kPitch = kPackTile + 1;
  const int64_t positions = p.H * p.W;
  const int64_t across = (p.channels + kPackTile - 1) / kPackTile, down = (positions + kPackTile - 1) / kPackTile;
  const int fast = int(threadIdx.x) % kPackTile, slow = int(threadIdx.x) / kPackTile;
  constexpr int kStep = kPackThreads / kPackTile;
  const bool reads_channels = p.from_c < p.from_w;
  const bool small = positions < int64_t(1) << 31;  // then 32 bits divide in a fourth of the time
  for (int64_t i = blockIdx.x; i < p.A * p.B * across * down; i += gridDim.x) {
    const int64_t channel = i % across * kPackTile, position = i / across % down * kPackTile;
    const int64_t b = i / across / down % p.B, a = i / across / down / p.B;
    for (int j = slow; j < kPackTile; j += kStep) {
      const int x = reads_channels ? j : fast, y = reads_channels ? fast : j;
      const int64_t at = position + x, c = channel + y;
      T value{};
      const int64_t row = small ? int64_t(unsigned(at) / unsigned(p.W)) : at / p.W;
      if (at < positions && c < p.C)
        value = p.from[a * p.from_a + b * p.from_b + c * p.from_c + row * p.from_h + (at - row * p.W) * p.from_w];
      else
        value = T(0);
      tile[y * kPitch + x] = value;
    }
    __syncthreads();
    for (int j = slow; j < kPackTile; j += kStep) {
      const int64_t at = position + j, c = channel + fast;
      if (at >= positions || c >= p.channels) continue;
      const int64_t line = p.positions_first ? (a * positions + at) * p.B + b : (a * p.B + b) * positions + at;
      p.to[line * p.channels + c] = tile[fast * kPitch + j];
    }
    __syncthreads();  // before the next tile overwrites this one
  }
}

template <class T>
Grid pack_grid(const Packing<T>& p) {
  const auto tiles = [](int64_t n) { return (n + kPackTile - 1) / kPackTile; };
  return {p.A * p.B * tiles(p.channels) * tiles(p.H * p.W), dim3(kPackThreads),
          kPackTile * (kPackTile + 1) * sizeof(T)};
}

}  // namespace cuda
}  // namespace convx
