// Depthwise layers in place: vectors across the pixels of one contiguous plane, walked as one line, nothing packed.
//
// (Square kernels of 3, 5 and 7 are depthwise_rows.h's, on AVX2 all: half the loads for as many products.)
//
// With stride 1 and as many output as input columns, output f of the line reads input f + r*W + s for every tap (r, s),
// except where that crosses an edge. A mask for each vector and tap, made once for all planes, switches those lanes
// off: neither loaded nor multiplied, so infinities need no care here. The masks are AVX-512's, and so is this file.
//
// What it gains over pixels.h: no tile is written and read back and no row copied out, which for 9 multiply-adds an
// element was most of the work. Limit: depthwise 3x3 does 18 operations for 8 bytes (float32), so memory; in cache each
// vector and tap costs one cycle: a load across a cache line (two slots), an FMA and a mask move (ports 0 and 5).
#pragma once
#include <immintrin.h>

#include "depthwise_rows_weight.h"
#include "depthwise_small_weight.h"
#include "depthwise_strided_input.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

inline __m512 load_masked(uint16_t mask, const float* p) { return _mm512_maskz_loadu_ps(mask, p); }
inline __m512d load_masked(uint16_t mask, const double* p) { return _mm512_maskz_loadu_pd(__mmask8(mask), p); }
inline __m512 add_product(uint16_t mask, __m512 a, __m512 b, __m512 sum) {
  return _mm512_mask3_fmadd_ps(a, b, sum, mask);
}
inline __m512d add_product(uint16_t mask, __m512d a, __m512d b, __m512d sum) {
  return _mm512_mask3_fmadd_pd(a, b, sum, __mmask8(mask));
}
inline void store_masked(uint16_t mask, float* p, __m512 v) { _mm512_mask_storeu_ps(p, mask, v); }
inline void store_masked(uint16_t mask, double* p, __m512d v) { _mm512_mask_storeu_pd(p, __mmask8(mask), v); }

// The taps of a plane as offsets into the line, and the lanes of each vector of outputs that each tap reaches.
template <class T>
struct LineTaps {
  static constexpr int L = Vec<T>::lanes, NV = 6;  // vectors in flight: chains enough for the FMA's latency
  int64_t taps, size, vectors;
  Buffer<int64_t> offset;
  Buffer<uint16_t> mask;  // [chunk of NV vectors][tap][NV]

  LineTaps(const AxisPlan& r, const AxisPlan& c)
      : taps(int64_t(r.taps) * c.taps),
        size(r.count * c.count),
        vectors(ceil_div(ceil_div(size, L), NV) * NV),
        offset(taps),
        mask(vectors * taps) {
    for (int64_t t = 0; t < taps; ++t) offset[t] = r.offset[t / c.taps] * c.in + c.offset[t % c.taps];
    std::memset(mask.data(), 0, vectors * taps * sizeof(uint16_t));
    for (int64_t t = 0; t < taps; ++t) {  // in each row, the outputs whose tap is inside are one run
      const int64_t dh = r.offset[t / c.taps], dw = c.offset[t % c.taps];
      const int64_t q0 = larger(0, -dw), q1 = smaller(c.count, c.in - dw);
      for (int64_t p = larger(0, -dh); p < smaller(r.count, r.in - dh); ++p) set(t, p * c.count + q0, p * c.count + q1);
    }
  }

  uint16_t present(int64_t vector) const {  // lanes that are outputs at all
    const int64_t left = size - vector * L;
    return left >= L ? uint16_t((1u << L) - 1) : left <= 0 ? uint16_t(0) : uint16_t((1u << left) - 1);
  }

 private:
  void set(int64_t t, int64_t first, int64_t last) {
    while (first < last) {
      const int64_t v = first / L, stop = smaller(last, (v + 1) * L);
      mask[(v / NV * taps + t) * NV + v % NV] |= uint16_t((1u << (stop - v * L)) - (1u << (first - v * L)));
      first = stop;
    }
  }
};

