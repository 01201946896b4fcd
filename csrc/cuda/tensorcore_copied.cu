// How tensorcore_copied.cuh is launched, and which problems it can do: those whose image and weight the copy engine
// finds its way in.
#include "rows.h"
#include "tensorcore_copied_limits.cuh"
#include "tensorcore_copied_weight.cuh"
#include "tensorcore_launch.cuh"
#include "types.h"

namespace convx {
namespace cuda {
namespace tensorcore {
namespace {

const char* why_not_copied(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  if (const char* reason = why_not_wgmma(pb, o)) return reason;
  if (!pb.is_zero_padded()) return "the copy engine pads with zeros";
  if (is_empty(pb)) return "a tensor is empty";
  const int64_t inputs = is_grad_input ? pb.outputs_per_group() : pb.channels_per_group();
  if (pb.G > 1 && inputs % kCopiedDepth != 0) return "it copies 64 channels at a time, which have to be of one group";
  if (phases_of(pb.rows(), is_grad_input) * phases_of(pb.columns(), is_grad_input) > kMostPhases)
    return "the stride makes more than 16 phases";
  if (!can_be_copied(pb.rows(), is_grad_input) || !can_be_copied(pb.columns(), is_grad_input))
    return "stride, padding or dilation is larger than the copy engine's fields";
  return nullptr;
}

template <class T, class Shape, bool kTurned>
void launch_copied(CopiedConvolution<T>& work, const Operands& o) {
  Convolution<T>& cv = work.cv;
  cv.row_tiles = ceil_div(largest_phase(cv), Shape::kRows);
  cv.column_tiles = int(ceil_div(cv.outputs, Shape::kColumns));
  cv.tiles = cv.phases * cv.row_tiles * cv.G * cv.column_tiles;

  const int R = int(cv.rows.kernel), S = int(cv.columns.kernel), inputs = kTurned ? cv.channels : cv.inputs;
  const int64_t step = kTurned ? cv.weight_c : cv.weight_output;
  const int64_t strides[] = {stride_of(S, cv.weight_s), stride_of(R, cv.weight_r),
                             stride_of(kTurned ? inputs : cv.outputs, step), stride_of(cv.G, cv.weight_group)};
  const int64_t sizes[] = {kTurned ? cv.outputs : inputs, S, R, kTurned ? inputs : cv.outputs, cv.G};
  must(tile_map(&work.weight, cv.weight, sizes, strides, {64, 1, 1, kTurned ? 64 : Shape::kColumns, 1}));
  for (int phase = 0; phase < cv.phases; ++phase) {
    const AxisPlan rows = plan_of(cv.rows, cv.is_grad_input, phase / cv.phases_across);
    const AxisPlan columns = plan_of(cv.columns, cv.is_grad_input, phase % cv.phases_across);
    if (rows.taps <= 0 || columns.taps <= 0) continue;  // nothing is copied in this phase
    must(im2col_map(&work.image[phase], cv.input, cv.G * int64_t(cv.inputs), cv.in_w, cv.in_h, cv.N,
                    stride_of(cv.in_w, cv.input_w), stride_of(cv.in_h, cv.input_h), stride_of(cv.N, cv.input_n),
                    CopiedAxis::of(columns).pixels, CopiedAxis::of(rows).pixels, Shape::kRows));
  }
  const Grid grid = {std::min(cv.tiles, int64_t(current_device().multiprocessors)), dim3(Shape::kThreads),
                     size_t(Shape::kSharedBytes)};
  launch("convolve_copied", convolve_copied<T, Shape, kTurned>, grid, o.stream, work);
}

// How many columns a tile has: blocks take tiles in turns, and all wait for the one that has a turn more. A narrow
// tile's stage takes longer than its share, as the pixels are copied and read for fewer columns.
template <class T>
int best_columns(const Convolution<T>& cv) {
  const auto time = [&](int columns, double of_a_tile) {
    const int64_t tiles = cv.phases * cv.G * ceil_div(largest_phase(cv), 128) * ceil_div(cv.outputs, columns);
    return of_a_tile * double(ceil_div(tiles, current_device().multiprocessors));
  };
  const double wide = time(256, 1.0), middle = time(128, 0.55), narrow = time(64, 0.35);
  return narrow < middle && narrow < wide ? 64 : middle < wide ? 128 : 256;
}

template <class T, bool kTurned>
void launch_best(CopiedConvolution<T>& work, const Operands& o) {
  switch (best_columns(work.cv)) {
    case 256: return launch_copied<T, CopiedShape<256>, kTurned>(work, o);
    case 128: return launch_copied<T, CopiedShape<128>, kTurned>(work, o);
    default: return launch_copied<T, CopiedShape<64>, kTurned>(work, o);
  }
}

template <class T>
void run_copied(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  constexpr int64_t kElements = kChunk / sizeof(T);
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const int64_t inputs = is_grad_input ? Kg : Cg, outputs = is_grad_input ? Cg : Kg;
  const View& from = is_grad_input ? o.y : o.x;
  const Packed<T> image =
      channels_together<T>(from.data, from.strides, inputs * from.strides.c, pb.N, pb.G, inputs,
                           is_grad_input ? pb.P : pb.H, is_grad_input ? pb.Q : pb.W, false, o, true);
  // The weight is [output][tap][input]. For grad_input that is the other way round, which wgmma can read as well, if
  // chunks are whole: then nothing is packed.
  const Strides &w = o.w.strides, turned = {w.c, w.n, w.h, w.w};
  const auto whole = [&](int64_t stride, int64_t count) {
    return count == 1 || (stride != 0 && stride % kElements == 0);
  };
  const bool in_place = is_grad_input && w.c == 1 && whole(Cg, 1) && whole(w.n, pb.K) && whole(w.h, pb.R) &&
                        whole(w.w, pb.S) && reinterpret_cast<uintptr_t>(o.w.data) % kChunk == 0;
  const Packed<T> weight = in_place ? Packed<T>{static_cast<const T*>(o.w.data), 1, Kg * w.n, w.h, w.w, image.channels}
                                    : channels_together<T>(o.w.data, is_grad_input ? turned : w, Kg * w.n, outputs,
                                                           pb.G, inputs, pb.R, pb.S, true, o, true);
  CopiedConvolution<T> work = {};
  work.cv = convolution_of<T>(pb, o, is_grad_input, image, weight);
  if (in_place) work.cv.weight_c = int(w.n);
  in_place ? launch_best<T, true>(work, o) : launch_best<T, false>(work, o);
}

// Whether eight neighbouring inputs of a weight can be stored at once, wherever they begin.
template <class T>
bool has_whole_chunks(const WeightGradient<T, float>& wg, const ConvProblem& pb) {
  constexpr int64_t kElements = kChunk / sizeof(T);
  const Strides& s = wg.w_strides;
  const auto whole = [](int64_t stride, int64_t count) { return count == 1 || stride % kElements == 0; };
  return s.c == 1 && wg.inputs % kElements == 0 && reinterpret_cast<uintptr_t>(wg.w) % kChunk == 0 &&
         whole(s.n, pb.K) && whole(s.h, pb.R) && whole(s.w, pb.S);
}

template <class T, class Shape, int kMostTaps>
void launch_weight_copied(WeightGradient<T, float> wg, const Packed<T>& x, const Packed<T>& y, const ConvProblem& pb,
                          const Operands& o) {
  constexpr double kStage = Shape::kColumns == 256 ? 0.55 : Shape::kColumns == 128 ? 0.36 : 0.25;  // us, on an H200
  CopiedWeightGradient<T, kMostTaps> work = {};
  wg.row_tiles = int(ceil_div(wg.outputs, Shape::kRows)), wg.column_tiles = int(ceil_div(wg.inputs, Shape::kColumns));
  const int64_t taps = pb.R * pb.S, weights = pb.K * taps * wg.inputs;
  const int64_t tiles = wg.G * taps * wg.row_tiles * wg.column_tiles;
  wg.splits = best_splits(kStage, true, tiles, ceil_div(pb.N * pb.P * pb.Q, kCopiedDepth), weights);
  if (wg.splits > 1) wg.partial = static_cast<float*>(o.workspace->allocate(wg.splits * weights * sizeof(float)));
  work.wg = wg, work.stores_chunks = has_whole_chunks(wg, pb);
  for (int tap = 0; tap < taps; ++tap) {
    const TapRun rows = TapRun::of(wg.rows, tap / int(pb.S)), columns = TapRun::of(wg.columns, tap % int(pb.S));
    if (rows.count == 0 || columns.count == 0) continue;
    must(im2col_map(&work.outputs[tap], y.data, pb.G * int64_t(y.channels), pb.Q, pb.P, pb.N, stride_of(pb.Q, y.w),
                    stride_of(pb.P, y.h), stride_of(pb.N, y.n), {columns.first, columns.count, 1},
                    {rows.first, rows.count, 1}, kCopiedDepth));
    must(im2col_map(&work.inputs[tap], x.data, pb.G * int64_t(x.channels), pb.W, pb.H, pb.N, stride_of(pb.W, x.w),
                    stride_of(pb.H, x.h), stride_of(pb.N, x.n), {columns.offset, columns.count, columns.stride},
                    {rows.offset, rows.count, rows.stride}, kCopiedDepth));
  }
  const Grid grid = {std::min(tiles * wg.splits, int64_t(current_device().multiprocessors)), dim3(Shape::kThreads),
                     size_t(Shape::kSharedBytes)};
  launch("weight_gradient_copied", weight_gradient_copied<T, Shape, kMostTaps>, grid, o.stream, work);
  if (wg.splits > 1) launch_add_splits<Warpgroup<T>>(wg, o);
}

template <class T>
void run_weight_copied(const ConvProblem& pb, const Operands& o) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const Packed<T> x =
      channels_together<T>(o.x.data, o.x.strides, Cg * o.x.strides.c, pb.N, pb.G, Cg, pb.H, pb.W, false, o, true);
  const Packed<T> y =
      channels_together<T>(o.y.data, o.y.strides, Kg * o.y.strides.c, pb.N, pb.G, Kg, pb.P, pb.Q, false, o, true);
  const auto wg = weight_gradient_of<T, float>(pb, o, x, y);
  const bool few = pb.R * pb.S <= kFewTaps;
  if (Cg > 128)
    few ? launch_weight_copied<T, CopiedShape<256>, kFewTaps>(wg, x, y, pb, o)
        : launch_weight_copied<T, CopiedShape<256>, kManyTaps>(wg, x, y, pb, o);
  else if (Cg > 64)
    few ? launch_weight_copied<T, CopiedShape<128, false>, kFewTaps>(wg, x, y, pb, o)
        : launch_weight_copied<T, CopiedShape<128, false>, kManyTaps>(wg, x, y, pb, o);
  else
    few ? launch_weight_copied<T, CopiedShape<64, false>, kFewTaps>(wg, x, y, pb, o)
        : launch_weight_copied<T, CopiedShape<64, false>, kManyTaps>(wg, x, y, pb, o);
}

void run(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  o.dtype == DType::float16 ? run_copied<Half>(pb, o, is_grad_input) : run_copied<BFloat16>(pb, o, is_grad_input);
}

}  // namespace

const char* forward_why_not_copied(const ConvProblem& pb, const Operands& o) { return why_not_copied(pb, o, false); }
const char* grad_input_why_not_copied(const ConvProblem& pb, const Operands& o) { return why_not_copied(pb, o, true); }
const char* grad_weight_why_not_copied(const ConvProblem& pb, const Operands& o) {
  if (const char* reason = why_not_wgmma(pb, o)) return reason;
  if (!pb.is_zero_padded()) return "the copy engine pads with zeros";
  if (is_empty(pb)) return "a tensor is empty";
  if (pb.R * pb.S > kManyTaps) return "it has maps for 49 taps";
  if (!taps_can_be_copied(pb.rows()) || !taps_can_be_copied(pb.columns()))
    return "stride, padding or dilation is larger than the copy engine's fields";
  return nullptr;
}
void forward_copied(const ConvProblem& pb, const Operands& o) { run(pb, o, false); }
void grad_input_copied(const ConvProblem& pb, const Operands& o) { run(pb, o, true); }
void grad_weight_copied(const ConvProblem& pb, const Operands& o) {
  o.dtype == DType::float16 ? run_weight_copied<Half>(pb, o) : run_weight_copied<BFloat16>(pb, o);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
