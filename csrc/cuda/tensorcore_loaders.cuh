// What a tile of tensorcore_convolve.cuh multiplies, and how it comes into shared memory: the map from a result and a
// tap to a place in the image, and the loaders that follow it, chunk by chunk.
#pragma once
#include "../problem.h"
#include "column_blocks.h"
#include "tensorcore_pipeline.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// One axis of a convolution: result i reads position i * stride + offset + j * dilation by its j-th tap, which is tap
// first_tap + j * tap_step of the weight, and goes to first_out + i * out_step.
struct AxisPlan {
  int in, count, taps, stride, offset, dilation, first_tap, tap_step, first_out, out_step;
  PaddingMode mode;

  // What is read at a position, or -1 if nothing.
  CONVX_HD int source(int position) const { return int(Axis{in, 0, 0, 0, 0, 0, mode}.source(position)); }
  CONVX_HD int position(int i, int j) const { return i * stride + offset + j * dilation; }
  // Taps that only read zero padding, whichever the result, are left out.
  CONVX_HD bool is_idle(int j) const { return position(count - 1, j) < 0 || position(0, j) >= in; }
  CONVX_HD void leave_out_idle_taps() {
    while (taps > 0 && is_idle(taps - 1)) --taps;
    while (taps > 0 && is_idle(0)) --taps, first_tap += tap_step, offset += dilation;
  }
  // Whether some tap of result i reads padding.
  CONVX_HD bool reads_padding(int i) const {
    const int a = position(i, 0), b = position(i, taps - 1);
    return min(a, b) < 0 || max(a, b) >= in;
  }
};

CONVX_HD inline AxisPlan forward_plan(const Axis& a) {
  AxisPlan plan = {int(a.in), int(a.out), int(a.kernel), int(a.stride), -int(a.pad), int(a.dilation), 0, 1,
                   0,         1,          a.mode};
  if (a.mode == PaddingMode::zeros) plan.leave_out_idle_taps();
  return plan;
}

// x[h] is read by tap r of output p if h = p * stride - pad + r * dilation. For h = phase + i * stride that is
// p = i + (phase + pad - r * dilation) / stride, for the r that divide: every tap_step-th.
CONVX_HD inline AxisPlan grad_input_plan(const Axis& a, int phase) {
  const int in = int(a.in), out = int(a.out), kernel = int(a.kernel), stride = int(a.stride),
            dilation = int(a.dilation);
  AxisPlan plan = {out, (in - 1 - phase) / stride + 1, 0, 1, 0, 0, 0, 1, phase, stride, PaddingMode::zeros};
  while (plan.tap_step < kernel && plan.tap_step * dilation % stride != 0) ++plan.tap_step;
  const int t = phase + int(a.pad);
  for (int r = 0; r < plan.tap_step && r < kernel; ++r) {
    if ((t - r * dilation) % stride != 0) continue;
    plan.first_tap = r;
    plan.taps = (kernel - 1 - r) / plan.tap_step + 1;
    plan.offset = (t - r * dilation) / stride;
    plan.dilation = -(plan.tap_step * dilation / stride);
  }
  plan.leave_out_idle_taps();
  return plan;
}

// What a launch works on. Strides are in elements; for the loaders below inputs of `weight` are neighbours, and for
// ChannelsLoader channels of `input` too.
template <class T>
struct Convolution {
  const T* input;
  int64_t input_n, input_group, input_c;
  int input_h, input_w;
  const T* weight;
  int64_t weight_group;
  int weight_output, weight_c, weight_r, weight_s;
  const T* bias;
  int64_t bias_stride;
  void* output;
  Strides output_strides;
  int N, G, channels, outputs;  // of a group
  int inputs;                   // channels, filled up to whole chunks
  Axis rows, columns;           // of the problem
  int in_h, in_w;               // of the image that is read
  bool is_grad_input;
  int phases_across, phases;
  int64_t tiles, row_tiles;  // of all phases and groups; of the largest phase
  int column_tiles;
  ColumnBlocks blocks;  // of tensorcore_copied.cuh's results
  // Which way results are stored in vectors, if any; or whether sums are stored as they are, for fold_padding.cuh.
  bool stores_channels, stores_pixels, stores_sums;
  // A lane's rows are eight apart, so that eight lanes have neighbours: where each stores its own one by one, and for
  // PixelsLoader, which can't place rows as it likes.
  bool rows_apart;

