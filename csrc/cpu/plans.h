// From a ConvProblem to the engine's convolutions. forward is one; grad_input is one for each remainder of a result's
// position modulo the stride ("phase"), because results of one phase are read by the same taps: no zeros are inserted
// between the elements of y, no element of x is written twice.
#pragma once
#include "depthwise_channels.h"
#include "depthwise_channels_weight.h"
#include "fold_padding.h"
#include "outer_product.h"
#include "outer_product_weight.h"
#include "panels.h"
#include "pixels.h"
#include "pixels_weight.h"
#include "winograd.h"
#include "winograd_weight.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Taps that no result reads through are left out: a large dilation would only widen the tile.
inline AxisPlan forward_axis(const Axis& a) {
  AxisPlan plan(a.kernel);
  plan.in = a.in, plan.count = a.out, plan.stride = a.stride, plan.mode = a.mode;
  for (int64_t r = 0; r < a.kernel; ++r) {
    const Run inside = a.outputs_inside(r);
    if (a.mode == PaddingMode::zeros && inside.first > inside.last) continue;
    plan.add_tap(r * a.dilation - a.pad, r);
  }
  return plan;
}

// x[h] is read by tap r of output p if h = p*stride - pad + r*dilation. For h = first + i*stride that is
// p = i + (first + pad - r*dilation) / stride, for those r that divide and reach some p.
inline AxisPlan grad_input_axis(const Axis& a, int64_t first) {
  AxisPlan plan(a.kernel);
  plan.in = a.out, plan.count = (a.in - 1 - first) / a.stride + 1, plan.stride = 1, plan.mode = PaddingMode::zeros;
  plan.first_out = first;
  plan.out_step = a.stride;
  for (int64_t r = 0; r < a.kernel; ++r) {
    const int64_t t = first + a.pad - r * a.dilation;
    if (t % a.stride != 0 || t / a.stride >= a.out || t / a.stride + plan.count <= 0) continue;
    plan.add_tap(t / a.stride, r);
  }
  return plan;
}

// The kernels by the two ways of laying vectors: across channels, or across pixels.
struct AcrossChannels {
  static constexpr bool merges_phases = true, takes_images_as_pixels = true;
  template <class T, class In>
  static bool convolve_all(const Convolution<T, In>* cv, int64_t count) {
    return CONVX_ISA::convolve_all(cv, count);
  }
  template <class T, class In>
  static bool weight_gradient(WeightGradient<T, In>& wg) {
    wg.flatten();
    if (wg.can_swap()) {
      const WeightGradient<T, In> swapped = wg.swapped();
      if (vectors_of(swapped) < 0.8 * vectors_of(wg)) return CONVX_ISA::weight_gradient(swapped);
    }
    return CONVX_ISA::weight_gradient(wg);
  }
};

struct AcrossPanels {
  static constexpr bool merges_phases = true, takes_images_as_pixels = true;
  template <class T, class In>
  static bool convolve_all(const Convolution<T, In>* cv, int64_t count) {
    return convolve_all_panels(cv, count);
  }
};

struct AcrossPixels {
  template <class T, class In>
  static bool convolve_all(const Convolution<T, In>* cv, int64_t count) {
    return convolve_pixels(cv, count);
  }
  template <class T, class In>
  static bool weight_gradient(const WeightGradient<T, In>& wg) {
    return weight_gradient_pixels(wg);
  }
};

struct AcrossPatches {
  template <class T, class In>
  static bool convolve_all(Convolution<T, In>* cv, int64_t count) {
    return convolve_all_winograd(cv, count);
  }
  template <class T, class In>
  static bool weight_gradient(const WeightGradient<T, In>& wg) {
    return weight_gradient_winograd(wg);
  }
};

