// Depthwise layers with the vectors across channels: a vector is one pixel of as many groups as it has lanes,
//
//   acc[m] += x[pixel m * stride + tap] * w[tap],   m < M neighbouring results of a row, all of them vectors.
//
// forward and grad_input (hence transposed layers: results of equal remainder modulo the stride have the same taps), any
// stride, dilation and padding, and a few channels a group: each output channel k of each group in its turn.
//
// What it gains over depthwise.h and pixels.h: a load is never across a cache line and needs no mask, so two
// multiply-adds a cycle instead of one; strides cost nothing; small planes fill their vectors; every processor can do
// it. What it costs: contiguous planes are turned over on the way in and out (channel_tile.h), two permutes an element
// and vector, some 8 cycles for 16 results. So 3x3 on large planes is better done in place, and channels_last here.
//
// Limit: M + 1 loads for M multiply-adds, two of each a cycle. 7x7 planes and taps, 16 channels: 37 rows of taps inside
// the image x 7 x 7 / 1.75 = 1040 cycles, the turning 500; memory takes twice that.
//
// Rows of taps in the padding are skipped, columns are zeros in the tile: weights that are not finite go to the
// reference. A tile stays within kChannelTileBytes, so that blocks of rows stay in cache. Alone:
//
//   with convx.algorithm("depthwise_channels"): ...
#pragma once
#include "channel_tile.h"
#include "outer_product.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

constexpr int64_t kChannelTileBytes = 192 << 10;  // of the L2 cache

// What the results of one row that share their taps read.
template <class T>
struct ChannelRun {
  const int64_t *rows, *columns;  // of each tap, in the tile
  int64_t first, last, taps;      // the rows of taps inside the image; taps in a row
  const T* weights;               // [row of taps][w_pitch]
  int64_t w_pitch;
  int64_t pitch;  // from result to result, in the sums
};

// sums[m * pitch] = start + the products of M results. The sum is made of parts of whole rows of taps, of at most
// kChain steps.
template <class T, int M>
void channel_run(const ChannelRun<T>& run, const T* x, T* sums, const T* start) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes;
  const int64_t together = larger(1, kChain<T> / larger(1, run.taps));
  int64_t t = run.first;
  do {
    const int64_t stop = smaller(t + together, run.last + 1);
    int64_t s = 0;
    do {
      const int64_t end = smaller(s + kChain<T>, run.taps);
      V acc[M] = {};
      for (int64_t r = t; r < stop; ++r) {
        const T *row = x + run.rows[r], *w = run.weights + r * run.w_pitch;
        for (int64_t c = s; c < end; ++c) {
          const V weight = load(w + c * L);
          const T* from = row + run.columns[c];
#pragma GCC unroll 16
          for (int m = 0; m < M; ++m) acc[m] += weight * load(from + m * L);
        }
      }
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) store(sums + m * run.pitch, acc[m] + load(start ? start : sums + m * run.pitch));
      start = nullptr;
      s = end;
    } while (s < run.taps);
    t = stop;
  } while (t <= run.last);
}

// Registers: M sums and a weight.
constexpr int kRunResults = CONVX_VECTOR_BYTES == 64 ? 16 : 12;

template <class T, int M = kRunResults>
void channel_run(int64_t m, const ChannelRun<T>& run, const T* x, T* sums, const T* start) {
  if (m == M) return channel_run<T, M>(run, x, sums, start);
  if constexpr (M > 1) channel_run<T, M - 1>(m, run, x, sums, start);
}

// Weights as [vector of groups][output][input][row of taps][column of taps][lanes], rows and columns of taps in the
// order of the phases. Returns whether they are all finite.
template <class T, class In>
bool pack_channel_weights(T* to, const Convolution<T, In>& cv, const ResultAxis& r, const ResultAxis& c) {
  constexpr int64_t L = Vec<T>::lanes;
  const int64_t filter = int64_t(r.taps) * c.taps;
  Buffer<int64_t> from(filter);
  Buffer<int32_t> place(filter);
  int64_t i = 0;
  bool in_order = true;
  for (int64_t a = 0; a < r.phases; ++a)
    for (int tr = 0; tr < r.plan[a].taps; ++tr)
      for (int64_t b = 0; b < c.phases; ++b)
        for (int ts = 0; ts < c.plan[b].taps; ++ts, ++i) {
          from[i] = r.plan[a].index[tr] * cv.weight_r + c.plan[b].index[ts] * cv.weight_s;
          in_order = in_order && from[i] == from[0] + i;
          place[i] = int32_t(i * L);
        }
  T* next = to;
  for (int64_t g = 0; g < cv.G; g += L)
    for (int64_t k = 0; k < cv.outputs; ++k)
      for (int64_t ch = 0; ch < cv.inputs; ++ch, next += filter * L) {
        const In* w = cv.weight + g * cv.weight_group + k * cv.weight_output + ch * cv.weight_input;
        const int64_t lanes = smaller(L, cv.G - g);
        if (in_order && filter > 0)
          channels_from_planes<T, In>(w + from[0], cv.weight_group, lanes, filter, next, place.data());
        else
          for (int64_t t = 0; t < filter; ++t)
            for (int64_t l = 0; l < L; ++l) next[t * L + l] = l < lanes ? T(w[l * cv.weight_group + from[t]]) : T(0);
      }
  return all_finite(to, next - to);
}

