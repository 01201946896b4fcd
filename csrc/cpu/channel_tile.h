// The tile of depthwise_channels.h: a block of rows of the input of one vector of groups, [row][column][lanes], so that
// a pixel of a row is one aligned vector, one lane a group, whatever the layout in memory is.
//
// Contiguous planes are turned over in registers, L pixels of L channels at a time (transpose.h), and every pixel's
// vector is stored at its place: `place` holds those of a block's pixels in memory's order. Columns are dealt out by
// their remainder modulo the stride, as in tile.h, so that neighbouring results read neighbouring vectors. Columns in
// the zero padding are zeros in the tile; rows in it are not in the tile at all, their taps are skipped.
#pragma once
#include "convert.h"
#include "planes.h"
#include "tile.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Turns L channels (`lanes` of them exist) of `count` neighbouring pixels over: the vector of pixel f goes to
// to + place[f].
template <class T, class In>
void channels_from_planes(const In* from, int64_t pitch, int64_t lanes, int64_t count, T* to, const int32_t* place) {
  constexpr int L = Vec<T>::lanes;
  using V = typename Vec<T>::type;
  const auto square = [&](int64_t f) {
    V v[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = load_as<T>(from + i * pitch + f);
    transpose_square<T>(v);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) store(to + place[f + i], v[i]);
  };
  int64_t f = 0;
  if (lanes == L)
    for (; f + L <= count; f += L) square(f);
  if (lanes == L && count >= L && count - f > 2) square(count - L), f = count;  // some again, but with whole vectors
  if (count - f <= 2) {
    for (; f < count; ++f)
      for (int64_t i = 0; i < L; ++i) to[place[f] + i] = i < lanes ? T(from[i * pitch + f]) : T(0);
    return;
  }
  for (; f < count; f += L) {
    const int64_t n = smaller(L, count - f);
    V v[L];
    for (int i = 0; i < L; ++i) v[i] = i < lanes ? load_some<T>(from + i * pitch + f, n) : V{};
    transpose_square<T>(v);
    for (int i = 0; i < n; ++i) store(to + place[f + i], v[i]);
  }
}

// The other way: `count` vectors that follow each other become `count` neighbouring pixels of `lanes` channels.
template <class T, class In>
void planes_from_channels(const T* from, int64_t lanes, int64_t count, In* to, int64_t pitch) {
  constexpr int L = Vec<T>::lanes;
  using V = typename Vec<T>::type;
  const auto square = [&](int64_t f) {
    V v[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = load(from + (f + i) * L);
    transpose_square<T>(v);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) store_as<T>(to + i * pitch + f, v[i]);
  };
  int64_t f = 0;
  if (lanes == L)
    for (; f + L <= count; f += L) square(f);
  if (lanes == L && count >= L && count - f > 2) square(count - L), f = count;
  if (count - f <= 2) {
    for (; f < count; ++f)
      for (int64_t i = 0; i < lanes; ++i) to[i * pitch + f] = In(from[f * L + i]);
    return;
  }
  for (; f < count; f += L) {
    const int64_t n = smaller(L, count - f);
    V v[L];
    for (int i = 0; i < L; ++i) v[i] = i < n ? load(from + (f + i) * L) : V{};
    transpose_square<T>(v);
    for (int i = 0; i < lanes; ++i) store_some<T>(to + i * pitch + f, v[i], n);
  }
}

// `count` pixels of a row (or of rows that follow each other: `flat`), from any layout. `lane` is the distance of two
// groups in memory, `pixel` that of two pixels.
template <class T, class In>
void load_channels(const In* from, int64_t lane, int64_t pixel, int64_t lanes, int64_t count, T* to,
                   const int32_t* place) {
  constexpr int L = Vec<T>::lanes;
  if (lane == 1) {
    for (int64_t f = 0; f < count; ++f) store(to + place[f], load_some<T>(from + f * pixel, lanes));
  } else if (pixel == 1) {
    channels_from_planes<T, In>(from, lane, lanes, count, to, place);
  } else {
    for (int64_t f = 0; f < count; ++f)
      for (int64_t i = 0; i < L; ++i) to[place[f] + i] = i < lanes ? T(from[i * lane + f * pixel]) : T(0);
  }
}

