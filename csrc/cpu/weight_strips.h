// What the weight gradient's kernel reads: both operands of a strip of pixels, packed, with everything irregular
// (padding, strides, layout, dtype) resolved in the copy.
//
//   y as [pixel][block of outputs], a vector load a step;
//   x as [channel tile][pixel][channel], with the halo that the taps reach, a register tile's scalars side by side.
//
// A tap is then an offset into x, and a pixel an entry of a table.
#pragma once
#include "tile.h"
#include "transpose.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// A weight gradient for the engine: the part of Convolution (convolution.h), sums over pixels instead of channels.
template <class T, class In>
struct WeightGradient {
  int64_t N, G, inputs, outputs;
  AxisPlan rows, columns;
  const In *x, *y;
  In* w;
  T* sums;  // if not null, they go there instead of being rounded to In
  Strides x_strides, y_strides, w_strides;
  bool all_taps;  // none was left out

  // Calls f with the gradient, of In or of T.
  template <class F>
  void with_gradient(F&& f) const {
    if constexpr (!std::is_same_v<T, In>)
      if (sums) return f(sums);
    f(w);
  }

  void put(int64_t place, T value) const {
    with_gradient([&](auto* to) { to[place] = std::remove_reference_t<decltype(*to)>(value); });
  }
  // For taps that no result reads through.
  void zero(int64_t K, int64_t R, int64_t S) const {
    for (int64_t k = 0; k < K; ++k)
      for (int64_t c = 0; c < inputs; ++c)
        for (int64_t r = 0; r < R; ++r)
          for (int64_t s = 0; s < S; ++s) put(w_strides(k, c, r, s), T(0));
  }

  int64_t taps() const { return int64_t(rows.taps) * columns.taps; }
  // Whether each filter, and all filters of one output, lie in memory as a line that has every tap in it.
  bool filters_are_lines() const {
    return all_taps && (columns.taps == 1 || w_strides.w == 1) && (rows.taps == 1 || w_strides.h == columns.taps) &&
           (inputs == 1 || w_strides.c == taps()) && (inputs > 1 || taps() > 1);
  }
  bool neighbouring_column_taps() const {
    return columns.taps > 1 && columns.highest() - columns.lowest() + 1 == columns.taps;
  }

  bool is_pointwise() const { return is_pixel_for_pixel(rows, columns); }
  bool is_flat() const { return is_pointwise() && rows.count == 1; }
  // Pointwise planes that are lines in memory are taken as such.
  void flatten() {
    const int64_t W = columns.in;
    if (is_pointwise() && x_strides.h == W * x_strides.w && y_strides.h == W * y_strides.w) make_one_row(rows, columns);
  }

  // Seen from x: the same sums with the operands' parts exchanged, the taps mirrored. For stride 1 and one group.
  bool can_swap() const {
    return G == 1 && rows.stride == 1 && columns.stride == 1 && rows.mode == PaddingMode::zeros &&
           columns.mode == PaddingMode::zeros;
  }
  WeightGradient swapped() const {
    return {N,
            G,
            outputs,
            inputs,
            mirrored(rows),
            mirrored(columns),
            y,
            x,
            w,
            sums,
            y_strides,
            x_strides,
            {w_strides.c, w_strides.n, w_strides.h, w_strides.w},
            all_taps};
  }

 private:
  static AxisPlan mirrored(const AxisPlan& a) {
    AxisPlan m(a.taps);
    m.in = a.count, m.count = a.in;
    for (int t = a.taps - 1; t >= 0; --t) m.add_tap(-a.offset[t], a.index[t]);
    return m;
  }
};

// A strip: `images` whole images, or rows x columns pixels of one.
struct Strip {
  int64_t n, images, i, rows, j, columns;
  int64_t pixels() const { return images * rows * columns; }
};

// What packing a strip reads: `count` neighbouring results along an axis read count * step + halo elements of each
// input.
struct Reach {
  int64_t step, halo;
  double of(int64_t count) const { return double(count * step + halo); }
};
struct Reaches {
  Reach down, across;
  int64_t inputs, outputs;

  template <class T, class In>
  explicit Reaches(const WeightGradient<T, In>& wg)
      : down(reach_of(wg.rows)), across(reach_of(wg.columns)), inputs(wg.inputs), outputs(wg.outputs) {}
  Reaches(const Reach& down, const Reach& across, int64_t inputs, int64_t outputs)
      : down(down), across(across), inputs(inputs), outputs(outputs) {}

 private:
  static Reach reach_of(const AxisPlan& a) {  // along an axis with a single tap only what it reads
    return a.taps == 1 ? Reach{1, 0} : Reach{a.stride, a.highest() - a.lowest() + 1 - a.stride};
  }
};

