// Depthwise layers with the vectors across channels: a vector is one pixel of as many groups as it has lanes,
//
//   acc[m] += x[pixel m * stride + tap] * w[tap],   m < M neighbouring results of a row, all of them vectors.
//
// forward and grad_input (hence transposed layers: results of equal remainder modulo the stride have the same taps),
// any stride, dilation and padding, and a few channels a group: each output channel k of each group in its turn.
//
// What it gains over depthwise.h and pixels.h: a load is never across a cache line and needs no mask, so two
// multiply-adds a cycle instead of one; strides cost nothing; small planes fill their vectors; every processor can do
// it. What it costs: contiguous planes are turned over on the way in and out (channel_tile.h), two permutes an element
// and vector, some 8 cycles for 16 results. So 3x3 on large planes is better done in place, and channels_last here.
//
// Limit: M + 1 loads for M multiply-adds, two of each a cycle. 7x7 planes and taps, 16 channels: 37 rows of taps inside
// the image x 7 x 7 / 1.75 = 1040 cycles, the turning 500; it takes about twice that, the rest is memory.
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
constexpr int64_t kSumVectors = 128;              // of the L1 cache: a quarter

// The taps of results that share them. A multiply-add takes one factor that all M results share and M neighbouring
// ones: the weight of a tap and pixels of x. Where every column of x meets every result (a kernel at least as wide as
// two images), it is a pixel of x and the weights of neighbouring taps instead: no product with the padding is left.
template <class T>
struct ChannelTaps {
  const int64_t *rows, *columns;  // where the neighbours of each row and column of taps are
  const int64_t* shared_rows;     // where the shared factors of each row of taps are
  const T *neighbours, *shared;
  int64_t first, last, count;  // rows of taps inside the image; shared factors in each
  int64_t together;            // rows in a chain
  int64_t pitch;               // from result to result, in the sums
};

// sums[m * pitch] = start + the products of M results. The sum is made of parts of whole rows of taps, of at most
// kChain steps.
template <class T, int M>
void channel_run(const ChannelTaps<T>& taps, const T* neighbours, T* sums, const T* start) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes;
  int64_t t = taps.first;
  do {
    const int64_t stop = smaller(t + taps.together, taps.last + 1);
    int64_t s = 0;
    do {
      const int64_t end = smaller(s + kChain<T>, taps.count);
      V acc[M] = {};
      for (int64_t r = t; r < stop; ++r) {
        const T *row = neighbours + taps.rows[r], *factor = taps.shared + taps.shared_rows[r];
        for (int64_t c = s; c < end; ++c) {
          const V shared = load(factor + c * L);
          const T* from = row + taps.columns[c];
          asm("" : "+r"(from));  // one register: a multiply-add with an indexed load takes two slots to issue
#pragma GCC unroll 16
          for (int m = 0; m < M; ++m) acc[m] += shared * load(from + m * L);
        }
      }
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) store(sums + m * taps.pitch, acc[m] + load(start ? start : sums + m * taps.pitch));
      start = nullptr;
      s = end;
    } while (s < taps.count);
    t = stop;
  } while (t <= taps.last);
}

// A row of results as runs of at most kRunResults. Registers: that many sums and a weight.
constexpr int kRunResults = CONVX_VECTOR_BYTES == 64 ? 16 : 12;

template <class T>
struct ChannelRun {
  void (*run)(const ChannelTaps<T>&, const T* neighbours, T* sums, const T* start);
  int64_t phase, x, sums;  // of its first result
};

template <class T, int M = kRunResults>
auto channel_run_of(int64_t m) -> decltype(ChannelRun<T>::run) {
  if constexpr (M > 1)
    if (m < M) return channel_run_of<T, M - 1>(m);
  return channel_run<T, M>;
}

