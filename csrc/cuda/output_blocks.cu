// The row `output_blocks`: output_blocks.cuh around the tensor-core kernels.
#include <algorithm>

#include "output_blocks_scatter.cuh"
#include "rows.h"
#include "types.h"
#include "window_launch.h"

namespace convx {
namespace cuda {
namespace output_blocks {
namespace {

constexpr int kTile = 64;  // columns of the smallest tile of a tensor-core kernel

OutputBlocks blocks_of(const ConvProblem& pb, bool is_grad_input, int down, int across) {
  return {BlockedAxis::of(pb.rows(), is_grad_input, down), BlockedAxis::of(pb.columns(), is_grad_input, across),
          int(is_grad_input ? pb.K : pb.C), int(is_grad_input ? pb.C : pb.K)};
}

// Multiply-adds of whole tiles for each result pixel and input channel.
double work(const OutputBlocks& b) {
  const int columns = (b.channels() + kTile - 1) / kTile * kTile;
  return double(columns) * b.rows.taps * b.columns.taps / (double(b.rows.block) * b.columns.block);
}

// The blocks that waste the least, of some 64 channels; for grad_input multiples of the stride.
OutputBlocks best_blocks(const ConvProblem& pb, bool is_grad_input) {
  const int unit_h = is_grad_input ? int(pb.stride_h) : 1, unit_w = is_grad_input ? int(pb.stride_w) : 1;
  OutputBlocks best = blocks_of(pb, is_grad_input, unit_h, unit_w);
  for (int down = 1; down <= 8; down *= 2)
    for (int across = 1; across <= 8; across *= 2) {
      const OutputBlocks trial = blocks_of(pb, is_grad_input, down * unit_h, across * unit_w);
      if (trial.channels() <= 2 * kTile && work(trial) < work(best)) best = trial;
    }
  return best;
}

// The problem whose results are blocks. Beyond the last whole block it reads further than the original does; what it
// reads there is used by no result that exists.
ConvProblem blocks_problem(const ConvProblem& pb, const OutputBlocks& b) {
  const bool is_grad_input = b.rows.is_grad_input;
  ConvProblem inner = pb;
  inner.C = b.inputs, inner.K = b.channels();
  inner.H = is_grad_input ? pb.P : pb.H, inner.W = is_grad_input ? pb.Q : pb.W;
  inner.R = b.rows.taps, inner.S = b.columns.taps;
  inner.P = ((is_grad_input ? pb.H : pb.P) + b.rows.block - 1) / b.rows.block;
  inner.Q = ((is_grad_input ? pb.W : pb.Q) + b.columns.block - 1) / b.columns.block;
  inner.stride_h = b.rows.stride, inner.stride_w = b.columns.stride;
  inner.pad_h = b.rows.pad, inner.pad_w = b.columns.pad;
  return inner;
}

bool is_split(const Operands& o) { return o.dtype == DType::float32 && !o.allow_tf32; }

bool is_copied(const ConvProblem& pb, const Operands& o) {
  return !is_split(o) && !tensorcore::forward_why_not_copied(pb, o) && pb.C % kTile == 0;
}

void run_inner(const ConvProblem& pb, const Operands& o) {
  if (is_split(o)) return tensorcore::forward_split(pb, o);
  is_copied(pb, o) ? tensorcore::forward_copied(pb, o) : tensorcore::forward(pb, o);
}

// Whether all blocks are whole and of single results, and their channels lie together in whole chunks: then the product
// can store them where they belong.
bool stores_in_place(const ConvProblem& pb, const OutputBlocks& b, const Strides& x) {
  constexpr int64_t kChunk = 8;  // elements of 16 bits
  const auto whole = [](int64_t stride) { return stride % kChunk == 0; };
  return b.rows.is_grad_input && is_patches(pb) && b.rows.block == pb.R && b.columns.block == pb.S && x.c == 1 &&
         whole(pb.C) && whole(x.h) && whole(x.w);
}

Operands inner_operands(const ConvProblem& inner, const Operands& o, bool is_grad_input) {
  Operands operands = o;
  operands.x = is_grad_input ? o.y : o.x;
  operands.y.strides = {inner.P * inner.Q * inner.K, 1, inner.Q * inner.K, inner.K};
  operands.w.strides = {inner.R * inner.S * inner.C, 1, inner.S * inner.C, inner.C};
  operands.bias_stride = 1;
  return operands;
}

template <class T>
void run_of(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  const OutputBlocks blocks = best_blocks(pb, is_grad_input);
  const ConvProblem inner = blocks_problem(pb, blocks);
  Operands operands = inner_operands(inner, o, is_grad_input);
  const int64_t filters = inner.K * inner.R * inner.S * inner.C;
  operands.w.data = o.workspace->allocate(filters * sizeof(T));
  const Strides& x = o.x.strides;
  const bool in_place = stores_in_place(pb, blocks, x) && is_copied(inner, operands);
  if (in_place)
    operands.y = {o.x.data, {x.n, 1, x.h * pb.R, x.w * pb.S}};
  else
    operands.y.data = o.workspace->allocate(inner.N * inner.P * inner.Q * inner.K * sizeof(T));
  T* const bias = o.bias ? static_cast<T*>(o.workspace->allocate(inner.K * sizeof(T))) : nullptr;
  operands.bias = bias;
  launch("gather_block_filters", gather_block_filters<T>, one_thread_each(filters), o.stream, blocks, Tensors<T>{o},
         static_cast<T*>(operands.w.data), bias);
  if (in_place)
    return tensorcore::forward_copied_in_blocks(inner, operands, {true, Divider(pb.C), Divider(pb.S), x.h, x.w, 1});
  run_inner(inner, operands);
  const int64_t height = is_grad_input ? pb.H : pb.P, width = is_grad_input ? pb.W : pb.Q;
  const Strides& to = is_grad_input ? o.x.strides : o.y.strides;
  const BlockRows rows = BlockRows::of<T>(blocks, to, int(height), int(width), int(inner.P), int(inner.Q));
  launch("scatter_blocks", scatter_blocks<T>,
         {pb.N * rows.down * rows.parts, dim3(kScatterThreads), rows.shared_bytes(sizeof(T))}, o.stream, pb, blocks,
         Tensors<T>{o}, rows, static_cast<const T*>(operands.y.data));
}

void run(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  with_floating_type(o.dtype, [&](auto t) { run_of<decltype(t)>(pb, o, is_grad_input); });
}

const char* why_not(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  if (o.dtype == DType::int64) return "int64 is for the CPU only";
  if (is_empty(pb)) return "a tensor is empty";
  if (pb.G > 1 || pb.is_dilated() || !pb.is_zero_padded()) return "it is for one group, no dilation and zero padding";
  constexpr int64_t kMost = 1 << 15;
  for (const int64_t size : {pb.C, pb.K, pb.R, pb.S, pb.stride_h, pb.stride_w, pb.pad_h, pb.pad_w})
    if (size > kMost) return "a size is larger than 2^15";
  for (const int64_t size : {pb.H, pb.W, pb.P, pb.Q})
    if (size > kMost) return "a size is larger than 2^15";
  const OutputBlocks blocks = best_blocks(pb, is_grad_input);
  if (int64_t(blocks.channels()) * blocks.rows.taps * blocks.columns.taps > int64_t(1) << 24)
    return "its larger filters have more than 2^24 taps";
  const ConvProblem inner = blocks_problem(pb, blocks);
  const Operands operands = inner_operands(inner, o, is_grad_input);
  return is_split(o) ? tensorcore::why_not_split(inner, operands) : tensorcore::why_not(inner, operands);
}

// The stages that a multiprocessor multiplies one after the other, of `results` for an image, each a sum of so many
// numbers, in a batch of 16 on a GPU of 132: so long a layer takes at least, and long sums of few tiles take longer.
double stages(double results, double numbers) {
  constexpr double kBatch = 16, kMultiprocessors = 132, kTileRows = 128, kStage = 64;
  return std::max(1.0, kBatch * results / kTileRows / kMultiprocessors) * numbers / kStage;
}

// Where few channels are made of many, blocks save most of a tile, and their sums are not so long that one result after
// the other takes less; or, for 16-bit numbers, where kernel = stride and few channels are read: then y is read once,
// and not by each phase for a few stages. (On an H200 in float16, an image's 64 x 64 x 4 of 512 channels: 86 us, as one
// product 30; 64 images' 48 x 48 of 56, 9x9 by 2: 58 and 159.)
bool preferred(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  const int64_t inputs = is_grad_input ? pb.K : pb.C, outputs = is_grad_input ? pb.C : pb.K;
  const double needed = double(outputs) * pb.R * pb.S / double(is_grad_input ? pb.stride_h * pb.stride_w : 1);
  const bool is_16_bit = o.dtype == DType::float16 || o.dtype == DType::bfloat16;
  if (is_grad_input && is_16_bit && is_patches(pb) && pb.R * pb.S > 1)
    return inputs >= 32 && inputs <= 256 && outputs <= 64 && multiply_adds_of_image(pb) >= 1 << 24;
  const OutputBlocks blocks = best_blocks(pb, is_grad_input);
  const ConvProblem inner = blocks_problem(pb, blocks);
  const double pixels = is_grad_input ? double(pb.H) * pb.W : double(pb.P) * pb.Q;
  const double numbers = double(inner.R) * inner.S * inputs;
  constexpr double kShortSum = 4096;
  return outputs <= 8 && inputs >= 16 && inner.P * inner.Q >= 16 && work(blocks) <= 12 * needed &&
         (numbers <= kShortSum ||
          stages(double(inner.P) * inner.Q, numbers) <= stages(pixels, needed / double(outputs) * double(inputs)));
}

}  // namespace

const char* forward_why_not(const ConvProblem& pb, const Operands& o) { return why_not(pb, o, false); }
const char* grad_input_why_not(const ConvProblem& pb, const Operands& o) { return why_not(pb, o, true); }
bool forward_preferred(const ConvProblem& pb, const Operands& o) { return preferred(pb, o, false); }
bool grad_input_preferred(const ConvProblem& pb, const Operands& o) { return preferred(pb, o, true); }
void forward(const ConvProblem& pb, const Operands& o) { run(pb, o, false); }
void grad_input(const ConvProblem& pb, const Operands& o) { run(pb, o, true); }

}  // namespace output_blocks
}  // namespace cuda
}  // namespace convx
