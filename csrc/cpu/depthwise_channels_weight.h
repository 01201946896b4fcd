// grad_weight of depthwise layers with the vectors across channels, on the tile of depthwise_channels.h,
//
//   w[r][s] = sum over pixels (n,p,q) of  y[p][q] * x[pixel shifted by tap (r,s)],
//
// every letter a vector of groups. RR rows of taps by SS neighbouring taps are sums in registers while the loop runs
// over the pixels: RR * SS multiply-adds for as many aligned loads and one of y, so nearly two a cycle if there are
// eight sums or more to cover the multiply-add's latency. depthwise.h has one, and pixels_weight.h less.
//
// Rows of y whose tap is in the padding are skipped; columns of x there are zeros. An infinity of y that meets such a
// zero is a NaN in the sum, so where all sums are finite none did; else the reference takes over.
//
// Images (and the strips of large ones) are dealt out to a number of parts that the shape alone decides; each thread
// sums whole parts, and the parts are added in order. Sums are made of chains of kPixelChain pixels, those of strips,
// those of parts.
#pragma once
#include "depthwise_channels.h"
#include "outer_product_weight.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// What RR rows of taps read: x + rows[r] for the first pixel of each of `count` rows of y.
struct DotRows {
  const int64_t* rows;
  int64_t x_pitch, y_pitch, count, pixels;  // pixels in a row
  int64_t totals_pitch;                     // from row of taps to row of taps
};

template <class T, int RR, int SS>
void channel_dots(const DotRows& d, const T* x, const T* y, T* totals) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes;
  V acc[RR][SS] = {};
  const auto flush = [&] {
#pragma GCC unroll 4
    for (int r = 0; r < RR; ++r)
#pragma GCC unroll 8
      for (int s = 0; s < SS; ++s) {
        T* total = totals + r * d.totals_pitch + s * L;
        store(total, load(total) + acc[r][s]);
        acc[r][s] = V{};
      }
  };
  int64_t chain = kPixelChain<T>;
  for (int64_t p = 0; p < d.count; ++p)
    for (int64_t q = 0, n; q < d.pixels; q += n) {
      n = smaller(chain, d.pixels - q);
      const T *from[RR], *left = y + p * d.y_pitch + q * L;
#pragma GCC unroll 4
      for (int r = 0; r < RR; ++r) from[r] = x + d.rows[r] + p * d.x_pitch + q * L;
      for (int64_t j = 0; j < n * L; j += L) {
        const V right = load(left + j);
#pragma GCC unroll 4
        for (int r = 0; r < RR; ++r)
#pragma GCC unroll 8
          for (int s = 0; s < SS; ++s) acc[r][s] += right * load(from[r] + j + s * L);
      }
      chain -= n;
      if (chain == 0) flush(), chain = kPixelChain<T>;
    }
  flush();
}

// Registers: RR * SS sums and one of y.
constexpr int kDotColumns = 8;
constexpr int dot_rows(int columns) {
  const int rows = (CONVX_VECTOR_BYTES == 64 ? 24 : 12) / columns;
  return rows > 4 ? 4 : rows;
}

template <class T, int RR, int SS>
void channel_dots_rows(int64_t rows, const DotRows& d, const T* x, const T* y, T* totals) {
  if (rows == RR) return channel_dots<T, RR, SS>(d, x, y, totals);
  if constexpr (RR > 1) channel_dots_rows<T, RR - 1, SS>(rows, d, x, y, totals);
}

template <class T, int SS = kDotColumns>
void channel_dots(int64_t rows, int64_t columns, const DotRows& d, const T* x, const T* y, T* totals) {
  if (columns == SS) return channel_dots_rows<T, dot_rows(SS), SS>(rows, d, x, y, totals);
  if constexpr (SS > 1) channel_dots<T, SS - 1>(rows, columns, d, x, y, totals);
}

// totals[row of taps][column of taps] += the products of rows p0..p1 of y. x is the tile's row of input row 0.
template <class T>
void strip_dots(const ResultAxis& r, const ResultAxis& c, const ChannelTile<T>& shape, const int64_t* row_offset,
                const T* x, const T* y, int64_t p0, int64_t p1, T* totals) {
  constexpr int64_t L = Vec<T>::lanes;
  const AxisPlan& columns = c.plan[0];
  for (int64_t s = 0, width; s < c.taps; s += width) {
    const int64_t at = shape.column(columns.offset[s]);
    width = 1;  // taps that read neighbours
    while (width < kDotColumns && s + width < c.taps && shape.column(columns.offset[s + width]) == at + width * L)
      ++width;
    if (width > 1 && c.taps - s - width == 1 && width == kDotColumns) --width;  // nine are seven and two
    const int64_t height = dot_rows(int(width));
    for (int64_t t = 0; t < r.taps; t += height)
      for (int64_t p = p0, next; p < p1; p = next) {  // rows of y that the same of these taps reach
        const auto reached = [&](int64_t row) {
          const Run inside = r.inside(0, row);
          return Run{larger(inside.first, t), smaller(inside.last, t + height - 1)};
        };
        const Run run = reached(p);
        next = p + 1;
        for (; next < p1; ++next) {
          const Run other = reached(next);
          if (other.first != run.first || other.last != run.last) break;
        }
        if (run.first > run.last) continue;
        const DotRows d = {
            row_offset + run.first, r.stride * shape.pitch(), c.results * L, next - p, c.results, c.taps * L};
        channel_dots<T>(run.last - run.first + 1, width, d, x + p * d.x_pitch + at, y + (p - p0) * d.y_pitch,
                        totals + (run.first * c.taps + s) * L);
      }
  }
}

