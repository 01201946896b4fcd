// The row `patch_windows`: which problems the kernels of patch_windows.cuh and patch_windows_weight.cuh can do and are
// right for, and their launches.
//
// Last layers, of few outputs and a stride of 1, are first layers from the other side: x's gradient is a convolution of
// y, an image of few channels, by the same weight turned around, and the weight's gradient is one of windows of y.
#include <algorithm>

#include "device.h"
#include "patch_windows_weight.cuh"
#include "rows.h"
#include "types.h"

namespace convx {
namespace cuda {
namespace patch_windows {
namespace {

constexpr int64_t kFewChannels = 12, kFewColumns = 32;

size_t element_size(DType dtype) { return dtype == DType::float32 ? 4 : 2; }
bool in_three(const Operands& o) { return o.dtype == DType::float32 && !o.allow_tf32; }

// What a launch has to know besides the pointers.
template <class Arithmetic>
Windows<typename Arithmetic::Element> windows_of(const ConvProblem& pb, const Operands& o) {
  using T = typename Arithmetic::Element;
  const bool few = pb.K <= kFewColumns;
  const int columns = few ? 32 : 64, rows = kWarps * (few ? 4 : 2);
  Windows<T> wd = {};
  wd.pb = pb, wd.t = {o};
  wd.pixels = Pixels::of(pb, o.x.strides, rows, Arithmetic::kNumbers - 1);
  wd.patches = Patches::of(pb.N, pb.P, pb.Q, rows);
  wd.copies = Arithmetic::kNumbers == 2 && wd.pixels.across % 2 == 1 ? 2 : 1;
  wd.words_of_run = divided_up(wd.pixels.run, Arithmetic::kNumbers);
  wd.words = rounded_up(wd.words_of_run * wd.pixels.runs, Arithmetic::kWords);
  wd.weight_pitch = wd.words * 8 / Arithmetic::kWords * 4 + 16;
  wd.term_bytes = columns * wd.weight_pitch;
  wd.weight_bytes = Arithmetic::kTerms * wd.term_bytes;
  wd.column_tiles = int(ceil_div(pb.K, columns));
  return wd;
}

template <class T>
int64_t shared_bytes(const Windows<T>& wd) {
  return wd.weight_bytes + int64_t(wd.words) * 4 + int64_t(wd.copies) * wd.pixels.rows * wd.pixels.pitch * sizeof(T);
}

template <class Arithmetic>
void forward_by(const ConvProblem& pb, const Operands& o) {
  using T = typename Arithmetic::Element;
  constexpr int64_t kElements = 16 / sizeof(T);
  auto wd = windows_of<Arithmetic>(pb, o);
  const int64_t packed = int64_t(wd.column_tiles) * wd.weight_bytes;
  wd.packed = static_cast<char*>(o.workspace->allocate(size_t(packed)));
  const int64_t shared = shared_bytes(wd), blocks = fitting_blocks(shared, Arithmetic::kBlocks);
  wd.streams =
      std::min(wd.patches.count, std::max(current_device().multiprocessors * blocks / wd.column_tiles, int64_t(1)));
  const Strides& y = o.y.strides;
  const auto whole = [](int64_t stride, int64_t count) { return count == 1 || stride % kElements == 0; };
  wd.stores_channels = y.c == 1 && pb.K % kElements == 0 && whole(y.n, pb.N) && whole(y.h, pb.P) && whole(y.w, pb.Q) &&
                       reinterpret_cast<uintptr_t>(o.y.data) % 16 == 0;
  launch("pack_windows", pack_windows<Arithmetic>, one_thread_each(packed / 4 / Arithmetic::kTerms), o.stream, wd);
  launch("convolve_windows",
         pb.K <= kFewColumns ? convolve_windows<Arithmetic, 4, 4> : convolve_windows<Arithmetic, 2, 8>,
         {wd.column_tiles * wd.streams, dim3(kThreads), size_t(shared)}, o.stream, wd);
}

template <class Arithmetic>
WeightWindows<typename Arithmetic::Element> weight_windows_of(const ConvProblem& pb, const Operands& o) {
  WeightWindows<typename Arithmetic::Element> ww = {};
  ww.pb = pb, ww.t = {o};
  ww.pixels = Pixels::of(pb, o.x.strides, kWeightRows, 0);
  ww.patches = Patches::of(pb.N, pb.P, pb.Q, kWeightRows);
  ww.numbers = ww.pixels.run * ww.pixels.runs;
  return ww;
}

template <class T>
int64_t weight_shared_bytes(const Pixels& pixels, int kM) {
  return int64_t(kWeightRows) * kColumns * tile_pitch<T>(16 * kM) + int64_t(pixels.rows) * pixels.pitch * 4;
}

constexpr int64_t kMostPartialBytes = int64_t(32) << 20;

template <class Arithmetic, int kM, int kN>
void launch_weight(WeightWindows<typename Arithmetic::Element> ww, const Operands& o) {
  using T = typename Arithmetic::Element;
  constexpr int64_t kElements = 16 / sizeof(T);
  const ConvProblem& pb = ww.pb;
  const int64_t shared = weight_shared_bytes<T>(ww.pixels, kM), weights = pb.K * ww.numbers;
  ww.row_tiles = int(ceil_div(pb.K, 16 * kM)), ww.column_blocks = int(ceil_div(ww.numbers, kWarps * 8 * kN));
  const int64_t tiles = int64_t(ww.row_tiles) * ww.column_blocks;
  const int64_t blocks = current_device().multiprocessors * fitting_blocks(shared, kWeightBlocks<Arithmetic, kN>);
  const int64_t most = std::min(ww.patches.count, kMostPartialBytes / (weights * int64_t(sizeof(float))));
  ww.splits = int(std::max(std::min(blocks / tiles, most), int64_t(1)));
  const Strides& y = o.y.strides;
  const auto whole = [](int64_t stride, int64_t count) { return count == 1 || stride % kElements == 0; };
  ww.copies_chunks = y.c == 1 && pb.K % kElements == 0 && whole(y.n, pb.N) && whole(y.h, pb.P) && whole(y.w, pb.Q) &&
                     reinterpret_cast<uintptr_t>(o.y.data) % 16 == 0;
  ww.partial = static_cast<float*>(o.workspace->allocate(size_t(ww.splits * weights) * sizeof(float)));
  launch("weigh_windows", weigh_windows<Arithmetic, kM, kN>, {tiles * ww.splits, dim3(kThreads), size_t(shared)},
         o.stream, ww);
  launch("add_windows", add_windows<Arithmetic>,
         {ceil_div(weights, 32), dim3(kAddThreads), kAddThreads * sizeof(float)}, o.stream, ww);
}

template <class Arithmetic, int kM>
void launch_weight(const WeightWindows<typename Arithmetic::Element>& ww, const Operands& o) {
  const int64_t eights = ceil_div(ww.numbers, kWarps * 8);  // of a warp
  if (eights == 1)
    launch_weight<Arithmetic, kM, 1>(ww, o);
  else if (eights == 2)
    launch_weight<Arithmetic, kM, 2>(ww, o);
  else if (eights <= 4)
    launch_weight<Arithmetic, kM, 4>(ww, o);
  else
    launch_weight<Arithmetic, kM, kMostEights>(ww, o);
}

template <class Arithmetic>
void grad_weight_by(const ConvProblem& pb, const Operands& o) {
  const auto ww = weight_windows_of<Arithmetic>(pb, o);
  pb.K <= kFewColumns ? launch_weight<Arithmetic, 2>(ww, o) : launch_weight<Arithmetic, 4>(ww, o);
}

const char* why_not_this_way(const ConvProblem& pb) {
  if (is_empty(pb) || pb.R == 0 || pb.S == 0) return "a tensor is empty";
  return why_not_sizes(pb);
}

const char* why_not_at_all(const ConvProblem& pb, const Operands& o) {
  if (o.dtype == DType::float64) return "it has no products of float64";
  return in_three(o) ? tensorcore::why_not_split(pb, o) : tensorcore::why_not(pb, o);
}

const char* forward_why_not_this_way(const ConvProblem& pb, const Operands& o) {
  if (const char* reason = why_not_this_way(pb)) return reason;
  const int64_t bytes = in_three(o)                  ? shared_bytes(windows_of<Three>(pb, o))
                        : element_size(o.dtype) == 4 ? shared_bytes(windows_of<Rounded>(pb, o))
                                                     : shared_bytes(windows_of<Halves<Half>>(pb, o));
  return bytes > int64_t(current_device().shared_per_block) ? "a patch of the image is beyond shared memory" : nullptr;
}

const char* weight_why_not_this_way(const ConvProblem& pb, const Operands& o) {
  if (const char* reason = why_not_this_way(pb)) return reason;
  const Pixels pixels = Pixels::of(pb, o.x.strides, kWeightRows, 0);
  const int64_t bytes =
      element_size(o.dtype) == 4 ? weight_shared_bytes<float>(pixels, 4) : weight_shared_bytes<Half>(pixels, 4);
  return bytes > int64_t(current_device().shared_per_block) ? "a patch of the image is beyond shared memory" : nullptr;
}

// The problem from the other side: x and y in each other's place, and the weight turned around.
ConvProblem turned(const ConvProblem& pb) {
  ConvProblem t = pb;
  t.C = pb.K, t.K = pb.C, t.H = pb.P, t.W = pb.Q, t.P = pb.H, t.Q = pb.W;
  t.pad_h = (pb.R - 1) * pb.dilation_h - pb.pad_h, t.pad_w = (pb.S - 1) * pb.dilation_w - pb.pad_w;
  return t;
}
Operands turned(const ConvProblem& pb, const Operands& o) {
  Operands t = o;
  t.x = o.y, t.y = o.x;
  const Strides& w = o.w.strides;
  t.w.data = static_cast<char*>(o.w.data) + ((pb.R - 1) * w.h + (pb.S - 1) * w.w) * int64_t(element_size(o.dtype));
  t.w.strides = {w.c, w.n, -w.h, -w.w};
  return t;
}

const char* why_not_turned(const ConvProblem& pb) {
  if (!pb.is_unit_stride()) return "from y's side it has no stride";
  if (!pb.is_zero_padded()) return "from y's side padding is zeros";
  const ConvProblem t = turned(pb);
  return t.pad_h < 0 || t.pad_w < 0 ? "from y's side the padding would be negative" : nullptr;
}

// A weight's gradient by the side that has fewer channels.
bool turns(const ConvProblem& pb) { return pb.K < pb.C && !why_not_turned(pb); }

// How many numbers a block copies for each of its results.
double copied(const ConvProblem& pb) {
  constexpr double kRows = 8;
  return ((kRows - 1) * double(pb.stride_h) + double(pb.R - 1) * double(pb.dilation_h) + 1) *
         ((kColumns - 1) * double(pb.stride_w) + double(pb.S)) * double(pb.C) / (kRows * kColumns);
}

// Of few channels, and windows that overlap: large strides leave a block with more to copy than to multiply. (With 65
// numbers, 11x11 by 4 of three channels, row_windows takes 0.6 to 0.75 of the time, on an H200.)
bool is_first_layer(const ConvProblem& pb) {
  return pb.C <= kFewChannels && pb.K >= 16 && pb.R * pb.S > 1 && multiply_adds_of_image(pb) >= 1 << 20 &&
         copied(pb) <= 40;
}

}  // namespace

const char* forward_why_not(const ConvProblem& pb, const Operands& o) {
  const char* const reason = why_not_at_all(pb, o);
  return reason ? reason : forward_why_not_this_way(pb, o);
}
const char* grad_input_why_not(const ConvProblem& pb, const Operands& o) {
  if (const char* reason = why_not_at_all(pb, o)) return reason;
  if (const char* reason = why_not_turned(pb)) return reason;
  return forward_why_not_this_way(turned(pb), turned(pb, o));
}
const char* grad_weight_why_not(const ConvProblem& pb, const Operands& o) {
  if (const char* reason = why_not_at_all(pb, o)) return reason;
  return turns(pb) ? weight_why_not_this_way(turned(pb), turned(pb, o)) : weight_why_not_this_way(pb, o);
}

bool forward_preferred(const ConvProblem& pb, const Operands&) { return is_first_layer(pb); }
bool grad_input_preferred(const ConvProblem& pb, const Operands&) { return is_first_layer(turned(pb)); }
bool grad_weight_preferred(const ConvProblem& pb, const Operands&) {
  return is_first_layer(turns(pb) ? turned(pb) : pb);
}

void forward(const ConvProblem& pb, const Operands& o) {
  if (o.dtype == DType::float16)
    forward_by<Halves<Half>>(pb, o);
  else if (o.dtype == DType::bfloat16)
    forward_by<Halves<BFloat16>>(pb, o);
  else
    in_three(o) ? forward_by<Three>(pb, o) : forward_by<Rounded>(pb, o);
}
void grad_input(const ConvProblem& pb, const Operands& o) { forward(turned(pb), turned(pb, o)); }

static void weigh(const ConvProblem& pb, const Operands& o) {
  if (o.dtype == DType::float16)
    grad_weight_by<HalvesWeight<Half>>(pb, o);
  else if (o.dtype == DType::bfloat16)
    grad_weight_by<HalvesWeight<BFloat16>>(pb, o);
  else
    in_three(o) ? grad_weight_by<ThreeWeight>(pb, o) : grad_weight_by<RoundedWeight>(pb, o);
}
void grad_weight(const ConvProblem& pb, const Operands& o) {
  turns(pb) ? weigh(turned(pb), turned(pb, o)) : weigh(pb, o);
}

}  // namespace patch_windows
}  // namespace cuda
}  // namespace convx
