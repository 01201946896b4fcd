// How the kernels of tensorcore_copied.cuh and tensorcore_copied_weight.cuh are launched: the maps of their operands,
// and how the work is dealt out. An operand is as Packed says; if its numbers are terms, those of a group lie one
// behind the other, each with as many channels as it says.
#pragma once
#include <algorithm>
#include <stdexcept>

#include "device.h"
#include "tensorcore_copied_limits.cuh"
#include "tensorcore_launch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// A dimension's stride, or for a dimension that nobody walks along, one that the copy engine takes.
inline int64_t stride_of(int64_t size, int64_t stride) { return size > 1 ? stride : 8; }

template <class T>
constexpr MapElements kMapElements = sizeof(T) == 2 ? MapElements::bits16 : MapElements::tf32;

inline void must(bool made) {
  if (!made) throw std::runtime_error("the driver refused a tensor map of one of convx's kernels");
}

// The map of N images of G groups, H x W pixels: see im2col_map().
template <class Shape, class Term>
TensorMap image_map(const Packed<Term>& image, int64_t N, int64_t G, int64_t H, int64_t W, PixelAxis rows,
                    PixelAxis columns, int pixels) {
  TensorMap map = {};
  must(im2col_map(&map, kMapElements<Term>, image.data, G * Shape::kTerms * image.channels, W, H, N,
                  stride_of(W, image.w), stride_of(H, image.h), stride_of(N, image.n), columns, rows, pixels));
  return map;
}

// The map of a weight; turned, `weight` says of its channels what it says of outputs otherwise.
template <class Shape, bool kTurned, class T, class Term>
TensorMap weight_map(const Convolution<T>& cv, const Packed<Term>& weight) {
  const int64_t R = cv.rows.kernel, S = cv.columns.kernel, inputs = Shape::kTerms * int64_t(weight.channels);
  const int lines = kTurned ? cv.channels : cv.outputs, lines_of_tile = kTurned ? Shape::kDepth : Shape::kColumns;
  TensorMap map = {};
  must(tile_map(
      &map, kMapElements<Term>, weight.data, {kTurned ? cv.outputs : inputs, S, R, lines, cv.G},
      {stride_of(S, weight.w), stride_of(R, weight.h), stride_of(lines, weight.n), stride_of(cv.G, weight.group)},
      {Shape::kDepth, 1, 1, lines_of_tile, 1}));
  return map;
}

// A block to each multiprocessor, for tiles in turns.
template <class Shape>
Grid copied_grid(int64_t tiles) {
  return {std::min(tiles, int64_t(current_device().multiprocessors)), dim3(Shape::kThreads),
          size_t(Shape::kSharedBytes)};
}

template <class Arithmetic, class Shape, bool kTurned, class T, class Term>
void launch_copied(Convolution<T> cv, const Packed<Term>& image, const Packed<Term>& weight, const Operands& o) {
  cv.row_tiles = ceil_div(largest_phase(cv), Shape::kRows);
  cv.column_tiles = int(ceil_div(cv.outputs, Shape::kColumns));
  cv.tiles = cv.phases * cv.row_tiles * cv.G * cv.column_tiles;
  CopiedConvolution<T> work = {cv, weight_map<Shape, kTurned>(cv, weight), {}};
  for (int phase = 0; phase < cv.phases; ++phase) {
    const AxisPlan rows = plan_of(cv.rows, cv.is_grad_input, phase / cv.phases_across);
    const AxisPlan columns = plan_of(cv.columns, cv.is_grad_input, phase % cv.phases_across);
    if (rows.taps > 0 && columns.taps > 0)  // or else nothing is copied in this phase
      work.image[phase] = image_map<Shape>(image, cv.N, cv.G, cv.in_h, cv.in_w, CopiedAxis::of(rows).pixels,
                                           CopiedAxis::of(columns).pixels, Shape::kRows);
  }
  launch("convolve_copied", convolve_copied<Arithmetic, Shape, kTurned>, copied_grid<Shape>(cv.tiles), o.stream, work);
}

// How many tiles of so many columns the multiprocessors take in turns: all wait for the one that has a turn more.
template <class T>
double turns_of(const Convolution<T>& cv, int columns) {
  const int64_t tiles = cv.phases * cv.G * ceil_div(largest_phase(cv), 128) * ceil_div(cv.outputs, columns);
  return double(ceil_div(tiles, current_device().multiprocessors));
}