template <class T, class In>
void store_channels(const T* from, int64_t lanes, int64_t count, In* to, int64_t lane, int64_t pixel) {
  constexpr int L = Vec<T>::lanes;
  if (lane == 1) {
    for (int64_t f = 0; f < count; ++f) store_some<T>(to + f * pixel, load(from + f * L), lanes);
  } else if (pixel == 1) {
    planes_from_channels<T, In>(from, lanes, count, to, lane);
  } else {
    for (int64_t f = 0; f < count; ++f)
      for (int64_t i = 0; i < lanes; ++i) to[i * lane + f * pixel] = In(from[f * L + i]);
  }
}

// Memory that will be needed, as `streams` stretches of so many bytes.
struct Stretches {
  const char* at = nullptr;
  int64_t pitch = 0, bytes = 0, streams = 0, offset = 0;

  int64_t lines() const { return streams * ceil_div(bytes, 64); }
  void fetch(int64_t count) {  // that many lines into L2
    for (; count > 0 && streams > 0; --count) {
      __builtin_prefetch(at + offset, 0, 2);
      offset += 64;
      if (offset >= bytes) offset = 0, at += pitch, --streams;
    }
  }
};

// What the next block of rows will read and write (or read), fetched during the products of this one in `rounds` parts:
// many lines at once would wait for one another, and the sums for them.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const Stretches& a, const Stretches& b, int64_t rounds)
      : a_(a), b_(b), a_lines_(ceil_div(a.lines(), rounds)), b_lines_(ceil_div(b.lines(), rounds)) {}
  void fetch() { a_.fetch(a_lines_), b_.fetch(b_lines_); }

 private:
  Stretches a_, b_;
  int64_t a_lines_ = 0, b_lines_ = 0;
};

// The lines of `count` pixels of L groups, all of them in rows that follow each other.
template <class In>
Stretches lines_of_channels(const In* from, int64_t lane, int64_t pixel, int64_t lanes, int64_t count) {
  const char* const at = reinterpret_cast<const char*>(from);
  const int64_t size = sizeof(In);
  if (lane == 1) return {at, pixel * size, lanes * size, count, 0};
  return {at, lane * size, count * pixel * size, lanes, 0};
}

// One axis of all results: result i * phases + a has the taps plan[a]. (forward: one phase. grad_input: as many as the
// stride.)
struct ResultAxis {
  int64_t in, results, stride, phases;
  PaddingMode mode;
  Objects<AxisPlan> plan;
  Buffer<int> first_tap;  // of each phase, among the taps of all
  int taps = 0;
  int64_t lowest = 0, highest = 0;  // what the first result of any phase reads

  template <class MakePlan>
  ResultAxis(int64_t results, int64_t phases, MakePlan&& make)
      : results(results), phases(phases), plan(phases), first_tap(phases) {
    for (int64_t a = 0; a < phases; ++a) {
      plan[a] = make(a);
      if (plan[a].taps > 0) {
        lowest = taps ? smaller(lowest, plan[a].lowest()) : plan[a].lowest();
        highest = taps ? larger(highest, plan[a].highest()) : plan[a].highest();
      }
      first_tap[a] = taps;
      taps += plan[a].taps;
    }
    in = plan[0].in, stride = plan[0].stride, mode = plan[0].mode;
  }

  int64_t units() const { return ceil_div(results, phases); }  // results of the first phase, which has most
  // The taps of phase a that result i of it reads inside the input: first..last, since offsets rise or fall with taps.
  Run inside(int64_t a, int64_t i) const {
    const AxisPlan& p = plan[a];
    Run run{0, p.taps - 1};
    if (mode != PaddingMode::zeros) return run;
    const auto outside = [&](int64_t t) { return uint64_t(i * stride + p.offset[t]) >= uint64_t(in); };
    while (run.first <= run.last && outside(run.first)) ++run.first;
    while (run.first <= run.last && outside(run.last)) --run.last;
    return run;
  }
};

// Whether rows follow each other in memory, of what is read and of results, and none is read at several places.
inline bool flat_rows(const ResultAxis& r, const ResultAxis& c, const Strides& in, const Strides& out) {
  return in.h == c.in * in.w && out.h == c.results * out.w && r.mode == PaddingMode::zeros;
}

template <class T>
class ChannelTile {
 public:
  static constexpr int64_t L = Vec<T>::lanes;

