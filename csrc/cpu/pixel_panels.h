// pixels.h for pointwise layers whose planes are lines in memory: a product of two matrices, with pixels for columns.
// The inner loop is micro_kernel.h's with its sides exchanged: M outputs on the left, whose weights are broadcast, two
// vectors of pixels on the right. So nothing is turned over, neither inputs nor results, where outer_product.h and
// panels.h transpose every result: of 64 channels to 128 outputs that was a third of their time.
//
//   panels two vectors of pixels of all channels. They are read where they are; copied, [channel][2 * lanes], are those
//          where a plane ends, and all of short planes or if they are converted
//   sums   in the result itself, whose lines are a plane apart; where a plane ends, beside it
//
// A block of pixels, of one plane or of several images, has all its channels in L2, and the weights of M outputs
// stay in L1 while it passes by. What the next block reads is fetched meanwhile.
//
// Estimate: beside inputs * outputs / 32 cycles a pixel for the arithmetic (16 lanes), inputs / 8 for a copy, if what
// is copied is in L2: it was a tenth of the time, and is next to nothing where only the planes' ends are.
//
// Run alone: with convx.algorithm("pixels"): ...
#pragma once
#include <numeric>

#include "outer_product.h"
#include "pixel_product.h"
#include "pixel_weights.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Some pixels of the line of all planes' pixels, image after image, for vectors across them.
template <class T, class In>
class PixelPanels {
 public:
  static constexpr int64_t L = Vec<T>::lanes, kWide = 2 * L;

  PixelPanels(const Convolution<T, In>& cv, int64_t most_pixels)
      : cv_(cv),
        plane_(cv.columns.count),
        in_place_(std::is_same_v<T, In> && plane_ * int64_t(sizeof(In)) >= kLongPlane && spreads(cv)),
        data_(ceil_div(most_pixels, kWide) * kWide * cv.inputs),
        pitch_(most_pixels + kWide),
        lines_(kLines * pitch_) {}

  int64_t count() const { return ceil_div(pixels_, kWide); }
  int64_t pixels_of(int64_t panel) const { return smaller(kWide, pixels_ - panel * kWide); }
  // A single vector if that is enough.
  int64_t width_of(int64_t panel) const { return pixels_of(panel) <= L ? L : kWide; }

  // Where a panel's pixels of channel 0 are, and how far those of the next channel.
  const T* of(int64_t panel) const {
    return in_place(panel) ? reinterpret_cast<const T*>(at(group_, first_ + panel * kWide))
                           : data_.data() + panel * kWide * cv_.inputs;
  }
  int64_t pitch(int64_t panel) const { return in_place(panel) ? cv_.in_strides.c : width_of(panel); }

  // Where channel 0 of a pixel is in the input.
  const In* at(int64_t g, int64_t pixel) const {
    return cv_.in + cv_.in_strides(pixel / plane_, g * cv_.inputs, 0, pixel % plane_);
  }

  // Pixels [first, first + pixels) of group g. What is beyond the last one is zero.
  void set(int64_t g, int64_t first, int64_t pixels) {
    group_ = g, first_ = first, pixels_ = pixels;
    for (int64_t p = 0, end; p < count(); p = end) {
      for (end = p; end < count() && !in_place(end);) ++end;
      if (end > p)
        copy(p, end);
      else
        ++end;
    }
  }

 private:
  // So many at a time: a vector's load waits if parts of it are still on their way to memory.
  static constexpr int64_t kLines = 8;

  // Of short planes, 14 x 14, lines are read half, and a copy is faster by a twentieth.
  static constexpr int64_t kLongPlane = 2 << 10;
  // Whether the channels' lines may all be in L2 at once. A power of two apart they would be in few of its sets.
  static bool spreads(const Convolution<T, In>& cv) {
    constexpr int64_t kWay = 64 << 10, kWays = 4;
    return cv.inputs * std::gcd(cv.in_strides.c * int64_t(sizeof(In)), kWay) <= kWays * kWay;
  }
  bool in_place(int64_t panel) const {
    return in_place_ && pixels_of(panel) == kWide && (first_ + panel * kWide) % plane_ + kWide <= plane_;
  }

  void copy(int64_t p0, int64_t p1) {
    const int64_t first = first_ + p0 * kWide, pixels = smaller(p1 * kWide, pixels_) - p0 * kWide, q0 = first % plane_;
    if (q0 + pixels <= plane_) {
      const In* const in = at(group_, first);
      for (int64_t c = 0; c < cv_.inputs; ++c) deal_out(in + c * cv_.in_strides.c, c, p0, pixels);
      return;
    }
    for (int64_t c0 = 0; c0 < cv_.inputs; c0 += kLines) {
      const int64_t c1 = smaller(c0 + kLines, cv_.inputs);
      for (int64_t c = c0; c < c1; ++c) {
        T* const line = lines_.data() + (c - c0) * pitch_;
        const In* image = cv_.in + cv_.in_strides(first / plane_, group_ * cv_.inputs + c, 0, 0);
        for (int64_t x = 0, q = q0, count; x < pixels; x += count, q = 0, image += cv_.in_strides.n) {
          count = smaller(pixels - x, plane_ - q);
          copy_run(line + x, image + q, count);
        }
      }
      for (int64_t c = c0; c < c1; ++c) deal_out(lines_.data() + (c - c0) * pitch_, c, p0, pixels);
    }
  }