// Into how many parts the pixels are split. Blocks take turns, and the last turn may leave some without work; if there
// is more than one part (or the kernel does not store results itself), their sums are written and read again. In
// microseconds, by the rates of an H200; `stage` is one's time.
inline int best_splits(double stage, bool stores_itself, int64_t tiles, int64_t stages, int64_t weights) {
  constexpr int64_t kFewest = 4, kMost = 64;              // stages of a split, splits
  constexpr double kTile = 2, kLaunch = 2, kBytes = 3e6;  // to begin and end a tile; the second kernel; memory
  const int64_t most = std::min({kMost, stages / kFewest, kMostPartialBytes / (weights * int64_t(sizeof(float)))});
  double least = 0;
  int best = 1;
  for (int64_t splits = 1; splits == 1 || splits <= most; ++splits) {
    const int64_t turns = ceil_div(tiles * splits, current_device().multiprocessors);
    const double partial = double(weights) * double(splits) * sizeof(float), result = double(weights) * 2;
    const double sums = splits == 1 && stores_itself ? 0 : kLaunch + (2 * partial + result) / kBytes;
    const double time = double(turns) * (stage * double(ceil_div(stages, splits)) + kTile) + sums;
    if (splits == 1 || time < least) least = time, best = int(splits);
  }
  return best;
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

template <class Arithmetic, class Shape, int kMostTaps, class T, class Term>
void launch_weight_with_maps(WeightGradient<T, float> wg, const Packed<Term>& x, const Packed<Term>& y, double stage,
                             const ConvProblem& pb, const Operands& o) {
  constexpr bool kStoresItself = !Arithmetic::kDoubtsItself;
  wg.row_tiles = int(ceil_div(wg.outputs, Shape::kRows)), wg.column_tiles = int(ceil_div(wg.inputs, Shape::kColumns));
  const int64_t taps = pb.R * pb.S, weights = pb.K * taps * wg.inputs;
  const int64_t tiles = wg.G * taps * wg.row_tiles * wg.column_tiles;
  wg.splits = best_splits(stage, kStoresItself, tiles, ceil_div(pb.N * pb.P * pb.Q, kCopiedDepth), weights);
  const bool is_added = !kStoresItself || wg.splits > 1;
  if (is_added) wg.partial = static_cast<float*>(o.workspace->allocate(wg.splits * weights * sizeof(float)));
  CopiedWeightGradient<T, kMostTaps> work = {wg, has_whole_chunks(wg, pb), {}, {}};
  for (int tap = 0; tap < taps; ++tap) {
    const TapRun rows = TapRun::of(wg.rows, tap / int(pb.S)), columns = TapRun::of(wg.columns, tap % int(pb.S));
    if (rows.count == 0 || columns.count == 0) continue;
    work.outputs[tap] = image_map<Shape>(y, pb.N, pb.G, pb.P, pb.Q, {rows.first, rows.count, 1},
                                         {columns.first, columns.count, 1}, kCopiedDepth);
    work.inputs[tap] = image_map<Shape>(x, pb.N, pb.G, pb.H, pb.W, {rows.offset, rows.count, rows.stride},
                                        {columns.offset, columns.count, columns.stride}, kCopiedDepth);
  }
  launch("weight_gradient_copied", weight_gradient_copied<Arithmetic, Shape, kMostTaps>,
         copied_grid<Shape>(tiles * wg.splits), o.stream, work);
  if (is_added) launch_add_splits<Arithmetic>(wg, o);
}

// `stage`: how long one takes, in microseconds on an H200.
template <class Arithmetic, class Shape, class T, class Term>
void launch_weight_copied(const WeightGradient<T, float>& wg, const Packed<Term>& x, const Packed<Term>& y,
                          double stage, const ConvProblem& pb, const Operands& o) {
  const bool few = pb.R * pb.S <= kFewTaps;
  few ? launch_weight_with_maps<Arithmetic, Shape, kFewTaps>(wg, x, y, stage, pb, o)
      : launch_weight_with_maps<Arithmetic, Shape, kManyTaps>(wg, x, y, stage, pb, o);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
