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

// Run j of 0..2 of the positions that are copies of input i, as in Axis::preimage, which leaves runs out and so needs
// an array, in local memory; those are empty here.
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

// x[n,c,h,w] = bias[c] + sum of the padded gradient over the places that read (h,w). Sum is what it was summed in.
template <class T, class Sum>
__global__ void fold_padding(ConvProblem pb, Tensors<T> t, const Sum* padded, Strides strides, int64_t padded_h,
                             int64_t padded_w) {
  const Axis rows = pb.rows(), columns = pb.columns();
  const bool channels_last = t.o.x.strides.c == 1 && t.o.x.strides.w != 1;
  const int64_t count = pb.N * pb.C * pb.H * pb.W;
  for (int64_t i = first_item(); i < count; i += items_step()) {
    // neighbours in memory to neighbouring threads
    const int64_t inner = channels_last ? pb.C : pb.W, middle = channels_last ? pb.W : pb.H;
    const int64_t a = i % inner, b = i / inner % middle, d = i / inner / middle % (channels_last ? pb.H : pb.C);
    const int64_t c = channels_last ? a : d, h = channels_last ? d : b, w = channels_last ? b : a;
    const int64_t n = i / pb.C / pb.H / pb.W;
    Sum sum(0);
    for (int j = 0; j < 3; ++j) {
      const Run copies_h = copies_of(rows, h, j);
      for (int64_t v = copies_h.first; v <= copies_h.last; ++v) {
        if (v + pb.pad_h < 0 || v + pb.pad_h >= padded_h) continue;
        for (int k = 0; k < 3; ++k) {
          const Run copies_w = copies_of(columns, w, k);
          for (int64_t u = copies_w.first; u <= copies_w.last; ++u)
            if (u + pb.pad_w >= 0 && u + pb.pad_w < padded_w) sum += padded[strides(n, c, v + pb.pad_h, u + pb.pad_w)];
        }
      }
    }
    t.x(n, c, h, w) = T(sum + Sum(t.bias(c)));
  }
}

}  // namespace cuda
}  // namespace convx