  // A channel's pixels, from panel p0 on.
  template <class From>
  void deal_out(const From* line, int64_t c, int64_t p0, int64_t pixels) {
    const int64_t whole = pixels / kWide;
    T* to = data_.data() + p0 * kWide * cv_.inputs + c * kWide;
    for (int64_t p = 0; p < whole; ++p, to += kWide * cv_.inputs)
      for (int64_t v = 0; v < kWide; v += L) store(to + v, load_some<T>(line + p * kWide + v, L));
    const int64_t left = pixels - whole * kWide;
    if (left == 0) return;
    const int64_t width = left <= L ? L : kWide;
    to += c * (width - kWide);
    for (int64_t v = 0; v < width; v += L) store(to + v, load_some<T>(line + whole * kWide + v, larger(0, left - v)));
  }

  const Convolution<T, In>& cv_;
  int64_t plane_, group_ = 0, first_ = 0, pixels_ = 0;
  bool in_place_;
  Scratch<T> data_;
  int64_t pitch_;
  Scratch<T> lines_;
};

// Whether a convolution is such a layer: see Convolution::flatten. (Longer sums would be made of long sums, and fewer
// outputs want more vectors of pixels.)
template <class T, class In>
bool suits_pixel_panels(const Convolution<T, In>& cv) {
  return pixel_vectors(int(smaller(cv.outputs, CONVX_MAX_M))) == 2 && cv.is_pointwise() && cv.rows.count == 1 &&
         cv.merged() == 1 && cv.in_strides.w == 1 && cv.out_strides.w * cv.columns.out_step == 1 &&
         cv.inputs <= kParts * cv.chain;
}

// The results of one block of outputs, `chunk`, for panel p; `first` is the first of the panels' pixels. `beside` is
// room for sums that can't be where they belong.
template <class T, class In>
void convolve_panel(const Convolution<T, In>& cv, const PixelPanels<T, In>& panels, int64_t p, int64_t first,
                    const PixelWeights<T>& weights, int64_t g, int64_t chunk, const int32_t* a_k, T* beside,
                    const In* ahead) {
  constexpr int64_t L = Vec<T>::lanes, kWide = 2 * L;
  const int64_t plane = cv.columns.count, steps = cv.inputs;
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
      width == L ? outer_product_of_planes<T, 1, true>(int(m)) : outer_product_of_planes<T, 2, true>(int(m));
  for (int64_t k = 0; k < steps; k += cv.chain)  // on the way, the weights of the next outputs, or pixels
    kernel(w + k * m, 1, a_k, panels.of(p) + k * panels.pitch(p), panels.pitch(p), smaller(cv.chain, steps - k), sums,
           pitch, nullptr,
           ahead    ? NextLines(ahead + k * cv.in_strides.c, cv.in_strides.c * int64_t(sizeof(In)))
           : p == 0 ? NextLines(w + steps * m + k * kPerLine<T>)
                    : NextLines(w, 0));
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
  const int64_t plane = cv.columns.count, chunks = weights.chunks, steps = cv.inputs, all = cv.N * plane;
  const int64_t most = larger(1, kPanelBytes / (steps * kWide * int64_t(sizeof(T)))) * kWide;
  const int64_t pixels = ceil_div(ceil_div(all, ceil_div(all, most)), kWide) * kWide, blocks = ceil_div(all, pixels);
  const int64_t items = cv.G * blocks, wanted = 2 * thread_count();
  const int64_t parts = items >= wanted ? 1 : smaller(chunks, ceil_div(wanted, items));
  const double work = double(pixels) * steps * (cv.outputs / double(parts) + 4) / 16;
  parallel_for_balanced(items * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    PixelPanels<T, In> panels(cv, pixels);
    Scratch<T> beside((CONVX_MAX_M + 1) * kWide);
    Scratch<int32_t> a_k(kLongChain<T>);
    int64_t packed = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t item = i / parts, part = i % parts, g = item / blocks, first = item % blocks * pixels;
      if (packed != item) panels.set(g, first, smaller(pixels, all - first));
      packed = item;
      // The next block's pixels are fetched meanwhile, a vector of them by each of `slots` products.
      const int64_t next = (i + 1) / parts, next_first = next % blocks * pixels;
      const int64_t vectors = i + 1 < end && next != item ? ceil_div(smaller(pixels, all - next_first), L) : 0;
      const int64_t c0 = part * chunks / parts, c1 = (part + 1) * chunks / parts, others = panels.count() - 1;
      const int64_t slots = (c1 - c0) * others;
      for (int64_t chunk = c0; chunk < c1; ++chunk) {
        const int64_t m = weights.first(chunk + 1) - weights.first(chunk);
        for (int64_t k = 0; k < cv.chain; ++k) a_k[k] = int32_t(k * m);
        for (int64_t p = 0; p < panels.count(); ++p) {
          const In* ahead = nullptr;
          if (p > 0) {
            const int64_t slot = (chunk - c0) * others + p - 1, v = slot * vectors / slots;
            if (v < (slot + 1) * vectors / slots) ahead = panels.at(next / blocks, next_first + v * L);
          }
          convolve_panel(cv, panels, p, first, weights, g, chunk, a_k.data(), beside.data(), ahead);
        }
      }
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