// All pixels in strips, by the shape alone. Enough pixels each to outweigh adding a strip's sums to the total, and so
// few that a block of y's outputs stays in L1. Strips of wide planes are narrower than those, by a multiple of `square`
// columns: of whole rows, three rows of x would be packed for each row of y.
struct Strips {
  int64_t N, all_rows, all_columns, images, rows, columns, per_row, per_image, count;

  Strips(int64_t N, int64_t all_rows, int64_t all_columns, int64_t pixels, const Reaches& reads, int64_t square)
      : N(N), all_rows(all_rows), all_columns(all_columns) {
    images = smaller(N, larger(1, pixels / larger(all_rows * all_columns, 1)));
    const int64_t fewest = ceil_div(all_columns, pixels * 17 / 16);
    columns = ceil_div(all_columns, fewest);
    for (int64_t n = fewest + 1; images == 1 && n * kNarrow <= all_columns; ++n) {
      const int64_t w = ceil_div(ceil_div(all_columns, n), square) * square;
      if (time(w, pixels, reads) < time(columns, pixels, reads)) columns = w;
    }
    rows = images > 1 ? all_rows : rows_of(columns, pixels);
    per_row = ceil_div(all_columns, columns);
    per_image = per_row * ceil_div(all_rows, rows);
    count = ceil_div(N, images) * per_image;
  }
  Strip operator[](int64_t t) const {
    const int64_t n = t / per_image * images, i = t % per_image / per_row * rows, j = t % per_row * columns;
    return {n, smaller(images, N - n), i, smaller(rows, all_rows - i), j, smaller(columns, all_columns - j)};
  }

 private:
  static constexpr int64_t kNarrow = 32;

  // Of a pixel, for strips so wide; beginning a row takes as long as kRow pixels.
  double time(int64_t width, int64_t pixels, const Reaches& reads) const {
    constexpr double kRow = 8;
    const int64_t rows = rows_of(width, pixels);
    return (double(reads.inputs) * reads.down.of(rows) * (reads.across.of(width) + kRow) +
            double(reads.outputs) * double(rows) * (double(width) + kRow)) /
           double(rows * width);
  }
  int64_t rows_of(int64_t width, int64_t pixels) const {
    const int64_t most = width < all_columns ? larger(1, pixels / width) : ceil_div(pixels, width);
    return ceil_div(all_rows, ceil_div(all_rows, most));
  }
};

// The left side of the register tiles: M runs over channels, cut into nearly equal tiles, taps one by one. With few
// channels it runs over (column tap, channel) instead: in [row][column][channel] the taps of one filter row are
// neighbours in memory. A unit is a register tile, one (tile, tap) or (tile, row tap); those of one tile follow one
// another. Or it runs over all taps, (row tap, column tap, channel), if each is laid out for itself.
struct LeftTiles {
  bool across_taps, across_rows = false;
  int64_t run, tiles, taps, units;
  int m;  // of the largest tile

  template <class T, class In>
  explicit LeftTiles(const WeightGradient<T, In>& wg) {
    across_taps = wg.inputs <= CONVX_MAX_M / 2 && wg.neighbouring_column_taps();
    run = across_taps ? wg.inputs * wg.columns.taps : wg.inputs;
    tiles = ceil_div(run, CONVX_MAX_M);
    m = int(ceil_div(run, tiles));
    taps = across_taps ? wg.rows.taps : wg.taps();
    units = tiles * taps;
  }
  // Tiles of m, as far as they go.
  template <class T, class In>
  LeftTiles(int m, const WeightGradient<T, In>& wg, bool across_taps, bool across_rows)
      : across_taps(across_taps),
        across_rows(across_rows),
        run(wg.inputs * (across_rows   ? wg.taps()
                         : across_taps ? wg.columns.taps
                                       : 1)),
        tiles(ceil_div(run, m)),
        taps(across_rows   ? 1
             : across_taps ? wg.rows.taps
                           : wg.taps()),
        units(tiles * taps),
        m(m),
        equal_(false) {}

  int64_t first(int64_t tile) const { return equal_ ? run * tile / tiles : smaller(run, tile * m); }
  int size(int64_t tile) const { return int(first(tile + 1) - first(tile)); }
  int64_t tile(int64_t unit) const { return unit / taps; }
  int64_t tap(int64_t unit) const { return unit % taps; }

  // The units of part `part` of `parts`: whole tiles, if there are enough.
  bool whole_tiles(int64_t parts) const { return tiles >= parts; }
  int64_t first_unit(int64_t part, int64_t parts) const {
    return whole_tiles(parts) ? tiles * part / parts * taps : units * part / parts;
  }

 private:
  bool equal_ = true;
};