// y = bias + sum over taps of w[t] * x[f + offset[t]], for a whole plane.
template <class T>
void convolve_line(const T* x, const T* w, T bias, T* y, const LineTaps<T>& lt) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes, NV = LineTaps<T>::NV;
  const uint16_t* mask = lt.mask.data();
  const int64_t* offset = lt.offset.data();
  for (int64_t v = 0; v < lt.vectors; v += NV) {
    V acc[NV], parts[NV];  // the sum of the chain so far, and of those before it
#pragma GCC unroll 8
    for (int n = 0; n < NV; ++n) acc[n] = V{}, parts[n] = splat<T>(bias);
    for (int64_t t = 0; t < lt.taps; ++t, mask += NV) {
      if (t % kChain<T> == kChain<T> - 1) {
#pragma GCC unroll 8
        for (int n = 0; n < NV; ++n) parts[n] += acc[n], acc[n] = V{};
      }
      const V weight = splat<T>(w[t]);
      const T* from = x + v * L + offset[t];
#pragma GCC unroll 8
      for (int n = 0; n < NV; ++n) acc[n] = add_product(mask[n], V(load_masked(mask[n], from + n * L)), weight, acc[n]);
    }
#pragma GCC unroll 8
    for (int n = 0; n < NV; ++n) store_masked(lt.present(v + n), y + (v + n) * L, parts[n] + acc[n]);
  }
}

// totals[t] += sum over f of y[f] * x[f + offset[t]], lane by lane, a few taps at a time so that y is loaded once for
// them.
template <class T, int TAPS>
void line_dots(const T* x, const T* y, T* totals, int64_t t0, const LineTaps<T>& lt) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes, NV = LineTaps<T>::NV;
  const uint16_t* mask = lt.mask.data() + t0 * NV;
  const int64_t* offset = lt.offset.data() + t0;
  V acc[TAPS] = {};
  const auto flush = [&] {
#pragma GCC unroll 16
    for (int t = 0; t < TAPS; ++t) {
      T* total = totals + (t0 + t) * L;
      store(total, load(total) + acc[t]);
      acc[t] = V{};
    }
  };
  for (int64_t v = 0; v * L < lt.size; ++v) {
    if (v % kPixelChain<T> == kPixelChain<T> - 1) flush();
    const V left = load_masked(lt.present(v), y + v * L);
    const uint16_t* m = mask + v / NV * lt.taps * NV + v % NV;
#pragma GCC unroll 16
    for (int t = 0; t < TAPS; ++t)
      acc[t] = add_product(m[t * NV], V(load_masked(m[t * NV], x + v * L + offset[t])), left, acc[t]);
  }
  flush();
}

template <class T, int TAPS>
void line_dots_of(int64_t taps, const T* x, const T* y, T* totals, int64_t t0, const LineTaps<T>& lt) {
  if (taps >= TAPS) return line_dots<T, TAPS>(x, y, totals, t0, lt);
  if constexpr (TAPS > 1) line_dots_of<T, TAPS - 1>(taps, x, y, totals, t0, lt);
}

template <class T, class In>
bool convolve_lines(const Convolution<T, In>& cv) {
  const LineTaps<T> lt(cv.rows, cv.columns);
  const int64_t in_size = cv.rows.in * cv.columns.in;
  const double work = double(lt.size) * lt.taps * cv.outputs / 8;
  parallel_for_balanced(cv.N * cv.G, grain_for(work), [&](int64_t begin, int64_t end) {
    ConvertedPlanes<T> x_buffer(std::is_same_v<T, In> ? 0 : in_size), y_buffer(std::is_same_v<T, In> ? 0 : lt.size);
    Buffer<T> w(lt.taps);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / cv.G, g = i % cv.G;
      const T* x = plane_as<T, In>(cv.in + cv.in_strides(n, g, 0, 0), in_size, 1, in_size, x_buffer);
      for (int64_t k = 0; k < cv.outputs; ++k) {
        for (int64_t t = 0; t < lt.taps; ++t)
          w[t] = T(
              cv.weight[g * cv.weight_group + k * cv.weight_output + cv.rows.index[t / cv.columns.taps] * cv.weight_r +
                        cv.columns.index[t % cv.columns.taps] * cv.weight_s]);
        const int64_t channel = g * cv.outputs + k;
        In* to = cv.out + cv.out_strides(n, channel, 0, 0);
        const T bias = cv.bias ? T(cv.bias[channel * cv.bias_stride]) : T(0);
        if constexpr (std::is_same_v<T, In>) {
          convolve_line(x, w.data(), bias, to, lt);
        } else {
          convolve_line(x, w.data(), bias, y_buffer.data(), lt);
          y_buffer.unload(to, {1, 0, 1, lt.size, lt.size});
        }
      }
    }
  });
  return true;
}

