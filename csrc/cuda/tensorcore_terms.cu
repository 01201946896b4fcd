// How tensorcore_terms.cuh is launched, and which problems it can do: those that tensorcore_copied.cu can, in float32.
#include "device.h"
#include "rows.h"
#include "tensorcore_copied_limits.cuh"
#include "tensorcore_launch.cuh"
#include "tensorcore_terms.cuh"
#include "types.h"

namespace convx {
namespace cuda {
namespace tensorcore {
namespace {

const char* why_not_at_all_terms(const ConvProblem& pb, const Operands& o) {
  if (const char* reason = why_not_split(pb, o)) return reason;
  if (!current_device().has_wgmma) return "it needs a GPU of compute capability 9.0 and kernels built for 9.0a";
  if (!pb.is_zero_padded()) return "the copy engine pads with zeros";
  if (is_empty(pb)) return "a tensor is empty";
  return nullptr;
}

const char* why_not_convolve(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  if (const char* reason = why_not_at_all_terms(pb, o)) return reason;
  if (phases_of(pb.rows(), is_grad_input) * phases_of(pb.columns(), is_grad_input) > kMostPhases)
    return "the stride makes more than 16 phases";
  if (!can_be_copied(pb.rows(), is_grad_input) || !can_be_copied(pb.columns(), is_grad_input))
    return "stride, padding or dilation is larger than the copy engine's fields";
  return nullptr;
}

// An operand's terms in the workspace.
struct Terms {
  BFloat16* data;
  int channels;  // of a term
};

// N x (groups of channels) x H x W as terms; `group` is the stride between groups.
Terms terms_of(const void* data, const Strides& s, int64_t group, int64_t N, int64_t G, int64_t C, int64_t H, int64_t W,
               bool is_weight, int terms, const Operands& o) {
  const int64_t channels = ceil_div(C, kCopiedDepth) * kCopiedDepth;
  auto* const to = static_cast<BFloat16*>(o.workspace->allocate(N * G * H * W * terms * channels * sizeof(BFloat16)));
  const auto* const from = static_cast<const float*>(data);
  const Splitting p = is_weight ? Splitting{from, group, s.n, s.c, s.h, s.w, to, G, N, C, H, W, channels, terms, false}
                                : Splitting{from, s.n, group, s.c, s.h, s.w, to, N, G, C, H, W, channels, terms, true};
  const auto whole = [](int64_t stride, int64_t count) { return count == 1 || stride % 4 == 0; };
  const bool in_lines = s.c == 1 && C % 4 == 0 && reinterpret_cast<uintptr_t>(data) % kChunk == 0 && whole(s.n, N) &&
                        whole(group, G) && whole(s.h, H) && whole(s.w, W);
  if (in_lines) {
    launch("split_lines", split_lines, one_thread_each(N * G * H * W * channels / 4), o.stream, p);
  } else {
    const int64_t tiles = ceil_div(channels, kSplitTile) * ceil_div(H * W, kSplitTile);
    launch("split_terms", split_terms,
           {N * G * tiles, dim3(kSplitThreads), kSplitTile * (kSplitTile + 1) * sizeof(float)}, o.stream, p);
  }
  return {to, int(channels)};
}

// The operand itself, as convolution_of() wants it.
Packed<float> in_place(const View& v, int64_t group, int64_t channels) {
  const Strides& s = v.strides;
  return {static_cast<const float*>(v.data), s.n, group, s.h, s.w, int(channels)};
}

template <class Shape>
void launch_terms(TermConvolution& work, const Terms& image, const Terms& weight, const Operands& o) {
  Convolution<float>& cv = work.cv;
  constexpr int kTerms = Shape::kTerms;
  work.channels = image.channels;
  cv.row_tiles = ceil_div(largest_phase(cv), Shape::kRows);
  cv.column_tiles = int(ceil_div(cv.outputs, Shape::kColumns));
  cv.tiles = cv.phases * cv.row_tiles * cv.G * cv.column_tiles;

  const int64_t R = cv.rows.kernel, S = cv.columns.kernel, pixel = kTerms * int64_t(weight.channels);
  const int64_t sizes[] = {pixel, S, R, cv.outputs, cv.G};
  must(tile_map(&work.weight, weight.data, sizes, {pixel, S * pixel, R * S * pixel, cv.outputs * R * S * pixel},
                {kCopiedDepth, 1, 1, Shape::kColumns, 1}));
  const int64_t line = cv.G * kTerms * int64_t(image.channels);
  for (int phase = 0; phase < cv.phases; ++phase) {
    const AxisPlan rows = plan_of(cv.rows, cv.is_grad_input, phase / cv.phases_across);
    const AxisPlan columns = plan_of(cv.columns, cv.is_grad_input, phase % cv.phases_across);
    if (rows.taps <= 0 || columns.taps <= 0) continue;  // nothing is copied in this phase
    must(im2col_map(&work.image[phase], image.data, line, cv.in_w, cv.in_h, cv.N, line, cv.in_w * line,
                    int64_t(cv.in_h) * cv.in_w * line, CopiedAxis::of(columns).pixels, CopiedAxis::of(rows).pixels,
                    Shape::kRows));
  }
  const Grid grid = {std::min(cv.tiles, int64_t(current_device().multiprocessors)), dim3(Shape::kThreads),
                     size_t(Shape::kSharedBytes)};
  launch("convolve_terms", convolve_terms<Shape>, grid, o.stream, work);
}

// Columns of 128, or of 64 where that leaves fewer multiprocessors without work; a stage of half the columns takes more
// than half the time.
template <int kTerms>
void launch_best(TermConvolution& work, const Terms& image, const Terms& weight, const Operands& o) {
  const auto turns = [&](int columns) {
    const Convolution<float>& cv = work.cv;
    const int64_t tiles = cv.phases * cv.G * ceil_div(largest_phase(cv), 128) * ceil_div(cv.outputs, columns);
    return double(ceil_div(tiles, current_device().multiprocessors));
  };
  if (0.6 * turns(64) < turns(128))
    launch_terms<TermShape<kTerms, 64>>(work, image, weight, o);
  else
    launch_terms<TermShape<kTerms, 128>>(work, image, weight, o);
}

void run(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const int64_t inputs = is_grad_input ? Kg : Cg, outputs = is_grad_input ? Cg : Kg;
  const View& from = is_grad_input ? o.y : o.x;
  const Strides &w = o.w.strides, turned = {w.c, w.n, w.h, w.w}, seen = is_grad_input ? turned : w;
  const int terms = o.allow_tf32 ? 2 : 3;
  const Terms image = terms_of(from.data, from.strides, inputs * from.strides.c, pb.N, pb.G, inputs,
                               is_grad_input ? pb.P : pb.H, is_grad_input ? pb.Q : pb.W, false, terms, o);
  const Terms weight = terms_of(o.w.data, seen, Kg * w.n, outputs, pb.G, inputs, pb.R, pb.S, true, terms, o);
  TermConvolution work = {};
  View weights = o.w;
  weights.strides = seen;
  work.cv = convolution_of<float>(pb, o, is_grad_input, in_place(from, inputs * from.strides.c, inputs),
                                  in_place(weights, Kg * w.n, inputs));
  work.cv.input_c = from.strides.c, work.cv.weight_c = int(seen.c);
  terms == 2 ? launch_best<2>(work, image, weight, o) : launch_best<3>(work, image, weight, o);
}

template <class Shape, int kMostTaps>
void launch_weight_terms(WeightGradient<float, float> wg, const Terms& x, const Terms& y, const ConvProblem& pb,
                         const Operands& o) {
  TermWeightGradient<kMostTaps> work = {};
  wg.row_tiles = int(ceil_div(wg.outputs, Shape::kRows)), wg.column_tiles = int(ceil_div(wg.inputs, Shape::kColumns));
  const int64_t taps = pb.R * pb.S, weights = pb.K * taps * wg.inputs;
  const int64_t tiles = wg.G * taps * wg.row_tiles * wg.column_tiles;
  constexpr int kProducts = Shape::kTerms == 3 ? 6 : 3;
  wg.splits = best_splits(0.36 * kProducts * Shape::kColumns / 128, false, tiles,
                          ceil_div(pb.N * pb.P * pb.Q, kCopiedDepth), weights);
  wg.partial = static_cast<float*>(o.workspace->allocate(wg.splits * weights * sizeof(float)));
  work.wg = wg, work.x_channels = x.channels, work.y_channels = y.channels;
  const int64_t x_line = pb.G * Shape::kTerms * int64_t(x.channels),
                y_line = pb.G * Shape::kTerms * int64_t(y.channels);
  for (int tap = 0; tap < taps; ++tap) {
    const TapRun rows = TapRun::of(wg.rows, tap / int(pb.S)), columns = TapRun::of(wg.columns, tap % int(pb.S));
    if (rows.count == 0 || columns.count == 0) continue;
    must(im2col_map(&work.outputs[tap], y.data, y_line, pb.Q, pb.P, pb.N, y_line, pb.Q * y_line, pb.P * pb.Q * y_line,
                    {columns.first, columns.count, 1}, {rows.first, rows.count, 1}, kCopiedDepth));
    must(im2col_map(&work.inputs[tap], x.data, x_line, pb.W, pb.H, pb.N, x_line, pb.W * x_line, pb.H * pb.W * x_line,
                    {columns.offset, columns.count, columns.stride}, {rows.offset, rows.count, rows.stride},
                    kCopiedDepth));
  }
  const Grid grid = {std::min(tiles * wg.splits, int64_t(current_device().multiprocessors)), dim3(Shape::kThreads),
                     size_t(Shape::kSharedBytes)};
  launch("weight_gradient_terms", weight_gradient_terms<Shape, kMostTaps>, grid, o.stream, work);
  launch_add_splits<Split>(wg, o);
}

template <int kTerms>
void run_weight(const ConvProblem& pb, const Operands& o) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const Terms x = terms_of(o.x.data, o.x.strides, Cg * o.x.strides.c, pb.N, pb.G, Cg, pb.H, pb.W, false, kTerms, o);
  const Terms y = terms_of(o.y.data, o.y.strides, Kg * o.y.strides.c, pb.N, pb.G, Kg, pb.P, pb.Q, false, kTerms, o);
  auto wg = weight_gradient_of<float, float>(pb, o, in_place(o.x, Cg * o.x.strides.c, Cg),
                                             in_place(o.y, Kg * o.y.strides.c, Kg));
  wg.x_c = o.x.strides.c, wg.y_c = o.y.strides.c;
  const bool few = pb.R * pb.S <= kFewTaps;
  if (Cg > 64)
    few ? launch_weight_terms<TermShape<kTerms, 128>, kFewTaps>(wg, x, y, pb, o)
        : launch_weight_terms<TermShape<kTerms, 128>, kManyTaps>(wg, x, y, pb, o);
  else
    few ? launch_weight_terms<TermShape<kTerms, 64>, kFewTaps>(wg, x, y, pb, o)
        : launch_weight_terms<TermShape<kTerms, 64>, kManyTaps>(wg, x, y, pb, o);
}

}  // namespace

const char* forward_why_not_terms(const ConvProblem& pb, const Operands& o) { return why_not_convolve(pb, o, false); }
const char* grad_input_why_not_terms(const ConvProblem& pb, const Operands& o) { return why_not_convolve(pb, o, true); }
const char* grad_weight_why_not_terms(const ConvProblem& pb, const Operands& o) {
  if (const char* reason = why_not_at_all_terms(pb, o)) return reason;
  if (pb.R * pb.S > kManyTaps) return "it has maps for 49 taps";
  if (!taps_can_be_copied(pb.rows()) || !taps_can_be_copied(pb.columns()))
    return "stride, padding or dilation is larger than the copy engine's fields";
  return nullptr;
}
void forward_terms(const ConvProblem& pb, const Operands& o) { run(pb, o, false); }
void grad_input_terms(const ConvProblem& pb, const Operands& o) { run(pb, o, true); }
void grad_weight_terms(const ConvProblem& pb, const Operands& o) {
  o.allow_tf32 ? run_weight<2>(pb, o) : run_weight<3>(pb, o);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
