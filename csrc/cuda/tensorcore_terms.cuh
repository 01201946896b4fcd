// float32 on a Hopper GPU's tensor cores: tensorcore_arithmetic.cuh's Split (each number is the sum of three bfloat16,
// and six of their nine products are computed) with the copy engine and wgmma of tensorcore_copied.cuh. The terms are
// made once, by split_terms, and lie one behind the other for each pixel:
//
//   image    [pixel][group][term][channel]
//   weight   [group][output][row tap][column tap][term][input]
//
// so a stage brings all terms of 64 numbers of the reduction, and each term is multiplied with several of the other
// operand's. Where float32 may be rounded to TF32 two terms and three products do: 16 significant bits instead of 11,
// in 1.5 times the time of TF32's products, and operands of either order, of which wgmma has none in 32 bits.
//
// As in Split, tensor cores cut sums off, so they sum 16 numbers of the reduction, small terms first, and what they sum
// is added to the total by an ordinary rounded addition: one warpgroup adds while the other multiplies. (Two terms are
// less precise than that anyway: a whole stage.) Operands are scaled by 2^24, sums by 2^-48; a sum that comes out
// infinite or NaN is computed again by the definition.
//
// Limit: a sixth of the rate of 16-bit products, 110 to 130 TFLOP/s on an H200 where float32 multiply-adds were
// measured at 51; a third of it with two terms. And the pass that makes the terms: 10 bytes for each number of the
// operands, or
// 8. Measured there on dense layers: 44 to 85 TFLOP/s, 80 to 180 with two terms.
//
// Machine code of convolve_terms<.*: sm_90a: HGMMA, UTMALDG
// Machine code of weight_gradient_terms<.*: sm_90a: HGMMA, UTMALDG
#pragma once
#include "tensorcore_copied_weight.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// Two warpgroups with 64 rows of the tile each, and one that copies.
template <int kTerms_, int kColumns_>
struct TermShape {
  static constexpr int kTerms = kTerms_;
  static constexpr int kRows = 128, kColumns = kColumns_, kWarpRows = 16, kWarpColumns = kColumns;
  static constexpr int kConsumers = 256, kThreads = kConsumers + 128, kReaders = kConsumers / 32;
  static constexpr bool kTurns = false;
  static constexpr int kTermOfA = kRows * kCopiedRowBytes, kTermOfB = kColumns * kCopiedRowBytes;  // bytes
  static constexpr int kABytes = kTerms * kTermOfA, kBytes = kABytes + kTerms * kTermOfB;
  static constexpr int kStages = 216 * 1024 / kBytes;
  static constexpr int kSharedBytes = kStages * kBytes + (2 * kStages + 2) * int(sizeof(uint64_t));

  __device__ static int first_row() { return int(threadIdx.x) / 32 * kWarpRows; }
};

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

// What a launch works on, as CopiedConvolution. `cv` describes the operands themselves, the maps their terms, which
// have `channels` each.
struct TermConvolution {
  Convolution<float> cv;
  int channels;
  TensorMap weight, image[kMostPhases];
};

// Asks for all stages of all tiles; one thread.
template <class Shape>
__device__ void copy_term_stages(const TermConvolution& work, Ring<Shape> ring) {
  const Convolution<float>& cv = work.cv;
  for (int64_t tile = blockIdx.x; tile < cv.tiles; tile += gridDim.x) {
    TilePlace place;
    int phase;
    if (!find_tile<float, Shape>(cv, tile, place, phase)) continue;
    const CopiedAxis rows = CopiedAxis::of(place.rows), columns = CopiedAxis::of(place.columns);
    const Odometer first = place.result(0);
    const int h = rows.position(first.middle), w = columns.position(first.low);
    for (int i = 0; i < place.rows.taps; ++i)
      for (int j = 0; j < place.columns.taps; ++j)
        for (int input = 0; input < work.channels; input += kCopiedDepth) {
          mbarrier_wait(ring.empty + ring.stage, ring.parity ^ 1);
          uint64_t* const full = ring.full + ring.stage;
          mbarrier_expect(full, Shape::kBytes);
          for (int term = 0; term < Shape::kTerms; ++term) {
            copy_im2col(ring.a() + term * Shape::kTermOfA, work.image[phase], full,
                        (place.group * Shape::kTerms + term) * work.channels + input, w, h, first.high,
                        columns.offset(j), rows.offset(i));
            copy_tile(ring.b() + term * Shape::kTermOfB, work.weight, full, term * work.channels + input,
                      place.columns.first_tap + j * place.columns.tap_step,
                      place.rows.first_tap + i * place.rows.tap_step, place.column, place.group);
          }
          ring.next();
        }
  }
}

