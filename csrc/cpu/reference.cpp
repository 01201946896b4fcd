// Start reading here: the definition of the three primitives as plain loops, for every dtype, stride, dilation, group,
// padding mode and memory layout. Every other kernel in this project computes one of these three sums faster, and is
// tested against them.
//
// All three have one shape. Each element of the result is a sum that one thread computes alone, in one fixed order, so
// the result is the same bits for any number of threads, and no two threads ever write the same place. The one
// liberty: a whole row of the result is summed at a time, tap by tap, because the outputs that a tap can reach are
// then a range known before the loop (Axis::outputs_inside) instead of a test inside it. Taps outside the input are
// skipped, not multiplied by zero: an infinite weight must not become NaN in the padding.
//
// Limit: about one multiply-add a cycle and core: strided loads, and a conversion for most types. That is some
// 2 GFLOP/s a core, a hundredth of the machine; the kernels further down the reading order go after the rest.
//
// Run it alone: `with convx.algorithm("reference"): ...` or CONVX_ALGORITHM=reference.
#include "reference.h"

#include "parallel.h"
#include "../scalar.h"

#include <vector>

namespace convx {
namespace cpu {
namespace {

template <class T>
struct Tensors {
  using Acc = typename Accumulator<T>::type;
  const Operands& o;
  T& x(int64_t n, int64_t c, int64_t h, int64_t w) const { return at(o.x, n, c, h, w); }
  T& w(int64_t k, int64_t c, int64_t r, int64_t s) const { return at(o.w, k, c, r, s); }
  T& y(int64_t n, int64_t k, int64_t p, int64_t q) const { return at(o.y, n, k, p, q); }
  Acc bias(int64_t channel) const {
    return o.bias ? widen(static_cast<const T*>(o.bias)[channel * o.bias_stride]) : Acc(0);
  }

