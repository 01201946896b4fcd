// grad_weight as outer products over registers: vectors across output channels, scalars across input channels, and the
// loop over pixels,
//
//   w[k,c,r,s] = sum over pixels (n,p,q) of  x[n, c, pixel shifted by tap (r,s)] * y[n,k,p,q].
//
// The same micro-kernel as forward's with other index maps: a step is a pixel, A is x packed with the channels of one
// register tile next to each other ([channel tile][image][row][column][M], so a tap is an offset and a pixel a table
// entry), B is y packed as [pixel][NV * lanes].
//
// With few input channels (a network's first layer) M runs over (column tap, channel) instead: in [row][column][C] the
// taps of one filter row are neighbours in memory anyway.
//
// Threads divide the results, never the pixels: there is no reduction between threads, no private copy of the gradient,
// and each sum has one order. That order is fixed by the shape alone: pixels are cut into strips of a few hundred, each
// strip is summed in short chains and then added, which keeps the rounding error of long sums near that of short ones.
//
// Estimate: the FMA roof less packing: every thread packs all of x, one copy for K / threads * R * S multiply-adds, and
// its own outputs of y; or, where there are more inputs than outputs, the other way around.
#pragma once
#include "micro_kernel.h"
#include "tile.h"
#include "transpose.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// As kChain, for sums over pixels, which are longer.
template <class T>
constexpr int64_t kPixelChain = sizeof(T) == 4 ? 128 : 48;

template <class T, class In>
struct WeightGradient {
  int64_t N, G, inputs, outputs;
  AxisPlan rows, columns;
  const In *x, *y;
  In* w;
  Strides x_strides, y_strides, w_strides;
  bool all_taps;  // none was left out

  // Whether each filter, and all filters of one output, lie in memory as a line that has every tap in it.
  bool filters_are_lines() const {
    const int64_t taps = int64_t(rows.taps) * columns.taps;
    return all_taps && (columns.taps == 1 || w_strides.w == 1) && (rows.taps == 1 || w_strides.h == columns.taps) &&
           (inputs == 1 || w_strides.c == taps) && (inputs > 1 || taps > 1);
  }
  bool neighbouring_column_taps() const {
    return columns.taps > 1 && columns.highest() - columns.lowest() + 1 == columns.taps;
  }
};

// The pixels of strip t: `images` whole images, or `rows` rows of one.
struct Strip {
  int64_t images, rows, per_image, count;

  template <class T, class In>
  Strip(const WeightGradient<T, In>& wg, const AxisPlan& r, const AxisPlan& c) {
    // enough to outweigh adding the strip's sums to the total; y for all of them stays in L1
    constexpr int64_t kPixels = 1536 / sizeof(T);
    const int64_t plane = r.count * c.count;
    images = smaller(wg.N, larger(1, kPixels / larger(plane, 1)));
    rows = images > 1 ? r.count : smaller(r.count, larger(1, ceil_div(kPixels, c.count)));
    per_image = ceil_div(r.count, rows);
    count = ceil_div(wg.N, images) * per_image;
  }
};

// What one register tile's M stands for.
struct Channels {
  bool across_taps;  // M runs over (column tap, channel), else over channels
  int m, tiles;      // width of a tile, and how many there are for each tap (or for each row tap)
  int64_t element;   // elements of A for each pixel
  int64_t taps;      // units for each tile: taps, or row taps
  int64_t units;     // register tiles for each block of outputs, those of one tile in a row

  template <class T, class In>
  explicit Channels(const WeightGradient<T, In>& wg) {
    across_taps = wg.inputs <= CONVX_MAX_M / 2 && wg.neighbouring_column_taps();
    const int64_t run = across_taps ? wg.inputs * wg.columns.taps : wg.inputs;
    tiles = int(ceil_div(run, CONVX_MAX_M));
    m = int(ceil_div(run, tiles));
    element = across_taps ? wg.inputs : m;
    taps = int64_t(wg.rows.taps) * (across_taps ? 1 : wg.columns.taps);
    units = tiles * taps;
  }
  // For tiles of so many channels, taps one by one.
  template <class T, class In>
  Channels(int m, const WeightGradient<T, In>& wg)
      : across_taps(false),
        m(m),
        tiles(int(ceil_div(wg.inputs, m))),
        element(m),
        taps(int64_t(wg.rows.taps) * wg.columns.taps),
        units(tiles * taps) {}

