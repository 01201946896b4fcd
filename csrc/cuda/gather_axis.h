// One axis of a convolution as a gather: which source position result i reads by tap t. It is always
//
//   origin + i * per_result + t * per_tap
//
// and with other numbers it is each of the three primitives, so that one kernel serves them:
//
//                  result i        tap t           source          per_result   per_tap
//   forward        output p        kernel r        input           stride       dilation
//   grad_weight    kernel r        output p        input           dilation     stride
//   grad_input     input h         kernel r        output          1            dilation / gcd(stride, dilation)
//
// grad_input divides by the stride, so it is cut into `stride` phases, the inputs h = f, f + stride, ...: those of one
// phase are read by the same taps, each of them always. The taps come in descending order there, so that per_tap is
// positive for all three.
#pragma once
#include "../problem.h"

namespace convx {
namespace cuda {

struct GatherAxis {
  int results, result_first, result_step;  // result i is position result_first + i * result_step of its axis
  int taps, tap_first, tap_step;           // tap t likewise
  int origin, per_result, per_tap;
  int source;  // the size of the source's axis; beyond it is padding
  PaddingMode mode;

  CONVX_HD int position(int i, int t) const { return origin + i * per_result + t * per_tap; }
  // What position v of the padded source reads, or -1. Tiles reach beyond what any tap reads, where there is nothing.
  CONVX_HD int read(int v) const {
    if (v >= 0 && v < source) return v;
    if (mode == PaddingMode::zeros) return -1;
    const int copied = int(Axis{source, 0, 0, 0, 0, 0, mode}.source(v));
    return copied >= 0 && copied < source ? copied : -1;
  }
  CONVX_HD bool skips(int v) const { return mode == PaddingMode::zeros && (v < 0 || v >= source); }
};

CONVX_HD inline int greatest_common_divisor(int a, int b) {
  while (b) {
    const int rest = a % b;
    a = b, b = rest;
  }
  return a;
}

CONVX_HD inline int smaller(int a, int b) { return a < b ? a : b; }
CONVX_HD inline int larger(int a, int b) { return a > b ? a : b; }
CONVX_HD inline int rounded_up(int a, int b) { return (a + b - 1) / b * b; }
CONVX_HD inline int divided_up(int a, int b) { return (a + b - 1) / b; }

// A division that mostly need not be done.
CONVX_HD inline int quotient(int a, int b) { return b == 1 ? a : a / b; }

CONVX_HD inline GatherAxis forward_axis(const Axis& a) {
  return {int(a.out), 0, 1, int(a.kernel), 0, 1, -int(a.pad), int(a.stride), int(a.dilation), int(a.in), a.mode};
}

CONVX_HD inline GatherAxis grad_weight_axis(const Axis& a) {
  return {int(a.kernel), 0, 1, int(a.out), 0, 1, -int(a.pad), int(a.dilation), int(a.stride), int(a.in), a.mode};
}

// Phase f of 0..stride-1; `a` must be zero-padded. The taps that reach phase f are r0, r0 + step, ...: r0 is the first
// with f + pad - r0 * dilation divisible by the stride. There may be none.
CONVX_HD inline GatherAxis grad_input_axis(const Axis& a, int f) {
  const int stride = int(a.stride), dilation = int(a.dilation), R = int(a.kernel);
  const int divisor = greatest_common_divisor(stride, dilation), step = stride / divisor;
  const int results = f < a.in ? divided_up(int(a.in) - f, stride) : 0;
  int r0 = 0;
  while (r0 < step && (f + int(a.pad) - r0 * dilation) % stride != 0) ++r0;
  const int taps = results && r0 < step && r0 < R ? divided_up(R - r0, step) : 0;
  const int last = taps ? taps - 1 : 0;
  const int origin = taps ? (f + int(a.pad) - r0 * dilation) / stride - last * (dilation / divisor) : 0;
  return {results,           f, stride, taps, r0 + last * step, -step, origin, 1, dilation / divisor, int(a.out),
          PaddingMode::zeros};
}

// Results i and i + window_step by taps t + tap_residues and t read the same position, slide positions further on. So
// a thread that has window_step-spaced results and takes every tap_residues-th tap slides one window along the source.
struct Sliding {
  int window_step, tap_residues, slide;
};
CONVX_HD inline Sliding sliding(const GatherAxis& a) {
  const int divisor = greatest_common_divisor(a.per_result, a.per_tap);
  return {a.per_tap / divisor, a.per_result / divisor, a.per_result / divisor * a.per_tap};
}

// The first result of a thread's window; windows of `window` results each lie side by side, or, window_step of them,
// interleaved.
CONVX_HD inline int strip_row(int strip, int window_step, int window) {
  if (window_step == 1) return strip * window;
  return strip / window_step * window_step * window + strip % window_step;
}

// Division of 0 <= n < 2^31 by a number known to the host: a multiplication instead of the twenty instructions that a
// division takes (Hacker's Delight, 10-9). The error of the rounded-up reciprocal stays below 1/d for such n.
struct Divider {
  uint32_t divisor = 1, multiplier = 0x80000001u, shift = 31;
  Divider() = default;
  explicit Divider(int64_t d) : divisor(uint32_t(d)) {
    uint32_t bits = 0;
    while ((uint64_t(1) << bits) < divisor) ++bits;
    shift = 31 + bits;
    multiplier = uint32_t((uint64_t(1) << shift) / divisor + 1);
  }
  CONVX_HD int quotient(int n) const { return int((uint64_t(uint32_t(n)) * multiplier) >> shift); }
  // Leaves the quotient in n and returns the remainder: to take an index apart, fastest dimension first.
  CONVX_HD int split(int& n) const {
    const int q = quotient(n), rest = n - q * int(divisor);
    n = q;
    return rest;
  }
};

}  // namespace cuda
}  // namespace convx