 private:
  static T& at(const View& v, int64_t i, int64_t j, int64_t k, int64_t l) {
    return static_cast<T*>(v.data)[v.strides(i, j, k, l)];
  }
};

// y[n,k,p,q] = bias[k] + sum over c,r,s of w[k,c,r,s] * x[n,c,source(p,r),source(q,s)], one row y[n,k,p,:] at a time.
template <class T>
void forward(const ConvProblem& pb, const Operands& operands) {
  using Acc = typename Accumulator<T>::type;
  const Tensors<T> t{operands};
  const Axis rows = pb.rows(), columns = pb.columns();
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const double row_work = double(Cg) * pb.R * pb.S * pb.Q;
  parallel_for(pb.N * pb.K * pb.P, grain_for(row_work), [&](int64_t begin, int64_t end) {
    std::vector<typename Sum<T>::type> sums(pb.Q);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t p = row % pb.P, k = row / pb.P % pb.K, n = row / pb.P / pb.K, g = k / Kg;
      sums.assign(pb.Q, {});
      for (int64_t c = 0; c < Cg; ++c)
        for (int64_t r = 0; r < pb.R; ++r) {
          const int64_t h = rows.source(rows.virtual_position(p, r));
          if (h < 0) continue;
          for (int64_t s = 0; s < pb.S; ++s) {
            const Acc weight = widen(t.w(k, c, r, s));
            const Run inside = columns.outputs_inside(s);
            for (int64_t q = inside.first; q <= inside.last; ++q)
              sums[q] += weight * widen(t.x(n, g * Cg + c, h, columns.virtual_position(q, s)));
            if (pb.is_zero_padded()) continue;
            for (int64_t q = 0; q < pb.Q; ++q)  // the rest of the row reads the padding
              if (q < inside.first || q > inside.last)
                sums[q] += weight * widen(t.x(n, g * Cg + c, h, columns.source(columns.virtual_position(q, s))));
          }
        }
      for (int64_t q = 0; q < pb.Q; ++q) t.y(n, k, p, q) = narrow<T>(sums[q] + t.bias(k));
    }
  });
}

// x[n,c,h,w] = bias[c] + sum of w[k,c,r,s] * y[n,k,p,q] over the k and over the taps (r,s) of those outputs (p,q) that
// read (h,w): the gather form of the transposed convolution. Where the scatter form (scatter.cpp) asks which inputs an
// output reaches, this asks for each result who reaches it, which needs a division by the stride instead of shared
// writes.
template <class T>
void grad_input(const ConvProblem& pb, const Operands& operands) {
  using Acc = typename Accumulator<T>::type;
  const Tensors<T> t{operands};
  const Axis rows = pb.rows(), columns = pb.columns();
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const double row_work = double(Kg) * pb.R * pb.S * pb.Q / pb.stride_h;
  parallel_for(pb.N * pb.C * pb.H, grain_for(row_work), [&](int64_t begin, int64_t end) {
    std::vector<typename Sum<T>::type> sums(pb.W);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t h = row % pb.H, c = row / pb.H % pb.C, n = row / pb.H / pb.C, g = c / Cg;
      sums.assign(pb.W, {});
      Run readers[3];
      const int count = rows.preimage(h, readers);
      for (int64_t k = g * Kg; k < (g + 1) * Kg; ++k)
        for (int64_t r = 0; r < pb.R; ++r)
          for (int i = 0; i < count; ++i)
            for (int64_t v = readers[i].first; v <= readers[i].last; ++v) {
              const int64_t p = rows.output_reading(v, r);
              if (p < 0) continue;
              for (int64_t s = 0; s < pb.S; ++s) {
                const Acc weight = widen(t.w(k, c - g * Cg, r, s));
                const Run inside = columns.outputs_inside(s);
                for (int64_t q = inside.first; q <= inside.last; ++q)
                  sums[columns.virtual_position(q, s)] += weight * widen(t.y(n, k, p, q));
                if (pb.is_zero_padded()) continue;
                for (int64_t q = 0; q < pb.Q; ++q)
                  if (q < inside.first || q > inside.last)
                    sums[columns.source(columns.virtual_position(q, s))] += weight * widen(t.y(n, k, p, q));
              }
            }
      for (int64_t w = 0; w < pb.W; ++w) t.x(n, c, h, w) = narrow<T>(sums[w] + t.bias(c));
    }
  });
}

// w[k,c,r,s] = sum over n,p,q of y[n,k,p,q] * x[n,c,source(p,r),source(q,s)], one filter plane w[k,c,:,:] at a time.
template <class T>
void grad_weight(const ConvProblem& pb, const Operands& operands) {
  const Tensors<T> t{operands};
  const Axis rows = pb.rows(), columns = pb.columns();
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const double tap_work = double(pb.N) * pb.P * pb.Q;
  parallel_for(pb.K * Cg * pb.R * pb.S, grain_for(tap_work), [&](int64_t begin, int64_t end) {
    for (int64_t tap = begin; tap < end; ++tap) {
      const int64_t s = tap % pb.S, r = tap / pb.S % pb.R, c = tap / pb.S / pb.R % Cg, k = tap / pb.S / pb.R / Cg;
      const int64_t x_channel = k / Kg * Cg + c;
      const Run inside = columns.outputs_inside(s);
      typename Sum<T>::type sum{};
      for (int64_t n = 0; n < pb.N; ++n)
        for (int64_t p = 0; p < pb.P; ++p) {
          const int64_t h = rows.source(rows.virtual_position(p, r));
          if (h < 0) continue;
          for (int64_t q = inside.first; q <= inside.last; ++q)
            sum += widen(t.y(n, k, p, q)) * widen(t.x(n, x_channel, h, columns.virtual_position(q, s)));
          if (pb.is_zero_padded()) continue;
          for (int64_t q = 0; q < pb.Q; ++q)
            if (q < inside.first || q > inside.last)
              sum +=
                  widen(t.y(n, k, p, q)) * widen(t.x(n, x_channel, h, columns.source(columns.virtual_position(q, s))));
        }
      t.w(k, c, r, s) = narrow<T>(sum);
    }
  });
}

}  // namespace

void forward_reference(const ConvProblem& pb, const Operands& operands) {
  with_type(operands.dtype, [&](auto t) { forward<decltype(t)>(pb, operands); });
}

void grad_input_reference(const ConvProblem& pb, const Operands& operands) {
  with_type(operands.dtype, [&](auto t) { grad_input<decltype(t)>(pb, operands); });
}

void grad_weight_reference(const ConvProblem& pb, const Operands& operands) {
  with_type(operands.dtype, [&](auto t) { grad_weight<decltype(t)>(pb, operands); });
}

}  // namespace cpu
}  // namespace convx
