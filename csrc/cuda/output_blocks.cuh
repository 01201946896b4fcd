// Last layers, and transposed layers that make few channels, as a product of matrices with less waste. Three output
// channels leave a tile of 64 columns nearly empty; but a block of neighbouring results reads nearly the same inputs.
// So a block of them, 4 x 4 pixels of three channels say, becomes 48 channels of one result of another convolution,
// with a larger filter, which holds each result's own taps and zeros beside them:
//
//   blocks[n, i, j, (b, d, o)] = result[n, o, i * block_h + b, j * block_w + d]
//
// For grad_input a block is a multiple of the stride, and the other convolution a forward one over y. (With blocks as
// large as the stride that is what Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
// Sub-Pixel Convolutional Neural Network", arXiv:1609.05158, do for layers; here it is a way to compute any.)
//
// A zero beside the taps times an infinity is NaN, where there is no tap at all: NaN results are computed again, by the
// definition.
//
// Where kernel = stride a block's results have one tap each and nothing is wasted; the product then stores them itself,
// if their channels lie together (column_blocks.h).
//
// Limit: memory, or the matrix rate divided by what the larger filter wastes: a 7x7 filter is 49 of 100 taps for blocks
// of 4 x 4.
#pragma once
#include "launch.h"
#include "tensors.cuh"

namespace convx {
namespace cuda {

// One axis: result i * block + b reads input i * stride - pad + t by tap t of the larger filter, if the smaller one has
// a tap there.
struct BlockedAxis {
  int block, stride, pad, taps;
  bool is_grad_input;
  int kernel, of_stride, of_pad;  // the original's

  static BlockedAxis of(const Axis& a, bool is_grad_input, int block) {
    const int kernel = int(a.kernel), stride = int(a.stride), pad = int(a.pad);
    if (!is_grad_input) return {block, block * stride, pad, (block - 1) * stride + kernel, false, kernel, stride, pad};
    // x[h] reads y[(h + pad - r) / stride], for h of the first block from `least` to `most`.
    const auto floor_div = [](int n, int d) { return n >= 0 ? n / d : -((d - 1 - n) / d); };
    const int least = floor_div(pad - (kernel - 1) + stride - 1, stride), most = floor_div(block - 1 + pad, stride);
    return {block, block / stride, -least, most - least + 1, true, kernel, stride, pad};
  }
  // The original tap of result b of a block at tap t, or -1.
  CONVX_HD int original(int b, int t) const {
    const int r = is_grad_input ? b + of_pad - (t - pad) * of_stride : t - b * of_stride;
    return r >= 0 && r < kernel ? r : -1;
  }
};

struct OutputBlocks {
  BlockedAxis rows, columns;
  int inputs, outputs;  // channels

  CONVX_HD int channels() const { return rows.block * columns.block * outputs; }
};

// The larger filters, [block's row][block's column][output][row tap][column tap][input], a thread to a number, and the
// bias for each of the block's channels.
template <class T>
__global__ void gather_block_filters(OutputBlocks blocks, Tensors<T> t, T* filters, T* bias) {
  const int64_t count = int64_t(blocks.channels()) * blocks.rows.taps * blocks.columns.taps * blocks.inputs;
  for (int64_t item = first_item(); item < count; item += items_step()) {
    int64_t rest = item;
    const auto digit = [&rest](int base) {
      const int d = int(rest % base);
      rest /= base;
      return d;
    };
    const int input = digit(blocks.inputs), tap_w = digit(blocks.columns.taps), tap_h = digit(blocks.rows.taps);
    const int channel = int(rest), output = digit(blocks.outputs), d = digit(blocks.columns.block), b = int(rest);
    const int r = blocks.rows.original(b, tap_h), s = blocks.columns.original(d, tap_w);
    const bool exists = r >= 0 && s >= 0;
    filters[item] = !exists ? T(0) : blocks.rows.is_grad_input ? t.w(input, output, r, s) : t.w(output, input, r, s);
    if (bias && input == 0 && tap_w == 0 && tap_h == 0)
      bias[channel] = static_cast<const T*>(t.o.bias)[output * t.o.bias_stride];
  }
}

// The definition of one result.
template <class T>
__device__ T block_result(const ConvProblem& pb, const OutputBlocks& blocks, const Tensors<T>& t, int64_t n, int output,
                          int64_t i, int64_t j) {
  const Axis rows = pb.rows(), columns = pb.columns();
  typename Tensors<T>::Acc sum{};
  for (int64_t r = 0; r < pb.R; ++r) {
    const int64_t a = blocks.rows.is_grad_input ? rows.output_reading(i, r) : rows.source(rows.virtual_position(i, r));
    if (a < 0) continue;
    for (int64_t s = 0; s < pb.S; ++s) {
      const int64_t b =
          blocks.rows.is_grad_input ? columns.output_reading(j, s) : columns.source(columns.virtual_position(j, s));
      if (b < 0) continue;
#pragma unroll 1  // it is rarely run, and should take no registers
      for (int input = 0; input < blocks.inputs; ++input)
        sum += blocks.rows.is_grad_input ? widen(t.w(input, output, r, s)) * widen(t.y(n, input, a, b))
                                         : widen(t.w(output, input, r, s)) * widen(t.x(n, input, a, b));
    }
  }
  return narrow<T>(sum + t.bias(output));
}

}  // namespace cuda
}  // namespace convx
