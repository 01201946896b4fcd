// The packed tile: the part of the input that one block of results reads, copied once, with everything irregular
// resolved in the copy (pack_tile.h). What reads a tile has no branch.
//
// In the tile, neighbouring results read neighbouring elements whatever the stride is: rows and columns are dealt out
// by their remainder modulo the stride ("phases"), [row phase][column phase][row][column], so that what tap (r, s) of
// all results reads is one plane at one offset. A tap is then nothing but an offset into the tile.
#pragma once
#include "transpose.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// One axis of a convolution as the engine sees it: result i reads input i * stride + offset[t] for each tap t.
//   forward:    stride and offsets are the problem's own.
//   grad_input: results of equal remainder modulo the stride have the same taps: one "phase", of stride 1.
struct AxisPlan {
  int64_t in = 0, count = 0, stride = 1;
  PaddingMode mode = PaddingMode::zeros;
  int taps = 0;
  Buffer<int64_t> offset, index;        // of tap t: relative to result 0, in the weight
  int64_t first_out = 0, out_step = 1;  // result i is written at first_out + i * out_step

  explicit AxisPlan(int64_t most_taps = 0) : offset(most_taps), index(most_taps) {}
  void add_tap(int64_t at, int64_t weight_index) {
    offset[taps] = at;
    index[taps++] = weight_index;
  }
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

// One tap that reads what it gives.
inline AxisPlan pixel_for_pixel(int64_t count) {
  AxisPlan a(1);
  a.in = a.count = count;
  a.add_tap(0, 0);
  return a;
}

// 1x1 with stride 1, pixel for pixel.
inline bool is_pixel_for_pixel(const AxisPlan& rows, const AxisPlan& columns) {
  const auto one = [](const AxisPlan& a) {
    return a.taps == 1 && a.stride == 1 && a.offset[0] == 0 && a.count == a.in;
  };
  return one(rows) && one(columns);
}

// Its planes as one row, where all operands have them as lines in memory.
inline void make_one_row(AxisPlan& rows, AxisPlan& columns) {
  columns.in = columns.count = rows.count * columns.count;
  rows.in = rows.count = 1;
}

// The phases of one axis that some tap reads, and the place of each tap in them.
struct Phases {
  int count = 0;
  Buffer<int64_t> remainder;
  Buffer<int> slot;  // of tap t
  int64_t length;    // of each phase, for a block of so many results

  // Whether the phases are neighbours in memory, the first one first.
  bool in_order() const {
    for (int p = 0; p < count; ++p)
      if (remainder[p] != p) return false;
    return true;
  }

  Phases(const AxisPlan& a, int64_t block)
      : remainder(a.taps), slot(a.taps), length(block + (a.highest() - a.lowest()) / a.stride) {
    const int64_t lowest = a.lowest(), different = smaller(a.stride, a.highest() - lowest + 1);
    Buffer<int> slot_of(different);
    for (int64_t p = 0; p < different; ++p) slot_of[p] = -1;
    for (int t = 0; t < a.taps; ++t) {
      const int64_t p = (a.offset[t] - lowest) % a.stride;
      if (slot_of[p] < 0) slot_of[p] = count, remainder[count++] = p;
      slot[t] = slot_of[p];
    }
  }
};

// The shape of the tile for blocks of at most block_rows x block_columns results.
struct TileShape {
  Phases rows, columns;
  int64_t pitch, phase, plane;  // elements from row to row, from phase to phase, from channel to channel
  int64_t lowest_row, lowest_column, row_span, column_span;

  // `pitch` is a multiple of `step`.
  TileShape(const AxisPlan& r, const AxisPlan& c, int64_t block_rows, int64_t block_columns, int64_t step = 1)
      : rows(r, block_rows),
        columns(c, block_columns),
        lowest_row(r.lowest()),
        lowest_column(c.lowest()),
        row_span((r.highest() - lowest_row) / r.stride),
        column_span((c.highest() - lowest_column) / c.stride) {
    pitch = ceil_div(columns.length, step) * step;
    phase = rows.length * pitch;
    plane = rows.count * columns.count * phase;
  }

  // Where tap (tr, tc) of result (0, 0) is, in a plane.
  int64_t tap(const AxisPlan& r, const AxisPlan& c, int tr, int tc) const {
    return (rows.slot[tr] * columns.count + columns.slot[tc]) * phase + (r.offset[tr] - lowest_row) / r.stride * pitch +
           (c.offset[tc] - lowest_column) / c.stride;
  }
};

// Copies count neighbours.
template <class T, class In>
inline void copy_run(T* to, const In* from, int64_t count) {
  constexpr int64_t L = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + L <= count; i += L) store(to + i, load_as<T>(from + i));
  if (i < count && count >= L)
    store(to + count - L, load_as<T>(from + count - L));  // some again, but whole
  else if (i < count)
    store_some<T>(to + i, load_some<T>(from + i, count - i), count - i);
}

// Copies every other element: two vectors are loaded and their even elements kept. Reads up to from[2 * count - 2].
template <class T>
inline void copy_every_other(T* to, const T* from, int64_t count) {
  constexpr int64_t L = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + L < count; i += L)  // the last element of the second vector must be there to be loaded
    store(to + i, shuffle<T>(load(from + 2 * i), load(from + 2 * i + L), Interleave<T>::index(Evens<T>::table.even)));
#ifdef CONVX_AVX512  // has masks that cost nothing
  if (const int64_t rest = count - i; rest > 0)
    store_some<T>(to + i,
                  shuffle<T>(load_some<T>(from + 2 * i, 2 * rest - 1),
                             load_some<T>(from + 2 * i + L, larger(0, 2 * rest - 1 - L)),
                             Interleave<T>::index(Evens<T>::table.even)),
                  rest);
#else
  for (; i < count; ++i) to[i] = from[2 * i];
#endif
}

// Copies count elements, `step` apart.
template <class T, class In>
inline void copy_strided(T* to, const In* from, int64_t step, int64_t count) {
  if (step == 1)
    copy_run(to, from, count);
  else if (std::is_same_v<T, In> && step == 2)
    copy_every_other(to, reinterpret_cast<const T*>(from), count);
  else
    for (int64_t x = 0; x < count; ++x) to[x] = T(from[x * step]);
}

// Which of the `width` columns v0 + x * stride lie inside the input: those with first <= x < last. Found once for all
// rows, since divisions cost as much as copying a row.
struct InsideRun {
  int64_t v0, first, last;
  InsideRun() = default;
  InsideRun(const AxisPlan& c, int64_t v0, int64_t width) : InsideRun(c, v0, width, c.stride) {}
  InsideRun(const AxisPlan& c, int64_t v0, int64_t width, int64_t step) : v0(v0) {  // columns v0 + x * step
    first = smaller(v0 >= 0 ? 0 : ceil_div(-v0, step), width);
    last = larger(first, v0 >= c.in ? first : smaller((c.in - 1 - v0) / step + 1, width));
  }
};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