// Vectors across groups: all phases at once, so that results leave in whole rows.
struct AcrossGroups {
  template <class T, class In>
  static bool forward(const Convolution<T, In>& cv, const ConvProblem& pb) {
    const ResultAxis r(pb.P, 1, [&](int64_t) { return forward_axis(pb.rows()); });
    const ResultAxis c(pb.Q, 1, [&](int64_t) { return forward_axis(pb.columns()); });
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
    const ResultAxis r(pb.P, 1, [&](int64_t) { return forward_axis(pb.rows()); });
    const ResultAxis c(pb.Q, 1, [&](int64_t) { return forward_axis(pb.columns()); });
    if (r.taps < pb.R || c.taps < pb.S) wg.zero(pb.K, pb.R, pb.S);
    return r.taps == 0 || c.taps == 0 || weight_gradient_channels(wg, r, c);
  }
};

template <class T, class In>
void set_filter(Convolution<T, In>& cv, const ConvProblem& pb, const Operands& o) {
  cv.weight_r = o.w.strides.h, cv.weight_s = o.w.strides.w;
  cv.filter_size = pb.R * pb.S;
  cv.filter_is_line = (pb.S == 1 || cv.weight_s == 1) && (pb.R == 1 || cv.weight_r == pb.S);
}

// Runs convolutions of the same weights and outputs.
template <class Kernels, class T, class In>
bool convolve_each(Convolution<T, In>* cv, int64_t count) {
  for (int64_t j = 0; j < count; ++j) cv[j].flatten();
  if constexpr (requires { Kernels::convolve_all(cv, count); }) {
    return Kernels::convolve_all(cv, count);
  } else {
    for (int64_t j = 0; j < count; ++j)
      if (!Kernels::convolve(cv[j])) return false;
    return true;
  }
}

// Where the kernel covers the input, an image has one result: a pointwise layer whose channels are all of an image's
// elements, neighbours in memory, and whose pixels are the images. (Not for kernels that need pixels to be neighbours,
// or that look images through one by one.)
template <class T, class In>
void make_images_pixels(Convolution<T, In>& cv, const ConvProblem& pb, const Operands& o) {
  const auto is_line = [](const Strides& s, int64_t channels, int64_t rows, int64_t columns) {
    return (columns == 1 || s.w == 1) && (rows == 1 || s.h == columns) && (channels == 1 || s.c == rows * columns);
  };
  if (pb.P * pb.Q != 1 || pb.G != 1 || pb.R != pb.H || pb.S != pb.W || pb.pad_h != 0 || pb.pad_w != 0 ||
      !is_line(o.x.strides, pb.C, pb.H, pb.W) || !is_line(o.w.strides, pb.C, pb.R, pb.S))
    return;
  cv.N = 1, cv.inputs = pb.C * pb.R * pb.S;
  cv.rows = pixel_for_pixel(1), cv.columns = pixel_for_pixel(pb.N);
  cv.in_strides = {0, 1, 0, o.x.strides.n}, cv.out_strides = {0, o.y.strides.c, 0, o.y.strides.n};
  cv.weight_input = 1, cv.filter_size = 1, cv.filter_is_line = true;
}

template <class Kernels, class T, class In>
bool forward(const ConvProblem& pb, const Operands& o) {
  Convolution<T, In> cv;
  cv.N = pb.N, cv.G = pb.G, cv.inputs = pb.channels_per_group(), cv.outputs = pb.outputs_per_group();
  cv.chain = kLongChain<T>;
  if (cv.inputs == 0) return false;  // nothing to multiply: the reference writes the bias
  cv.in = static_cast<const In*>(o.x.data), cv.weight = static_cast<const In*>(o.w.data);
  cv.bias = static_cast<const In*>(o.bias), cv.bias_stride = o.bias_stride;
  cv.out = static_cast<In*>(o.y.data);
  cv.in_strides = o.x.strides, cv.out_strides = o.y.strides;
  cv.weight_output = o.w.strides.n, cv.weight_input = o.w.strides.c;
  cv.weight_group = cv.outputs * o.w.strides.n;
  set_filter(cv, pb, o);
  if constexpr (requires { Kernels::forward(cv, pb); }) {
    return Kernels::forward(cv, pb);
  } else {
    cv.rows = forward_axis(pb.rows()), cv.columns = forward_axis(pb.columns());
    if constexpr (requires { Kernels::takes_images_as_pixels; }) make_images_pixels(cv, pb, o);
    return convolve_each<Kernels>(&cv, 1);
  }
}

