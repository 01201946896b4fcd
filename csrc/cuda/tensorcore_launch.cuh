// How the tensor-core kernels are launched: what they are given (operands in place, or packed into the workspace), and
// the shape of the tile. tensorcore_16.cu, _32.cu and _64.cu instantiate this for the types of their size, and
// tensorcore_wgmma.cu for products by warpgroups.
#pragma once
#include <algorithm>
#include <type_traits>

#include "device.h"
#include "fold_padding.cuh"
#include "pack.cuh"
#include "tensorcore_warpgroup.cuh"
#include "tensorcore_weight.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// An operand whose channels are neighbours, in whole chunks.
template <class T>
struct Packed {
  const T* data;
  int64_t n, group;  // strides
  int64_t h, w;
  int channels;  // of a group, filled up with zeros
};

// A weight of G x N outputs x C inputs x R x S as lines of inputs, [group][output][tap][input]. Where the outputs are
// closer together than the inputs, as grad_input's are, or there is one tap, tiles are of outputs and inputs, by tap;
// otherwise of taps and inputs, output by output.
template <class T>
Packing<T> weight_packing(const T* from, const Strides& s, int64_t group, int64_t N, int64_t G, int64_t C, int64_t R,
                          int64_t S, int64_t channels) {
  const bool taps_are_even = R == 1 || S == 1 || s.h == S * s.w;
  if (taps_are_even && (R * S == 1 || s.n < s.c))
    return {from, group, S == 1 ? s.h : s.w, s.c, N * s.n, s.n, G, R * S, C, 1, N, channels, true};
  return {from, group, s.n, s.c, s.h, s.w, G, N, C, R, S, channels, false};
}

// A tensor of N x (groups of channels) x H x W as the kernels want it: where it is, if its channels are together there,
// or packed. `group` is the stride between groups. Strides of zero, of expanded tensors, are not for the copy engine.
template <class T>
Packed<T> channels_together(const void* data, const Strides& s, int64_t group, int64_t N, int64_t G, int64_t channels,
                            int64_t H, int64_t W, bool is_weight, const Operands& o, bool for_copy_engine = false) {
  constexpr int64_t kElements = kChunk / sizeof(T);
  const T* from = static_cast<const T*>(data);
  const auto whole = [&](int64_t stride, int64_t count) {
    return count == 1 || (stride % kElements == 0 && (stride != 0 || !for_copy_engine));
  };
  if (s.c == 1 && channels % kElements == 0 && reinterpret_cast<uintptr_t>(data) % kChunk == 0 && whole(s.n, N) &&
      whole(group, G) && whole(s.h, H) && whole(s.w, W))
    return {from, s.n, group, s.h, s.w, int(channels)};
  const int64_t padded = ceil_div(channels, kElements) * kElements;
  if (N * G * H * W * padded == 0) return {from, 0, 0, 0, 0, int(padded)};  // nothing to read
  T* const to = static_cast<T*>(o.workspace->allocate(N * G * H * W * padded * sizeof(T)));
  // A weight's groups are the slowest, as its outputs are read with all of their taps; an image's are beside a pixel.
  const Packing<T> packing = is_weight
                                 ? weight_packing(from, s, group, N, G, channels, H, W, padded)
                                 : Packing<T>{from, s.n, group, s.c, s.h, s.w, N, G, channels, H, W, padded, true};
  launch("pack", pack<T>, pack_grid(packing), o.stream, packing, to);
  if (is_weight) return {to, H * W * padded, N * H * W * padded, W * padded, padded, int(padded)};
  return {to, H * W * G * padded, padded, W * G * padded, G * padded, int(padded)};
}

