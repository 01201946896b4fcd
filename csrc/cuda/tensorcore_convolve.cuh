// forward and grad_input on tensor cores, as one product of matrices without ever writing them down (an implicit GEMM):
//
//   rows       results of all images, a pixel each         (n, i, j)
//   columns    output channels of a group
//   reduction  row tap, column tap, input channel          in chunks of 16 bytes of channels
//
// A is gathered from the image while it is copied: a thread works out where its chunk's tap falls, and asks for zeros
// if that is in the padding. B is the weight, [output][tap][input]. grad_input is the same over the phases of the
// stride (plan.h of the CPU has the idea): results whose positions leave the same remainder are read by the same taps,
// so each phase is a convolution of y with some of the taps, and all phases are tiles of one launch.
//
// Zeros times an infinite weight are NaN, where a skipped tap is nothing at all. So a NaN in the result of a pixel that
// reads padding is in doubt, and is computed again tap by tap, as are the sums that Split doubts. No pass over the
// weights is needed to know, and each result depends on its own operands alone.
//
// Limit: dense layers have hundreds of multiply-adds to a byte, so the matrix rate: mma.sync reaches about 660 of 990
// TFLOP/s in 16 bits on an H100, half of it in TF32, a sixth by Split, 60 in float64 by DMMA. A warp's tile of 64 x 64
// reads 8 KiB of fragments from shared memory for each 128 KiFLOP: 70 % of what shared memory gives. Expected: 70 to
// 80 % of these rates on layers of 128 channels or more. 1x1 layers of few channels are limited by memory.
#pragma once
#include "../problem.h"
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
  __device__ int source(int position) const { return int(Axis{in, 0, 0, 0, 0, 0, mode}.source(position)); }
  __device__ int position(int i, int j) const { return i * stride + offset + j * dilation; }
  // Taps that only read zero padding, whichever the result, are left out.
  __device__ bool is_idle(int j) const { return position(count - 1, j) < 0 || position(0, j) >= in; }
  __device__ void leave_out_idle_taps() {
    while (taps > 0 && is_idle(taps - 1)) --taps;
    while (taps > 0 && is_idle(0)) --taps, first_tap += tap_step, offset += dilation;
  }
  // Whether some tap of result i reads padding.
  __device__ bool reads_padding(int i) const {
    const int a = position(i, 0), b = position(i, taps - 1);
    return min(a, b) < 0 || max(a, b) >= in;
  }
};

__device__ inline AxisPlan forward_plan(const Axis& a) {
  AxisPlan plan = {int(a.in), int(a.out), int(a.kernel), int(a.stride), -int(a.pad), int(a.dilation), 0, 1,
                   0,         1,          a.mode};
  if (a.mode == PaddingMode::zeros) plan.leave_out_idle_taps();
  return plan;
}

