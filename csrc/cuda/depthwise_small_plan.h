// Which problems depthwise_small.cuh and depthwise_small_weight.cuh take, and the tensors in their roles. Host code.
#pragma once
#include "depthwise_small.cuh"
#include "types.h"
#include "window_plan.h"

namespace convx {
namespace cuda {

// What is read and written: forward, or grad_input as a forward from y with the kernel turned around.
struct SmallRoles {
  SourceLayout source, result;
  int pad_h, pad_w;
};

inline SmallRoles small_roles(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  const size_t element = o.dtype == DType::float64 ? 8 : o.dtype == DType::float32 ? 4 : 2;
  const SourceLayout x = {reinterpret_cast<uint64_t>(o.x.data), element, pb.N, pb.C, pb.H, pb.W, o.x.strides};
  const SourceLayout y = {reinterpret_cast<uint64_t>(o.y.data), element, pb.N, pb.K, pb.P, pb.Q, o.y.strides};
  if (primitive != Primitive::grad_input) return {x, y, int(pb.pad_h), int(pb.pad_w)};
  return {y, x, int(pb.R - 1 - pb.pad_h), int(pb.S - 1 - pb.pad_w)};
}

// Whether offsets in bytes within a thread's channels of an image fit 32 bits.
inline bool has_small_byte_offsets(const SourceLayout& side) {
  const auto reach = [](int64_t size, int64_t stride) { return double(size) * std::abs(double(stride)); };
  const double most =
      reach(side.channels > 1 ? 4 : 0, side.strides.c) + reach(side.H, side.strides.h) + reach(side.W, side.strides.w);
  return most * double(side.element) < 2147483647.0;
}

inline bool has_chunks(const SourceLayout& side) { return side.along_columns() && side.W % side.vector() == 0; }

// `count` channels of a pixel side by side, aligned.
inline bool has_channels(const SourceLayout& side, int count) {
  const auto fits = [&](int64_t stride, int64_t size) { return size <= 1 || stride % count == 0; };
  return side.strides.c == 1 && side.channels % count == 0 && side.address % (count * side.element) == 0 &&
         fits(side.strides.w, side.W) && fits(side.strides.h, side.H) && fits(side.strides.n, side.N);
}

inline SmallLayout small_layout(const SmallRoles& r, const ConvProblem& pb) {
  const int widest = int(pb.R == 7 ? 1 : (pb.R == 3 ? 4 : 2) / (r.source.element == 8 ? 2 : 1));
  if (r.source.channels_last() && r.result.channels_last() && has_channels(r.source, widest) &&
      has_channels(r.result, widest))
    return SmallLayout::channels;
  return has_chunks(r.source) && has_chunks(r.result) && r.pad_w == pb.S / 2 ? SmallLayout::columns : SmallLayout::any;
}

inline const char* small_why_not(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  if (const char* reason = floating_only(pb, o)) return reason;
  if (pb.G != pb.C || pb.G != pb.K) return "it wants one input and one output channel to a group";
  if (pb.R != pb.S || (pb.R != 3 && pb.R != 5 && pb.R != 7)) return "its kernels are 3x3, 5x5 and 7x7";
  if (pb.is_dilated()) return "it has no dilation";
  if (!pb.is_zero_padded()) return "its padding is zeros";
  if (pb.stride_h != pb.stride_w || pb.stride_h > (primitive != Primitive::grad_input && pb.R < 7 ? 2 : 1))
    return "its strides are 1, and 2 with a kernel below 7x7, but not in grad_input";
  if (!pb.N || !pb.C || !pb.H || !pb.W || !pb.P || !pb.Q) return "there is nothing to sum";
  const SmallRoles r = small_roles(primitive, pb, o);
  const SourceLayout kernel = {0, r.source.element, 1, 1, pb.R, pb.S, o.w.strides};
  const double tiles = double(pb.N) * double(pb.C) * (double(r.result.H) / 7 + 1) * (double(r.result.W) / 2 + 1);
  if (!fits_32_bits(pb.rows()) || !fits_32_bits(pb.columns()) || pb.C >= kLargestAxis || tiles >= 2147483648.0 ||
      !has_small_byte_offsets(r.source) || !has_small_byte_offsets(r.result) || !has_small_byte_offsets(kernel))
    return "it is beyond 32-bit offsets";
  return nullptr;
}

// Where what a warp reads at once lies together: not channels_last with channels that don't fit its chunks, and not
// small planes whose rows are not whole chunks, of which neighbouring threads would each read another.
inline bool small_preferred(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  const SmallRoles r = small_roles(primitive, pb, o);
  if (pb.G == 1 || small_layout(r, pb) != SmallLayout::any) return pb.G > 1;
  constexpr int kNarrow = 16;
  return r.source.strides.w == 1 && r.result.strides.w == 1 && r.source.W >= kNarrow && r.result.W >= kNarrow;
}

template <class T>
SmallTensors<T> small_tensors(Primitive primitive, const SmallRoles& r, const ConvProblem& pb, const Operands& o) {
  const bool forward = primitive != Primitive::grad_input;
  const auto bytes = [](int64_t elements) { return elements * int64_t(sizeof(T)); };
  const Strides &source = r.source.strides, &result = r.result.strides, &w = o.w.strides;
  SmallTensors<T> t{};
  t.source = static_cast<const char*>((forward ? o.x : o.y).data);
  t.result = static_cast<char*>((forward ? o.y : o.x).data);
  t.source_n = bytes(source.n), t.source_c = int(bytes(source.c));
  t.source_h = int(bytes(source.h)), t.source_w = int(bytes(source.w));
  t.result_n = bytes(result.n), t.result_c = int(bytes(result.c));
  t.result_h = int(bytes(result.h)), t.result_w = int(bytes(result.w));
  t.bias = static_cast<const char*>(o.bias), t.bias_c = bytes(o.bias_stride);
  // grad_input turns the kernel around.
  const int64_t last = forward ? 0 : (pb.R - 1) * w.h + (pb.S - 1) * w.w;
  t.weight = static_cast<const char*>(o.w.data) + bytes(last), t.weight_c = bytes(w.n);
  t.weight_r = int(bytes(forward ? w.h : -w.h)), t.weight_s = int(bytes(forward ? w.w : -w.w));
  return t;
}

}  // namespace cuda
}  // namespace convx
