// First layers as a product of matrices with nothing wasted. An image of one to four channels leaves a chunk of eight
// numbers, what the tensor-core kernels gather at once, mostly empty; but the taps of a filter row read neighbours. So
// what they read for a result, S * C numbers (21 for 7x7 and three channels), becomes the channels of another image:
//
//   windows[n, h, q, (s, c)] = x[n, c, h, q * stride - pad + s * dilation]
//
// Convolved with filters of R x 1 taps over these channels it gives the same result, at 24 numbers of 21 that are
// needed where eight of three were. (Cho and Brand, "MEC: Memory-efficient Convolution for Deep Neural Network",
// arXiv:1706.06873, lower an image so, R times less than im2col would.) The padding of columns is in the windows, of
// any mode.
//
// A zero of the padding times an infinite weight is NaN, where a skipped tap is nothing at all: NaN results that read
// padding are computed again, by the definition.
//
// Chosen where patch_windows.cuh, which reads windows from a patch and writes none, has too much to copy: large
// strides.
//
// Limit: memory. The windows are written and read once, 24 numbers for each pixel of 112 x 224 in a ResNet's first
// layer, where its result has 64 for each of 112 x 112.
#pragma once
#include "reference.cuh"
#include "row_windows_gather.cuh"

namespace convx {
namespace cuda {

// The filters over windows: [k][r][size], a thread to a number.
template <class T>
__global__ void gather_filters(ConvProblem pb, Tensors<T> t, T* filters, int size) {
  const int C = int(pb.C), used = int(pb.S) * C;
  for (int64_t i = first_item(); i < pb.K * pb.R * size; i += items_step()) {
    const int e = int(i % size);
    filters[i] = e < used ? t.w(i / size / pb.R, e % C, i / size % pb.R, e / C) : T(0);
  }
}

// Goes over the results in the `count` columns that read zero padding, the first `before` of a line and the last; a
// line of results to a block.
template <class T>
__global__ void correct_borders(ConvProblem pb, Tensors<T> t, int before, int count) {
  for (int64_t line = blockIdx.x; line < pb.N * pb.P; line += gridDim.x)
    for (int64_t i = threadIdx.x; i < pb.K * count; i += blockDim.x) {
      const int64_t n = line / pb.P, p = line - n * pb.P, border = i / pb.K, k = i - border * pb.K;
      const int64_t q = border < before ? border : pb.Q - count + border;
      T& result = t.y(n, k, p, q);
      const auto value = widen(result);
      if (value == value) continue;
      result = narrow<T>(forward_sum<typename Tensors<T>::Acc>(pb, t, 0, pb.C, n, k, p, q) + t.bias(k));
    }
}

// A weight's gradient from that of the filters; a warp to a weight. One that is NaN may be so by a zero of the padding
// times an infinite y, and is summed again without them, by the warp's lanes in turns and in a fixed order.
template <class T>
__global__ void scatter_filters(ConvProblem pb, Tensors<T> t, const T* filters, int size) {
  const Axis rows = pb.rows(), columns = pb.columns();
  const int lane = int(threadIdx.x) % 32;
  for (int64_t i = first_item() / 32; i < pb.K * pb.C * pb.R * pb.S; i += items_step() / 32) {
    const int64_t c = i % pb.C, s = i / pb.C % pb.S, r = i / pb.C / pb.S % pb.R, k = i / pb.C / pb.S / pb.R;
    T result = filters[(k * pb.R + r) * size + s * pb.C + c];
    const auto value = widen(result);
    const Run inside = columns.outputs_inside(s);
    const bool may_be_wrong = columns.mode == PaddingMode::zeros && inside.last - inside.first + 1 < pb.Q;
    if (value != value && may_be_wrong) {
      typename Tensors<T>::Acc sum{};
      for (int64_t pixel = lane; pixel < pb.N * pb.P * pb.Q; pixel += 32) {
        const int64_t q = pixel % pb.Q, p = pixel / pb.Q % pb.P, n = pixel / pb.Q / pb.P;
        const int64_t h = rows.source(rows.virtual_position(p, r)), w = columns.source(columns.virtual_position(q, s));
        if (h >= 0 && w >= 0) sum += widen(t.y(n, k, p, q)) * widen(t.x(n, c, h, w));
      }
      for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
      result = narrow<T>(sum);
    }
    if (lane == 0) t.w(k, c, r, s) = result;
  }
}

}  // namespace cuda
}  // namespace convx
