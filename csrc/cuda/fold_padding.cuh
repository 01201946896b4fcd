// grad_input where the padding repeats the input (reflect, replicate, circular): an element of x is read at several
// places of the padded axes, and its gradient is the sum of theirs. So the gradient of a padded x, which is a problem
// without padding, is computed first, unrounded, by whatever kernel the caller has, and then folded onto x.
//
// A thread to an element of x, its terms in the order of their places; each is read once. Cost: the padded gradient is
// written and read once, 8 bytes an element beside R * S * K multiply-adds. Memory: the padded gradient.
#pragma once
#include "launch.h"
#include "tensors.cuh"

namespace convx {
namespace cuda {

// The problem whose x is the padded one, as far as taps read it or the input goes.
inline ConvProblem padded_problem(const ConvProblem& pb) {
  const auto size = [](const Axis& a) {
    const int64_t end = a.virtual_position(a.out - 1, a.kernel - 1) + 1;
    return a.pad + (end > a.in ? end : a.in);
  };
  ConvProblem padded = pb;
  padded.H = size(pb.rows()), padded.W = size(pb.columns());
  padded.pad_h = padded.pad_w = 0;
  padded.padding_mode = PaddingMode::zeros;
  return padded;
}

// x[n,c,h,w] = bias[c] + sum of the padded gradient over the places that read (h,w). Sum is what it was summed in.
template <class T, class Sum>
__global__ void fold_padding(ConvProblem pb, Tensors<T> t, const Sum* padded, Strides strides, int64_t padded_h,
                             int64_t padded_w) {
  const Axis rows = pb.rows(), columns = pb.columns();
  const int64_t count = pb.N * pb.C * pb.H * pb.W;
  for (int64_t i = first_item(); i < count; i += items_step()) {
    const int64_t w = i % pb.W, h = i / pb.W % pb.H, c = i / pb.W / pb.H % pb.C, n = i / pb.W / pb.H / pb.C;
    Run copies_h[3], copies_w[3];
    const int count_h = rows.preimage(h, copies_h), count_w = columns.preimage(w, copies_w);
    Sum sum(0);
    for (int a = 0; a < count_h; ++a)
      for (int64_t v = copies_h[a].first; v <= copies_h[a].last; ++v) {
        if (v + pb.pad_h < 0 || v + pb.pad_h >= padded_h) continue;
        for (int b = 0; b < count_w; ++b)
          for (int64_t u = copies_w[b].first; u <= copies_w[b].last; ++u)
            if (u + pb.pad_w >= 0 && u + pb.pad_w < padded_w) sum += padded[strides(n, c, v + pb.pad_h, u + pb.pad_w)];
      }
    t.x(n, c, h, w) = T(sum + Sum(t.bias(c)));
  }
}

}  // namespace cuda
}  // namespace convx