  int64_t tile(int64_t u) const { return u / taps; }
  int64_t tap(int64_t u) const { return u % taps; }

  // The units of part `part` of `parts`: whole tiles, if there are enough.
  int64_t first_unit(int64_t part, int64_t parts) const {
    return tiles >= parts ? tiles * part / parts * taps : units * part / parts;
  }
};

// x for one strip. Columns run from the lowest to the highest that any tap reads; no phases here, the table of pixels
// has the stride in it. Along an axis with a single tap only what it reads is there.
template <class T, class In>
struct StripTile {
  const WeightGradient<T, In>& wg;
  const Channels& ch;
  int64_t row_step, column_step;        // from one row or column to the next, in x
  int64_t height, width, image, plane;  // elements: image and plane (a channel tile)

  StripTile(const WeightGradient<T, In>& wg, const Channels& ch, const Strip& strip)
      : wg(wg),
        ch(ch),
        row_step(wg.rows.taps == 1 ? wg.rows.stride : 1),
        column_step(wg.columns.taps == 1 ? wg.columns.stride : 1) {
    height = rows(strip.rows);
    width = span(wg.columns, wg.columns.count, column_step);
    image = height * width * ch.element;
    plane = strip.images * image;
  }
  static int64_t span(const AxisPlan& a, int64_t count, int64_t step) {
    return ((count - 1) * a.stride + a.highest() - a.lowest()) / step + 1;
  }
  int64_t rows(int64_t count) const { return span(wg.rows, count, row_step); }
  // Where pixel (i, j) of image b is.
  int64_t pixel(int64_t b, int64_t i, int64_t j) const {
    return b * image + (i * wg.rows.stride / row_step * width + j * wg.columns.stride / column_step) * ch.element;
  }
  int64_t planes() const { return ch.across_taps ? 1 : ch.tiles; }
  int64_t size() const { return planes() * plane + CONVX_MAX_M; }  // the last tile may read past its taps

  // Where unit u starts: its row tap, and its column tap and channel tile or its place in the run of both.
  int64_t offset(int64_t u) const {
    const int64_t tile = ch.tile(u), tap = ch.tap(u);
    if (ch.across_taps) return (wg.rows.offset[tap] - wg.rows.lowest()) * width * ch.element + tile * ch.m;
    const int64_t r = tap / wg.columns.taps, s = tap % wg.columns.taps;
    return tile * plane +
           ((wg.rows.offset[r] - wg.rows.lowest()) * width + wg.columns.offset[s] - wg.columns.lowest()) * ch.element;
  }

