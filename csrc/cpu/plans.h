// From a ConvProblem to the engine's convolutions. forward is one; grad_input is one for each remainder of a result's
// position modulo the stride ("phase"), because results of one phase are read by the same taps: no zeros are inserted
// between the elements of y, no element of x is written twice.
#pragma once
#include "depthwise_channels.h"
#include "depthwise_channels_weight.h"
#include "outer_product.h"
#include "outer_product_weight.h"
#include "pixels.h"
#include "pixels_weight.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Taps that no result reads through are left out if `reachable_only`: a large dilation would only widen the tile. A
// gradient of the weight still has to write their zeros.
inline AxisPlan forward_axis(const Axis& a, bool reachable_only) {
  AxisPlan plan;
  plan.in = a.in, plan.count = a.out, plan.stride = a.stride, plan.mode = a.mode;
  for (int64_t r = 0; r < a.kernel; ++r) {
    const Run inside = a.outputs_inside(r);
    if (reachable_only && a.mode == PaddingMode::zeros && inside.first > inside.last) continue;
    plan.offset[plan.taps] = r * a.dilation - a.pad;
    plan.index[plan.taps++] = r;
  }
  return plan;
}

// x[h] is read by tap r of output p if h = p*stride - pad + r*dilation. For h = first + i*stride that is
// p = i + (first + pad - r*dilation) / stride, for those r that divide and reach some p.
inline AxisPlan grad_input_axis(const Axis& a, int64_t first) {
  AxisPlan plan;
  plan.in = a.out, plan.count = (a.in - 1 - first) / a.stride + 1, plan.stride = 1, plan.mode = PaddingMode::zeros;
  plan.first_out = first;
  plan.out_step = a.stride;
  for (int64_t r = 0; r < a.kernel; ++r) {
    const int64_t t = first + a.pad - r * a.dilation;
    if (t % a.stride != 0 || t / a.stride >= a.out || t / a.stride + plan.count <= 0) continue;
    plan.offset[plan.taps] = t / a.stride;
    plan.index[plan.taps++] = r;
  }
  return plan;
}

// The kernels by the two ways of laying vectors: across channels, or across pixels.
struct AcrossChannels {
  template <class T, class In>
  static bool convolve(const Convolution<T, In>& cv) {
    return cv.outputs <= Vec<T>::lanes ? CONVX_ISA::convolve<T, In, 1>(cv) : CONVX_ISA::convolve<T, In, 2>(cv);
  }
  template <class T, class In>
  static bool weight_gradient(const WeightGradient<T, In>& wg) {
    return wg.outputs <= Vec<T>::lanes ? CONVX_ISA::weight_gradient<T, In, 1>(wg)
                                       : CONVX_ISA::weight_gradient<T, In, 2>(wg);
  }
};

struct AcrossPixels {
  template <class T, class In>
  static bool convolve(const Convolution<T, In>& cv) {
    return convolve_pixels(cv);
  }
  template <class T, class In>
  static bool weight_gradient(const WeightGradient<T, In>& wg) {
    return weight_gradient_pixels(wg);
  }
};

// Vectors across groups: all phases at once, so that results leave in whole rows.
struct AcrossGroups {
  template <class T, class In>
  static bool forward(const Convolution<T, In>& cv, const ConvProblem& pb) {
    const ResultAxis r(pb.P, 1, [&](int64_t) { return forward_axis(pb.rows(), true); });
    const ResultAxis c(pb.Q, 1, [&](int64_t) { return forward_axis(pb.columns(), true); });
    return convolve_channels(cv, r, c);
  }
  template <class T, class In>
  static bool grad_input(const Convolution<T, In>& cv, const ConvProblem& pb) {
    const auto rows = pb.rows(), columns = pb.columns();
    const ResultAxis r(pb.H, smaller(pb.stride_h, pb.H), [&](int64_t a) { return grad_input_axis(rows, a); });
    const ResultAxis c(pb.W, smaller(pb.stride_w, pb.W), [&](int64_t b) { return grad_input_axis(columns, b); });
    return convolve_channels(cv, r, c);
  }
  template <class T, class In>
  static bool weight_gradient(const WeightGradient<T, In>& wg, const ConvProblem& pb) {
    const ResultAxis r(pb.P, 1, [&](int64_t) { return forward_axis(pb.rows(), true); });
    const ResultAxis c(pb.Q, 1, [&](int64_t) { return forward_axis(pb.columns(), true); });
    if (r.taps < pb.R || c.taps < pb.S)  // the others' zeros
      for (int64_t k = 0; k < pb.K; ++k)
        for (int64_t ch = 0; ch < wg.inputs; ++ch)
          for (int64_t t = 0; t < pb.R * pb.S; ++t) wg.w[wg.w_strides(k, ch, t / pb.S, t % pb.S)] = In(0);
    return r.taps == 0 || c.taps == 0 || weight_gradient_channels(wg, r, c);
  }
};