// Whether the pixels of each channel are neighbours, in whole chunks.
template <class T>
bool has_whole_planes(const View& v, int64_t N, int64_t C, int64_t H, int64_t W) {
  constexpr int64_t kElements = kChunk / sizeof(T);
  const Strides& s = v.strides;
  return reinterpret_cast<uintptr_t>(v.data) % kChunk == 0 && s.w == 1 && s.h == W && H * W % kElements == 0 &&
         (N == 1 || s.n % kElements == 0) && (C == 1 || s.c % kElements == 0);
}

// The shapes of tiles. Warps of 64 x 64 read the least from shared memory for what they multiply; only 16-bit types,
// whose fragments are the smallest, leave them the registers for that.
//
// A stage of a 128 x 128 tile brings 16 KiB from L2 for 2^19 multiply-adds. By mma.sync a Hopper's multiprocessor makes
// them in some 400 cycles if numbers have 16 bits, and L2 gives it about 28 bytes a cycle when all of them ask: 570
// cycles. With 256 x 128, 24 KiB for twice as many, the two are even. An A100 multiplies half as fast, and its L2 gives
// as much.
template <class T>
using LargeTile = Shape<128, 128, 64, sizeof(T) == 2 ? 64 : 32>;
// Fragments of 32-bit numbers across the reduction are read word by word, and the addresses take registers too.
template <class T>
using LargeWeightTile = std::conditional_t<sizeof(T) == 4, Shape<128, 128, 32, 64>, LargeTile<T>>;
using SmallTile = Shape<64, 64, 32, 32>;

// Those that forward and grad_input choose from, and those of the weight gradient.
template <class Arithmetic>
struct Tiles {
  using Large = LargeTile<typename Arithmetic::Element>;
  using Largest = std::conditional_t<sizeof(typename Arithmetic::Element) == 2, Shape<256, 128, 64, 64>, Large>;
  using Narrow = Shape<128, 64, std::is_same_v<Arithmetic, Split> ? 32 : 64, 32>;
  using Small = SmallTile;
  using LargeWeight = LargeWeightTile<typename Arithmetic::Element>;
  using SmallWeight = SmallTile;
};
template <class T>
struct Tiles<Warpgroup<T>> {
  using Large = WarpgroupShape<256>;
  using Largest = Large;
  using Narrow = WarpgroupShape<128>;
  using Small = WarpgroupShape<64>;
  using LargeWeight = WarpgroupShape<128>;
  using SmallWeight = WarpgroupShape<128>;
};

template <class Arithmetic, class Shape, class T>
void launch_convolve(Convolution<T> cv, int64_t pixels, bool in_planes, const Operands& o) {
  cv.row_tiles = ceil_div(pixels, Shape::kRows);
  cv.column_tiles = int(ceil_div(cv.outputs, Shape::kColumns));
  cv.tiles = cv.phases * cv.row_tiles * cv.G * cv.column_tiles;
  const Grid grid = {cv.tiles, dim3(Shape::kThreads), size_t(Shape::kSharedBytes)};
  const auto kernel =
      in_planes ? convolve<Arithmetic, Shape, PixelsLoader> : convolve<Arithmetic, Shape, ChannelsLoader>;
  launch("convolve_tensorcore", kernel, grid, o.stream, cv);
}