  // Packs planes [first_plane, last_plane).
  void pack(T* to, int64_t n0, int64_t images, int64_t i0, int64_t ni, int64_t g, int64_t first_plane,
            int64_t last_plane) const {
    const int64_t v0 = wg.columns.lowest(), step = column_step, count = rows(ni);
    const int64_t first = smaller(v0 < 0 ? ceil_div(-v0, step) : 0, width);
    const int64_t last = larger(first, smaller(ceil_div(larger(0, wg.columns.in - v0), step), width));
    const int64_t L = Vec<T>::lanes, pitch = ceil_div(last - first, L) * L;
    Scratch<T> line_of_each(step > 1 ? larger(1, ch.element) * pitch : 0);
    for (int64_t tile = first_plane; tile < last_plane; ++tile) {
      const int64_t c0 = tile * ch.element, channels = smaller(ch.element, wg.inputs - c0);
      for (int64_t b = 0; b < images; ++b)
        for (int64_t row = 0; row < count; ++row) {
          T* line = to + tile * plane + b * image + row * width * ch.element;
          const int64_t h = wg.rows.source(i0 * wg.rows.stride + wg.rows.lowest() + row * row_step);
          if (h < 0 || channels < ch.element) std::memset(line, 0, width * ch.element * sizeof(T));
          if (h < 0) continue;
          const In* from = wg.x + wg.x_strides(n0 + b, g * wg.inputs + c0, h, 0);
          const int64_t sw = wg.x_strides.w, sc = wg.x_strides.c, e = ch.element;
          for (int64_t col = 0; col < width; ++col) {
            if (col == first) col = last;  // the inside is copied below
            if (col >= width) break;
            const int64_t w = wg.columns.source(v0 + col * step);
            for (int64_t c = 0; c < channels; ++c) line[col * e + c] = w < 0 ? T(0) : T(from[w * sw + c * sc]);
          }
          from += v0 * sw;
          if (sc == 1) {
            for (int64_t col = first; col < last; ++col)
              for (int64_t c = 0; c < channels; ++c) line[col * e + c] = T(from[col * step * sw + c]);
          } else if (sw == 1 && e >= L / 2 && step == 1) {
            transpose<T, In>(from + first, sc, channels, last - first, line + first * e, e, channels);
          } else if (e >= L / 2 && step > 1) {
            for (int64_t c = 0; c < channels; ++c)
              copy_strided(line_of_each.data() + c * pitch, from + first * step * sw + c * sc, step * sw, last - first);
            transpose<T, T>(line_of_each.data(), pitch, channels, last - first, line + first * e, e, channels);
          } else {
            for (int64_t c = 0; c < channels; ++c)
              for (int64_t col = first; col < last; ++col) line[col * e + c] = T(from[col * step * sw + c * sc]);
          }
        }
    }
  }
};

// y for one strip and one block of outputs, [pixel][width]. Returns whether all of it was finite.
template <class T, class In>
bool pack_strip_outputs(T* to, const WeightGradient<T, In>& wg, int64_t n0, int64_t images, int64_t i0, int64_t ni,
                        int64_t g, int64_t first, int64_t width) {
  const int64_t count = smaller(width, wg.outputs - first), Q = wg.columns.count;
  const Strides& s = wg.y_strides;
  T* next = to;
  for (int64_t b = 0; b < images; ++b)
    for (int64_t i = 0; i < ni; ++i) {
      const In* from = wg.y + s(n0 + b, g * wg.outputs + first, i0 + i, 0);
      if (s.w == 1 && (s.h == Q || ni == 1)) {  // all the strip's rows of one image are one line
        transpose<T, In>(from, s.c, count, ni * Q, next, width, width);
        next += ni * Q * width;
        break;
      }
      if (s.c == 1)
        for (int64_t j = 0; j < Q; ++j)
          for (int64_t k = 0; k < width; k += Vec<T>::lanes)
            store(next + j * width + k, load_some<T>(from + j * s.w + k, larger(0, count - k)));
      else
        for (int64_t j = 0; j < Q; ++j)
          for (int64_t k = 0; k < width; ++k) next[j * width + k] = k < count ? T(from[j * s.w + k * s.c]) : T(0);
      next += Q * width;
    }
  return all_finite(to, images * ni * Q * width);
}

// Writes the sums of one unit to the gradient.
template <class T, class In>
void store_unit(const WeightGradient<T, In>& wg, const Channels& ch, const T* sums, int64_t u, int64_t k0,
                int64_t count, int64_t width) {
  const int64_t tile = ch.tile(u), tap = ch.tap(u);
  for (int m = 0; m < ch.m; ++m) {
    int64_t r = tap, s, c = tile * ch.m + m;
    if (ch.across_taps)
      s = c / wg.inputs, c %= wg.inputs;
    else
      r = tap / wg.columns.taps, s = tap % wg.columns.taps;
    if (c >= wg.inputs || s >= wg.columns.taps) continue;  // the tile's rest
    for (int64_t k = 0; k < count; ++k)
      wg.w[wg.w_strides(k0 + k, c, wg.rows.index[r], wg.columns.index[s])] = In(sums[m * width + k]);
  }
}