// Weights as [vector of groups][output][input][row of taps][column of taps][lanes], rows and columns of taps in the
// order of the phases, columns `backwards` if asked. Returns whether they are all finite.
template <class T, class In>
bool pack_channel_weights(T* to, const Convolution<T, In>& cv, const ResultAxis& r, const ResultAxis& c,
                          bool backwards) {
  constexpr int64_t L = Vec<T>::lanes;
  const int64_t filter = int64_t(r.taps) * c.taps;
  Buffer<int64_t> from(filter);
  Buffer<int32_t> place(filter);
  int64_t i = 0, low = 0, high = -1;
  for (int64_t a = 0; a < r.phases; ++a)
    for (int tr = 0; tr < r.plan[a].taps; ++tr)
      for (int64_t b = 0; b < c.phases; ++b)
        for (int ts = 0, n = c.plan[b].taps; ts < n; ++ts, ++i) {
          from[i] = r.plan[a].index[tr] * cv.weight_r + c.plan[b].index[backwards ? n - 1 - ts : ts] * cv.weight_s;
          low = i ? smaller(low, from[i]) : from[i], high = i ? larger(high, from[i]) : from[i];
        }
  const bool together = high - low + 1 == filter;  // one stretch of memory in another order
  for (i = 0; i < filter && together; ++i) place[from[i] - low] = int32_t(i * L);
  T* next = to;
  for (int64_t g = 0; g < cv.G; g += L)
    for (int64_t k = 0; k < cv.outputs; ++k)
      for (int64_t ch = 0; ch < cv.inputs; ++ch, next += filter * L) {
        const In* w = cv.weight + g * cv.weight_group + k * cv.weight_output + ch * cv.weight_input;
        const int64_t lanes = smaller(L, cv.G - g);
        if (together)
          load_channels<T, In>(w + low, cv.weight_group, 1, lanes, filter, next, place.data());
        else
          for (int64_t t = 0; t < filter; ++t)
            for (int64_t l = 0; l < L; ++l) next[t * L + l] = l < lanes ? T(w[l * cv.weight_group + from[t]]) : T(0);
      }
  return all_finite(to, next - to);
}

