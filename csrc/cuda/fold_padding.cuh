// The end of grad_input where the padding is not zeros: the gradient of the padded image, summed back onto the image.
//
// Each padded position is a copy of some input, so the input's gradient is the sum of its copies' (Axis::preimage):
// itself, and near an edge up to two reflected or wrapped rows and columns, or a whole run of replicated ones. In this
// form every kernel for zero padding serves the other padding modes too. The padded gradient is kept in the type that
// sums are made in, so that a 16-bit result is rounded once.
//
// Limit: bytes, one read of the padded gradient and one write of the image. One thread to an input, copies in one
// order.
#pragma once
#include "tensors.cuh"
#include "window.cuh"

namespace convx {
namespace cuda {

// Run j of 0..2 of the positions that are copies of input i, as in Axis::preimage, which may leave runs out and so
// needs an array; those are empty here.
CONVX_HD inline Run copies_of(const Axis& a, int64_t i, int j) {
  const Run none = {0, -1};
  if (j == 0) {
    if (a.mode != PaddingMode::replicate) return {i, i};
    const int64_t highest = a.virtual_position(a.out - 1, a.kernel - 1);
    return {i == 0 ? -a.pad : i, i == a.in - 1 && highest > i ? highest : i};
  }
  if (a.mode == PaddingMode::circular) {
    const int64_t v = j == 1 ? i - a.in : i + a.in;
    return {v, v};
  }
  if (a.mode != PaddingMode::reflect || i == (j == 1 ? 0 : a.in - 1)) return none;
  const int64_t v = j == 1 ? -i : 2 * (a.in - 1) - i;
  return {v, v};
}

template <class T>
__global__ void fold_padding(ConvProblem pb, Tensors<T> t, const typename Compute<T>::type* padded, Strides strides) {
  using Acc = typename Compute<T>::type;
  const Axis rows = pb.rows(), columns = pb.columns();
  const bool channels_last = t.o.x.strides.c == 1 && t.o.x.strides.w != 1;
  const int64_t count = pb.N * pb.C * pb.H * pb.W;
  for (int64_t item = first_item(); item < count; item += items_step()) {
    int64_t c, h, w, n;
    if (channels_last) {
      c = item % pb.C, w = item / pb.C % pb.W, h = item / pb.C / pb.W % pb.H, n = item / pb.C / pb.W / pb.H;
    } else {
      w = item % pb.W, h = item / pb.W % pb.H, c = item / pb.W / pb.H % pb.C, n = item / pb.W / pb.H / pb.C;
    }
    const int64_t last_row = rows.virtual_position(pb.P - 1, pb.R - 1);
    const int64_t last_column = columns.virtual_position(pb.Q - 1, pb.S - 1);
    Acc sum(0);
    for (int i = 0; i < 3; ++i) {
      const Run copies_h = copies_of(rows, h, i);
      for (int64_t v = copies_h.first; v <= copies_h.last; ++v) {
        if (v < -pb.pad_h || v > last_row) continue;
        for (int j = 0; j < 3; ++j) {
          const Run copies_w = copies_of(columns, w, j);
          for (int64_t u = copies_w.first; u <= copies_w.last; ++u)
            if (u >= -pb.pad_w && u <= last_column) sum += padded[strides(n, c, v + pb.pad_h, u + pb.pad_w)];
        }
      }
    }
    const Acc bias = t.o.bias ? Acc(static_cast<const T*>(t.o.bias)[c * t.o.bias_stride]) : Acc(0);
    t.x(n, c, h, w) = T(sum + bias);
  }
}

// The image with its padding as a problem of its own: zero-padded by nothing, up to the last position that is read.
inline ConvProblem with_padding_inside(const ConvProblem& pb) {
  ConvProblem padded = pb;
  padded.padding_mode = PaddingMode::zeros;
  padded.pad_h = padded.pad_w = 0;
  padded.H = pb.pad_h + pb.rows().virtual_position(pb.P - 1, pb.R - 1) + 1;
  padded.W = pb.pad_w + pb.columns().virtual_position(pb.Q - 1, pb.S - 1) + 1;
  return padded;
}

}  // namespace cuda
}  // namespace convx
