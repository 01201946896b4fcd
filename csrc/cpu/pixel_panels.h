// pixels.h for pointwise layers whose planes are lines in memory: a product of two matrices, with pixels for columns.
// The inner loop is micro_kernel.h's with its sides exchanged: M outputs on the left, whose weights are broadcast, two
// vectors of pixels on the right. So nothing is turned over, neither inputs nor results, where outer_product.h and
// panels.h transpose every result: of 64 channels to 128 outputs that was a third of their time.
//
//   panels [two vectors of pixels][channel][2 * lanes]   a block of the input, copied once: read as one stream
//   sums   in the result itself, whose lines are a plane apart; where a plane ends, beside it
//
// A block of pixels, of one plane or of several images, has all its channels in L2, and the weights of M outputs
// stay in L1 while it passes by.
//
// With a stride the pixels that are read are picked on the way into the panels, one by one, by a table of where in a
// plane they are: a cycle for each, where a tile's rows are dealt out by their remainders, short as they may be.
//
// Estimate: beside inputs * outputs / 32 cycles a pixel for the arithmetic (16 lanes), inputs / 8 for the copy.
//
// Run alone: with convx.algorithm("pixels"): ...
#pragma once
#include "outer_product.h"
#include "pixel_product.h"
#include "pixel_weights.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Some pixels of the line of all planes' pixels, image after image, copied for vectors across them. What is beyond the
// last pixel is zero.
template <class T>
class PixelPanels {
 public:
  static constexpr int64_t L = Vec<T>::lanes, kWide = 2 * L;

  // `places` are where a plane's pixels lie in memory, null if one behind the other.
  PixelPanels(int64_t channels, int64_t most_pixels, const int32_t* places)
      : channels_(channels),
        places_(places),
        data_(ceil_div(most_pixels, kWide) * kWide * channels),
        line_(most_pixels + kWide) {}

  int64_t count() const { return ceil_div(pixels_, kWide); }
  int64_t pixels_of(int64_t panel) const { return smaller(kWide, pixels_ - panel * kWide); }
  // A single vector if that is enough.
  int64_t width_of(int64_t panel) const { return pixels_of(panel) <= L ? L : kWide; }
  const T* of(int64_t panel) const { return data_.data() + panel * kWide * channels_; }

  // Pixels [first, first + pixels) of planes of so many each; `in` is where the first channel of image 0 is.
  template <class In>
  void pack(const In* in, const Strides& strides, int64_t plane, int64_t first, int64_t pixels) {
    pixels_ = pixels;
    const bool within = first % plane + pixels <= plane;
    in += first / plane * strides.n;
    for (int64_t c = 0; c < channels_; ++c, in += strides.c) {
      if (within && !places_) {
        deal_out(in + first % plane, c);
        continue;
      }
      const In* image = in;
      for (int64_t x = 0, q = first % plane, count; x < pixels; x += count, q = 0, image += strides.n) {
        count = smaller(pixels - x, plane - q);
        if (places_)
          for (int64_t i = 0; i < count; ++i) line_[x + i] = T(image[places_[q + i]]);
        else
          copy_run(line_.data() + x, image + q, count);
      }
      deal_out(line_.data(), c);
    }
  }

 private:
  template <class From>
  void deal_out(const From* line, int64_t c) {
    const int64_t whole = pixels_ / kWide;
    T* to = data_.data() + c * kWide;
    for (int64_t p = 0; p < whole; ++p, to += kWide * channels_)
      for (int64_t v = 0; v < kWide; v += L) store(to + v, load_some<T>(line + p * kWide + v, L));
    if (whole == count()) return;
    const int64_t width = width_of(whole), left = pixels_ - whole * kWide;
    to += c * (width - kWide);
    for (int64_t v = 0; v < width; v += L) store(to + v, load_some<T>(line + whole * kWide + v, larger(0, left - v)));
  }

  int64_t channels_, pixels_ = 0;
  const int32_t* places_;
  Scratch<T> data_, line_;
};

// Whether every result of an axis is of one pixel.
inline bool picks_pixels(const AxisPlan& a) {
  return a.taps == 1 && a.offset[0] >= 0 && (a.count - 1) * a.stride + a.offset[0] < a.in;
}

// Whether a convolution is such a layer: see Convolution::flatten. (Longer sums would be made of long sums, and fewer
// outputs want more vectors of pixels.)
template <class T, class In>
bool suits_pixel_panels(const Convolution<T, In>& cv) {
  const AxisPlan &r = cv.rows, &c = cv.columns;
  const bool line = cv.is_pointwise() && r.count == 1;
  const bool picks = r.out_step == 1 && c.out_step == 1 && picks_pixels(r) && picks_pixels(c) &&
                     cv.out_strides.h == c.count && r.in * cv.in_strides.h + c.in < INT32_MAX;
  return pixel_vectors(int(smaller(cv.outputs, CONVX_MAX_M))) == 2 && (line || picks) && cv.merged() == 1 &&
         cv.in_strides.w == 1 && cv.out_strides.w * c.out_step == 1 && cv.inputs <= kParts * cv.chain;
}