// Writes the sums of whole tiles from `tile` on, where filters are lines: for each output a line of (channel, tap),
// turned over from the sums a square at a time.
template <class T, class In>
void store_tiles(const WeightGradient<T, In>& wg, const Channels& ch, const T* sums, int64_t tile, int64_t tiles,
                 int64_t k0, int64_t count, int64_t width) {
  constexpr int64_t L = Vec<T>::lanes;
  const int64_t c0 = tile * ch.m, channels = smaller(wg.inputs - c0, tiles * ch.m), length = channels * ch.taps;
  In* const w = wg.w + wg.w_strides(k0, c0, 0, 0);
  const T* rows[L];
  int64_t tap = 0, m = 0, t = 0;  // of the next place in the line
  for (int64_t place = 0; place < length; place += L) {
    const int64_t places = smaller(L, length - place);
    for (int64_t i = 0; i < places; ++i) {
      rows[i] = sums + ((t * ch.taps + tap) * ch.m + m) * width;
      if (++tap == ch.taps) tap = 0, ++m;
      if (m == ch.m) m = 0, ++t;
    }
    for (int64_t k = 0; k < count; k += L) {
      typename Vec<T>::type v[L];
      for (int64_t i = 0; i < L; ++i) v[i] = i < places ? load(rows[i] + k) : typename Vec<T>::type{};
      transpose_square<T>(v);
      for (int64_t j = 0; j < smaller(L, count - k); ++j) {
        In* const to = w + (k + j) * wg.w_strides.n + place;
        store_some<T>(to, v[j], places);
      }
    }
  }
}

// total += part; what the additions round off is added to `lost`, if given (Knuth, The Art of Computer Programming 2,
// 4.2.2, theorem B).
template <class T>
void add_exactly(T* total, const T* part, int64_t count, T* lost) {
  if (!lost) {
    for (int64_t e = 0; e < count; ++e) total[e] += part[e];
    return;
  }
  for (int64_t e = 0; e < count; ++e) {
    const T sum = total[e] + part[e], from_part = sum - total[e];
    lost[e] += (total[e] - (sum - from_part)) + (part[e] - from_part);
    total[e] = sum;
  }
}

// Adds it at the end; nothing is lost of an infinity.
template <class T>
void add_lost(T* total, const T* lost, int64_t count) {
  for (int64_t e = 0; e < count; ++e) total[e] = total[e] - total[e] == T(0) ? total[e] + lost[e] : total[e];
}

