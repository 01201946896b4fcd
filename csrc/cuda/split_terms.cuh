// Makes the terms of tensorcore_terms.cuh: each float32, times 2^24, as the sum of two or three bfloat16, which lie one
// behind the other for each pixel.
//
// Limit: memory; each number is read once and each term written once.
#pragma once
#include "../scalar.h"
#include "pack.cuh"
#include "ptx.h"

namespace convx {
namespace cuda {
namespace tensorcore {

// Lines of channels as pack.cuh makes them, each of so many terms.
struct Splitting {
  Packing<float> numbers;
  BFloat16* to;
  int terms;
};

// Two numbers, times 2^24 already: their next term, which is taken from them.
static __device__ uint32_t next_term(float& low, float& high) {
  const uint32_t term = to_bf16x2(low, high);
  low -= __uint_as_float(term << 16), high -= __uint_as_float(term & 0xffff0000u);
  return term;
}

static __global__ void split_terms(Splitting p) {
  using Tile = PackTile<float>;
  constexpr int kPairs = Tile::kChannels / 2;  // a thread writes two channels of a position
  const int64_t channels = p.numbers.channels, positions = p.numbers.H * p.numbers.W;
  const int pair = 2 * (int(threadIdx.x) % kPairs), first = int(threadIdx.x) / kPairs;
  pack_tiles(p.numbers, [&](int64_t line, int64_t step, int64_t position, int64_t channel, const float* tile) {
#pragma unroll
    for (int i = first; i < Tile::kPositions; i += kPackThreads / kPairs) {
      if (position + i >= positions) break;
      float low = tile[pair * Tile::kPitch + i] * 0x1p24f, high = tile[(pair + 1) * Tile::kPitch + i] * 0x1p24f;
      BFloat16* const to = p.to + (line + (position + i) * step) * p.terms * channels + channel + pair;
      for (int term = 0; term < p.terms; ++term)
        *reinterpret_cast<uint32_t*>(to + term * channels) = next_term(low, high);
    }
  });
}

// The same where channels are neighbours and whole vectors: a thread to four channels of a position, read once and
// written as they come. Index: what counts them.
template <class Index>
static __device__ void split_lines_of(const Splitting& splitting) {
  const Packing<float>& p = splitting.numbers;
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
    BFloat16* const to = splitting.to + int64_t(line) * splitting.terms * p.channels + int64_t(channel);
    for (int term = 0; term < splitting.terms; ++term) {
      const uint32_t low = next_term(v.x, v.y), high = next_term(v.z, v.w);
      *reinterpret_cast<uint2*>(to + term * p.channels) = make_uint2(low, high);
    }
  }
}
static __global__ void split_lines(Splitting p) {
  const Packing<float>& n = p.numbers;
  if (n.A * n.B * n.H * n.W * (n.channels / 4) < int64_t(1) << 31)
    split_lines_of<uint32_t>(p);  // divides in a fourth of the time
  else
    split_lines_of<int64_t>(p);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
