// The transforms of Winograd's minimal filtering (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks",
// CVPR 2016, arXiv:1509.09308, section 4). Along one axis, inputs d, and a and b of some elements each: the products
// a_i * b_j * d_(i + j) are summed by fewer of them,
//
//   sum over i, j of a_i b_j d_(i+j) = sum over p of (A a)_p (B b)_p (D d)_p
//
// If b is a filter, the derivative by a gives results of a convolution; if a is the filter, the derivative by b does;
// and the derivative by the filter is the filter's gradient. In two dimensions each is applied to columns, then to
// rows.
//
// a of two and b of three elements, four inputs: four products for six. F(2, 3) if b is the filter, F(3, 2) if a is.
//
//   A a = (a0, a0 + a1, a0 - a1, -a1)   B b = (2 b0, b0 + b1 + b2, b0 - b1 + b2, 2 b2) / 2
//   D d = (d0 - d2, d1 + d2, d2 - d1, d1 - d3)
//
// They are the values of the polynomials a and b at 0, 1, -1 and infinity, from which their product is interpolated. A
// fifth point, say 2, would bring thirds: integers would not stay integers, and rounding errors grow. But so few are
// the rational points only; the next are i and -i (Barabasz & Gregg, "Winograd Convolution for DNNs: Beyond Linear
// Polynomials", AI*IA 2019, pages 307-320): at both the values are complex, one product of complex numbers that
// takes three. So a of four and b of three elements, six inputs, F(4, 3): seven products for twelve, with
//
//   A a = (a0, a0 + a1 + a2 + a3, a0 - a1 + a2 - a3, a3,   u, v, u + v)   u = a0 - a2, v = a1 - a3
//   B b = (4 b0, b0 + b1 + b2, b0 - b1 + b2, 4 b2,   2 u, 2 v, 2 (u + v)) / 4   u = b0 - b2, v = b1
//   D d = (d0 - d4, d1 + d2 + d3 + d4, d2 - d1 + d4 - d3, d5 - d1,   u - v, -u - v, v)   u = d4 - d2, v = d1 - d3
//
// At a plane's edge a patch may have one or two results only. Those don't need i and -i: with a2 = a3 = 0 the first
// four products are enough, with the very same B b, and A a = (a0, a0 + a1, a0 - a1, a1), and
// D d = (d0 - d2, 2 (d1 + d2), 2 (d2 - d1), d3 - d1). Such patches are "short".
//
// With a for the filter these are F(3, 4), seven products for three results of four taps.
//
// In two dimensions 16 products for 36, or 49 for 144. Only additions and powers of two; the factors of 1/2 and 1/4 are
// left to the end, so that integers stay integers and small numbers lose nothing.
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// F(RESULTS, TAPS), along one axis.
template <int RESULTS, int TAPS>
struct Filtering {
  static constexpr int kResults = RESULTS, kTaps = TAPS;
  static constexpr int kInputs = RESULTS + TAPS - 1;  // of a patch
  static_assert(kInputs == 1 || kInputs == 4 || kInputs == 6);
  // Which of three: an axis of a single tap, four inputs, or six.
  static constexpr int of(int one, int four, int six) { return kInputs == 1 ? one : kInputs == 4 ? four : six; }
  static constexpr int kPoints = of(1, 4, 7);          // products for a patch
  static constexpr int kShort = RESULTS == 4 ? 2 : 0;  // results of a short patch, which meets
  static constexpr int kRealPoints = of(1, 4, 4);      // the first of them only
  static constexpr int kInfinity = of(-1, 3, 3);       // where a filter without its last tap is zero
  static constexpr int kFactor = of(1, 2, 4);          // of the sum of the products over the result
  // So many bits at most is a number larger than an input, than a weight (or a gradient, which may take its place), and
  // the sum of products than a product of an input and a weight.
  static constexpr int kInputBits = of(0, 1, 2), kWeightBits = of(0, 2, 3), kSumBits = of(0, 5, 9);
};
using F11 = Filtering<1, 1>;
using F23 = Filtering<2, 3>;
using F32 = Filtering<3, 2>;
using F34 = Filtering<3, 4>;
using F43 = Filtering<4, 3>;

// An axis of a single tap.
template <class V>
__attribute__((always_inline)) inline void spread(const V (&d)[1], V (&to)[1]) {
  to[0] = d[0];
}
template <class V>
__attribute__((always_inline)) inline void gather(const V (&m)[1], V (&to)[1]) {
  to[0] = m[0];
}

// D d, four inputs
template <class V>
__attribute__((always_inline)) inline void spread(const V (&d)[4], V (&to)[4]) {
  to[0] = d[0] - d[2], to[1] = d[1] + d[2], to[2] = d[2] - d[1], to[3] = d[1] - d[3];
}
// A a, of two
template <class V>
__attribute__((always_inline)) inline void spread(const V (&a)[2], V (&to)[4]) {
  to[0] = a[0], to[1] = a[0] + a[1], to[2] = a[0] - a[1], to[3] = -a[1];
}
// 2 B b
template <class V>
__attribute__((always_inline)) inline void spread(const V (&b)[3], V (&to)[4]) {
  const V ends = b[0] + b[2];
  to[0] = b[0] + b[0], to[1] = ends + b[1], to[2] = ends - b[1], to[3] = b[2] + b[2];
}
// A' m
template <class V>
__attribute__((always_inline)) inline void gather(const V (&m)[4], V (&to)[2]) {
  to[0] = m[0] + m[1] + m[2], to[1] = m[1] - m[2] - m[3];
}
// 2 B' m
template <class V>
__attribute__((always_inline)) inline void gather(const V (&m)[4], V (&to)[3]) {
  const V middle = m[1] + m[2];
  to[0] = m[0] + m[0] + middle, to[1] = m[1] - m[2], to[2] = m[3] + m[3] + middle;
}