// x of a strip, tile by tile: [image][row][column][channel of the tile], or, if M runs across taps, the same with all
// channels, once. Columns run from the lowest to the highest that any tap reads; along an axis with a single tap only
// what it reads is there.
//
// Pointwise layers can also be read in place, as planes of pixels. Six or fourteen streams take the processor some 7 %
// longer than one (measured on AVX2), so it is for few outputs, when an element is read too seldom to be worth packing.
template <class T, class In>
class LeftSide {
 public:
  LeftSide(const WeightGradient<T, In>& wg, const LeftTiles& tiles, const Strips& strips, int64_t outputs)
      : wg_(wg),
        tiles_(tiles),
        row_step_(wg.rows.taps == 1 ? wg.rows.stride : 1),
        column_step_(wg.columns.taps == 1 ? wg.columns.stride : 1),
        picks_(wg.taps() == 1 && column_step_ > 1 && wg.x_strides.c != 1 && is_inside(wg.rows) &&
               is_inside(wg.columns)),
        in_place_(std::is_same_v<T, In> && outputs <= kFewOutputs && wg.is_flat() && wg.x_strides.w == 1 &&
                  strips.images * wg.x_strides.n < INT32_MAX && wg.x_strides.c * sizeof(T) % 4096 != 0),
        element_(in_place_           ? 1
                 : tiles.across_taps ? wg.inputs
                                     : tiles.m),
        width_(columns(strips.columns)),
        image_(in_place_ ? wg.x_strides.n : rows(strips.rows) * width_ * element_),
        size_(strips.images * rows(strips.rows) * width_ * (tiles.across_taps ? wg.inputs : tiles.m)) {}

  int64_t size() const { return size_; }  // of one tile and strip, in elements
  bool in_place() const { return in_place_; }
  // Where a strip's first channel of a tile is, in place, and how far the next one is.
  const T* of(const Strip& strip, int64_t g, int64_t tile) const {
    return reinterpret_cast<const T*>(wg_.x) + wg_.x_strides(strip.n, g * wg_.inputs + tiles_.first(tile), 0, strip.j);
  }
  int64_t pitch() const { return wg_.x_strides.c; }
  template <int NV>
  OuterProduct<T> kernel(int64_t tile) const {
    const int m = tiles_.size(tile);
    return in_place_ ? outer_product_of_planes<T, NV>(m) : outer_product_of<T, NV>(1, m);
  }
  // Where pixel (i, j) of image b of a strip is, for any channel and tap.
  int64_t pixel(int64_t b, int64_t i, int64_t j) const {
    return b * image_ + (i * wg_.rows.stride / row_step_ * width_ + j * wg_.columns.stride / column_step_) * element_;
  }
  // Where a unit starts, in its tile and strip.
  int64_t offset(int64_t unit) const {
    const int64_t tap = tiles_.tap(unit);
    if (tiles_.across_taps)
      return (wg_.rows.offset[tap] - wg_.rows.lowest()) * width_ * element_ + tiles_.first(tiles_.tile(unit));
    const int64_t r = tap / wg_.columns.taps, s = tap % wg_.columns.taps;
    return ((wg_.rows.offset[r] - wg_.rows.lowest()) * width_ + wg_.columns.offset[s] - wg_.columns.lowest()) *
           element_;
  }

  // Packs one tile (all channels, if M runs across taps) of one strip of group g.
  void pack(T* to, const Strip& strip, int64_t g, int64_t tile) const {
    const int64_t c0 = tiles_.across_taps ? 0 : tiles_.first(tile);
    const int64_t channels = tiles_.across_taps ? wg_.inputs : tiles_.size(tile);
    if (picks_) return pack_picked(to, strip, g * wg_.inputs + c0, channels);
    const int64_t v0 = strip.j * wg_.columns.stride + wg_.columns.lowest(), width = columns(strip.columns);
    const InsideRun inside(wg_.columns, v0, width, column_step_);
    const int64_t first = inside.first, last = inside.last;
    constexpr int64_t L = Vec<T>::lanes;
    const int64_t pitch = ceil_div(last - first, L) * L;
    Scratch<T> line_of_each(column_step_ > 1 ? channels * pitch : 0);
    for (int64_t b = 0; b < strip.images; ++b)
      for (int64_t row = 0; row < rows(strip.rows); ++row) {
        T* const line = to + b * image_ + row * width_ * element_;
        const int64_t h = wg_.rows.source(strip.i * wg_.rows.stride + wg_.rows.lowest() + row * row_step_);
        if (h < 0) {
          std::memset(line, 0, width * element_ * sizeof(T));
          continue;
        }
        const In* const from = wg_.x + wg_.x_strides(strip.n + b, g * wg_.inputs + c0, h, 0);
        const int64_t sw = wg_.x_strides.w, sc = wg_.x_strides.c;
        for (int64_t x = 0; x < width; ++x) {
          if (x == first) x = last;  // the inside is copied below
          if (x >= width) break;
          const int64_t w = wg_.columns.source(v0 + x * column_step_);
          for (int64_t c = 0; c < channels; ++c) line[x * element_ + c] = w < 0 ? T(0) : T(from[w * sw + c * sc]);
        }
        pack_inside(line + first * element_, from + (v0 + first * column_step_) * sw, last - first, channels,
                    line_of_each.data(), pitch);
      }
  }