template <class Kernels, class T, class In>
bool forward(const ConvProblem& pb, const Operands& o) {
  Convolution<T, In> cv;
  cv.N = pb.N, cv.G = pb.G, cv.inputs = pb.channels_per_group(), cv.outputs = pb.outputs_per_group();
  if (cv.inputs == 0) return false;  // nothing to multiply: the reference writes the bias
  cv.in = static_cast<const In*>(o.x.data), cv.weight = static_cast<const In*>(o.w.data);
  cv.bias = static_cast<const In*>(o.bias), cv.bias_stride = o.bias_stride;
  cv.out = static_cast<In*>(o.y.data);
  cv.in_strides = o.x.strides, cv.out_strides = o.y.strides;
  cv.weight_output = o.w.strides.n, cv.weight_input = o.w.strides.c;
  cv.weight_group = cv.outputs * o.w.strides.n;
  cv.weight_r = o.w.strides.h, cv.weight_s = o.w.strides.w;
  if constexpr (std::is_same_v<Kernels, AcrossGroups>)
    return Kernels::forward(cv, pb);
  else {
    cv.rows = forward_axis(pb.rows(), true), cv.columns = forward_axis(pb.columns(), true);
    return Kernels::convolve(cv);
  }
}

template <class Kernels, class T, class In>
bool grad_input(const ConvProblem& pb, const Operands& o) {
  Convolution<T, In> cv;
  cv.N = pb.N, cv.G = pb.G, cv.inputs = pb.outputs_per_group(), cv.outputs = pb.channels_per_group();
  if (cv.inputs == 0) return false;
  cv.in = static_cast<const In*>(o.y.data), cv.weight = static_cast<const In*>(o.w.data);
  cv.bias = static_cast<const In*>(o.bias), cv.bias_stride = o.bias_stride;
  cv.out = static_cast<In*>(o.x.data);
  cv.in_strides = o.y.strides, cv.out_strides = o.x.strides;
  cv.weight_output = o.w.strides.c, cv.weight_input = o.w.strides.n;
  cv.weight_group = cv.inputs * o.w.strides.n;
  cv.weight_r = o.w.strides.h, cv.weight_s = o.w.strides.w;
  if constexpr (std::is_same_v<Kernels, AcrossGroups>) {
    return Kernels::grad_input(cv, pb);
  } else {
    for (int64_t a = 0; a < smaller(pb.stride_h, pb.H); ++a)
      for (int64_t b = 0; b < smaller(pb.stride_w, pb.W); ++b) {
        cv.rows = grad_input_axis(pb.rows(), a), cv.columns = grad_input_axis(pb.columns(), b);
        if (!Kernels::convolve(cv)) return false;
      }
    return true;
  }
}

template <class Kernels, class T, class In>
bool grad_weight(const ConvProblem& pb, const Operands& o) {
  if (pb.N == 0 || pb.P == 0 || pb.Q == 0) return false;  // nothing to sum: the reference writes the zeros
  WeightGradient<T, In> wg;
  wg.N = pb.N, wg.G = pb.G, wg.inputs = pb.channels_per_group(), wg.outputs = pb.outputs_per_group();
  wg.unit_dilation = pb.dilation_w == 1;
  wg.x = static_cast<const In*>(o.x.data), wg.y = static_cast<const In*>(o.y.data), wg.w = static_cast<In*>(o.w.data);
  wg.x_strides = o.x.strides, wg.y_strides = o.y.strides, wg.w_strides = o.w.strides;
  if constexpr (std::is_same_v<Kernels, AcrossGroups>) {
    return Kernels::weight_gradient(wg, pb);
  } else {
    wg.rows = forward_axis(pb.rows(), false), wg.columns = forward_axis(pb.columns(), false);
    return Kernels::weight_gradient(wg);
  }
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