  // For blocks of at most block_units rows of results of each phase.
  ChannelTile(const ResultAxis& r, const ResultAxis& c, int64_t block_units)
      : rows_(r),
        columns_(c),
        length_(c.units() + (c.highest - c.lowest) / c.stride),
        slots_(smaller(c.stride, c.highest - c.lowest + 1)),
        pitch_((slots_ * length_ + 1) * L),  // a row ends in a place for what is not read
        height_(rows_of_input(r, block_units)),
        place_(height_ * c.in),
        edge_(slots_ * length_) {
    for (int64_t row = 0; row < height_; ++row)
      for (int64_t w = 0; w < c.in; ++w) {
        const int64_t at = column(w);
        place_[row * c.in + w] = int32_t(row * pitch_ + (at < 0 ? pitch_ - L : at));
      }
    for (int64_t v = c.lowest; v <= c.lowest + slots_ - 1 + (length_ - 1) * c.stride; ++v)
      if ((v < 0 || v >= c.in) && column(v) >= 0) edge_[edges_++] = v;
  }

  // How many rows of input a block reads.
  static int64_t rows_of_input(const ResultAxis& r, int64_t units) {
    const int64_t rows = (units - 1) * r.stride + r.highest - r.lowest + 1;
    return r.mode == PaddingMode::zeros ? smaller(rows, r.in) : rows;
  }

  int64_t pitch() const { return pitch_; }
  int64_t size() const { return height_ * pitch_; }
  bool padded() const { return columns_.mode == PaddingMode::zeros && edges_ > 0; }

  // Where column v of the (padded) input is in a row, -1 if no tap reads it.
  int64_t column(int64_t v) const {
    const int64_t d = v - columns_.lowest;
    if (d < 0 || d % columns_.stride >= slots_ || d / columns_.stride >= length_) return -1;
    return (d % columns_.stride * length_ + d / columns_.stride) * L;
  }

  // The row of the (padded) input that a block's tile begins with.
  int64_t top(int64_t unit) const {
    const int64_t v = unit * rows_.stride + rows_.lowest;
    return rows_.mode == PaddingMode::zeros ? larger(0, v) : v;
  }

  // And the last one.
  int64_t bottom(int64_t unit, int64_t units) const {
    const int64_t v = (unit + units - 1) * rows_.stride + rows_.highest;
    return rows_.mode == PaddingMode::zeros ? smaller(v, rows_.in - 1) : v;
  }

  // What pack() will read.
  template <class In>
  Stretches lines(int64_t unit, int64_t units, const In* from, const Strides& s, int64_t lane, int64_t lanes) const {
    const int64_t first = top(unit), rows = bottom(unit, units) - first + 1;
    return lines_of_channels<In>(from + first * s.h, lane, s.w, lanes, rows * columns_.in);
  }

  // Fills the tile of the block of `units` units from `unit`; its columns in the zero padding must be zeros already.
  // `from` is the image's first channel, groups are `lane` apart.
  template <class In>
  void pack(T* tile, int64_t unit, int64_t units, const In* from, const Strides& s, int64_t lane, int64_t lanes) const {
    const int64_t first = top(unit), last = bottom(unit, units), W = columns_.in;
    for (int64_t v = first, rows; v <= last; v += rows) {
      const int64_t h = source(rows_, v);
      T* to = tile + (v - first) * pitch_;
      const In* row = from + h * s.h;
      const bool zeros = columns_.mode == PaddingMode::zeros, flat = v == h && s.h == W * s.w && zeros;
      rows = flat ? smaller(rows_.in, last + 1) - v : 1;  // those that follow each other in memory at once
      load_channels<T, In>(row, lane, s.w, lanes, rows * W, to, place_.data());
      for (int64_t e = 0; !zeros && e < edges_; ++e) {
        const int64_t w = source(columns_, edge_[e]);
        const int32_t place = int32_t(column(edge_[e]));
        if (w >= 0) load_channels<T, In>(row + w * s.w, lane, s.w, lanes, 1, to, &place);
      }
    }
  }

 private:
  static int64_t source(const ResultAxis& a, int64_t v) {
    const int64_t i = Axis{a.in, 0, 0, 0, 0, 0, a.mode}.source(v);
    return i < a.in ? i : -1;
  }

  const ResultAxis &rows_, &columns_;
  int64_t length_, slots_, pitch_, height_, edges_ = 0;
  Buffer<int32_t> place_;  // of the pixels of a block's rows
  Buffer<int64_t> edge_;   // the columns in the padding
};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
