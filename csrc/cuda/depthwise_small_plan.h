// Which problems depthwise_small.cuh, depthwise_small_transposed.cuh and depthwise_small_weight.cuh take, and the
// tensors in their roles. Host code.
#pragma once
#include "depthwise_small.cuh"
#include "types.h"
#include "window_plan.h"

namespace convx {
namespace cuda {

// What is read and written: forward, or grad_input as a forward from y with the kernel turned around, or, of a stride,
// transposed.
struct SmallRoles {
  SourceLayout source, result;
  int pad_h, pad_w;
  bool transposed;
};

inline SmallRoles small_roles(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  const size_t element = o.dtype == DType::float64 ? 8 : o.dtype == DType::float32 ? 4 : 2;
  const SourceLayout x = {reinterpret_cast<uint64_t>(o.x.data), element, pb.N, pb.C, pb.H, pb.W, o.x.strides};
  const SourceLayout y = {reinterpret_cast<uint64_t>(o.y.data), element, pb.N, pb.K, pb.P, pb.Q, o.y.strides};
  if (primitive != Primitive::grad_input) return {x, y, int(pb.pad_h), int(pb.pad_w), false};
  if (pb.stride_h > 1) return {y, x, int(pb.pad_h), int(pb.pad_w), true};
  return {y, x, int(pb.R - 1 - pb.pad_h), int(pb.S - 1 - pb.pad_w), false};
}

// Whether offsets in bytes within a thread's channels of an image fit 32 bits.
inline bool has_small_byte_offsets(const SourceLayout& side) {
  const auto reach = [](int64_t size, int64_t stride) { return double(size) * std::abs(double(stride)); };
  const double most =
      reach(side.channels > 1 ? 4 : 0, side.strides.c) + reach(side.H, side.strides.h) + reach(side.W, side.strides.w);
  return most * double(side.element) < 2147483647.0;
}

// `count` channels of a pixel side by side, aligned.
inline bool has_channels(const SourceLayout& side, int count) {
  const auto fits = [&](int64_t stride, int64_t size) { return size <= 1 || stride % count == 0; };
  return side.strides.c == 1 && side.channels % count == 0 && side.address % (count * side.element) == 0 &&
         fits(side.strides.w, side.W) && fits(side.strides.h, side.H) && fits(side.strides.n, side.N);
}

// Rows of whole runs of `count` columns, aligned.
inline bool has_runs(const SourceLayout& side, int count) {
  const auto fits = [&](int64_t stride, int64_t size) { return size <= 1 || stride % count == 0; };
  return side.strides.w == 1 && side.W % count == 0 && side.address % (count * side.element) == 0 &&
         fits(side.strides.h, side.H) && fits(side.strides.c, side.channels) && fits(side.strides.n, side.N);
}

inline bool has_chunks(const SourceLayout& side) { return has_runs(side, side.vector()); }

inline SmallLayout small_layout(const SmallRoles& r, const ConvProblem& pb) {
  const int element = int(r.source.element), widest = small_channels(int(pb.R), element, r.transposed);
  if (r.source.channels_last() && r.result.channels_last() && has_channels(r.source, widest) &&
      has_channels(r.result, widest))
    return SmallLayout::channels;
  // Of a source that is transposed a thread reads half of the columns that it writes.
  const bool source = r.transposed ? has_runs(r.source, element == 2 ? 4 : 2) : has_chunks(r.source);
  return source && has_chunks(r.result) && r.pad_w == (pb.S - 1) / 2 ? SmallLayout::columns : SmallLayout::any;
}

inline const char* small_why_not(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  if (const char* reason = floating_only(pb, o)) return reason;
  if (pb.G != pb.C || pb.G != pb.K) return "it wants one input and one output channel to a group";
  if (pb.R != pb.S || pb.R < 3 || pb.R == 6 || pb.R > 7) return "its kernels are 3x3, 4x4, 5x5 and 7x7";
  if (pb.is_dilated()) return "it has no dilation";
  if (!pb.is_zero_padded()) return "its padding is zeros";
  if (pb.stride_h != pb.stride_w || pb.stride_h > (pb.R < 7 ? 2 : 1) || pb.stride_h < (pb.R == 4 ? 2 : 1))
    return "its strides are 1, and 2 with a kernel below 7x7; 2 with 4x4";
  if (!pb.N || !pb.C || !pb.H || !pb.W || !pb.P || !pb.Q) return "there is nothing to sum";
  const SmallRoles r = small_roles(primitive, pb, o);
  if (r.transposed && (pb.pad_h != (pb.R - 1) / 2 || pb.pad_w != (pb.S - 1) / 2))
    return "in grad_input with a stride, its padding is half the kernel's size";
  if (r.transposed && small_layout(r, pb) == SmallLayout::any)
    return "in grad_input with a stride, it wants whole chunks of columns, or of channels in channels_last";
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
  const bool turned = !forward && !r.transposed;
  const int64_t last = !turned ? 0 : (pb.R - 1) * w.h + (pb.S - 1) * w.w;
  t.weight = static_cast<const char*>(o.w.data) + bytes(last), t.weight_c = bytes(w.n);
  t.weight_r = int(bytes(turned ? -w.h : w.h)), t.weight_s = int(bytes(turned ? -w.w : w.w));
  t.weights_in_words =
      w.w == 1 && w.h == pb.S && (pb.C == 1 || w.n == pb.R * pb.S) && reinterpret_cast<uintptr_t>(o.w.data) % 16 == 0;
  return t;
}

// How Tile cuts the results, for so many threads as there are.
template <class Tile>
SmallPlan small_plan(const SmallRoles& r, const ConvProblem& pb) {
  SmallPlan plan{};
  plan.source_rows = int(r.source.H), plan.source_columns = int(r.source.W);
  plan.result_rows = int(r.result.H), plan.result_columns = int(r.result.W);
  plan.pad_h = r.pad_h, plan.pad_w = r.pad_w;
  const int across = int(pb.C) / Tile::kChannels, columns = divided_up(plan.result_columns, Tile::kColumns);
  const int rows = divided_up(plan.result_rows, Tile::kRows);
  // Several tiles to a thread, so that its kernels are read once for them, as long as there are threads for all.
  const double threads = double(pb.N) * across * columns * rows, enough = 1.5 * 512 * current_device().multiprocessors;
  plan.tiles = 1;
  while (plan.tiles < 8 && plan.tiles < rows && threads / (2 * plan.tiles) >= enough) plan.tiles *= 2;
  const int strips = divided_up(rows, plan.tiles);
  plan.across = Divider(across), plan.tile_columns = Divider(columns), plan.tile_strips = Divider(strips);
  plan.items = pb.N * across * columns * strips;
  return plan;
}

template <class T>
void launch_small(const char* name, void (*kernel)(SmallPlan, SmallTensors<T>), const SmallPlan& plan,
                  const SmallTensors<T>& t, void* stream) {
  launch(name, kernel, Grid{(plan.items + kSmallThreads - 1) / kSmallThreads, dim3(kSmallThreads)}, stream, plan, t);
}

namespace depthwise_small {
void grad_input_transposed(const ConvProblem&, const Operands&);  // depthwise_small_transposed.cu
}

}  // namespace cuda
}  // namespace convx
