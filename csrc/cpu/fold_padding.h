// grad_input where the padding repeats the input (reflect, replicate, circular): an element of x is read at several
// places of the padded axis, and its gradient is the sum of theirs. So the gradient of a padded x is computed first, a
// few images at a time, by whatever kernel the caller has for zero padding, and then folded onto x.
//
// The sums of one element are added in the order of their places, whatever the threads. Memory: 16 MiB, or one image if
// that is more. Cost: the padded gradient is written and read once, 8 bytes an element beside R * S * K multiply-adds.
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Adds line [first virtual place .. ) of the padded axis onto `sums`, an element for each input element.
template <class T, class In>
void fold_line(T* sums, const In* line, const Axis& a, int64_t length) {
  const In* inside = line + a.pad;
  for (int64_t i = 0; i < a.in; ++i) sums[i] += T(inside[i]);
  for (int64_t v = -a.pad; v < 0; ++v) sums[a.source(v)] += T(inside[v]);
  for (int64_t v = a.in; v < length - a.pad; ++v) sums[a.source(v)] += T(inside[v]);
}

// How long the padded axis is: as far as any tap reads, and at least to the input's end.
inline int64_t padded_length(const Axis& a) {
  return larger(a.in, a.virtual_position(a.out - 1, a.kernel - 1) + 1) + a.pad;
}

// `with_zero_padding(problem, operands)` computes a gradient; false if it can't.
template <class T, class In, class Gradient>
bool fold_padding(const ConvProblem& pb, const Operands& o, Gradient&& with_zero_padding) {
  constexpr int64_t kBytes = 16 << 20;
  const Axis rows = pb.rows(), columns = pb.columns();
  ConvProblem padded = pb;
  padded.H = padded_length(rows), padded.W = padded_length(columns);
  padded.pad_h = padded.pad_w = 0;
  padded.padding_mode = PaddingMode::zeros;
  const int64_t plane = padded.H * padded.W, image = pb.C * plane;
  const int64_t images = larger(1, smaller(pb.N, kBytes / larger(1, image * int64_t(sizeof(In)))));
  Buffer<In> gradient(images * image);
  for (int64_t n0 = 0; n0 < pb.N; n0 += images) {
    padded.N = smaller(images, pb.N - n0);
    Operands part = o;
    part.bias = nullptr;
    part.y.data = static_cast<In*>(o.y.data) + n0 * o.y.strides.n;
    part.x.data = gradient.data();
    part.x.strides = {image, plane, padded.W, 1};
    if (!with_zero_padding(padded, part)) return false;
    parallel_for(padded.N * pb.C, grain_for(double(plane) / 4), [&](int64_t begin, int64_t end) {
      Buffer<T> sums(pb.W);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = n0 + i / pb.C, c = i % pb.C;
        const T bias = o.bias ? T(static_cast<const In*>(o.bias)[c * o.bias_stride]) : T(0);
        for (int64_t h = 0; h < pb.H; ++h) {
          for (int64_t w = 0; w < pb.W; ++w) sums[w] = bias;
          Run runs[3];
          const int count = rows.preimage(h, runs);
          for (int r = 0; r < count; ++r)
            for (int64_t v = larger(runs[r].first, -pb.pad_h); v <= smaller(runs[r].last, padded.H - pb.pad_h - 1); ++v)
              fold_line(sums.data(), gradient.data() + i * plane + (v + pb.pad_h) * padded.W, columns, padded.W);
          In* x = static_cast<In*>(o.x.data) + o.x.strides(n, c, h, 0);
          for (int64_t w = 0; w < pb.W; ++w) x[w * o.x.strides.w] = In(sums[w]);
        }
      }
    });
  }
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