// x[h] is read by tap r of output p if h = p * stride - pad + r * dilation. For h = phase + i * stride that is
// p = i + (phase + pad - r * dilation) / stride, for the r that divide: every tap_step-th.
__device__ inline AxisPlan grad_input_plan(const Axis& a, int phase) {
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

// What a launch works on. Strides are in elements; channels of `input` and inputs of `weight` are neighbours.
template <class T>
struct Convolution {
  const T* input;
  int64_t input_n, input_group;
  int input_h, input_w;
  const T* weight;
  int64_t weight_output, weight_group;
  int weight_r, weight_s;
  const T* bias;
  int64_t bias_stride;
  void* output;
  Strides output_strides;
  int N, G, inputs, outputs;  // channels of a group; inputs is a whole number of chunks
  Axis rows, columns;         // of the problem
  bool is_grad_input;
  int phases_across, phases;
  int64_t row_tiles;  // of the largest phase
  int column_tiles;
  // Which way results are stored in vectors, if any; or whether sums are stored as they are, for fold.cuh.
  bool stores_channels, stores_pixels, stores_sums;

  __device__ AxisPlan plan(const Axis& axis, int phase) const {
    return is_grad_input ? grad_input_plan(axis, phase) : forward_plan(axis);
  }
  // Lanes are eight neighbouring pixels if each stores its own, one by one.
  __device__ bool rows_apart() const { return !stores_channels && !stores_pixels; }
};

// A block's tile: results from `first` on, counted in pixels of one phase of one group, and from `column` on.
struct Place {
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

template <class T, class Shape>
class ConvolutionLoader {
 public:
  using A = AlongReduction<Shape::kRows, sizeof(T)>;
  using B = AlongReduction<Shape::kColumns, sizeof(T)>;

  __device__ ConvolutionLoader(const Convolution<T>& cv, const Place& place)
      : cv_(cv), place_(place), chunks_(cv.inputs / kElements) {
    const int chunk = int(threadIdx.x) % kChunks, at = int(threadIdx.x) / kChunks;
    tap_ = Odometer::of(chunk, place.columns.taps, chunks_);
    step_ = Odometer::of(kChunks, place.columns.taps, chunks_);
    a_place_ = A::place(at, chunk), b_place_ = B::place(at, chunk);
#pragma unroll
    for (int i = 0; i < kPassesA; ++i) {
      const int memory_row = at + i * kRowsPerPass;
      const Odometer r = place.result(cv.rows_apart() ? memory_row : row_at<Shape::kWarpRows>(memory_row));
      const bool exists = r.high < cv.N;
      h_[i] = exists ? place.rows.position(r.middle, 0) : kNowhere;
      w_[i] = place.columns.position(r.low, 0);
      image_[i] = cv.input + place.group * cv.input_group + (exists ? r.high * cv.input_n : 0);
    }
    output_ = place.column + column_at<Shape::kWarpColumns>(at);
    weight_ = cv.weight + place.group * cv.weight_group + output_ * cv.weight_output +
              place.rows.first_tap * cv.weight_r + place.columns.first_tap * cv.weight_s;
  }

  __device__ int64_t steps() const {
    const int64_t chunks = int64_t(place_.rows.taps) * place_.columns.taps * chunks_;
    return (chunks + kChunks - 1) / kChunks;
  }

  __device__ void load(char* a, char* b) {
    const bool is_tap = tap_.high < place_.rows.taps;
    const int channel = tap_.low * kElements;
    const int down = tap_.high * place_.rows.dilation, across = tap_.middle * place_.columns.dilation;
#pragma unroll
    for (int i = 0; i < kPassesA; ++i) {
      int h = h_[i] + down, w = w_[i] + across;
      bool reads = unsigned(h) < unsigned(place_.rows.in) && unsigned(w) < unsigned(place_.columns.in);
      if (!reads && place_.rows.mode != PaddingMode::zeros && h_[i] != kNowhere) {
        h = place_.rows.source(h), w = place_.columns.source(w);
        reads = true;
      }
      reads = reads && is_tap;
      cp_async_16(a + a_place_ + i * kRowsPerPass * kStageBytes,
                  image_[i] + (reads ? h * cv_.input_h + w * cv_.input_w + channel : 0), reads);
    }
    const int of_tap = tap_.high * place_.rows.tap_step * cv_.weight_r +
                       tap_.middle * place_.columns.tap_step * cv_.weight_s + channel;
#pragma unroll
    for (int i = 0; i < kPassesB; ++i) {
      const int further = column_at<Shape::kWarpColumns>(i * kRowsPerPass);
      const bool reads = is_tap && output_ + further < cv_.outputs;
      cp_async_16(b + b_place_ + i * kRowsPerPass * kStageBytes,
                  reads ? weight_ + further * cv_.weight_output + of_tap : cv_.weight, reads);
    }
    tap_.advance(step_, place_.columns.taps, chunks_);
  }

 private:
  static constexpr int kElements = kChunk / sizeof(T), kRowsPerPass = Shape::kThreads / kChunks;
  static constexpr int kPassesA = Shape::kRows / kRowsPerPass, kPassesB = Shape::kColumns / kRowsPerPass;
  static constexpr int kNowhere = -(1 << 30);  // far enough from the image for every tap
  static_assert(kPassesA * kRowsPerPass == Shape::kRows && kPassesB * kRowsPerPass == Shape::kColumns, "no remainder");

  const Convolution<T>& cv_;
  const Place& place_;
  int chunks_;  // of the inputs
  Odometer tap_, step_;
  int a_place_, b_place_, output_;
  int h_[kPassesA], w_[kPassesA];
  const T* image_[kPassesA];
  const T* weight_;
};

// The definition of one result, for those in doubt: skipped taps are skipped.
template <class Sum, class T>
__device__ Sum sum_of_taps(const Convolution<T>& cv, const Place& place, const Odometer& at, int output) {
  Sum sum = 0;
  for (int i = 0; i < place.rows.taps; ++i) {
    const int64_t h = place.rows.source(place.rows.position(at.middle, i));
    if (h < 0) continue;
    for (int j = 0; j < place.columns.taps; ++j) {
      const int64_t w = place.columns.source(place.columns.position(at.low, j));
      if (w < 0) continue;
      const T* x = cv.input + place.group * cv.input_group + at.high * cv.input_n + h * cv.input_h + w * cv.input_w;
      const T* v = cv.weight + place.group * cv.weight_group + output * cv.weight_output +
                   (place.rows.first_tap + i * place.rows.tap_step) * cv.weight_r +
                   (place.columns.first_tap + j * place.columns.tap_step) * cv.weight_s;
      for (int c = 0; c < cv.inputs; ++c) sum = fma(Sum(v[c]), Sum(x[c]), sum);
    }
  }
  return sum;
}

// kCount neighbours as one store.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T v[kCount];
};

// Writes a warp's sums, rounded, with the bias; then goes over those in doubt.
template <class Arithmetic, class Shape, class T>
__device__ void store_results(const Convolution<T>& cv, const Place& place,
                              typename Arithmetic::template Sums<Shape>& sums) {
  using Sum = typename Arithmetic::Sum;
  using Sums = typename Arithmetic::template Sums<Shape>;
  constexpr int kRows = Sums::kRows, kColumns = Sums::kColumns;
  constexpr int kElements = kChunk / sizeof(T), kPixels = kRows < kElements ? kRows : kElements;
  const int g = lane() / 4, t = lane() % 4;
  const int first_output = place.column + Shape::first_column() + t * kColumns;
  const auto row = [&](int i) { return Shape::first_row() + (cv.rows_apart() ? 8 * i + g : kRows * g + i); };
  const auto offset = [&](const Odometer& at, int output) {
    return cv.output_strides(at.high, place.group * int64_t(cv.outputs) + output,
                             place.rows.first_out + at.middle * place.rows.out_step,
                             place.columns.first_out + at.low * place.columns.out_step);
  };
  T* const results = static_cast<T*>(cv.output);
  const auto store = [&](int64_t to, Sum sum) {
    if (cv.stores_sums)
      static_cast<Sum*>(cv.output)[to] = sum;
    else
      results[to] = T(sum);
  };
  const auto bias = [&](int output) {
    return cv.bias && output < cv.outputs ? Sum(cv.bias[(place.group * int64_t(cv.outputs) + output) * cv.bias_stride])
                                          : Sum(0);
  };

  bool doubt = false;
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    const Sum b = bias(first_output + j);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      doubt = doubt || Arithmetic::is_doubtful(sums.at(i, j));
      sums.at(i, j) = Arithmetic::finished(sums.at(i, j)) + b;
    }
  }

  if (cv.stores_pixels) {
#pragma unroll
    for (int i = 0; i < kRows; i += kPixels) {
      const Odometer at = place.result(row(i));
      if (at.high >= cv.N) break;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (first_output + j >= cv.outputs) break;
        Vector<T, kPixels> v;
        for (int e = 0; e < kPixels; ++e) v.v[e] = T(sums.at(i + e, j));
        *reinterpret_cast<Vector<T, kPixels>*>(results + offset(at, first_output + j)) = v;
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const Odometer at = place.result(row(i));
      if (at.high >= cv.N) break;
      const int64_t to = offset(at, first_output);
#pragma unroll
      for (int j = 0; j < kColumns; j += kElements) {
        if (cv.stores_channels) {
          if (first_output + j >= cv.outputs) break;
          Vector<T, kElements> v;
          for (int e = 0; e < kElements; ++e) v.v[e] = T(sums.at(i, j + e));
          *reinterpret_cast<Vector<T, kElements>*>(results + to + j) = v;
        } else {
#pragma unroll
          for (int e = 0; e < kElements; ++e)
            if (first_output + j + e < cv.outputs) store(to + (j + e) * cv.output_strides.c, sums.at(i, j + e));
        }
      }
    }
  }

  if (!doubt) return;
  for (int i = 0; i < kRows; ++i) {
    const Odometer at = place.result(row(i));
    if (at.high >= cv.N) break;
    const bool skips = place.rows.mode == PaddingMode::zeros &&
                       (place.rows.reads_padding(at.middle) || place.columns.reads_padding(at.low));
    if (!skips && !Arithmetic::kDoubtsItself) continue;
    for (int j = 0; j < kColumns && first_output + j < cv.outputs; ++j) {
      const int64_t to = offset(at, first_output + j);
      const Sum stored = cv.stores_sums ? static_cast<const Sum*>(cv.output)[to] : Sum(results[to]);
      if (Arithmetic::is_doubtful(stored))
        store(to, sum_of_taps<Sum>(cv, place, at, first_output + j) + bias(first_output + j));
    }
  }
}