// What a kernel is told of forward, or of grad_input with x and y in each other's place. `in_planes`: see PixelsLoader;
// `stores_sums`: see Convolution.
template <class T>
Convolution<T> convolution_of(const ConvProblem& pb, const Operands& o, bool is_grad_input, const Packed<T>& image,
                              const Packed<T>& weight, bool in_planes = false, bool stores_sums = false) {
  constexpr int64_t kElements = kChunk / sizeof(T);
  const View &from = is_grad_input ? o.y : o.x, &to = is_grad_input ? o.x : o.y;
  const int64_t inputs = is_grad_input ? pb.outputs_per_group() : pb.channels_per_group();
  const int64_t outputs = is_grad_input ? pb.channels_per_group() : pb.outputs_per_group();
  const int64_t out_h = is_grad_input ? pb.H : pb.P, out_w = is_grad_input ? pb.W : pb.Q;
  Convolution<T> cv = {};
  cv.input = image.data, cv.input_n = image.n, cv.input_group = image.group;
  cv.input_c = in_planes ? from.strides.c : 1;
  cv.input_h = int(image.h), cv.input_w = int(image.w);
  cv.weight = weight.data, cv.weight_output = int(weight.n), cv.weight_group = weight.group;
  cv.weight_c = 1, cv.weight_r = int(weight.h), cv.weight_s = int(weight.w);
  cv.bias = static_cast<const T*>(o.bias), cv.bias_stride = o.bias_stride;
  cv.output = to.data, cv.output_strides = to.strides;
  cv.N = int(pb.N), cv.G = int(pb.G), cv.outputs = int(outputs);
  cv.channels = int(inputs), cv.inputs = weight.channels;
  cv.rows = pb.rows(), cv.columns = pb.columns();
  cv.in_h = int(is_grad_input ? pb.P : pb.H), cv.in_w = int(is_grad_input ? pb.Q : pb.W);
  cv.is_grad_input = is_grad_input;
  const int64_t phases_down = is_grad_input ? std::min(pb.stride_h, pb.H) : 1;
  cv.phases_across = int(is_grad_input ? std::min(pb.stride_w, pb.W) : 1);
  cv.phases = int(phases_down) * cv.phases_across;

  const Strides& s = to.strides;
  const bool aligned = reinterpret_cast<uintptr_t>(to.data) % kChunk == 0 && !stores_sums;
  cv.stores_sums = stores_sums;
  const auto whole = [&](int64_t stride, int64_t count) { return count == 1 || stride % kElements == 0; };
  cv.stores_channels =
      aligned && s.c == 1 && outputs % kElements == 0 && whole(s.n, pb.N) && whole(s.h, out_h) && whole(s.w, out_w);
  cv.stores_pixels = !cv.stores_channels && !in_planes && aligned && cv.phases == 1 && s.w == 1 && s.h == out_w &&
                     out_h * out_w % kElements == 0 && whole(s.n, pb.N) && whole(s.c, outputs * pb.G);
  cv.rows_apart = in_planes || !(cv.stores_channels || cv.stores_pixels);
  return cv;
}

// Pixels of all images in the phase that has the most.
template <class T>
int64_t largest_phase(const Convolution<T>& cv) {
  const auto count = [&](const Axis& axis, int64_t phases) {
    return ceil_div(cv.is_grad_input ? axis.in : axis.out, phases);
  };
  return cv.N * count(cv.rows, cv.phases / cv.phases_across) * count(cv.columns, cv.phases_across);
}

