// grad_weight of depthwise layers on small planes, on the blocks of rows and the vectors of depthwise_small.h:
//
//   acc[r][s] += x[row i + r][q + offset(s)] * y[row i],   i < BR,  row i + r inside the plane,
//
// every acc a vector of sums, one lane a column. The rows of y of a block are in registers, and so are the sums of all
// row taps and of some neighbouring column taps (all three of 3x3; of more as many as fit, so y is read again for the
// rest). A channel's sums wait in L1 while its planes in other images, and those of the channels beside it, go by in
// memory's order. In the end their lanes are added up.
//
// Limit: 7x7 planes and 3x3 taps are 57 multiply-adds, 28 loads, and 9 sums loaded and stored: 38 cycles. Turned over
// for depthwise_channels_weight.h the same planes took 140.
//
// 16-bit types are converted, some planes at a time. What is left out is read as zero; if it met an infinity the sums
// are not finite, and the reference takes over. Images are dealt out to a number of parts that the shape alone decides.
// Sums are made of a plane's rows, those of images, and those of parts.
#pragma once
#include "depthwise_rows_weight.h"
#include "depthwise_small.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Planes of x and y that follow each other at equal distances, each pair with sums of its own.
template <class T>
struct SmallPlanePairs {
  const T *x, *y;
  T* totals;  // [plane][row tap][column tap][lanes], offsets ascending
  int64_t count, height;
  int64_t x_step, x_pitch, y_step, y_pitch;
  int64_t x_ahead, y_ahead;  // to what is fetched on the way, 0 if nothing
};

// The column taps that are taken at once from tap S0 on: registers for K * columns sums, the rows of y, and x.
constexpr int small_dot_columns(int kernel, int S0) {
  const int most = 3, left = kernel - S0;
  return left <= most ? left : left < 2 * most ? (left + 1) / 2 : most;
}

// acc[r][s] += the products of BR rows of y, but for the first `counted`, of which `above` rows of taps of the first
// and `below` of the last are outside of the plane.
template <class T, int bytes, int K, int NS, int BR, int above, int below>
__attribute__((always_inline)) inline void add_block_dots(const T* x, int64_t x_pitch, const LaneMask<T>* masks,
                                                          const T* y, int64_t y_pitch, LaneMask<T> own, int64_t counted,
                                                          typename RowVector<T, bytes>::V (&acc)[K][NS]) {
  using Row = RowVector<T, bytes>;
  using V = typename Row::V;
  V left[BR];
#pragma GCC unroll 8
  for (int i = 0; i < BR; ++i) left[i] = Row::load(i < counted ? LaneMask<T>{} : own, y + i * y_pitch);
#pragma GCC unroll 16
  for (int d = above; d < BR + K - 1 - below; ++d)
#pragma GCC unroll 4
    for (int s = 0; s < NS; ++s) {
      V loaded = Row::load(masks[s], x + (d - K / 2) * x_pitch + s);
      asm("" : "+v"(loaded));  // once, as in depthwise_small.h
#pragma GCC unroll 8
      for (int i = 0; i < BR; ++i)
        if (d - i >= 0 && d - i < K) acc[d - i][s] += loaded * left[i];
    }
}

template <class T>
void fetch_plane(const T* p, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(p + i, 0, 2);
}

// totals += the products of all planes, vector v of their rows, column taps S0 .. S0 + NS - 1.
template <class T, int bytes, int K, int S0, int NS, int BR, bool whole>
void dot_small_columns(const SmallPlanePairs<T>& p, const RowVectors<T>& rv, int64_t v) {
  using Row = RowVector<T, bytes>;
  using V = typename Row::V;
  typedef T Memory __attribute__((vector_size(bytes), may_alias));
  constexpr int kEdge = K / 2, L = Row::lanes;
  LaneMask<T> masks[NS];
#pragma GCC unroll 4
  for (int s = 0; s < NS; ++s) masks[s] = rv.mask[v * K + S0 + s];
  const LaneMask<T> own = rv.own[v];
  const T *x = p.x + rv.column[v] + rv.offset[S0], *y = p.y + rv.column[v];
  T* totals = p.totals + S0 * L;
  for (int64_t i = 0; i < p.count; ++i, x += p.x_step, y += p.y_step, totals += K * K * L) {
    if (S0 == 0 && v == 0 && p.x_ahead != 0) {
      fetch_plane(x + p.x_ahead, p.height * p.x_pitch);
      fetch_plane(y + p.y_ahead, p.height * p.y_pitch);
    }
    V acc[K][NS] = {};
    if constexpr (whole) {
      add_block_dots<T, bytes, K, NS, BR, kEdge, kEdge>(x, p.x_pitch, masks, y, p.y_pitch, own, 0, acc);
    } else {
      add_block_dots<T, bytes, K, NS, BR, kEdge, 0>(x, p.x_pitch, masks, y, p.y_pitch, own, 0, acc);
      int64_t done = BR;
      for (int64_t row; done < p.height - BR; done = row + BR) {
        row = smaller(done, p.height - BR - kEdge);
        add_block_dots<T, bytes, K, NS, BR, 0, 0>(x + row * p.x_pitch, p.x_pitch, masks, y + row * p.y_pitch, p.y_pitch,
                                                  own, done - row, acc);
      }
      const int64_t row = p.height - BR;
      add_block_dots<T, bytes, K, NS, BR, 0, kEdge>(x + row * p.x_pitch, p.x_pitch, masks, y + row * p.y_pitch,
                                                    p.y_pitch, own, done - row, acc);
    }
#pragma GCC unroll 8
    for (int r = 0; r < K; ++r)
#pragma GCC unroll 4
      for (int s = 0; s < NS; ++s) {
        auto& total = *reinterpret_cast<Memory*>(totals + (r * K + s) * L);
        total = Memory(V(total) + acc[r][s]);
      }
  }
}