template <class Arithmetic, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks) convolve(Convolution<typename Arithmetic::Element> cv) {
  using T = typename Arithmetic::Element;
  using Loader = ConvolutionLoader<T, Shape>;
  const int64_t tiles = cv.phases * cv.row_tiles * cv.G * cv.column_tiles;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    // Blocks that run at the same time share rows: their part of the image stays in the L2 cache.
    const int64_t row_tile = tile / cv.column_tiles / cv.G % cv.row_tiles;
    const int phase = int(tile / cv.column_tiles / cv.G / cv.row_tiles);
    Place place;
    place.rows = cv.plan(cv.rows, phase / cv.phases_across);
    place.columns = cv.plan(cv.columns, phase % cv.phases_across);
    place.group = int(tile / cv.column_tiles % cv.G);
    place.column = int(tile % cv.column_tiles) * Shape::kColumns;
    const int64_t first = row_tile * Shape::kRows;
    place.n = int(first / place.plane()), place.pixel = int(first % place.plane());
    if (place.n >= cv.N) continue;  // a smaller phase; for the whole block: no barrier is missed

    typename Arithmetic::template Sums<Shape> sums;
    sums.clear();
    if (place.rows.taps > 0 && place.columns.taps > 0 && cv.inputs > 0) {
      Loader loader(cv, place);
      multiply_tiles<Arithmetic, Shape, typename Loader::A, typename Loader::B>(sums, loader, loader.steps(),
                                                                                shared_memory<char>());
    }
    store_results<Arithmetic, Shape>(cv, place, sums);
  }
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