// The results of one block of outputs, `chunk`, for panel p; `first` is the first of the panels' pixels. `beside` is
// room for sums that can't be where they belong.
template <class T, class In>
void convolve_panel(const Convolution<T, In>& cv, const PixelPanels<T>& panels, int64_t p, int64_t first,
                    const PixelWeights<T>& weights, int64_t g, int64_t chunk, const int32_t* a_k, T* beside) {
  constexpr int64_t L = Vec<T>::lanes, kWide = 2 * L;
  const int64_t plane = cv.rows.count * cv.columns.count, steps = cv.inputs;
  const int64_t o0 = weights.first(chunk), m = weights.first(chunk + 1) - o0;
  const T *const w = weights.of(0, g, chunk), *const bias = weights.bias.data() + g * cv.outputs + o0;
  const int64_t width = panels.width_of(p), count = panels.pixels_of(p);
  const auto run_at = [&](int64_t x) { return smaller(count - x, plane - (first + p * kWide + x) % plane); };
  const auto out_at = [&](int64_t x) {
    const int64_t pixel = first + p * kWide + x;
    return cv.out + cv.out_strides(pixel / plane, g * cv.outputs + o0, 0, pixel % plane);
  };
  T* sums = beside;
  int64_t pitch = kWide;
  if constexpr (std::is_same_v<T, In>)
    if (run_at(0) == width) sums = out_at(0), pitch = cv.out_strides.c;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t v = 0; v < width; v += L) store(sums + i * pitch + v, splat<T>(bias[i]));
  const OuterProduct<T> kernel =
      width == L ? outer_product_of_planes<T, 1>(int(m)) : outer_product_of_planes<T, 2>(int(m));
  for (int64_t k = 0; k < steps; k += cv.chain)  // on the way, the weights of the next outputs
    kernel(w + k * m, 1, a_k, panels.of(p) + k * width, smaller(cv.chain, steps - k), sums, pitch, nullptr,
           p == 0 ? w + steps * m + k * kPerLine<T> : w);
  for (int64_t x = 0; x < count && sums == beside; x += run_at(x))
    for (int64_t i = 0; i < m; ++i)
      for (int64_t v = 0; v < run_at(x); v += L)
        store_some<T>(out_at(x) + i * cv.out_strides.c + v, load(sums + i * kWide + x + v), smaller(L, run_at(x) - v));
}

template <class T, class In>
bool convolve_pixel_panels(const Convolution<T, In>& cv) {
  constexpr int64_t L = Vec<T>::lanes, kWide = 2 * L, kPanelBytes = 256 << 10;
  const PixelWeights<T> weights(&cv, 1);
  if (!weights.finite) return false;
  const AxisPlan &r = cv.rows, &c = cv.columns;
  const int64_t plane = r.count * c.count, chunks = weights.chunks, steps = cv.inputs, all = cv.N * plane;
  const int64_t most = larger(1, kPanelBytes / (steps * kWide * int64_t(sizeof(T)))) * kWide;
  const int64_t pixels = ceil_div(ceil_div(all, ceil_div(all, most)), kWide) * kWide, blocks = ceil_div(all, pixels);
  const int64_t items = cv.G * blocks, wanted = 2 * thread_count();
  const int64_t parts = items >= wanted ? 1 : smaller(chunks, ceil_div(wanted, items));
  const bool line = cv.is_pointwise() && r.count == 1;
  Scratch<int32_t> places(line ? 0 : plane);
  for (int64_t f = 0; !line && f < plane; ++f)
    places[f] =
        int32_t((f / c.count * r.stride + r.offset[0]) * cv.in_strides.h + f % c.count * c.stride + c.offset[0]);
  const double work = double(pixels) * steps * (cv.outputs / double(parts) + 4) / 16;
  parallel_for_balanced(items * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    PixelPanels<T> panels(steps, pixels, line ? nullptr : places.data());
    Scratch<T> beside((CONVX_MAX_M + 1) * kWide);
    Scratch<int32_t> a_k(kLongChain<T>);
    int64_t packed = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t item = i / parts, part = i % parts, g = item / blocks, first = item % blocks * pixels;
      if (packed != item)
        panels.pack(cv.in + cv.in_strides(0, g * steps, 0, 0), cv.in_strides, plane, first,
                    smaller(pixels, all - first));
      packed = item;
      for (int64_t chunk = part * chunks / parts; chunk < (part + 1) * chunks / parts; ++chunk) {
        const int64_t m = weights.first(chunk + 1) - weights.first(chunk);
        for (int64_t k = 0; k < cv.chain; ++k) a_k[k] = int32_t(k * m);
        for (int64_t p = 0; p < panels.count(); ++p)
          convolve_panel(cv, panels, p, first, weights, g, chunk, a_k.data(), beside.data());
      }
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
