// The transforms of Winograd's minimal filtering F(2x2, 3x3): 2 x 2 results of a 3 x 3 filter from 16 products instead
// of 36 (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308, section 4.1).
// Along one axis, with d the four inputs that two neighbouring results read and g the filter,
//
//   y = A' [(G g) * (B' d)],   B' d = (d0 - d2, d1 + d2, d2 - d1, d1 - d3)
//                              G g  = (2 g0, g0 + g1 + g2, g0 - g1 + g2, 2 g2) / 2
//                              A' m = (m0 + m1 + m2, m1 - m2 - m3)
//
// and in two dimensions each is applied to columns, then to rows. Only additions, and one factor of 1/4 in all: it is
// left to the end, so that integers stay integers and small weights stay what they are.
//
// The same trilinear form in y, g and d gives the gradient of the filter: G' [(A y) * (B' d)].
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

constexpr int kPatch = 4;                 // inputs along an axis that a patch of results reads
constexpr int kPoints = kPatch * kPatch;  // products for a patch of results
constexpr int kResults = 2;               // along an axis

// v = B' d
template <class V>
__attribute__((always_inline)) inline void transform_line(const V (&d)[kPatch], V (&v)[kPatch]) {
  v[0] = d[0] - d[2];
  v[1] = d[1] + d[2];
  v[2] = d[2] - d[1];
  v[3] = d[1] - d[3];
}

// u = 4 G g G'
template <class V>
__attribute__((always_inline)) inline void transform_filter(const V (&g)[3][3], V (&u)[kPatch][kPatch]) {
  V t[kPatch][3];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    const V ends = g[0][j] + g[2][j];
    t[0][j] = g[0][j] + g[0][j];
    t[1][j] = ends + g[1][j];
    t[2][j] = ends - g[1][j];
    t[3][j] = g[2][j] + g[2][j];
  }
#pragma GCC unroll 4
  for (int i = 0; i < kPatch; ++i) {
    const V ends = t[i][0] + t[i][2];
    u[i][0] = t[i][0] + t[i][0];
    u[i][1] = ends + t[i][1];
    u[i][2] = ends - t[i][1];
    u[i][3] = t[i][2] + t[i][2];
  }
}

// y = A' m A, four times as large
template <class V>
__attribute__((always_inline)) inline void transform_output(const V (&m)[kPatch][kPatch], V (&y)[kResults][kResults]) {
  V t[kResults][kPatch];
#pragma GCC unroll 4
  for (int j = 0; j < kPatch; ++j) {
    t[0][j] = m[0][j] + m[1][j] + m[2][j];
    t[1][j] = m[1][j] - m[2][j] - m[3][j];
  }
#pragma GCC unroll 2
  for (int i = 0; i < kResults; ++i) {
    y[i][0] = t[i][0] + t[i][1] + t[i][2];
    y[i][1] = t[i][1] - t[i][2] - t[i][3];
  }
}

// A y A'
template <class V>
__attribute__((always_inline)) inline void transform_gradient(const V (&y)[kResults][kResults],
                                                              V (&m)[kPatch][kPatch]) {
  V t[kPatch][kResults];
#pragma GCC unroll 2
  for (int j = 0; j < kResults; ++j) {
    t[0][j] = y[0][j];
    t[1][j] = y[0][j] + y[1][j];
    t[2][j] = y[0][j] - y[1][j];
    t[3][j] = -y[1][j];
  }
#pragma GCC unroll 4
  for (int i = 0; i < kPatch; ++i) {
    m[i][0] = t[i][0];
    m[i][1] = t[i][0] + t[i][1];
    m[i][2] = t[i][0] - t[i][1];
    m[i][3] = -t[i][1];
  }
}

// g = G' m G, four times as large
template <class V>
__attribute__((always_inline)) inline void transform_filter_gradient(const V (&m)[kPatch][kPatch], V (&g)[3][3]) {
  V t[3][kPatch];
#pragma GCC unroll 4
  for (int j = 0; j < kPatch; ++j) {
    const V middle = m[1][j] + m[2][j];
    t[0][j] = m[0][j] + m[0][j] + middle;
    t[1][j] = m[1][j] - m[2][j];
    t[2][j] = m[3][j] + m[3][j] + middle;
  }
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
    const V middle = t[i][1] + t[i][2];
    g[i][0] = t[i][0] + t[i][0] + middle;
    g[i][1] = t[i][1] - t[i][2];
    g[i][2] = t[i][3] + t[i][3] + middle;
  }
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
