// pixels.h for pointwise layers whose planes are lines in memory: a product of two matrices, with pixels for columns.
// The inner loop is micro_kernel.h's with its sides exchanged: M outputs on the left, whose weights are broadcast, two
// vectors of pixels on the right. So nothing is turned over, neither inputs nor results, where outer_product.h and
// panels.h transpose every result: of 64 channels to 128 outputs that was a third of their time.
//
//   panels [two vectors of pixels][channel][2 * lanes]   a block of the input, copied once: read as one stream
//   sums   in the result itself, whose lines are a plane apart; at the end of a plane beside it
//
// A block of pixels has all its channels in L2, and the weights of M outputs stay in L1 while it passes by.
//
// Estimate: beside inputs * outputs / 32 cycles a pixel for the arithmetic (16 lanes), inputs / 8 for the copy.
#pragma once
#include "outer_product.h"
#include "pixel_product.h"
#include "pixel_weights.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Pixels [first, first + count) of a plane, copied for vectors across them. What is beyond the last is zero.
template <class T>
class PixelPanels {
 public:
  static constexpr int64_t L = Vec<T>::lanes, kWide = 2 * L;

  PixelPanels(int64_t channels, int64_t most_pixels)
      : channels_(channels), data_(ceil_div(most_pixels, kWide) * kWide * channels) {}

  int64_t count() const { return ceil_div(pixels_, kWide); }
  int64_t pixels_of(int64_t panel) const { return smaller(kWide, pixels_ - panel * kWide); }
  // A single vector if that is enough.
  int64_t width_of(int64_t panel) const { return pixels_of(panel) <= L ? L : kWide; }
  const T* of(int64_t panel) const { return data_.data() + panel * kWide * channels_; }

  // The channels are `pitch` apart.
  template <class In>
  void pack(const In* from, int64_t pitch, int64_t pixels) {
    pixels_ = pixels;
    const int64_t whole = pixels / kWide;
    for (int64_t c = 0; c < channels_; ++c, from += pitch) {
      T* to = data_.data() + c * kWide;
      for (int64_t p = 0; p < whole; ++p, to += kWide * channels_)
        for (int64_t v = 0; v < kWide; v += L) store(to + v, load_some<T>(from + p * kWide + v, L));
      if (whole == count()) continue;
      const int64_t width = width_of(whole), left = pixels - whole * kWide;
      to += c * (width - kWide);
      for (int64_t v = 0; v < width; v += L) store(to + v, load_some<T>(from + whole * kWide + v, larger(0, left - v)));
    }
  }

 private:
  int64_t channels_, pixels_ = 0;
  Scratch<T> data_;
};

// Whether a convolution is such a layer: see Convolution::flatten. (Longer sums would be made of long sums, and fewer
// outputs want more vectors of pixels.)
template <class T, class In>
bool suits_pixel_panels(const Convolution<T, In>& cv) {
  return pixel_vectors(int(smaller(cv.outputs, CONVX_MAX_M))) == 2 && cv.is_pointwise() && cv.rows.count == 1 &&
         cv.merged() == 1 && cv.in_strides.w == 1 && cv.out_strides.w * cv.columns.out_step == 1 &&
         cv.inputs <= kParts * cv.chain;
}

template <class T, class In>
bool convolve_pixel_panels(const Convolution<T, In>& cv) {
  constexpr int64_t L = Vec<T>::lanes, kWide = 2 * L, kPanelBytes = 256 << 10;
  const PixelWeights<T> weights(&cv, 1);
  if (!weights.finite) return false;
  const int64_t plane = cv.columns.count, chunks = weights.chunks, steps = cv.inputs;
  const int64_t most = larger(1, kPanelBytes / (steps * kWide * int64_t(sizeof(T)))) * kWide;  // pixels of a block
  const int64_t across = ceil_div(plane, most), pixels = ceil_div(ceil_div(plane, across), kWide) * kWide;
  const int64_t places = cv.N * cv.G * across, wanted = 2 * thread_count();
  const int64_t parts = places >= wanted ? 1 : smaller(chunks, ceil_div(wanted, places));
  const double work = double(pixels) * steps * (cv.outputs / double(parts) + 4) / 16;
  parallel_for_balanced(places * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    PixelPanels<T> panels(steps, pixels);
    Scratch<T> beside(CONVX_MAX_M * kWide);
    Scratch<int32_t> a_k(kLongChain<T>);
    int64_t packed = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t place = item / parts, part = item % parts;
      const int64_t n = place / across / cv.G, g = place / across % cv.G, first = place % across * pixels;
      if (packed != place)
        panels.pack(cv.in + cv.in_strides(n, g * steps, 0, first), cv.in_strides.c, smaller(pixels, plane - first));
      packed = place;
      for (int64_t chunk = part * chunks / parts; chunk < (part + 1) * chunks / parts; ++chunk) {
        const int64_t o0 = weights.first(chunk), m = weights.first(chunk + 1) - o0;
        const T *const w = weights.of(0, g, chunk), *const bias = weights.bias.data() + g * cv.outputs + o0;
        for (int64_t k = 0; k < cv.chain; ++k) a_k[k] = int32_t(k * m);
        for (int64_t p = 0; p < panels.count(); ++p) {
          const int64_t width = panels.width_of(p), count = panels.pixels_of(p);
          In* const out = cv.out + cv.out_strides(n, g * cv.outputs + o0, 0, first + p * kWide);
          T* sums = beside.data();
          int64_t pitch = kWide;
          if constexpr (std::is_same_v<T, In>)
            if (count == width) sums = out, pitch = cv.out_strides.c;
          for (int64_t i = 0; i < m; ++i)
            for (int64_t v = 0; v < width; v += L) store(sums + i * pitch + v, splat<T>(bias[i]));
          const OuterProduct<T> kernel =
              width == L ? outer_product_of_planes<T, 1>(int(m)) : outer_product_of_planes<T, 2>(int(m));
          for (int64_t k = 0; k < steps; k += cv.chain)  // on the way, the weights of the next outputs
            kernel(w + k * m, 1, a_k.data(), panels.of(p) + k * width, smaller(cv.chain, steps - k), sums, pitch,
                   nullptr, p == 0 ? w + steps * m + k * kPerLine<T> : w);
          if (sums != beside.data()) continue;
          for (int64_t i = 0; i < m; ++i)
            for (int64_t v = 0; v < count; v += L)
              store_some<T>(out + i * cv.out_strides.c + v, load(sums + i * kWide + v), smaller(L, count - v));
        }
      }
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