// Adds the products of all stages of a tile; the warpgroup's 64 rows.
template <class Shape, bool kAcross>
__device__ void multiply_term_stages(FloatSums<Shape>& sums, Ring<Shape>& ring, int steps) {
  using Registers = float[Shape::kColumns / 2];
  // Pairs of terms whose numbers add up to less than kTerms, the smallest first.
  constexpr int kProducts = Shape::kTerms == 3 ? 6 : 3;
  constexpr int kOfA[2][6] = {{1, 0, 0}, {2, 0, 1, 1, 0, 0}}, kOfB[2][6] = {{0, 1, 0}, {0, 2, 1, 0, 1, 0}};
  constexpr int kSummed = Shape::kTerms == 3 ? 16 : kCopiedDepth;
  const int row = int(threadIdx.x) / 128 * 64;
  for (int step = 0; step < steps; ++step) {
    mbarrier_wait(ring.full + ring.stage, ring.parity);
#pragma unroll
    for (int first = 0; first < kCopiedDepth; first += kSummed) {
      FloatSums<Shape> part;
      part.clear();
      Registers& d = reinterpret_cast<Registers&>(part.d);
      wgmma_fence(d);
#pragma unroll
      for (int product = 0; product < kProducts; ++product) {
        const char* const a = ring.a() + kOfA[Shape::kTerms - 2][product] * Shape::kTermOfA;
        const char* const b = ring.b() + kOfB[Shape::kTerms - 2][product] * Shape::kTermOfB;
#pragma unroll
        for (int k = first; k < first + kSummed; k += 16)
          wgmma_m64k16<Shape::kColumns, kAcross, kAcross>(d, copied_operand<kAcross>(a, row, k),
                                                          copied_operand<kAcross>(b, 0, k), BFloat16{});
      }
      wgmma_commit();
      wgmma_wait<0>(d);
      if (first + kSummed == kCopiedDepth && lane() == 0) mbarrier_arrive(ring.empty + ring.stage);
#pragma unroll
      for (int j = 0; j < FloatSums<Shape>::kColumns; ++j)
        for (int i = 0; i < FloatSums<Shape>::kRows; ++i) sums.at(i, j) += part.at(i, j);
    }
    ring.next();
  }
}

// Writes a warp's sums with the bias, and goes over those in doubt.
template <class Shape>
__device__ void store_terms(const Convolution<float>& cv, const TilePlace& place, FloatSums<Shape>& sums) {
  using Sums = FloatSums<Shape>;
  const int g = lane() / 4, t = lane() % 4;
  const auto row = [&](int i) { return Shape::first_row() + 8 * i + g; };
  const auto column = [&](int j) { return place.column + j / 2 * 8 + 2 * t + j % 2; };
  const auto offset = [&](const Odometer& at, int output) {
    return cv.output_strides(at.high, place.group * int64_t(cv.outputs) + output,
                             place.rows.first_out + at.middle * place.rows.out_step,
                             place.columns.first_out + at.low * place.columns.out_step);
  };
  float* const results = static_cast<float*>(cv.output);
  const float* const bias = cv.bias + (cv.bias ? place.group * int64_t(cv.outputs) * cv.bias_stride : 0);
  const auto bias_of = [&](int output) { return cv.bias ? bias[output * cv.bias_stride] : 0.0f; };
  bool doubt = false;
#pragma unroll
  for (int j = 0; j < Sums::kColumns; ++j) {
    const float b = column(j) < cv.outputs ? bias_of(column(j)) : 0.0f;
#pragma unroll
    for (int i = 0; i < Sums::kRows; ++i) {
      doubt = doubt || Split::is_doubtful(sums.at(i, j));
      sums.at(i, j) = Split::finished(sums.at(i, j)) + b;
    }
  }
#pragma unroll
  for (int i = 0; i < Sums::kRows; ++i) {
    const Odometer at = place.result(row(i));
    if (at.high >= cv.N) break;
    const int64_t to = offset(at, 0);
#pragma unroll
    for (int j = 0; j < Sums::kColumns; j += 2) {
      if (cv.stores_channels) {
        if (column(j) < cv.outputs)
          *reinterpret_cast<float2*>(results + to + column(j)) = make_float2(sums.at(i, j), sums.at(i, j + 1));
      } else {
        if (column(j) < cv.outputs) results[to + column(j) * cv.output_strides.c] = sums.at(i, j);
        if (column(j + 1) < cv.outputs) results[to + column(j + 1) * cv.output_strides.c] = sums.at(i, j + 1);
      }
    }
  }
  if (!doubt) return;
  for (int i = 0; i < Sums::kRows; ++i) {
    const Odometer at = place.result(row(i));
    if (at.high >= cv.N) break;
    for (int j = 0; j < Sums::kColumns && column(j) < cv.outputs; ++j) {
      float& result = results[offset(at, column(j))];
      if (Split::is_doubtful(result)) result = sum_of_taps<float>(cv, place, at, column(j)) + bias_of(column(j));
    }
  }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) convolve_terms(const CONVX_GRID_CONSTANT TermConvolution work) {
#ifdef CONVX_HAS_WGMMA
  Ring<Shape> ring(shared_memory<char>());
  ring.prepare();
  if (threadIdx.x >= Shape::kConsumers) {
    give_registers<40>();
    if (threadIdx.x == Shape::kConsumers) copy_term_stages(work, ring);
  } else {
    take_registers<232>();
    const Convolution<float>& cv = work.cv;
    for (int64_t tile = blockIdx.x; tile < cv.tiles; tile += gridDim.x) {
      TilePlace place;
      int phase;
      if (!find_tile<float, Shape>(cv, tile, place, phase)) continue;
      FloatSums<Shape> sums;
      sums.clear();
      multiply_term_stages<Shape, false>(sums, ring,
                                         place.rows.taps * place.columns.taps * (work.channels / kCopiedDepth));
      store_terms<Shape>(cv, place, sums);
    }
  }
#else
  __trap();  // see ptx_wgmma.h
#endif
}

