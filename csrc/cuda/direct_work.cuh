// What direct.cuh computes, in terms of the maps of direct_maps.cuh: forward and grad_input are GatherWork, grad_weight
// is WeightWork. Each gives, for a phase and a group, the matrices A and B and where a sum goes.
#pragma once
#include "direct_tile.cuh"

namespace convx {
namespace cuda {

// Where the sums of one phase and group go: element (left, right) to left's place and right times a step. `wide` if
// they are stored as they were summed and not as T.
template <class T, class LeftMap>
struct ResultMatrix {
  void* data;
  LeftMap left;
  int64_t right_step, lefts, rights;
  const T* bias;
  int64_t bias_step;
  bool wide;

  __device__ Sums<T> bias_of(int64_t right) const { return bias ? Sums<T>(bias[right * bias_step]) : Sums<T>(0); }
  __device__ void put(int64_t offset, Sums<T> sum) const {
    if (wide)
      static_cast<Sums<T>*>(data)[offset] = sum;
    else
      static_cast<T*>(data)[offset] = T(sum);
  }
};

// data + elements, of what has `wide` elements or T's.
template <class T>
__device__ inline void* advance(void* data, int64_t elements, bool wide) {
  if (wide) return static_cast<Sums<T>*>(data) + elements;
  return static_cast<T*>(data) + elements;
}

// forward, and `transposed` grad_input: source images are read through taps; weights come packed (pack_weights).
template <class T>
struct GatherWork {
  using Type = T;
  using ElementA = T;
  using ElementB = Sums<T>;
  static constexpr bool kResultIsImage = true;

  ConvProblem pb;
  bool transposed;
  View source, result;
  bool wide_result;
  const T* bias;
  int64_t bias_step;
  const Sums<T>* packed;
  TapOrder taps_h, taps_w;
  int phases_w;

  CONVX_HD int source_channels() const { return int(transposed ? pb.outputs_per_group() : pb.channels_per_group()); }
  CONVX_HD int result_channels() const { return int(transposed ? pb.channels_per_group() : pb.outputs_per_group()); }
  CONVX_HD int64_t packed_row() const { return (result_channels() + 3) / 4 * 4; }   // rows are aligned to 16 bytes
  CONVX_HD int64_t packed_rows() const { return pb.R * pb.S * source_channels(); }  // of a group
  CONVX_HD PhaseAxis rows(int phase) const { return phase_axis(pb.rows(), taps_h, transposed, phase / phases_w); }
  CONVX_HD PhaseAxis columns(int phase) const { return phase_axis(pb.columns(), taps_w, transposed, phase % phases_w); }
  CONVX_HD int64_t depths(int phase) const {
    return int64_t(rows(phase).taps) * columns(phase).taps * source_channels();
  }
  CONVX_HD int64_t lefts(int phase) const { return pb.N * rows(phase).count * columns(phase).count; }

  __device__ Matrix<T, Pixels, Taps> a(int phase, int group) const {
    const PhaseAxis r = rows(phase), c = columns(phase);
    const Strides& s = source.strides;
    const Extent extent =
        transposed ? Extent{int(pb.P), int(pb.Q), PaddingMode::zeros} : Extent{int(pb.H), int(pb.W), pb.padding_mode};
    return {static_cast<const T*>(source.data) + int64_t(group) * source_channels() * s.c,
            extent,
            s,
            {s, r.count, c.count, r.first, c.first, r.step, c.step},
            {s, c.taps, source_channels(), r.tap_step, c.tap_step},
            lefts(phase),
            depths(phase)};
  }
  __device__ Matrix<Sums<T>, Line, Line> b(int phase, int group) const {
    const PhaseAxis r = rows(phase), c = columns(phase);
    const int64_t taps_before =
        int64_t(taps_h.before_class(r.tap_class)) * taps_w.taps + int64_t(r.taps) * taps_w.before_class(c.tap_class);
    return {packed + (group * packed_rows() + taps_before * source_channels()) * packed_row(),
            {1, 1, PaddingMode::zeros},
            {},
            {1},
            {packed_row()},
            packed_row(),
            depths(phase)};
  }
  __device__ ResultMatrix<T, Pixels> to(int phase, int group) const {
    const PhaseAxis r = rows(phase), c = columns(phase);
    const Strides& s = result.strides;
    const int64_t first = int64_t(group) * result_channels();
    return {advance<T>(result.data, first * s.c, wide_result),
            {s, r.count, c.count, r.result_first, c.result_first, r.result_step, c.result_step},
            s.c,
            lefts(phase),
            result_channels(),
            bias ? bias + first * bias_step : nullptr,
            bias_step,
            wide_result};
  }
};

// grad_weight: x is read through taps as by forward, but the taps are the left index and the pixels the depth.
template <class T>
struct WeightWork {
  using Type = T;
  using ElementA = T;
  using ElementB = T;
  static constexpr bool kResultIsImage = false;

  ConvProblem pb;
  View x, y, w;

  CONVX_HD int64_t depths(int) const { return pb.N * pb.P * pb.Q; }
  CONVX_HD int64_t lefts(int) const { return pb.R * pb.S * pb.channels_per_group(); }
  CONVX_HD int result_channels() const { return int(pb.outputs_per_group()); }

  __device__ Matrix<T, Taps, Pixels> a(int, int group) const {
    const Strides& s = x.strides;
    return {static_cast<const T*>(x.data) + group * pb.channels_per_group() * s.c,
            {int(pb.H), int(pb.W), pb.padding_mode},
            s,
            {s, int(pb.S), int(pb.channels_per_group()), int(pb.dilation_h), int(pb.dilation_w)},
            {s, int(pb.P), int(pb.Q), int(-pb.pad_h), int(-pb.pad_w), int(pb.stride_h), int(pb.stride_w)},
            lefts(0),
            depths(0)};
  }
  __device__ Matrix<T, Line, Pixels> b(int, int group) const {
    const Strides& s = y.strides;
    return {static_cast<const T*>(y.data) + group * pb.outputs_per_group() * s.c,
            {int(pb.P), int(pb.Q), PaddingMode::zeros},
            s,
            {s.c},
            {s, int(pb.P), int(pb.Q), 0, 0, 1, 1},
            pb.outputs_per_group(),
            depths(0)};
  }
  __device__ ResultMatrix<T, Taps> to(int, int group) const {
    const Strides& s = w.strides;
    return {advance<T>(w.data, group * pb.outputs_per_group() * s.n, false),
            {s, int(pb.S), int(pb.channels_per_group()), 1, 1},
            s.n,
            lefts(0),
            pb.outputs_per_group(),
            nullptr,
            0,
            false};
  }
};

}  // namespace cuda
}  // namespace convx
