// grad_weight with the vectors across pixels, for small groups (depthwise): each weight is a dot product of two lines,
//
//   w[k,c,r,s] = sum over pixels f of  y[k][f] * tile[c][b_k[(r,s)] + f],
//
// walked as in pixels.h: y is laid out with the tile's pitch and zeros between the rows, so one offset a tap does. A
// few taps share each load of y; their sums stay vectors to the end and are then added up lane by lane in one
// fixed order.
//
// A thread owns whole groups, or outputs of them, so there is no reduction between threads. Zeros of y between two rows
// must not meet an infinity of x, nor zeros of x in the padding one of y: both are checked, and the reference takes
// over.
//
// Limit: a load across a cache line (two slots) for each FMA: half the FMA roof.
#pragma once
#include "outer_product_weight.h"
#include "pixels.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

constexpr int kDotTaps = CONVX_MAX_M > 6 ? 12 : 6;  // that many chains also cover the FMA's latency

template <class T, int TAPS>
void pixel_dots(const T* y, const T* tile, const int32_t* b_k, int64_t vectors, T* totals) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes;
  V acc[TAPS] = {};
  for (int64_t v = 0; v < vectors; ++v) {
    const V left = load(y + v * L);
#pragma GCC unroll 16
    for (int t = 0; t < TAPS; ++t) acc[t] += left * load(tile + b_k[t] + v * L);
  }
#pragma GCC unroll 16
  for (int t = 0; t < TAPS; ++t) store(totals + t * L, load(totals + t * L) + acc[t]);
}

template <class T, int TAPS>
void pixel_dots_of(int64_t taps, const T* y, const T* tile, const int32_t* b_k, int64_t vectors, T* totals) {
  if (taps >= TAPS) return pixel_dots<T, TAPS>(y, tile, b_k, vectors, totals);
  if constexpr (TAPS > 1) pixel_dots_of<T, TAPS - 1>(taps, y, tile, b_k, vectors, totals);
}

template <class T, class In>
bool weight_gradient_pixels(const WeightGradient<T, In>& wg) {
  constexpr int64_t L = Vec<T>::lanes;
  const int64_t taps = int64_t(wg.rows.taps) * wg.columns.taps, Q = wg.columns.count;
  const int64_t block = pixel_rows<T>(wg.rows, wg.columns, wg.inputs);
  const TileShape shape(wg.rows, wg.columns, block, Q);
  Scratch<int32_t> b_k(taps);
  for (int r = 0, k = 0; r < wg.rows.taps; ++r)
    for (int s = 0; s < wg.columns.taps; ++s) b_k[k++] = int32_t(shape.tap(wg.rows, wg.columns, r, s));

  const int64_t line = ceil_div(block * shape.pitch, L) * L, tile_size = wg.inputs * shape.plane + 16 * L;
  const int64_t filter = wg.inputs * taps;
  const double work = double(wg.N) * wg.rows.count * Q * (filter * wg.outputs + 4 * (wg.inputs + wg.outputs)) / 8;
  std::atomic<bool> finite{true};
  // Few groups: divide the outputs as well, at the price of packing the tile once for each part.
  const int64_t parts = smaller(wg.outputs, ceil_div(thread_count(), wg.G));
  parallel_for(wg.G * parts, grain_for(work / double(parts)), [&](int64_t begin, int64_t end) {
    Scratch<T> tile(tile_size), y(line), totals(ceil_div(wg.outputs, parts) * filter * L);  // a vector for each weight
    std::memset(tile.data(), 0, tile_size * sizeof(T));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t g = item / parts, part = item % parts;
      const int64_t k_begin = wg.outputs * part / parts, k_end = wg.outputs * (part + 1) / parts;
      std::memset(totals.data(), 0, (k_end - k_begin) * filter * L * sizeof(T));
      for (int64_t n = 0; n < wg.N; ++n)
        for (int64_t i0 = 0; i0 < wg.rows.count; i0 += block) {
          const int64_t ni = smaller(block, wg.rows.count - i0), length = (ni - 1) * shape.pitch + Q;
          pack_tile<T, In>(tile.data(), shape, wg.rows, wg.columns, i0, ni, 0, Q,
                           wg.x + wg.x_strides(n, g * wg.inputs, 0, 0), wg.x_strides, wg.inputs);
          if (!all_finite(tile.data(), tile_size)) {
            finite = false;
            return;
          }
          for (int64_t k = k_begin; k < k_end; ++k) {
            std::memset(y.data(), 0, line * sizeof(T));
            for (int64_t i = 0; i < ni; ++i)
              copy_strided(y.data() + i * shape.pitch, wg.y + wg.y_strides(n, g * wg.outputs + k, i0 + i, 0),
                           wg.y_strides.w, Q);
            if (!all_finite(y.data(), line)) {
              finite = false;
              return;
            }
            for (int64_t c = 0; c < wg.inputs; ++c)
              for (int64_t t = 0; t < taps; t += kDotTaps)
                for (int64_t v = 0, stop = ceil_div(length, L); v < stop; v += kPixelChain<T>)
                  pixel_dots_of<T, kDotTaps>(taps - t, y.data() + v * L, tile.data() + c * shape.plane + v * L,
                                             b_k.data() + t, smaller(kPixelChain<T>, stop - v),
                                             totals.data() + ((k - k_begin) * filter + c * taps + t) * L);
          }
        }
      for (int64_t k = k_begin, i = 0; k < k_end; ++k)
        for (int64_t c = 0; c < wg.inputs; ++c)
          for (int r = 0; r < wg.rows.taps; ++r)
            for (int s = 0; s < wg.columns.taps; ++s)
              wg.put(wg.w_strides(g * wg.outputs + k, c, wg.rows.index[r], wg.columns.index[s]),
                     sum_lanes<T>(load(totals.data() + L * i++)));
    }
  });
  return finite;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