// grad_weight: see tensorcore_copied_weight.cuh. `wg` describes the operands themselves.
template <int kMostTaps>
struct TermWeightGradient {
  WeightGradient<float, float> wg;
  int x_channels, y_channels;                       // of a term
  TensorMap outputs[kMostTaps], inputs[kMostTaps];  // terms of y and x, by tap
};

template <class Shape, int kMostTaps>
__device__ void copy_term_weight_stages(const TermWeightGradient<kMostTaps>& work, Ring<Shape> ring) {
  constexpr int kBlockBytes = kCopiedDepth * kCopiedRowBytes;  // of 64 channels
  const auto& wg = work.wg;
  for (int64_t i = blockIdx.x; i < weight_units(wg); i += gridDim.x) {
    const WeightUnit u = weight_unit<Shape>(wg, i);
    const int steps = u.steps();
    if (steps == 0) continue;
    const TapRun &rows = u.pixels.rows, &columns = u.pixels.columns;
    Odometer at = u.pixels.at(u.pixels.begin);
    const Odometer step = Odometer::of(kCopiedDepth, rows.count, columns.count);
    for (int s = 0; s < steps; ++s) {
      mbarrier_wait(ring.empty + ring.stage, ring.parity ^ 1);
      uint64_t* const full = ring.full + ring.stage;
      mbarrier_expect(full, Shape::kBytes);
      for (int term = 0; term < Shape::kTerms; ++term) {
        for (int block = 0; block < Shape::kRows; block += 64)
          copy_im2col(ring.a() + term * Shape::kTermOfA + block / 64 * kBlockBytes, work.outputs[u.tap], full,
                      (u.group * Shape::kTerms + term) * work.y_channels + u.row + block, columns.first + at.low,
                      rows.first + at.middle, at.high, 0, 0);
        for (int block = 0; block < Shape::kColumns; block += 64)
          copy_im2col(ring.b() + term * Shape::kTermOfB + block / 64 * kBlockBytes, work.inputs[u.tap], full,
                      (u.group * Shape::kTerms + term) * work.x_channels + u.column + block,
                      columns.offset + at.low * columns.stride, rows.offset + at.middle * rows.stride, at.high, 0, 0);
      }
      at.advance(step, rows.count, columns.count);
      ring.next();
    }
  }
}

template <class Shape, int kMostTaps>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    weight_gradient_terms(const CONVX_GRID_CONSTANT TermWeightGradient<kMostTaps> work) {
#ifdef CONVX_HAS_WGMMA
  Ring<Shape> ring(shared_memory<char>());
  ring.prepare();
  if (threadIdx.x >= Shape::kConsumers) {
    give_registers<40>();
    if (threadIdx.x == Shape::kConsumers) copy_term_weight_stages<Shape>(work, ring);
  } else {
    take_registers<232>();
    const auto& wg = work.wg;
    for (int64_t i = blockIdx.x; i < weight_units(wg); i += gridDim.x) {
      const WeightUnit u = weight_unit<Shape>(wg, i);
      FloatSums<Shape> sums;
      sums.clear();
      multiply_term_stages<Shape, true>(sums, ring, u.steps());
      store_partial<Shape>(wg, u, sums);
    }
  }
#else
  __trap();  // see ptx_wgmma.h
#endif
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
