// The last step of grad_input for padding modes other than zeros: the gradient of the padded image, whose padding is
// copies of the image, is folded back onto it. Each thread gathers the copies of its own element, in a fixed order.
//
// Limit: memory; the padded image is read once and the result written once.
#pragma once
#include "launch.h"
#include "tensors.cuh"

namespace convx {
namespace cuda {

// The positions of an axis with its padding, from -pad to the last one that is part of the image or read by a tap.
CONVX_HD inline int64_t padded_size(const Axis& a) {
  const int64_t highest = a.virtual_position(a.out - 1, a.kernel - 1);
  return (highest > a.in - 1 ? highest : a.in - 1) + a.pad + 1;
}

// The problem whose input is the padded image itself.
inline ConvProblem padded_problem(const ConvProblem& pb) {
  ConvProblem padded = pb;
  padded.H = padded_size(pb.rows()), padded.W = padded_size(pb.columns());
  padded.pad_h = padded.pad_w = 0;
  padded.padding_mode = PaddingMode::zeros;
  return padded;
}

// x[n,c,h,w] = bias[c] + the sum of padded[n][h'][w'][c] over all h', w' that are copies of it. `padded` is contiguous.
template <class T, class Sum>
__global__ void fold(ConvProblem pb, Tensors<T> t, const Sum* padded) {
  const Axis rows = pb.rows(), columns = pb.columns();
  const int64_t padded_h = padded_size(rows), padded_w = padded_size(columns);
  const bool channels_last = t.o.x.strides.c == 1;
  const int64_t count = pb.N * pb.C * pb.H * pb.W;
  for (int64_t i = first_item(); i < count; i += items_step()) {
    const int64_t plane = pb.H * pb.W, n = i / plane / pb.C;
    const int64_t c = channels_last ? i % pb.C : i / plane % pb.C;
    const int64_t pixel = channels_last ? i / pb.C % plane : i % plane;
    const int64_t h = pixel / pb.W, w = pixel % pb.W;
    Run copies_h[3], copies_w[3];
    const int count_h = rows.preimage(h, copies_h), count_w = columns.preimage(w, copies_w);
    Sum sum = 0;
    for (int a = 0; a < count_h; ++a)
      for (int64_t v = copies_h[a].first; v <= copies_h[a].last; ++v)
        for (int b = 0; b < count_w; ++b)
          for (int64_t u = copies_w[b].first; u <= copies_w[b].last; ++u) {
            const int64_t at_h = v + rows.pad, at_w = u + columns.pad;
            if (at_h >= 0 && at_h < padded_h && at_w >= 0 && at_w < padded_w)
              sum += padded[((n * padded_h + at_h) * padded_w + at_w) * pb.C + c];
          }
    t.x(n, c, h, w) = T(sum + Sum(t.bias(c)));
  }
}

}  // namespace cuda
}  // namespace convx
