// The index maps of direct.cuh: where in memory the elements of its matrices are.
//
// Each of the three primitives is a matrix product D[left][right] = sum over depth of A[depth][left] * B[depth][right]:
//
//                left (a tile's rows)         depth                         right (its columns)
//   forward      pixels (n,p,q) of y          taps and channels (r,s,c)     output channels k
//   grad_input   pixels (n,h,w) of x          taps and channels (r,s,k)     input channels c
//   grad_weight  taps and channels (r,s,c)    pixels (n,p,q) of y           output channels k
//
// A is the image that is read through the taps, and never exists as a matrix: row p*stride_h - pad_h + r*dilation_h has
// one term that only the pixel knows and one that only the tap knows, and so have the column and the address. So a
// Position is kept for each left index, another for each depth index, and an element of A is at the sum of the two:
// two additions to find it, two comparisons to tell whether it is in the padding, and no division. forward and
// grad_weight are the same maps with left and depth exchanged.
//
// grad_input has them too, phase by phase. Of the positions h = phase + i*stride, all are reached by the same taps,
// r = class + j*modulus with modulus = stride / gcd(stride, dilation), and y's row is i + first - j*step: an image read
// through taps, a pixel apart. No zeros are inserted, and nothing is divided by the stride.
#pragma once
#include <numeric>

#include "../problem.h"

namespace convx {
namespace cuda {

struct alignas(16) Position {
  int h, w;        // a row and a column, or a part of them
  int64_t offset;  // in elements

  CONVX_HD Position operator+(const Position& p) const { return {h + p.h, w + p.w, offset + p.offset}; }
};

// A row that stays outside of every image, whatever is added: kernels take rows and columns within +-2^29.
constexpr int kNowhere = -(1 << 30);
constexpr int64_t kLargestPosition = int64_t(1) << 29;

// A map from an index to a Position. from(start) is the same map with `start` as its index 0; the division of 64-bit
// numbers is in there, and what follows has 32 bits.

// The pixels of a batch of images, in the order n, i, j: pixel (i, j) is at row first_h + i*step_h and so on.
struct Pixels {
  Strides strides;
  int rows, columns;
  int first_h, first_w, step_h, step_w;
  int64_t first_n = 0;
  unsigned rest = 0;  // pixels before the first one, in its image

  CONVX_HD Pixels from(int64_t start) const {
    Pixels result = *this;
    const int64_t image = int64_t(rows) * columns;
    result.first_n = start / image;
    result.rest = unsigned(start - result.first_n * image);
    return result;
  }
  CONVX_HD Position operator()(unsigned index) const {
    const unsigned line = (rest + index) / unsigned(columns);
    const unsigned image = line / unsigned(rows);
    const int h = first_h + int(line - image * unsigned(rows)) * step_h;
    const int w = first_w + int(rest + index - line * unsigned(columns)) * step_w;
    return {h, w, strides(first_n + image, 0, h, w)};
  }
};

// Taps and channels, in the order r, s, c: tap (r, s) is at row r*step_h and column s*step_w.
struct Taps {
  Strides strides;
  int taps_w, channels;
  int step_h, step_w;
  unsigned start = 0;

  CONVX_HD Taps from(int64_t start) const {
    Taps result = *this;
    result.start = unsigned(start);
    return result;
  }
  CONVX_HD Position operator()(unsigned index) const {
    const unsigned tap = (start + index) / unsigned(channels), c = start + index - tap * unsigned(channels);
    const unsigned r = tap / unsigned(taps_w), s = tap - r * unsigned(taps_w);
    const int h = int(r) * step_h, w = int(s) * step_w;
    return {h, w, strides(0, c, h, w)};
  }
};

// Elements a step apart, of something that isn't an image: a row of packed weights, channels of y.
struct Line {
  int64_t step;
  int64_t start = 0;

  CONVX_HD Line from(int64_t start) const { return {step, start}; }
  CONVX_HD Position operator()(unsigned index) const { return {0, 0, (start + index) * step}; }
};

// What the sums of two Places are measured against.
struct Extent {
  int h, w;
  PaddingMode mode;

  CONVX_HD bool contains(const Position& p) const { return unsigned(p.h) < unsigned(h) && unsigned(p.w) < unsigned(w); }
  // Whether the place is to be read at all. One in padding that repeats the input is moved to what it repeats.
  CONVX_HD bool reaches(Position& p, const Strides& strides) const {
    if (contains(p)) return true;
    if (mode == PaddingMode::zeros) return false;
    if (p.h < kNowhere / 2) return false;
    const int64_t row = Axis{h, 1, 1, 1, 0, 1, mode}.source(p.h), column = Axis{w, 1, 1, 1, 0, 1, mode}.source(p.w);
    p.offset += (row - p.h) * strides.h + (column - p.w) * strides.w;
    return true;
  }
};

// A of one tile, or B: `data` and the two maps whose places add up to an element's.
template <class Element, class WidthMap, class DepthMap>
struct Matrix {
  const Element* data;
  Extent extent;
  Strides strides;
  WidthMap width;  // of the left index for A, of the right index for B
  DepthMap depth;
  int64_t widths, depths;
};

// The taps of one axis in the order in which they are packed: class by class, r = class + j*modulus.
struct TapOrder {
  int taps, modulus;
  CONVX_HD int in_class(int c) const { return (taps - c + modulus - 1) / modulus; }
  CONVX_HD int before_class(int c) const {
    const int rest = taps % modulus;
    return c * (taps / modulus) + (c < rest ? c : rest);
  }
  CONVX_HD int position(int r) const { return before_class(r % modulus) + r / modulus; }
};

// One axis of one phase: position i of the result is index result_first + i*result_step, and tap j of those that reach
// it reads source index first + i*step + j*tap_step.
struct PhaseAxis {
  int count, taps;
  int step, first, tap_step;
  int result_first, result_step;
  int tap_class;
};

// How many phases an axis has, and how its taps are packed.
inline int phases_of(const Axis& a, bool transposed) { return transposed ? int(a.stride < a.in ? a.stride : a.in) : 1; }
inline TapOrder tap_order(const Axis& a, bool transposed) {
  return {int(a.kernel), transposed ? int(a.stride / std::gcd(a.stride, a.dilation)) : 1};
}

CONVX_HD inline PhaseAxis phase_axis(const Axis& a, const TapOrder& order, bool transposed, int phase) {
  if (!transposed) return {int(a.out), int(a.kernel), int(a.stride), int(-a.pad), int(a.dilation), 0, 1, 0};
  PhaseAxis result{};
  result.count = int((a.in - phase + a.stride - 1) / a.stride);
  result.result_first = phase, result.result_step = int(a.stride);
  for (int r = 0; r < order.taps && r < order.modulus; ++r) {
    const int64_t from = phase + a.pad - r * a.dilation;
    if (from % a.stride != 0) continue;
    result.taps = order.in_class(r), result.tap_class = r;
    result.step = 1, result.first = int(from / a.stride), result.tap_step = -int(order.modulus * a.dilation / a.stride);
    break;
  }
  return result;
}

}  // namespace cuda
}  // namespace convx
