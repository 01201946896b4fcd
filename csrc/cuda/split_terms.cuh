// Makes the terms of tensorcore_terms.cuh: each float32, times 2^24, as the sum of two or three bfloat16, which lie one
// behind the other for each pixel.
//
// Limit: memory; each number is read once and each term written once.
#pragma once
#include "../scalar.h"
#include "launch.h"
#include "ptx.h"

namespace convx {
namespace cuda {
namespace tensorcore {

// from[a, b, c, h, w], any strides, as terms: [a][h][w][b][term][channels] if `positions_first`, else
// [a][b][h][w][term][channels]; `channels` is C in whole stages, the rest zeros. As pack() otherwise.
struct Splitting {
  const float* from;
  int64_t from_a, from_b, from_c, from_h, from_w;
  BFloat16* to;
  int64_t A, B, C, H, W, channels;
  int terms;
  bool positions_first;
};

constexpr int kSplitTile = 32, kSplitThreads = 256;

static __global__ void split_terms(Splitting p) {
  float* const tile = shared_memory<float>();  // [channel][position], a column to spare against bank conflicts
  constexpr int kPitch = kSplitTile + 1, kStep = kSplitThreads / kSplitTile;
  const int64_t positions = p.H * p.W;
  const int64_t across = (p.channels + kSplitTile - 1) / kSplitTile, down = (positions + kSplitTile - 1) / kSplitTile;
  const int fast = int(threadIdx.x) % kSplitTile, slow = int(threadIdx.x) / kSplitTile;
  const bool reads_channels = p.from_c < p.from_w;
  const bool small = positions < int64_t(1) << 31;
  for (int64_t i = blockIdx.x; i < p.A * p.B * across * down; i += gridDim.x) {
    const int64_t channel = i % across * kSplitTile, position = i / across % down * kSplitTile;
    const int64_t b = i / across / down % p.B, a = i / across / down / p.B;
#pragma unroll
    for (int j = 0; j < kSplitTile; j += kStep) {
      const int x = reads_channels ? j + slow : fast, y = reads_channels ? fast : j + slow;
      const int64_t at = position + x, c = channel + y;
      const int64_t row = small ? int64_t(unsigned(at) / unsigned(p.W)) : at / p.W;
      tile[y * kPitch + x] =
          at < positions && c < p.C
              ? p.from[a * p.from_a + b * p.from_b + c * p.from_c + row * p.from_h + (at - row * p.W) * p.from_w]
              : 0.0f;
    }
    __syncthreads();
    // A thread writes two channels of a position.
    const int pair = 2 * (int(threadIdx.x) % (kSplitTile / 2)), first = int(threadIdx.x) / (kSplitTile / 2);
#pragma unroll
    for (int j = 0; j < kSplitTile; j += 2 * kStep) {
      const int64_t at = position + j + first;
      if (at >= positions) continue;
      const int64_t line = p.positions_first ? (a * positions + at) * p.B + b : (a * p.B + b) * positions + at;
      uint32_t* const to = reinterpret_cast<uint32_t*>(p.to + line * p.terms * p.channels + channel + pair);
      float low = tile[pair * kPitch + j + first] * 0x1p24f, high = tile[(pair + 1) * kPitch + j + first] * 0x1p24f;
      for (int term = 0; term < p.terms; ++term) {
        const uint32_t word = to_bf16x2(low, high);
        to[term * p.channels / 2] = word;
        low -= __uint_as_float(word << 16), high -= __uint_as_float(word & 0xffff0000u);
      }
    }
    __syncthreads();  // before the next tile overwrites this one
  }
}

// The same where channels are neighbours and whole vectors: a thread to four channels of a position, read once and
// written as they come. Index: what counts them.
template <class Index>
static __device__ void split_lines_of(const Splitting& p) {
  const Index vectors = Index(p.channels / 4), positions = Index(p.H * p.W), width = Index(p.W), B = Index(p.B);
  const int64_t count = p.A * p.B * p.H * p.W * (p.channels / 4);
  for (int64_t item = first_item(); item < count; item += items_step()) {
    const Index i = Index(item), line = i / vectors, channel = 4 * (i - line * vectors);
    // The lines in the order in which they are written: [a][position][b] or [a][b][position].
    const Index outer = p.positions_first ? line / B : line / positions;
    const Index inner = p.positions_first ? line - outer * B : line - outer * positions;
    const Index at = p.positions_first ? outer % positions : inner, b = p.positions_first ? inner : outer % B;
    const Index a = p.positions_first ? outer / positions : outer / B, row = at / width;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (int64_t(channel) < p.C)
      v = *reinterpret_cast<const float4*>(p.from + int64_t(a) * p.from_a + int64_t(b) * p.from_b + int64_t(channel) +
                                           int64_t(row) * p.from_h + int64_t(at - row * width) * p.from_w);
    v.x *= 0x1p24f, v.y *= 0x1p24f, v.z *= 0x1p24f, v.w *= 0x1p24f;
    BFloat16* const to = p.to + int64_t(line) * p.terms * p.channels + int64_t(channel);
    for (int term = 0; term < p.terms; ++term) {
      const uint32_t low = to_bf16x2(v.x, v.y), high = to_bf16x2(v.z, v.w);
      *reinterpret_cast<uint2*>(to + term * p.channels) = make_uint2(low, high);
      v.x -= __uint_as_float(low << 16), v.y -= __uint_as_float(low & 0xffff0000u);
      v.z -= __uint_as_float(high << 16), v.w -= __uint_as_float(high & 0xffff0000u);
    }
  }
}
static __global__ void split_lines(Splitting p) {
  if (p.A * p.B * p.H * p.W * (p.channels / 4) < int64_t(1) << 31)
    split_lines_of<uint32_t>(p);  // divides in a fourth of the time
  else
    split_lines_of<int64_t>(p);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
