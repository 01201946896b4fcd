// The transforms of Winograd's minimal filtering (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks",
// CVPR 2016, arXiv:1509.09308, section 4). Along one axis, four inputs d, and a and b of two and three elements: the
// six products a_i * b_j * d_(i + j) are summed by four,
//
//   sum over i, j of a_i b_j d_(i+j) = sum over p of (A a)_p (B b)_p (D d)_p
//
//   A a = (a0, a0 + a1, a0 - a1, -a1)   B b = (2 b0, b0 + b1 + b2, b0 - b1 + b2, 2 b2) / 2
//   D d = (d0 - d2, d1 + d2, d2 - d1, d1 - d3)
//
// If b is a filter of three taps, the derivative by a gives two results of a convolution, F(2, 3); if a is a filter of
// two taps, the derivative by b gives three, F(3, 2); and the derivative by the filter is the filter's gradient. In two
// dimensions each is applied to columns, then to rows: 16 products for 36. Only additions, and a factor of 1/4 in all:
// it is left to the end, so that integers stay integers and small numbers lose nothing.
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

constexpr int kPatch = 4;                 // inputs along an axis
constexpr int kPoints = kPatch * kPatch;  // products for a patch

// Results along an axis for a filter of so many taps.
constexpr int results_of(int taps) { return kPatch + 1 - taps; }

// D d
template <class V>
__attribute__((always_inline)) inline void spread(const V (&d)[4], V (&to)[4]) {
  to[0] = d[0] - d[2], to[1] = d[1] + d[2], to[2] = d[2] - d[1], to[3] = d[1] - d[3];
}
// A a
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

// Columns, then rows. A filter of R x S taps is spread, results of it are gathered, or the other way round.
template <class V, int R, int S>
__attribute__((always_inline)) inline void spread(const V (&from)[R][S], V (&to)[kPatch][kPatch]) {
  V t[kPatch][S];
#pragma GCC unroll 4
  for (int j = 0; j < S; ++j) {
    V column[R], out[kPatch];
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) column[i] = from[i][j];
    spread(column, out);
#pragma GCC unroll 4
    for (int i = 0; i < kPatch; ++i) t[i][j] = out[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < kPatch; ++i) spread(t[i], to[i]);
}

template <class V, int R, int S>
__attribute__((always_inline)) inline void gather(const V (&from)[kPatch][kPatch], V (&to)[R][S]) {
  V t[R][kPatch];
#pragma GCC unroll 4
  for (int j = 0; j < kPatch; ++j) {
    V column[kPatch], out[R];
#pragma GCC unroll 4
    for (int i = 0; i < kPatch; ++i) column[i] = from[i][j];
    gather(column, out);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) t[i][j] = out[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) gather(t[i], to[i]);
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