template <class T>
void add_to(T* sum, const T* part, int64_t count) {
  for (int64_t i = 0; i < count; i += Vec<T>::lanes) store(sum + i, load(sum + i) + load(part + i));
}

template <class T, class In>
bool weight_gradient_channels(const WeightGradient<T, In>& wg, const ResultAxis& r, const ResultAxis& c) {
  constexpr int64_t L = Vec<T>::lanes, kTasks = 32;
  const int64_t block = channel_units<T>(r, c, wg.inputs), strips = ceil_div(r.results, block), Q = c.results;
  const int64_t vectors = ceil_div(wg.G, L), images = wg.N * strips;
  const int64_t parts = smaller(images, ceil_div(kTasks, vectors));
  const int64_t taps = int64_t(r.taps) * c.taps, filters = wg.outputs * wg.inputs, size = filters * taps * L;
  const ChannelTile<T> shape(r, c, block);
  Buffer<int64_t> row_offset(r.taps);
  for (int t = 0; t < r.taps; ++t) row_offset[t] = r.plan[0].offset[t] * shape.pitch();
  Buffer<int32_t> y_place(block * Q);
  for (int64_t i = 0; i < block * Q; ++i) y_place[i] = int32_t(i * L);

  Scratch<T> sums(vectors * parts * size);  // [vector of groups][part][output][input][tap][lanes]
  const double work = double(ceil_div(images, parts) * block * Q) * (filters * taps + 8) * L / 16;
  parallel_for(vectors * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    Scratch<T> tile(wg.inputs * shape.size()), y(block * Q * L), strip(size);
    std::memset(tile.data(), 0, wg.inputs * shape.size() * sizeof(T));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t v = i / parts, part = i % parts, lanes = smaller(L, wg.G - v * L);
      T* sum = sums.data() + i * size;
      std::memset(sum, 0, size * sizeof(T));
      for (int64_t u = images * part / parts; u < images * (part + 1) / parts; ++u) {
        const int64_t n = u / strips, p0 = u % strips * block, p1 = smaller(p0 + block, r.results);
        std::memset(strip.data(), 0, size * sizeof(T));
        for (int64_t ch = 0; ch < wg.inputs; ++ch)
          shape.pack(tile.data() + ch * shape.size(), p0, p1 - p0, wg.x + wg.x_strides(n, v * L * wg.inputs + ch, 0, 0),
                     wg.x_strides, wg.inputs * wg.x_strides.c, lanes);
        for (int64_t k = 0; k < wg.outputs; ++k) {
          const Strides& s = wg.y_strides;
          const bool flat = s.h == Q * s.w;
          for (int64_t p = p0; p < p1; p += flat ? p1 - p0 : 1)
            load_channels<T, In>(wg.y + s(n, v * L * wg.outputs + k, p, 0), wg.outputs * s.c, s.w, lanes,
                                 (flat ? p1 - p0 : 1) * Q, y.data() + (p - p0) * Q * L, y_place.data());
          for (int64_t ch = 0; ch < wg.inputs; ++ch)
            strip_dots(r, c, shape, row_offset.data(), tile.data() + ch * shape.size() - shape.top(p0) * shape.pitch(),
                       y.data(), p0, p1, strip.data() + (k * wg.inputs + ch) * taps * L);
        }
        add_to(sum, strip.data(), size);
      }
    }
  });

  T check(0);
  for (int64_t v = 0; v < vectors; ++v) {
    T* sum = sums.data() + v * parts * size;
    for (int64_t part = 1; part < parts; ++part) add_to(sum, sum + part * size, size);
    for (int64_t l = 0; l < smaller(L, wg.G - v * L); ++l)
      for (int64_t f = 0; f < filters; ++f) {
        In* to = wg.w + wg.w_strides((v * L + l) * wg.outputs + f / wg.inputs, f % wg.inputs, 0, 0);
        for (int tr = 0; tr < r.taps; ++tr)
          for (int ts = 0; ts < c.taps; ++ts) {
            const T total = sum[(f * taps + tr * c.taps + ts) * L + l];
            to[r.plan[0].index[tr] * wg.w_strides.h + c.plan[0].index[ts] * wg.w_strides.w] = In(total);
            check += total * T(0);
          }
      }
  }
  return check == T(0) || !shape.padded();
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