 private:
  static constexpr int64_t kFewOutputs = 128;

  static int64_t span(const AxisPlan& a, int64_t count, int64_t step) {
    return ((count - 1) * a.stride + a.highest() - a.lowest()) / step + 1;
  }
  int64_t rows(int64_t count) const { return span(wg_.rows, count, row_step_); }
  int64_t columns(int64_t count) const { return span(wg_.columns, count, column_step_); }

  static bool is_inside(const AxisPlan& a) { return a.lowest() >= 0 && a.highest() + (a.count - 1) * a.stride < a.in; }

  // Strided pointwise layers without padding: a strip's pixels are picked out of each channel, and turned over as one
  // line. Rows may be as short as seven pixels.
  void pack_picked(T* to, const Strip& strip, int64_t first_channel, int64_t channels) const {
    const int64_t count = strip.pixels(), pitch = ceil_div(count, Vec<T>::lanes) * Vec<T>::lanes;
    const int64_t h0 = strip.i * wg_.rows.stride + wg_.rows.lowest(),
                  w0 = strip.j * wg_.columns.stride + wg_.columns.lowest();
    Scratch<T> lines(channels * pitch);
    for (int64_t c = 0; c < channels; ++c) {
      T* line = lines.data() + c * pitch;
      for (int64_t b = 0; b < strip.images; ++b)
        for (int64_t i = 0; i < strip.rows; ++i, line += strip.columns)
          copy_strided(line, wg_.x + wg_.x_strides(strip.n + b, first_channel + c, h0 + i * wg_.rows.stride, w0),
                       column_step_ * wg_.x_strides.w, strip.columns);
    }
    transpose<T, T>(lines.data(), pitch, channels, count, to, element_, channels);
  }

  // Columns of a row that lie in the input, by way of `lines` of `pitch` if they are some apart.
  void pack_inside(T* to, const In* from, int64_t count, int64_t channels, T* lines, int64_t pitch) const {
    const int64_t sw = wg_.x_strides.w, sc = wg_.x_strides.c, e = element_, step = column_step_ * sw;
    const bool squares = e >= Vec<T>::lanes / 2 && sc != 1;
    if (squares && step == 1) return transpose<T, In>(from, sc, channels, count, to, e, channels);
    if (squares && column_step_ > 1) {
      for (int64_t c = 0; c < channels; ++c) copy_strided(lines + c * pitch, from + c * sc, step, count);
      return transpose<T, T>(lines, pitch, channels, count, to, e, channels);
    }
    if (sc == 1)
      for (int64_t x = 0; x < count; ++x)
        for (int64_t c = 0; c < channels; ++c) to[x * e + c] = T(from[x * step + c]);
    else
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t x = 0; x < count; ++x) to[x * e + c] = T(from[x * step + c * sc]);
  }

  const WeightGradient<T, In>& wg_;
  const LeftTiles& tiles_;
  int64_t row_step_, column_step_;  // from one row or column to the next, in x
  bool picks_, in_place_;
  int64_t element_, width_, image_, size_;
};

// y for one strip and one block of outputs, [pixel][width]. Returns whether all of it was finite.
template <class T, class In>
bool pack_strip_outputs(T* to, const WeightGradient<T, In>& wg, const Strip& strip, int64_t g, int64_t first,
                        int64_t width) {
  const int64_t count = smaller(width, wg.outputs - first), Q = strip.columns;
  const Strides& s = wg.y_strides;
  T* next = to;
  const bool is_line = s.w == 1 && (s.h == Q || strip.rows == 1);  // all the strip's rows of one image
  const int64_t lines = is_line ? 1 : strip.rows, length = strip.rows / lines * Q;
  for (int64_t b = 0; b < strip.images; ++b)
    for (int64_t i = 0; i < lines; ++i, next += length * width) {
      const In* from = wg.y + s(strip.n + b, g * wg.outputs + first, strip.i + i, strip.j);
      if (s.w == 1)
        transpose<T, In>(from, s.c, count, length, next, width, width);
      else if (s.c == 1)
        for (int64_t j = 0; j < Q; ++j)
          for (int64_t k = 0; k < width; k += Vec<T>::lanes)
            store(next + j * width + k, load_some<T>(from + j * s.w + k, larger(0, count - k)));
      else
        for (int64_t j = 0; j < Q; ++j)
          for (int64_t k = 0; k < width; ++k) next[j * width + k] = k < count ? T(from[j * s.w + k * s.c]) : T(0);
    }
  return all_finite(to, strip.pixels() * width);
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