  __device__ AxisPlan plan(const Axis& axis, int phase) const {
    return is_grad_input ? grad_input_plan(axis, phase) : forward_plan(axis);
  }
};

// A block's tile: results from `first` on, counted in pixels of one phase of one group, and from `column` on.
struct TilePlace {
  AxisPlan rows, columns;
  int group, column, n;  // of the first result: its image, and its pixel there
  int pixel;

  __device__ int plane() const { return rows.count * columns.count; }
  // The result `at` rows further on, as (image, row, column).
  __device__ Odometer result(int at) const {
    Odometer o = Odometer::of(pixel + at, rows.count, columns.count);
    o.high += n;
    return o;
  }
};

// The loaders copy stage after stage of A and B for a tile.

// B: chunks of the weight's inputs, tap after tap. A thread has one chunk of every stage, of several outputs.
template <class T, class Shape>
class WeightLoader {
 public:
  using B = AlongReduction<Shape::kColumns, sizeof(T)>;

  __device__ WeightLoader(const Convolution<T>& cv, const TilePlace& place)
      : cv_(cv), place_(place), chunks_(cv.inputs / kElements) {
    const int chunk = int(threadIdx.x) % kChunks, at = int(threadIdx.x) / kChunks;
    tap_ = Odometer::of(chunk, place.columns.taps, chunks_);
    step_ = Odometer::of(kChunks, place.columns.taps, chunks_);
    in_tile_ = B::place(at, chunk);
    output_ = place.column + column_at<Shape::kWarpColumns>(at);
    weight_ = cv.weight + place.group * cv.weight_group + int64_t(output_) * cv.weight_output +
              place.rows.first_tap * cv.weight_r + place.columns.first_tap * cv.weight_s;
  }

  __device__ int steps() const {
    const int64_t chunks = int64_t(place_.rows.taps) * place_.columns.taps * chunks_;
    return int((chunks + kChunks - 1) / kChunks);
  }

  // The tap of the thread's chunk, if one is left, and its first input.
  __device__ bool is_tap() const { return tap_.high < place_.rows.taps; }
  __device__ const Odometer& tap() const { return tap_; }
  __device__ int input() const { return tap_.low * kElements; }

  // Returns whether the next stage's tap is another one.
  __device__ bool load(char* b) {
    const T* const from = weight_ + tap_.high * place_.rows.tap_step * cv_.weight_r +
                          tap_.middle * place_.columns.tap_step * cv_.weight_s + input();
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int further = column_at<Shape::kWarpColumns>(i * kRowsPerPass);
      const bool reads = is_tap() && output_ + further < cv_.outputs;
      cp_async_16(b + in_tile_ + i * kRowsPerPass * kStageBytes,
                  reads ? from + int64_t(further) * cv_.weight_output : cv_.weight, reads);
    }
    const Odometer before = tap_;
    tap_.advance(step_, place_.columns.taps, chunks_);
    return tap_.high != before.high || tap_.middle != before.middle;
  }

 private:
  static constexpr int kElements = kChunk / sizeof(T), kRowsPerPass = Shape::kThreads / kChunks;
  static constexpr int kPasses = Shape::kColumns / kRowsPerPass;
  static_assert(kPasses * kRowsPerPass == Shape::kColumns, "no remainder");

  const Convolution<T>& cv_;
  const TilePlace& place_;
  int chunks_;  // of the inputs
  Odometer tap_, step_;
  int in_tile_, output_;
  const T* weight_;
};

// A from an image whose channels are neighbours: for each row, the chunk that B has of the weight.
template <class T, class Shape>
class ChannelsLoader {
 public:
  using A = AlongReduction<Shape::kRows, sizeof(T)>;
  using B = typename WeightLoader<T, Shape>::B;