template <class T, class In>
bool weight_gradient_lines(const WeightGradient<T, In>& wg) {
  const LineTaps<T> lt(wg.rows, wg.columns);
  const int64_t in_size = wg.rows.in * wg.columns.in;
  parallel_for(wg.G, grain_for(double(wg.N) * lt.size * lt.taps * wg.outputs / 8), [&](int64_t begin, int64_t end) {
    ConvertedPlanes<T> x_buffer(std::is_same_v<T, In> ? 0 : in_size), y_buffer(std::is_same_v<T, In> ? 0 : lt.size);
    Buffer<T> totals(lt.taps * Vec<T>::lanes);
    for (int64_t g = begin; g < end; ++g)
      for (int64_t k = 0; k < wg.outputs; ++k) {
        std::memset(totals.data(), 0, lt.taps * Vec<T>::lanes * sizeof(T));
        for (int64_t n = 0; n < wg.N; ++n) {
          const T* x = plane_as<T, In>(wg.x + wg.x_strides(n, g, 0, 0), in_size, 1, in_size, x_buffer);
          const T* y = plane_as<T, In>(wg.y + wg.y_strides(n, g * wg.outputs + k, 0, 0), lt.size, 1, lt.size, y_buffer);
          for (int64_t t = 0; t < lt.taps; t += kDotTaps)
            line_dots_of<T, kDotTaps>(lt.taps - t, x, y, totals.data(), t, lt);
        }
        for (int64_t t = 0; t < lt.taps; ++t)
          wg.w[wg.w_strides(g * wg.outputs + k, 0, wg.rows.index[t / wg.columns.taps],
                            wg.columns.index[t % wg.columns.taps])] =
              In(sum_lanes<T>(load(totals.data() + t * Vec<T>::lanes)));
      }
  });
  return true;
}

// Whether depthwise_rows.h has a kernel for it, and every tap meets some row of the plane.
inline bool in_rows(const AxisPlan& r, const AxisPlan& c) {
  const auto neighbours = [](const AxisPlan& a) { return a.highest() - a.lowest() == a.taps - 1; };
  return r.taps == c.taps && (r.taps == 3 || r.taps == 5 || r.taps == 7) && neighbours(r) && r.count >= kBlockRows;
}

struct InPlace {
  template <class T, class In>
  static bool convolve(const Convolution<T, In>& cv) {
    if (cv.rows.stride == 2) return convolve_strided(cv);
    if (is_small<T>(cv.rows, cv.columns)) return convolve_small(cv);
    return in_rows(cv.rows, cv.columns) ? convolve_planes(cv) : convolve_lines(cv);
  }
  template <class T, class In>
  static bool grad_input(Convolution<T, In>& cv, const ConvProblem& pb) {
    if (!pb.is_unit_stride()) return grad_input_strided(cv, pb);
    cv.rows = grad_input_axis(pb.rows(), 0), cv.columns = grad_input_axis(pb.columns(), 0);
    if (cv.taps() > 0) return convolve_each<InPlace>(&cv, 1);
    fill_with_bias(cv, pb);
    return true;
  }
  template <class T, class In>
  static bool weight_gradient(const WeightGradient<T, In>& wg) {
    if (wg.rows.stride == 2) return weight_gradient_strided(wg);
    if (is_small<T>(wg.rows, wg.columns)) return weight_gradient_small(wg);
    return in_rows(wg.rows, wg.columns) ? weight_gradient_rows(wg) : weight_gradient_lines(wg);
  }
};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
