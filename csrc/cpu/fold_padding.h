// grad_input where the padding repeats the input (reflect, replicate, circular): an element of x is read at several
// places of the padded axis, and its gradient is the sum of theirs. So the gradient of a padded x is computed first, a
// few images at a time, by whatever kernel the caller has for zero padding, and then folded onto x.
//
// The sums of one element are added in the order of their places, whatever the threads, and rounded once: 16-bit types
// are computed in float from converted copies. Memory: 16 MiB, or one image if that is more, and such copies. Cost: the
// padded gradient is written and read once, 8 bytes an element beside R * S * K multiply-adds.
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Adds a line of the padded axis onto `sums`, an element for each input element.
template <class T>
void fold_line(T* sums, const T* line, const Axis& a, int64_t length) {
  const T* inside = line + a.pad;
  for (int64_t i = 0; i < a.in; ++i) sums[i] += inside[i];
  for (int64_t v = -a.pad; v < 0; ++v) sums[a.source(v)] += inside[v];
  for (int64_t v = a.in; v < length - a.pad; ++v) sums[a.source(v)] += inside[v];
}

// A contiguous copy in T of a tensor of `shape`; the view itself if it is of T already.
template <class T, class In>
View as_type(const View& view, const int64_t (&shape)[4], Buffer<T>& copy) {
  if constexpr (std::is_same_v<T, In>) {
    return view;
  } else {
    const Strides s{shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1};
    copy = Buffer<T>(shape[0] * s.n);
    for (int64_t n = 0; n < shape[0]; ++n)
      for (int64_t c = 0; c < shape[1]; ++c)
        for (int64_t h = 0; h < shape[2]; ++h)
          for (int64_t w = 0; w < shape[3]; ++w)
            copy[s(n, c, h, w)] = T(static_cast<const In*>(view.data)[view.strides(n, c, h, w)]);
    return {copy.data(), s};
  }
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
  const int64_t images = larger(1, smaller(pb.N, kBytes / larger(1, image * int64_t(sizeof(T)))));
  Buffer<T> gradient(images * image), w_copy(0), y_copy(0);
  const View weight = as_type<T, In>(o.w, {pb.K, pb.channels_per_group(), pb.R, pb.S}, w_copy);
  for (int64_t n0 = 0; n0 < pb.N; n0 += images) {
    padded.N = smaller(images, pb.N - n0);
    Operands part = o;
    part.bias = nullptr;
    if (!std::is_same_v<T, In>) part.dtype = DType::float32;
    part.w = weight;
    part.y.data = static_cast<In*>(o.y.data) + n0 * o.y.strides.n;
    part.y = as_type<T, In>(part.y, {padded.N, pb.K, pb.P, pb.Q}, y_copy);
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