template <class T, class In>
void set_grad_input(Convolution<T, In>& cv, const ConvProblem& pb, const Operands& o) {
  cv.N = pb.N, cv.G = pb.G, cv.inputs = pb.outputs_per_group(), cv.outputs = pb.channels_per_group();
  cv.chain = cv.inputs >= kManyOutputs ? kLongChain<T> : kChain<T>;
  cv.in = static_cast<const In*>(o.y.data), cv.weight = static_cast<const In*>(o.w.data);
  cv.bias = static_cast<const In*>(o.bias), cv.bias_stride = o.bias_stride;
  cv.out = static_cast<In*>(o.x.data);
  cv.in_strides = o.y.strides, cv.out_strides = o.x.strides;
  cv.weight_output = o.w.strides.c, cv.weight_input = o.w.strides.n;
  cv.weight_group = cv.inputs * o.w.strides.n;
  set_filter(cv, pb, o);
}

// The taps of any phase of an axis whose phases all read the same: y[p], y[p-1], ... for results a patch apart.
inline AxisPlan patch_axis(const Axis& a) {
  const int64_t patch = a.out == 1 ? a.kernel : a.stride, taps = a.kernel / patch;
  AxisPlan plan(taps);
  plan.in = a.out, plan.count = a.out + taps - 1;
  plan.out_step = patch;
  for (int64_t t = 0; t < taps; ++t) plan.add_tap(-t, t * patch);
  return plan;
}

// Fills the whole result with the biases, rows as they lie in memory.
template <class T, class In>
void fill_with_bias(const Convolution<T, In>& cv, const ConvProblem& pb) {
  const bool pixels = cv.out_strides.w != 1;  // channels are neighbours instead, or nothing is
  const int64_t lines = pixels ? pb.H : pb.C, channels = cv.G * cv.outputs;
  Scratch<In> bias(channels);
  for (int64_t c = 0; c < channels; ++c) bias[c] = cv.bias ? cv.bias[c * cv.bias_stride] : In(0.f);
  parallel_for(pb.N * lines, grain_for(double(pb.H) * pb.W * channels / lines / 16), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / lines, line = i % lines;
      if (pixels)
        for (int64_t w = 0; w < pb.W; ++w)
          for (int64_t c = 0; c < channels; ++c) cv.out[cv.out_strides(n, c, line, w)] = bias[c];
      else
        for (int64_t h = 0; h < pb.H; ++h) {
          In* const row = cv.out + cv.out_strides(n, line, h, 0);
          for (int64_t w = 0; w < pb.W; ++w) row[w] = bias[line];
        }
    }
  });
}

