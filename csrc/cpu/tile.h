// The packed tile: the part of the input that one block of results reads, copied once, with everything irregular
// resolved in the copy. Padding of any mode, strides, memory layout and dtype end here; what reads a tile has no
// branch.
//
// In the tile, neighbouring results read neighbouring elements whatever the stride is: rows and columns are dealt out
// by their remainder modulo the stride ("phases"), [row phase][column phase][row][column], so that what tap (r, s) of
// all results reads is one plane at one offset. A tap is then nothing but an offset into the tile.
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// One axis of a convolution as the engine sees it: result i reads input i * stride + offset[t] for each tap t.
//   forward:    stride and offsets are the problem's own.
//   grad_input: results of equal remainder modulo the stride have the same taps: one "phase", of stride 1.
struct AxisPlan {
  static constexpr int kMaxTaps = 64;
  int64_t in = 0, count = 0, stride = 1;
  PaddingMode mode = PaddingMode::zeros;
  int taps = 0;
  int64_t offset[kMaxTaps] = {};        // of tap t, relative to result 0
  int64_t index[kMaxTaps] = {};         // of tap t in the weight
  int64_t first_out = 0, out_step = 1;  // result i is written at first_out + i * out_step

  int64_t lowest() const { return extreme(true); }
  int64_t highest() const { return extreme(false); }
  // -1 also beyond what any tap reads: a phase's last element may lie there.
  int64_t source(int64_t v) const {
    const int64_t i = Axis{in, 0, 0, 0, 0, 0, mode}.source(v);
    return i < in ? i : -1;
  }

 private:
  int64_t extreme(bool low) const {
    int64_t e = taps ? offset[0] : 0;
    for (int t = 1; t < taps; ++t) e = low ? smaller(e, offset[t]) : larger(e, offset[t]);
    return e;
  }
};

// The phases of one axis that some tap reads, and the place of each tap in them.
struct Phases {
  int count = 0;
  int64_t remainder[AxisPlan::kMaxTaps];
  int slot[AxisPlan::kMaxTaps];  // of tap t
  int64_t length;                // of each phase, for a block of so many results

  Phases(const AxisPlan& a, int64_t block) : length(block + (a.highest() - a.lowest()) / a.stride) {
    for (int t = 0; t < a.taps; ++t) {
      const int64_t p = (a.offset[t] - a.lowest()) % a.stride;
      int s = 0;
      while (s < count && remainder[s] != p) ++s;
      if (s == count) remainder[count++] = p;
      slot[t] = s;
    }
  }
};

// The shape of the tile for blocks of at most block_rows x block_columns results.
struct TileShape {
  Phases rows, columns;
  int64_t pitch, phase, plane;  // elements from row to row, from phase to phase, from channel to channel

  TileShape(const AxisPlan& r, const AxisPlan& c, int64_t block_rows, int64_t block_columns)
      : rows(r, block_rows), columns(c, block_columns) {
    pitch = columns.length;
    phase = rows.length * pitch;
    plane = rows.count * columns.count * phase;
  }

  // Where tap (tr, tc) of result (0, 0) is, in a plane.
  int64_t tap(const AxisPlan& r, const AxisPlan& c, int tr, int tc) const {
    return (rows.slot[tr] * columns.count + columns.slot[tc]) * phase + (r.offset[tr] - r.lowest()) / r.stride * pitch +
           (c.offset[tc] - c.lowest()) / c.stride;
  }
};

// Copies to[x] = the input's element at column v0 + x * stride of one row, for x < width.
template <class T, class In>
void pack_row(T* to, const AxisPlan& c, int64_t v0, int64_t width, const In* from, int64_t stride_w) {
  // the run of x whose column is inside the input: no test in the loop that copies it
  const int64_t first = smaller(v0 >= 0 ? 0 : ceil_div(-v0, c.stride), width);
  const int64_t last = larger(first, v0 >= c.in ? first : smaller((c.in - 1 - v0) / c.stride + 1, width));
  const auto edge = [&](int64_t x) {
    const int64_t w = c.source(v0 + x * c.stride);
    to[x] = w < 0 ? T(0) : T(from[w * stride_w]);
  };
  for (int64_t x = 0; x < first; ++x) edge(x);
  const int64_t step = c.stride * stride_w;
  const In* p = from + v0 * stride_w;
  if (step == 1)
    for (int64_t x = first; x < last; ++x) to[x] = T(p[x]);
  else
    for (int64_t x = first; x < last; ++x) to[x] = T(p[x * step]);
  for (int64_t x = last; x < width; ++x) edge(x);
}

// Copies what the results [i0, i0 + ni) x [j0, j0 + nj) read of `channels` channels into `tile`, a plane a channel.
template <class T, class In>
void pack_tile(T* tile, const TileShape& shape, const AxisPlan& r, const AxisPlan& c, int64_t i0, int64_t ni,
               int64_t j0, int64_t nj, const In* in, const Strides& strides, int64_t channels) {
  const int64_t height = ni + (r.highest() - r.lowest()) / r.stride;
  const int64_t width = nj + (c.highest() - c.lowest()) / c.stride;
  for (int64_t ch = 0; ch < channels; ++ch)
    for (int pr = 0; pr < shape.rows.count; ++pr)
      for (int64_t row = 0; row < height; ++row) {
        const int64_t h = r.source((i0 + row) * r.stride + r.lowest() + shape.rows.remainder[pr]);
        for (int pc = 0; pc < shape.columns.count; ++pc) {
          T* to = tile + ch * shape.plane + (pr * shape.columns.count + pc) * shape.phase + row * shape.pitch;
          if (h < 0)
            for (int64_t x = 0; x < width; ++x) to[x] = T(0);
          else
            pack_row<T, In>(to, c, j0 * c.stride + c.lowest() + shape.columns.remainder[pc], width,
                            in + ch * strides.c + h * strides.h, strides.w);
        }
      }
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
