// The three tensors of T as a kernel sees them: typed, indexed in the alphabet of problem.h, any strides.
#pragma once
#include "../problem.h"
#include "../scalar.h"

namespace convx {
namespace cuda {

template <class T>
struct Tensors {
  using Acc = typename Accumulator<T>::type;
  Operands o;

  CONVX_HD T& x(int64_t n, int64_t c, int64_t h, int64_t w) const { return at(o.x, n, c, h, w); }
  CONVX_HD T& w(int64_t k, int64_t c, int64_t r, int64_t s) const { return at(o.w, k, c, r, s); }
  CONVX_HD T& y(int64_t n, int64_t k, int64_t p, int64_t q) const { return at(o.y, n, k, p, q); }
  CONVX_HD Acc bias(int64_t channel) const {
    return o.bias ? widen(static_cast<const T*>(o.bias)[channel * o.bias_stride]) : Acc(0);
  }

 private:
  CONVX_HD static T& at(const View& v, int64_t i, int64_t j, int64_t k, int64_t l) {
    return static_cast<T*>(v.data)[v.strides(i, j, k, l)];
  }
};

}  // namespace cuda
}  // namespace convx