// grad_input as convolutions of y: one for patches, else one for each phase of the stride.
template <class Kernels, class T, class In>
bool convolve_phases(const ConvProblem& pb, const Operands& o) {
  if constexpr (requires { Kernels::merges_phases; }) {
    if (pb.phases_read_the_same() && o.w.strides.w == 1 && o.w.strides.h == pb.S && o.w.strides.c == pb.R * pb.S) {
      Convolution<T, In> cv;
      set_grad_input(cv, pb, o);
      cv.rows = patch_axis(pb.rows()), cv.columns = patch_axis(pb.columns());
      cv.merged_h = cv.rows.out_step, cv.merged_w = cv.columns.out_step;
      cv.outputs *= cv.merged();
      cv.weight_output = 1;
      return convolve_each<Kernels>(&cv, 1);
    }
  }
  const int64_t down = smaller(pb.stride_h, pb.H), across = smaller(pb.stride_w, pb.W);
  constexpr int64_t kTogetherAtMost = 64;  // a stride may have as many phases as x has elements
  // Phases that no tap reaches are nothing but biases: in one go, since each alone would write every other element.
  bool some_unreached = false;
  for (int64_t a = 0; a < down; ++a) some_unreached |= grad_input_axis(pb.rows(), a).taps == 0;
  for (int64_t b = 0; b < across; ++b) some_unreached |= grad_input_axis(pb.columns(), b).taps == 0;
  if (some_unreached) {
    Convolution<T, In> cv;
    set_grad_input(cv, pb, o);
    fill_with_bias(cv, pb);
  }
  for (int64_t first = 0; first < down * across; first += kTogetherAtMost) {
    const int64_t count = smaller(kTogetherAtMost, down * across - first);
    Objects<Convolution<T, In>> phases(count);
    int64_t used = 0;
    for (int64_t j = 0; j < count; ++j) {
      Convolution<T, In>& cv = phases[used];
      set_grad_input(cv, pb, o);
      cv.rows = grad_input_axis(pb.rows(), (first + j) / across);
      cv.columns = grad_input_axis(pb.columns(), (first + j) % across);
      if (cv.taps() > 0) ++used;
    }
    if (used > 0 && !convolve_each<Kernels>(phases.data(), used)) return false;
  }
  return true;
}

template <class Kernels, class T, class In>
bool grad_input(const ConvProblem& pb, const Operands& o) {
  if (pb.P == 0 || pb.Q == 0) return false;  // nothing to multiply: the reference writes the bias
  if (!pb.is_zero_padded())
    return fold_padding<T, In>(
        pb, o, [](const ConvProblem& padded, const Operands& part) { return grad_input<Kernels, T, T>(padded, part); });
  if (pb.outputs_per_group() == 0) return false;
  if constexpr (requires(Convolution<T, In> cv) { Kernels::grad_input(cv, pb); }) {
    Convolution<T, In> cv;
    set_grad_input(cv, pb, o);
    return Kernels::grad_input(cv, pb);
  } else {
    return convolve_phases<Kernels, T, In>(pb, o);
  }
}

// The gradient of the taps that some result reads through, zeros for the others.
template <class Kernels, class T, class In>
bool weight_gradient_of_taps(WeightGradient<T, In>& wg, const ConvProblem& pb) {
  wg.rows = forward_axis(pb.rows()), wg.columns = forward_axis(pb.columns());
  wg.all_taps = wg.rows.taps == pb.R && wg.columns.taps == pb.S;
  if (!wg.all_taps) wg.zero(pb.K, pb.R, pb.S);  // some that no result reads through
  if (wg.rows.taps == 0 || wg.columns.taps == 0) return true;
  return Kernels::weight_gradient(wg);
}

template <class Kernels, class T, class In>
bool grad_weight(const ConvProblem& pb, const Operands& o) {
  if (pb.N == 0 || pb.P == 0 || pb.Q == 0) return false;  // nothing to sum: the reference writes the zeros
  WeightGradient<T, In> wg;
  wg.N = pb.N, wg.G = pb.G, wg.inputs = pb.channels_per_group(), wg.outputs = pb.outputs_per_group();
  wg.x = static_cast<const In*>(o.x.data), wg.y = static_cast<const In*>(o.y.data), wg.w = static_cast<In*>(o.w.data);
  wg.sums = o.sums ? static_cast<T*>(o.w.data) : nullptr;
  wg.x_strides = o.x.strides, wg.y_strides = o.y.strides, wg.w_strides = o.w.strides;
  if constexpr (requires { Kernels::weight_gradient(wg, pb); }) {
    return Kernels::weight_gradient(wg, pb);
  } else {
    return weight_gradient_of_taps<Kernels>(wg, pb);
  }
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