// D d, six inputs
template <class V>
__attribute__((always_inline)) inline void spread(const V (&d)[6], V (&to)[7]) {
  const V even = d[2] + d[4], odd = d[1] + d[3], u = d[4] - d[2], v = d[1] - d[3];
  to[0] = d[0] - d[4], to[1] = even + odd, to[2] = even - odd, to[3] = d[5] - d[1];
  to[4] = u - v, to[5] = -(u + v), to[6] = v;
}
// A a, of four
template <class V>
__attribute__((always_inline)) inline void spread(const V (&a)[4], V (&to)[7]) {
  const V even = a[0] + a[2], odd = a[1] + a[3], u = a[0] - a[2], v = a[1] - a[3];
  to[0] = a[0], to[1] = even + odd, to[2] = even - odd, to[3] = a[3], to[4] = u, to[5] = v, to[6] = u + v;
}
// 4 B b
template <class V>
__attribute__((always_inline)) inline void spread(const V (&b)[3], V (&to)[7]) {
  const V ends = b[0] + b[2], u = b[0] - b[2], v = b[1];
  to[0] = 4 * b[0], to[1] = ends + v, to[2] = ends - v, to[3] = 4 * b[2];
  to[4] = u + u, to[5] = v + v, to[6] = to[4] + to[5];
}
// A' m
template <class V>
__attribute__((always_inline)) inline void gather(const V (&m)[7], V (&to)[4]) {
  const V even = m[1] + m[2], odd = m[1] - m[2], u = m[4] + m[6], v = m[5] + m[6];
  to[0] = m[0] + even + u, to[1] = odd + v, to[2] = even - u, to[3] = odd - v + m[3];
}
// 4 B' m
template <class V>
__attribute__((always_inline)) inline void gather(const V (&m)[7], V (&to)[3]) {
  const V even = m[1] + m[2], u = m[4] + m[6], v = m[5] + m[6];
  to[0] = 4 * m[0] + even + (u + u), to[1] = m[1] - m[2] + (v + v), to[2] = 4 * m[3] + even - (u + u);
}

// Of short patches: D d, A a and A' m of four points.
template <class V>
__attribute__((always_inline)) inline void spread_short(const V (&d)[4], V (&to)[4]) {
  const V sum = d[1] + d[2], difference = d[2] - d[1];
  to[0] = d[0] - d[2], to[1] = sum + sum, to[2] = difference + difference, to[3] = d[3] - d[1];
}
template <class V>
__attribute__((always_inline)) inline void spread_short(const V (&a)[2], V (&to)[4]) {
  to[0] = a[0], to[1] = a[0] + a[1], to[2] = a[0] - a[1], to[3] = a[1];
}
template <class V>
__attribute__((always_inline)) inline void gather_short(const V (&m)[4], V (&to)[2]) {
  to[0] = m[0] + m[1] + m[2], to[1] = m[1] - m[2] + m[3];
}

// An axis by its form, and whether its patch is short.
template <class F, bool SHORT>
struct PatchAxisForm {
  static constexpr int kInputs = SHORT ? 4 : F::kInputs, kPoints = SHORT ? 4 : F::kPoints,
                       kResults = SHORT ? F::kShort : F::kResults;
  template <class V, int M, int N>
  __attribute__((always_inline)) static void spread_axis(const V (&from)[M], V (&to)[N]) {
    if constexpr (SHORT)
      spread_short(from, to);
    else
      spread(from, to);
  }
  template <class V, int M, int N>
  __attribute__((always_inline)) static void gather_axis(const V (&from)[M], V (&to)[N]) {
    if constexpr (SHORT)
      gather_short(from, to);
    else
      gather(from, to);
  }
};

// Columns, then rows. A filter of R x S taps is spread, results of it are gathered, or the other way round.
template <class DOWN, class ACROSS, class V, int R, int S, int P, int Q>
__attribute__((always_inline)) inline void spread(const V (&from)[R][S], V (&to)[P][Q]) {
  V t[P][S];
#pragma GCC unroll 8
  for (int j = 0; j < S; ++j) {
    V column[R], out[P];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) column[i] = from[i][j];
    DOWN::spread_axis(column, out);
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) t[i][j] = out[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) ACROSS::spread_axis(t[i], to[i]);
}

template <class DOWN, class ACROSS, class V, int R, int S, int P, int Q>
__attribute__((always_inline)) inline void gather(const V (&from)[P][Q], V (&to)[R][S]) {
  V t[R][Q];
#pragma GCC unroll 8
  for (int j = 0; j < Q; ++j) {
    V column[P], out[R];
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) column[i] = from[i][j];
    DOWN::gather_axis(column, out);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) t[i][j] = out[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) ACROSS::gather_axis(t[i], to[i]);
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