template <class T, class In, int NV>
bool weight_gradient(const WeightGradient<T, In>& wg) {
  constexpr int64_t width = NV * Vec<T>::lanes;
  const Channels ch(wg);
  const Strip strip(wg, wg.rows, wg.columns);
  const StripTile<T, In> tile(wg, ch, strip);
  const int64_t Q = wg.columns.count, pixels = strip.images * strip.rows * Q, kbs = ceil_div(wg.outputs, width);
  Scratch<int32_t> a_k(pixels);
  for (int64_t b = 0, k = 0; b < strip.images; ++b)
    for (int64_t i = 0; i < strip.rows; ++i)
      for (int64_t j = 0; j < Q; ++j) a_k[k++] = int32_t(tile.pixel(b, i, j));

  Buffer<int64_t> offset(ch.units);
  for (int64_t u = 0; u < ch.units; ++u) offset[u] = tile.offset(u);

  const OuterProduct<T> kernel = outer_product_of<T, NV>(1, ch.m);
  // Few blocks of outputs: divide the units among the threads as well. Or instead, with more inputs than outputs: then
  // each thread packs its own channels of x, and all of y.
  const int64_t threads = thread_count();
  const bool by_channels = wg.G == 1 && threads > 1 && !ch.across_taps && ch.tiles >= threads && wg.inputs > wg.outputs;
  const int64_t parts = by_channels ? threads : smaller(ch.units, ceil_div(2 * threads, wg.G * kbs));
  const int64_t unit_size = ch.m * width;
  const auto kb_of = [&](int64_t i) { return by_channels ? i % kbs : i / parts % kbs; };
  const auto part_of = [&](int64_t i) { return by_channels ? i / kbs : i % parts; };
  const bool lines = !ch.across_taps && ch.tiles >= parts && wg.filters_are_lines();
  const double work = double(wg.N) * wg.rows.count * Q * ch.units * ch.m * width / parts / 16;
  std::atomic<bool> finite{true};
  parallel_for(wg.G * kbs * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    const auto units_of = [&](int64_t i) {
      return ch.first_unit(part_of(i) + 1, parts) - ch.first_unit(part_of(i), parts);
    };
    int64_t most_units = 0;  // whose sums wait at once: of one item if there is one strip, else of all
    for (int64_t i = begin; i < end; ++i)
      most_units = strip.count == 1 ? larger(most_units, units_of(i)) : most_units + units_of(i);
    Scratch<T> x(tile.size()), y(pixels * width), totals(most_units * unit_size + Vec<T>::lanes);
    // the last tile's rest: stale memory there could be subnormal numbers, which are slow
    std::memset(x.data() + tile.size() - CONVX_MAX_M, 0, CONVX_MAX_M * sizeof(T));
    // With many strips, what adding them rounds off is kept, and added at the end.
    const bool many = strip.count > 8;
    Scratch<T> lost(many ? most_units * unit_size : 0);
    if (many) std::memset(lost.data(), 0, most_units * unit_size * sizeof(T));
    alignas(64) T sums[CONVX_MAX_M * width], zeros[width] = {};
    const auto store_item = [&](int64_t i, const T* total) {
      const int64_t g = i / parts / kbs, kb = kb_of(i), u0 = ch.first_unit(part_of(i), parts);
      const int64_t k0 = g * wg.outputs + kb * width, count = smaller(width, wg.outputs - kb * width);
      if (lines) return store_tiles(wg, ch, total, ch.tile(u0), units_of(i) / ch.taps, k0, count, width);
      for (int64_t u = u0; u < u0 + units_of(i); ++u)
        store_unit(wg, ch, total + (u - u0) * unit_size, u, k0, count, width);
    };
    for (int64_t item = begin; item < end;) {
      const int64_t g = item / (kbs * parts), stop = smaller(end, (g + 1) * kbs * parts);
      const int64_t first_plane = by_channels ? ch.tile(ch.first_unit(part_of(item), parts)) : 0;
      const int64_t last_plane = by_channels ? ch.tile(ch.first_unit(part_of(stop - 1) + 1, parts)) : tile.planes();
      for (int64_t t = 0; t < strip.count && finite; ++t) {
        const int64_t n0 = t / strip.per_image * strip.images, images = smaller(strip.images, wg.N - n0);
        const int64_t i0 = t % strip.per_image * strip.rows, ni = smaller(strip.rows, wg.rows.count - i0);
        const int64_t count = images * ni * Q;
        tile.pack(x.data(), n0, images, i0, ni, g, first_plane, last_plane);
        T* total = totals.data();
        for (int64_t i = item, packed = -1; i < stop && finite; ++i) {
          const int64_t kb = kb_of(i), u0 = ch.first_unit(part_of(i), parts), u1 = u0 + units_of(i);
          if (packed != kb && !pack_strip_outputs(y.data(), wg, n0, images, i0, ni, g, kb * width, width))
            finite = false;
          packed = kb;
          if (strip.count == 1) total = totals.data();
          for (int64_t u = u0; u < u1; ++u, total += unit_size) {
            for (int64_t p = 0; p < count; p += kPixelChain<T>)
              kernel(x.data() + offset[u], 0, a_k.data() + p, y.data() + p * width, smaller(kPixelChain<T>, count - p),
                     t ? sums : total, 0, p ? nullptr : zeros);
            if (t) add_exactly(total, sums, unit_size, many ? lost.data() + (total - totals.data()) : nullptr);
          }
          if (strip.count == 1 && finite) store_item(i, totals.data());
        }
      }
      T* total = totals.data();
      if (many) {
        add_lost(total, lost.data(), most_units * unit_size);
        std::memset(lost.data(), 0, most_units * unit_size * sizeof(T));
      }
      for (int64_t i = item; i < stop && finite && strip.count > 1; total += units_of(i++) * unit_size)
        store_item(i, total);
      item = stop;
    }
  });
  return finite;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