// forward, and grad_input of zero padding with x and y in each other's place. `stores_sums`: see Convolution.
template <class Arithmetic>
void run_convolve(const ConvProblem& pb, const Operands& o, bool is_grad_input, bool stores_sums = false) {
  using T = typename Arithmetic::Element;
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const View& from = is_grad_input ? o.y : o.x;
  const int64_t inputs = is_grad_input ? Kg : Cg, outputs = is_grad_input ? Cg : Kg;
  const int64_t in_h = is_grad_input ? pb.P : pb.H, in_w = is_grad_input ? pb.Q : pb.W;

  const Strides& f = from.strides;
  const bool in_planes = pb.is_pointwise() && pb.is_unit_stride() && pb.P == pb.H && pb.Q == pb.W && f.c != 1 &&
                         has_whole_planes<T>(from, pb.N, inputs * pb.G, in_h, in_w);
  const Packed<T> image =
      in_planes ? Packed<T>{static_cast<const T*>(from.data), f.n, inputs * f.c, f.h, 1, int(inputs)}
                : channels_together<T>(from.data, f, inputs * f.c, pb.N, pb.G, inputs, in_h, in_w, false, o);
  // [output][tap][input]: for grad_input, outputs and inputs of the weight are in each other's place.
  const Strides &w = o.w.strides, turned = {w.c, w.n, w.h, w.w};
  const Packed<T> weight =
      channels_together<T>(o.w.data, is_grad_input ? turned : w, Kg * w.n, outputs, pb.G, inputs, pb.R, pb.S, true, o);

  const Convolution<T> cv = convolution_of<T>(pb, o, is_grad_input, image, weight, in_planes, stores_sums);

  // Smaller tiles where there are too few of the larger for all multiprocessors, or too few outputs. The largest has a
  // multiprocessor to itself, so nothing is multiplied while it begins and ends: it takes many stages to be worth it.
  constexpr int64_t kManyStages = 16;
  using Largest = typename Tiles<Arithmetic>::Largest;
  using Large = typename Tiles<Arithmetic>::Large;
  using Narrow = typename Tiles<Arithmetic>::Narrow;
  using Small = typename Tiles<Arithmetic>::Small;
  const int64_t pixels = largest_phase(cv);
  const auto fills = [&](int64_t rows, int64_t columns) {
    return cv.phases * cv.G * ceil_div(pixels, rows) * ceil_div(outputs, columns) >= current_device().multiprocessors;
  };
  const int64_t stages = ceil_div(pb.R * pb.S * cv.inputs / cv.phases, kStageBytes / int64_t(sizeof(T)));
  if (!std::is_same_v<Largest, Large> && outputs > Narrow::kColumns && stages >= kManyStages &&
      fills(Largest::kRows, Largest::kColumns))
    launch_convolve<Arithmetic, Largest>(cv, pixels, in_planes, o);
  else if (outputs > Narrow::kColumns && fills(Large::kRows, Large::kColumns))
    launch_convolve<Arithmetic, Large>(cv, pixels, in_planes, o);
  else if ((outputs > Small::kColumns || Narrow::kColumns == Small::kColumns) && fills(Narrow::kRows, Narrow::kColumns))
    launch_convolve<Arithmetic, Narrow>(cv, pixels, in_planes, o);
  else
    launch_convolve<Arithmetic, Small>(cv, pixels, in_planes, o);
}

// grad_input of the other padding modes: of the padded image, in the workspace, and then folded.
template <class Arithmetic>
void run_folded(const ConvProblem& pb, const Operands& o) {
  using T = typename Arithmetic::Element;
  using Sum = typename Arithmetic::Sum;
  const ConvProblem padded = padded_problem(pb);
  Operands inner = o;
  inner.bias = nullptr;
  inner.x.data = o.workspace->allocate(pb.N * padded.H * padded.W * pb.C * sizeof(Sum));
  inner.x.strides = {padded.H * padded.W * pb.C, 1, padded.W * pb.C, pb.C};
  run_convolve<Arithmetic>(padded, inner, true, /*stores_sums=*/true);
  launch("fold_padding", fold_padding<T, Sum>, one_thread_each(pb.N * pb.C * pb.H * pb.W), o.stream, pb, Tensors<T>{o},
         static_cast<const Sum*>(inner.x.data), inner.x.strides, padded.H, padded.W);
}

// The splits' sums take at most this much of the workspace, and each has a few stages at least.
constexpr int64_t kMostPartialBytes = int64_t(64) << 20, kFewestStages = 4;

template <class Arithmetic, class W>
void launch_add_splits(const W& wg, const Operands& o) {
  const int64_t items = kAddThreads / add_groups(wg.splits), threads = wg.partial_size() / added_inputs(wg.inputs);
  launch("add_splits", add_splits<Arithmetic>,
         {ceil_div(threads, items), dim3(kAddThreads), kAddThreads * kAddedInputs * sizeof(typename Arithmetic::Sum)},
         o.stream, wg);
}