template <class T, int bytes, int K, int BR, bool whole, int S0 = 0>
void dot_small_planes(const SmallPlanePairs<T>& p, const RowVectors<T>& rv) {
  constexpr int NS = small_dot_columns(K, S0);
  for (int64_t v = 0; v < rv.count; ++v) dot_small_columns<T, bytes, K, S0, NS, BR, whole>(p, rv, v);
  if constexpr (S0 + NS < K) dot_small_planes<T, bytes, K, BR, whole, S0 + NS>(p, rv);
}

// sums[i] = the sum of the lanes of totals[i][lanes].
inline void sum_lanes_of_each(const float* totals, int64_t lanes, int64_t count, float* sums) {
  const __mmask16 mask = lanes == 16 ? 0xffff : 0xff;
  for (int64_t i = 0; i < count; ++i) sums[i] = _mm512_reduce_add_ps(_mm512_maskz_loadu_ps(mask, totals + i * lanes));
}
inline void sum_lanes_of_each(const double* totals, int64_t lanes, int64_t count, double* sums) {
  for (int64_t i = 0; i < count; ++i) sums[i] = _mm512_reduce_add_pd(_mm512_loadu_pd(totals + i * lanes));
}

template <class T, class In>
bool weight_gradient_small(const WeightGradient<T, In>& wg) {
  constexpr int64_t kTasks = 32, kBytes = 8 << 10;  // of sums in L1
  constexpr bool same = std::is_same_v<T, In>;
  const AxisPlan &r = wg.rows, &c = wg.columns;
  const int64_t lanes = small_lanes<T>(c.count), taps = int64_t(r.taps) * c.taps, size = taps * lanes;
  const int64_t channels = wg.G * wg.outputs;
  const int64_t at_a_time =
      larger(1, smaller(kBytes / (size * int64_t(sizeof(T))), ceil_div(channels * wg.N, kTasks)));  // channels
  const int64_t blocks = ceil_div(channels, at_a_time), parts = smaller(wg.N, ceil_div(kTasks, blocks));
  const RowVectors<T> rv(c, lanes);
  void (*dot_planes)(const SmallPlanePairs<T>&, const RowVectors<T>&) = nullptr;
  with_small_block<T>(c.count, r.taps, r.in, [&](auto bytes, auto kernel, auto rows, auto whole) {
    dot_planes = dot_small_planes<T, bytes, kernel, rows, whole>;
  });
  const int64_t x_size = r.in * c.in, y_size = r.count * c.count;
  const bool fetches = same && double(wg.N) * channels * (x_size + y_size) * sizeof(T) > kFetchedBytes;
  // planes at once, which have a group each
  const int64_t at_once = wg.outputs > 1 ? 1
                          : same         ? at_a_time
                                         : planes_at_once((x_size + y_size) * int64_t(sizeof(T)));

  Scratch<T> sums(parts * channels * taps);  // [part][channel][tap]
  const double work = double(ceil_div(wg.N, parts)) * at_a_time * r.count * c.count * taps / 8;
  parallel_for_balanced(blocks * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    Scratch<T> totals(at_a_time * size);
    ConvertedPlanes<T> x(same ? 0 : at_once * x_size), y(same ? 0 : at_once * y_size);
    SmallPlanePairs<T> planes;
    planes.height = r.in;
    planes.x_pitch = same ? wg.x_strides.h : c.in, planes.y_pitch = same ? wg.y_strides.h : c.count;
    planes.x_step = same ? wg.x_strides.c : x_size, planes.y_step = same ? wg.y_strides.c : y_size;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i / blocks, k0 = i % blocks * at_a_time, k1 = smaller(k0 + at_a_time, channels);
      const int64_t n0 = wg.N * part / parts, n1 = wg.N * (part + 1) / parts;
      std::memset(totals.data(), 0, (k1 - k0) * size * sizeof(T));
      for (int64_t n = n0; n < n1; ++n) {
        const bool ahead = fetches && n + 1 < n1;
        planes.x_ahead = ahead ? wg.x_strides.n : 0, planes.y_ahead = ahead ? wg.y_strides.n : 0;
        for (int64_t k = k0; k < k1; k += planes.count) {
          const In* const left = wg.x + wg.x_strides(n, k / wg.outputs, 0, 0);
          const In* const right = wg.y + wg.y_strides(n, k, 0, 0);
          planes.count = smaller(at_once, k1 - k);
          planes.totals = totals.data() + (k - k0) * size;
          if constexpr (same) {
            planes.x = left, planes.y = right;
          } else {
            planes.x = x.data(), planes.y = y.data();
            x.load(left, {planes.count, wg.x_strides.c, r.in, wg.x_strides.h, c.in});
            y.load(right, {planes.count, wg.y_strides.c, r.count, wg.y_strides.h, c.count});
          }
          dot_planes(planes, rv);
        }
      }
      sum_lanes_of_each(totals.data(), lanes, (k1 - k0) * taps, sums.data() + (part * channels + k0) * taps);
    }
  });

  T check(0);
  const Buffer<int64_t> place = tap_places(wg);
  for (int64_t k = 0; k < channels; ++k)
    for (int64_t t = 0; t < taps; ++t) {
      T sum = sums[k * taps + t];
      for (int64_t part = 1; part < parts; ++part) sum += sums[(part * channels + k) * taps + t];
      wg.w[k * wg.w_strides.n + place[t]] = In(sum);
      check += sum * T(0);
    }
  return check == T(0);
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
