// Few outputs on the matrix unit (gradients of images, last layers): a tile's 16 columns are (output, column tap) of
// the sums over channels and rows of taps,
//
//   Z[k, s][pixel] = sum over c, r of  w[k,c,r,s] * in[c, pixel shifted by row tap r]
//
// and a result adds up its column taps from neighbouring pixels, by vectors across pixels:
//
//   out[k][i, j] = bias[k] + sum over s of  Z[k, s][i, j + offset of s].
//
// With an output to a column, 13 of 16 columns would be empty for an image's gradient, and as many times more tiles be
// multiplied as a row has taps.
//
// Estimate, for 64 channels, 7x7 at stride 2 and three outputs, a pixel of one of the four phases: 8 cycles of
// products, 10 for turning its input over, 4 for turning Z, 1 for the sums. (Measured: four to five times as long. The
// input is copied and turned over for each phase anew, and the unit is not alone in waiting for memory.)
#pragma once
#include "amx_convolution.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// For bfloat16: what is added up by vectors would be float32's terms otherwise.
template <class In>
bool suits_lanes_of_outputs(const Convolution<float, In>& cv) {
  const AxisPlan &r = cv.rows, &c = cv.columns;
  const double row = double(r.highest() - r.lowest() + 1) * double(c.count + c.highest() - c.lowest()) *
                     double(ceil_div(cv.inputs, kDepth) * kLine);
  return std::is_same_v<In, BFloat16> && c.stride == 1 && c.taps > 1 && cv.outputs * c.taps <= kWide &&
         cv.merged() == 1 && row <= double(TileBlocks::kBytes);
}

// A block's Z, [output, column tap][pixel of the run], and the results that it makes.
template <class In>
class FoldedSums {
 public:
  static constexpr bool whole_rows = true;

  FoldedSums(const Convolution<float, In>& cv, const TileShape& shape)
      : cv_(cv),
        shape_(shape),
        line_(ceil_div(shape.phase, kWide) * kWide + kWide),
        z_(cv.outputs * cv.columns.taps * line_) {
    std::memset(z_.data(), 0, cv.outputs * cv.columns.taps * line_ * sizeof(float));
  }
  FoldedSums(const FoldedSums&) = delete;

  void put(const float* sums, const Place&, int64_t m0, int64_t m1, int64_t width, int64_t, int64_t count) {
    const int64_t pixels = ceil_div(m1 - m0, kWide) * kWide;
    transpose<float, float>(sums, width, pixels, count, z_.data() + m0, line_, pixels);
  }

  void finish(const Place& at) const {
    const AxisPlan& c = cv_.columns;
    for (int64_t k = 0; k < cv_.outputs; ++k) {
      const int64_t channel = at.g * cv_.outputs + k;
      const Floats bias = Floats{} + (cv_.bias ? float(cv_.bias[channel * cv_.bias_stride]) : 0.f);
      for (int64_t i = 0; i < at.ni; ++i) {
        In* const out =
            cv_.out + cv_.out_strides(at.n, channel, cv_.rows.first_out + (at.i0 + i) * cv_.rows.out_step, c.first_out);
        const int64_t step = c.out_step * cv_.out_strides.w;
        const float* const row = z_.data() + k * c.taps * line_ + i * pitch_of_run(shape_, at);
        for (int64_t j = 0; j < c.count; j += 16) {
          Floats sum = bias;
          for (int s = 0; s < c.taps; ++s) sum += load(row + s * line_ + j + c.offset[s] - c.lowest());
          const int64_t count = smaller(16, c.count - j);
          if (step == 1) {
            store_some<float>(out + j, sum, count);
          } else if (kStoresEveryOther<float, In> && step == 2) {
            if constexpr (kStoresEveryOther<float, In>) store_every_other<float>(out + 2 * j, sum, count);
          } else {
            In line[16];
            store_as<float>(line, sum);
            for (int64_t e = 0; e < count; ++e) out[(j + e) * step] = line[e];
          }
        }
      }
    }
  }

 private:
  const Convolution<float, In>& cv_;
  const TileShape& shape_;
  const int64_t line_;
  Scratch<float> z_;
};

template <class In>
bool convolve_lanes_of_outputs(const Convolution<float, In>& cv) {
  const AxisPlan& c = cv.columns;
  const int64_t rows = cv.rows.taps, lanes = cv.outputs * c.taps;
  Scratch<In> weight(cv.G * lanes * cv.inputs * rows);  // [group][output, column tap][input][row tap]
  In* next = weight.data();
  for (int64_t g = 0; g < cv.G; ++g)
    for (int64_t k = 0; k < cv.outputs; ++k)
      for (int s = 0; s < c.taps; ++s)
        for (int64_t i = 0; i < cv.inputs; ++i)
          for (int64_t r = 0; r < rows; ++r)
            *next++ = cv.weight[g * cv.weight_group + k * cv.weight_output + i * cv.weight_input +
                                cv.rows.index[r] * cv.weight_r + c.index[s] * cv.weight_s];
  Convolution<float, In> wide;
  wide.N = cv.N, wide.G = cv.G, wide.inputs = cv.inputs, wide.outputs = lanes;
  wide.rows = AxisPlan(rows), wide.columns = AxisPlan(1);
  wide.rows.in = cv.rows.in, wide.rows.count = cv.rows.count, wide.rows.stride = cv.rows.stride;
  wide.rows.mode = cv.rows.mode;
  for (int r = 0; r < rows; ++r) wide.rows.add_tap(cv.rows.offset[r], r);
  wide.columns.in = c.in, wide.columns.count = c.count + c.highest() - c.lowest(), wide.columns.mode = c.mode;
  wide.columns.add_tap(c.lowest(), 0);
  wide.in = cv.in, wide.weight = weight.data(), wide.bias = nullptr, wide.out = nullptr;
  wide.in_strides = cv.in_strides, wide.out_strides = {};
  wide.weight_output = cv.inputs * rows, wide.weight_input = rows, wide.weight_group = lanes * cv.inputs * rows;
  wide.weight_r = 1, wide.weight_s = 1, wide.filter_size = rows, wide.filter_is_line = true;
  wide.bias_stride = 0;
  return convolve_tiles(
      wide, [&](const TileShape& shape) { return LineTile<In>(shape, cv.inputs); }, cv.inputs,
      [&](const TileShape& shape) { return FoldedSums<In>(cv, shape); });
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