  __device__ ChannelsLoader(const Convolution<T>& cv, const TilePlace& place)
      : cv_(cv), place_(place), weight_(cv, place), group_(cv.input + place.group * cv.input_group) {
    const int chunk = int(threadIdx.x) % kChunks, at = int(threadIdx.x) / kChunks;
    in_tile_ = A::place(at, chunk);
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int memory_row = at + i * kRowsPerPass;
      const Odometer r = place.result(cv.rows_apart ? memory_row : row_at<Shape::kWarpRows>(memory_row));
      const bool exists = r.high < cv.N;
      h_[i] = exists ? place.rows.position(r.middle, 0) : kNowhere;
      w_[i] = place.columns.position(r.low, 0);
      image_[i] = exists ? r.high : 0;
    }
    find_tap();
  }

  __device__ int steps() const { return weight_.steps(); }

  __device__ void load(char* a, char* b) {
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const bool reads = offset_[i] >= 0;
      cp_async_16(a + in_tile_ + i * kRowsPerPass * kStageBytes,
                  group_ + image_[i] * cv_.input_n + (reads ? offset_[i] + weight_.input() : 0), reads);
    }
    if (weight_.load(b)) find_tap();
  }

 private:
  static constexpr int kRowsPerPass = Shape::kThreads / kChunks, kPasses = Shape::kRows / kRowsPerPass;
  static constexpr int kNowhere = -(1 << 30);  // far enough from the image for every tap
  static_assert(kPasses * kRowsPerPass == Shape::kRows, "no remainder");

  // Where the thread's rows read by its tap. That stays so for all chunks of a tap, several stages for many channels,
  // and so most stages need no more than an addition to each address.
  __device__ void find_tap() {
    const Odometer& tap = weight_.tap();
    const int down = tap.high * place_.rows.dilation, across = tap.middle * place_.columns.dilation;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      int h = h_[i] + down, w = w_[i] + across;
      bool reads = unsigned(h) < unsigned(cv_.in_h) && unsigned(w) < unsigned(cv_.in_w);
      if (!reads && place_.rows.mode != PaddingMode::zeros && h_[i] != kNowhere) {
        h = place_.rows.source(h), w = place_.columns.source(w);
        reads = true;
      }
      offset_[i] = reads && weight_.is_tap() ? h * cv_.input_h + w * cv_.input_w : -1;
    }
  }

  const Convolution<T>& cv_;
  const TilePlace& place_;
  WeightLoader<T, Shape> weight_;
  int in_tile_, h_[kPasses], w_[kPasses];
  int offset_[kPasses];  // from the image's beginning, or -1: zeros
  int image_[kPasses];   // not its address, which would take two registers
  const T* group_;
};

// A of a 1x1 layer from an image whose pixels are neighbours, whole chunks of them: channels are rows of the tile in
// shared memory, and nothing has to be transposed beforehand.
template <class T, class Shape>
class PixelsLoader {
 public:
  using A = AcrossReduction<Shape::kRows, sizeof(T)>;
  using B = typename WeightLoader<T, Shape>::B;

  __device__ PixelsLoader(const Convolution<T>& cv, const TilePlace& place) : cv_(cv), weight_(cv, place) {
    const Odometer r = place.result(int(threadIdx.x) % kAcross * kElements);
    exists_ = r.high < cv.N;
    channel_ = int(threadIdx.x) / kAcross;
    pixels_ = cv.input + place.group * cv.input_group + r.high * cv.input_n + r.middle * cv.input_h + r.low;
  }

  __device__ int steps() const { return weight_.steps(); }

  __device__ void load(char* a, char* b) {
    const int chunk = int(threadIdx.x) % kAcross, k = int(threadIdx.x) / kAcross;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int channel = channel_ + i * kPerPass;
      const bool reads = exists_ && channel < cv_.channels;
      cp_async_16(a + A::place(k + i * kPerPass, chunk), reads ? pixels_ + channel * cv_.input_c : cv_.input, reads);
    }
    channel_ += kDepth;
    weight_.load(b);
  }

 private:
  static constexpr int kElements = kChunk / sizeof(T), kDepth = kStageBytes / sizeof(T);
  static constexpr int kAcross = Shape::kRows / kElements;    // chunks of a channel
  static constexpr int kPerPass = Shape::kThreads / kAcross;  // channels that all threads copy at once
  static constexpr int kPasses = kDepth / kPerPass;
  static_assert(kPasses * kPerPass == kDepth, "no remainder");

  const Convolution<T>& cv_;
  WeightLoader<T, Shape> weight_;
  bool exists_;
  int channel_;
  const T* pixels_;
};

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