// Rows of results a block: as many as the cache takes, in equal parts.
template <class T>
int64_t channel_units(const ResultAxis& r, const ResultAxis& c, int64_t inputs) {
  const ChannelTile<T> row(r, c, 1);
  const auto bytes = [&](int64_t units) {
    return (ChannelTile<T>::rows_of_input(r, units) * row.pitch() * inputs +
            units * r.phases * c.results * Vec<T>::lanes) *
           int64_t(sizeof(T));
  };
  int64_t units = 1;
  while (units < r.units() && bytes(units + 1) <= kChannelTileBytes) ++units;
  return ceil_div(r.units(), ceil_div(r.units(), units));
}

// All results of cv, whose own axes are not used: r and c are the axes of all phases.
template <class T, class In>
bool convolve_channels(const Convolution<T, In>& cv, const ResultAxis& r, const ResultAxis& c) {
  constexpr int64_t L = Vec<T>::lanes;
  if (cv.N == 0 || r.results == 0 || c.results == 0) return true;
  const int64_t block = channel_units<T>(r, c, cv.inputs), strips = ceil_div(r.units(), block);
  const int64_t vectors = ceil_div(cv.G, L), filter = int64_t(r.taps) * c.taps;
  const ChannelTile<T> shape(r, c, block);
  Buffer<T> weights(vectors * L * cv.outputs * cv.inputs * filter);
  if (!pack_channel_weights<T, In>(weights.data(), cv, r, c) && shape.padded()) return false;

  Buffer<int64_t> row_offset(r.taps), column_offset(c.taps);
  for (int64_t a = 0; a < r.phases; ++a)
    for (int t = 0; t < r.plan[a].taps; ++t) row_offset[r.first_tap[a] + t] = r.plan[a].offset[t] * shape.pitch();
  for (int64_t b = 0; b < c.phases; ++b)
    for (int t = 0; t < c.plan[b].taps; ++t) column_offset[c.first_tap[b] + t] = shape.column(c.plan[b].offset[t]);

  const double work = double(block * r.phases) * c.results * (filter * cv.inputs * cv.outputs + 8) * L / 16;
  parallel_for(cv.N * vectors * strips, grain_for(work), [&](int64_t begin, int64_t end) {
    Buffer<T> tile(cv.inputs * shape.size()), sums(block * r.phases * c.results * L), bias(L);
    std::memset(tile.data(), 0, cv.inputs * shape.size() * sizeof(T));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t unit = i % strips * block, units = smaller(block, r.units() - unit);
      const int64_t v = i / strips % vectors, n = i / strips / vectors, lanes = smaller(L, cv.G - v * L);
      const int64_t p0 = unit * r.phases, p1 = smaller(p0 + units * r.phases, r.results);
      for (int64_t ch = 0; ch < cv.inputs; ++ch)
        shape.pack(tile.data() + ch * shape.size(), unit, units, cv.in + cv.in_strides(n, v * L * cv.inputs + ch, 0, 0),
                   cv.in_strides, cv.inputs * cv.in_strides.c, lanes);
      for (int64_t k = 0; k < cv.outputs; ++k) {
        for (int64_t l = 0; l < L; ++l)
          bias[l] = cv.bias && l < lanes ? T(cv.bias[((v * L + l) * cv.outputs + k) * cv.bias_stride]) : T(0);
        const T* w = weights.data() + (v * cv.outputs + k) * cv.inputs * filter * L;
        for (int64_t p = p0; p < p1; ++p) {
          const int64_t a = p % r.phases, j = p / r.phases;
          const Run inside = r.inside(a, j);
          for (int64_t b = 0; b < c.phases; ++b) {
            const ChannelRun<T> run = {row_offset.data() + r.first_tap[a], column_offset.data() + c.first_tap[b],
                                       inside.first, inside.last, c.plan[b].taps, nullptr, c.taps * L, c.phases * L};
            for (int64_t ch = 0; ch < cv.inputs; ++ch) {
              ChannelRun<T> of = run;
              of.weights = w + ch * filter * L + (r.first_tap[a] * c.taps + c.first_tap[b]) * L;
              const T* x = tile.data() + ch * shape.size() + (j * r.stride - shape.top(unit)) * shape.pitch();
              T* to = sums.data() + ((p - p0) * c.results + b) * L;
              const int64_t count = c.plan[b].count, parts = ceil_div(count, kRunResults);
              for (int64_t part = 0, q = 0; part < parts; ++part) {
                const int64_t m = (count - q) / (parts - part);
                channel_run<T>(m, of, x + q * L, to + q * run.pitch, ch == 0 ? bias.data() : nullptr);
                q += m;
              }
            }
          }
        }
        In* to = cv.out + cv.out_strides(n, v * L * cv.outputs + k, p0, 0);
        const Strides& s = cv.out_strides;
        const bool flat = s.h == c.results * s.w;
        for (int64_t p = p0; p < p1; p += flat ? p1 - p0 : 1)
          store_channels<T, In>(sums.data() + (p - p0) * c.results * L, lanes, (flat ? p1 - p0 : 1) * c.results,
                                to + (p - p0) * s.h, cv.outputs * s.c, s.w);
      }
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