template <class Arithmetic, class Shape, class W>
void launch_weight_gradient(W wg, const Operands& o) {
  using Sum = typename Arithmetic::Sum;
  constexpr int kDepth = kStageBytes / sizeof(typename Arithmetic::Element);
  wg.row_tiles = int(ceil_div(wg.outputs, Shape::kRows)), wg.column_tiles = int(ceil_div(wg.inputs, Shape::kColumns));
  const int64_t taps = wg.rows.kernel * wg.columns.kernel, weights = wg.G * taps * wg.outputs * wg.inputs;
  const int64_t tiles = wg.G * taps * wg.row_tiles * wg.column_tiles;
  const int64_t stages = ceil_div(wg.N * wg.rows.out * wg.columns.out, kDepth);
  // Four blocks to a multiprocessor: two at a time, and no long wait for the last.
  const int64_t wanted = ceil_div(4 * current_device().multiprocessors, tiles);
  const int64_t most = std::min(stages / kFewestStages, kMostPartialBytes / (weights * int64_t(sizeof(Sum))));
  // And at most 2^30 pixels, which a thread counts in 32 bits.
  wg.splits = int(std::max(stages * kDepth / (int64_t(1) << 30) + 1, std::min(wanted, most)));
  wg.partial = static_cast<Sum*>(o.workspace->allocate(wg.splits * weights * sizeof(Sum)));
  launch("grad_weight_tensorcore", weight_gradient<Arithmetic, Shape>,
         {wg.splits * tiles, dim3(Shape::kThreads), size_t(Shape::kSharedBytes)}, o.stream, wg);
  launch_add_splits<Arithmetic>(wg, o);
}

template <class T, class Sum>
WeightGradient<T, Sum> weight_gradient_of(const ConvProblem& pb, const Operands& o, const Packed<T>& x,
                                          const Packed<T>& y) {
  WeightGradient<T, Sum> wg = {};
  wg.x = x.data, wg.x_n = x.n, wg.x_group = x.group, wg.x_h = int(x.h), wg.x_w = int(x.w);
  wg.y = y.data, wg.y_n = y.n, wg.y_group = y.group, wg.y_h = int(y.h), wg.y_w = int(y.w);
  wg.x_channels = x.channels, wg.y_channels = y.channels;
  wg.w = static_cast<T*>(o.w.data), wg.w_strides = o.w.strides;
  wg.N = pb.N, wg.G = int(pb.G), wg.inputs = int(pb.channels_per_group()), wg.outputs = int(pb.outputs_per_group());
  wg.rows = pb.rows(), wg.columns = pb.columns();
  return wg;
}

template <class Arithmetic>
void run_weight_gradient(const ConvProblem& pb, const Operands& o) {
  using T = typename Arithmetic::Element;
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const Packed<T> x =
      channels_together<T>(o.x.data, o.x.strides, Cg * o.x.strides.c, pb.N, pb.G, Cg, pb.H, pb.W, false, o);
  const Packed<T> y =
      channels_together<T>(o.y.data, o.y.strides, Kg * o.y.strides.c, pb.N, pb.G, Kg, pb.P, pb.Q, false, o);
  const auto wg = weight_gradient_of<T, typename Arithmetic::Sum>(pb, o, x, y);
  if (Cg > SmallTile::kColumns && Kg > SmallTile::kRows)
    launch_weight_gradient<Arithmetic, typename Tiles<Arithmetic>::LargeWeight>(wg, o);
  else
    launch_weight_gradient<Arithmetic, typename Tiles<Arithmetic>::SmallWeight>(wg, o);
}

// The three primitives with one arithmetic.
template <class Arithmetic>
void run(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  if (primitive == Primitive::grad_weight)
    run_weight_gradient<Arithmetic>(pb, o);
  else if (primitive == Primitive::grad_input && !pb.is_zero_padded())
    run_folded<Arithmetic>(pb, o);
  else
    run_convolve<Arithmetic>(pb, o, primitive == Primitive::grad_input);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