// Whether every tap of a row is a column of x less a result's, and all those are taps. Then column w of x meets result
// q by tap w - q - lowest.
inline bool every_column_meets(const ResultAxis& c) {
  return c.phases == 1 && c.stride == 1 && c.mode == PaddingMode::zeros && c.taps == c.highest - c.lowest + 1 &&
         c.lowest <= 1 - c.results && c.highest >= c.in - 1;
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
  // Results are turned over and written while they are in L1.
  const int64_t rows_at_once = larger(1, kSumVectors / (r.phases * c.results));
  const int64_t at_once = ceil_div(block, ceil_div(block, rows_at_once));
  const int64_t vectors = ceil_div(cv.G, L), filter = int64_t(r.taps) * c.taps;
  const ChannelTile<T> shape(r, c, block);
  Scratch<T> weights(vectors * L * cv.outputs * cv.inputs * filter);
  // Tap offsets rise or fall; where x is the shared factor, the weights that neighbouring results need must rise.
  const bool swapped = every_column_meets(c), backwards = swapped && c.taps > 1 && c.plan[0].offset[0] == c.lowest;
  if (!pack_channel_weights<T, In>(weights.data(), cv, r, c, backwards) && shape.padded() && !swapped) return false;

  const int64_t columns = swapped ? c.in : c.taps;
  Buffer<int64_t> x_rows(r.taps), w_rows(r.taps), column_offset(columns), together(c.phases);
  for (int64_t a = 0; a < r.phases; ++a)
    for (int t = 0; t < r.plan[a].taps; ++t) {
      x_rows[r.first_tap[a] + t] = r.plan[a].offset[t] * shape.pitch() + (swapped ? shape.column(0) : 0);
      w_rows[r.first_tap[a] + t] = t * c.taps * L;
    }
  for (int64_t b = 0; b < c.phases; ++b) {
    together[b] = larger(1, kChain<T> / larger(1, swapped ? columns : c.plan[b].taps));
    for (int t = 0; t < c.plan[b].taps && !swapped; ++t)
      column_offset[c.first_tap[b] + t] = shape.column(c.plan[b].offset[t]);
  }
  for (int64_t w = 0; w < columns && swapped; ++w) column_offset[w] = (c.highest - w) * L;

  Buffer<Run> inside(r.results);
  for (int64_t p = 0; p < r.results; ++p) inside[p] = r.inside(p % r.phases, p / r.phases);
  Buffer<ChannelRun<T>> runs(c.phases * ceil_div(c.units(), kRunResults));
  int64_t run_count = 0;
  for (int64_t b = 0; b < c.phases; ++b) {
    const int64_t count = c.plan[b].count, parts = ceil_div(count, kRunResults);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t q = count * part / parts, m = count * (part + 1) / parts - q;
      runs[run_count++] = {channel_run_of<T>(m), b, q * L, (q * c.phases + b) * L};
    }
  }

  const double bytes = double(cv.N) * cv.G * (r.in * c.in + r.results * c.results) * sizeof(In);
  const bool fetches =
      cv.inputs == 1 && cv.outputs == 1 && flat_rows(r, c, cv.in_strides, cv.out_strides) && bytes > kFetchedBytes;
  const double work = double(block * r.phases) * c.results * (filter * cv.inputs * cv.outputs + 8) * L / 16;
  parallel_for_balanced(cv.N * vectors * strips, grain_for(work), [&](int64_t begin, int64_t end) {
    Scratch<T> tile(cv.inputs * shape.size()), sums(at_once * r.phases * c.results * L), bias(L);
    std::memset(tile.data(), 0, cv.inputs * shape.size() * sizeof(T));
    std::memset(bias.data(), 0, L * sizeof(T));
    int64_t strip = begin % strips, v = begin / strips % vectors, n = begin / strips / vectors;
    for (int64_t i = begin; i < end; ++i) {  // counted on below: divisions would show on small planes
      const int64_t unit = strip * block, units = smaller(block, r.units() - unit), lanes = smaller(L, cv.G - v * L);
      Ahead ahead;
      if (fetches && i + 1 < end) {
        const int64_t strip1 = (strip + 1) % strips, v1 = (v + (strip1 == 0)) % vectors;
        const int64_t n1 = n + (strip1 == 0 && v1 == 0), unit1 = strip1 * block, p1 = unit1 * r.phases;
        const int64_t units1 = smaller(block, r.units() - unit1), lanes1 = smaller(L, cv.G - v1 * L);
        const int64_t count1 = smaller(units1 * r.phases, r.results - p1) * c.results;
        const Strides &in = cv.in_strides, &out = cv.out_strides;
        ahead = Ahead(shape.lines(unit1, units1, cv.in + in(n1, v1 * L, 0, 0), in, in.c, lanes1),
                      lines_of_channels<In>(cv.out + out(n1, v1 * L, p1, 0), out.c, out.w, lanes1, count1),
                      units * r.phases * run_count);
      }
      for (int64_t ch = 0; ch < cv.inputs; ++ch)
        shape.pack(tile.data() + ch * shape.size(), unit, units, cv.in + cv.in_strides(n, v * L * cv.inputs + ch, 0, 0),
                   cv.in_strides, cv.inputs * cv.in_strides.c, lanes);
      for (int64_t k = 0; k < cv.outputs; ++k) {
        for (int64_t l = 0; l < lanes && cv.bias; ++l)
          bias[l] = T(cv.bias[((v * L + l) * cv.outputs + k) * cv.bias_stride]);
        const T* w = weights.data() + (v * cv.outputs + k) * cv.inputs * filter * L;
        for (int64_t j = unit, stored = unit; j < unit + units; ++j) {
          for (int64_t a = 0; a < smaller(r.phases, r.results - j * r.phases); ++a) {
            ChannelTaps<T> taps;
            const Run run = inside[j * r.phases + a];
            taps.rows = (swapped ? w_rows : x_rows).data() + r.first_tap[a], taps.pitch = c.phases * L;
            taps.shared_rows = (swapped ? x_rows : w_rows).data() + r.first_tap[a];
            taps.first = run.first, taps.last = run.last;
            const int64_t x_row = (j * r.stride - shape.top(unit)) * shape.pitch();
            T* to = sums.data() + ((j - stored) * r.phases + a) * c.results * L;
            for (int64_t ch = 0; ch < cv.inputs; ++ch)
              for (int64_t i = 0; i < run_count; ++i) {
                ahead.fetch();
                const ChannelRun<T>& of = runs[i];
                const T* x = tile.data() + ch * shape.size() + x_row;
                const T* weight = w + ((ch * r.taps + r.first_tap[a]) * c.taps + c.first_tap[of.phase]) * L;
                taps.columns = column_offset.data() + (swapped ? 0 : c.first_tap[of.phase]);
                taps.count = swapped ? columns : c.plan[of.phase].taps, taps.together = together[of.phase];
                taps.shared = swapped ? x : weight;
                of.run(taps, (swapped ? weight : x) + of.x, to + of.sums, ch == 0 ? bias.data() : nullptr);
              }
          }
          if (j + 1 - stored < at_once && j + 1 < unit + units) continue;
          const Strides& s = cv.out_strides;
          const int64_t p0 = stored * r.phases, p1 = smaller((j + 1) * r.phases, r.results);
          const bool flat = s.h == c.results * s.w;
          for (int64_t p = p0; p < p1; p += flat ? p1 - p0 : 1)
            store_channels<T, In>(sums.data() + (p - p0) * c.results * L, lanes, (flat ? p1 - p0 : 1) * c.results,
                                  cv.out + s(n, v * L * cv.outputs + k, p, 0), cv.outputs * s.c, s.w);
          stored = j + 1;
        }
      }
      if (++strip == strips) strip = 0, ++v;
      if (v == vectors) v = 0, ++n;
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
