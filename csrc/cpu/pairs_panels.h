// Pointwise layers in bfloat16 whose planes are lines in memory, on vectors that multiply pairs: pairs_product.h with
// its sides exchanged, as pixel_panels.h is outer_product.h. A pair of an output's weights is broadcast, vectors hold
// the same pair of channels of 16 pixels. So two channels are interleaved where a tile's lines are turned over, and
// results leave as they are: together they took a fourth of the time with 128 channels.
//
//   panels [32 pixels][pair of channels][32 words]   a block of the input
//
// Weights are read where they are, if an output's inputs are neighbours there.
//
// Estimate: inputs * outputs / 32 cycles a pixel for the products, inputs / 16 for the panels, outputs / 4 for the
// results.
//
// Run alone: with convx.algorithm("bfloat16_pairs"): ..., of a contiguous 1x1 layer.
#pragma once
#include "amx_convolution.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

constexpr int64_t kPanel = 32;  // pixels

// Of some pixels of all images' planes, one after the other; zeros beyond the last.
class PairPanels {
 public:
  PairPanels(int64_t channels, int64_t most_pixels)
      : channels_(channels),
        pairs_(ceil_div(channels, 2)),
        data_(ceil_div(most_pixels, kPanel) * pairs_ * 2 * kPanel),
        lines_(2 * (most_pixels + kPanel)) {}

  int64_t pairs() const { return pairs_; }
  int64_t count() const { return ceil_div(pixels_, kPanel); }
  int64_t pixels_of(int64_t panel) const { return smaller(kPanel, pixels_ - panel * kPanel); }
  const uint16_t* of(int64_t panel) const { return data_.data() + panel * pairs_ * 2 * kPanel; }

  // Pixels [first, first + pixels) of planes of so many each; `in` is where the first channel of image 0 is.
  void pack(const uint16_t* in, const Strides& strides, int64_t plane, int64_t first, int64_t pixels) {
    pixels_ = pixels;
    in += first / plane * strides.n;
    const bool within = first % plane + pixels <= plane;
    for (int64_t c = 0; c < channels_; ++c, in += strides.c) {
      const uint16_t* line = in + first % plane;
      if (!within) line = join(lines_.data() + c % 2 * (pixels + kPanel), in, strides.n, plane, first % plane);
      if (c % 2) interleave(c / 2, before_, line);
      before_ = line;
    }
    if (channels_ % 2) interleave(channels_ / 2, before_, nullptr);
  }

 private:
  const uint16_t* join(uint16_t* to, const uint16_t* image, int64_t pitch, int64_t plane, int64_t q) const {
    for (int64_t x = 0, count; x < pixels_; x += count, q = 0, image += pitch) {
      count = smaller(pixels_ - x, plane - q);
      std::memcpy(to + x, image + q, count * sizeof *to);
    }
    return to;
  }

  void interleave(int64_t pair, const uint16_t* even, const uint16_t* odd) {
    uint16_t* to = data_.data() + pair * 2 * kPanel;
    for (int64_t x = 0; x < pixels_; x += kPanel, to += pairs_ * 2 * kPanel) {
      const Halfwords a = load_some<uint16_t>(even + x, pixels_ - x);
      const Halfwords b = odd ? load_some<uint16_t>(odd + x, pixels_ - x) : Halfwords{};
      CONVX_ISA::store(to, in_turns(a, b, false));
      CONVX_ISA::store(to + kPanel, in_turns(a, b, true));
    }
  }

  int64_t channels_, pairs_, pixels_ = 0;
  const uint16_t* before_ = nullptr;
  Scratch<uint16_t> data_, lines_;
};

// The sums of R outputs, whose weights are lines `pitch` apart, and a panel's pixels: [R][32].
template <int R>
void add_panel(const uint16_t* weights, int64_t pitch, const uint16_t* panel, int64_t pairs, const float* bias,
               float* sums) {
  Floats sum[R][2];
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m) sum[m][0] = sum[m][1] = Floats{} + bias[m];
#pragma GCC unroll 2
  for (int64_t p = 0; p < pairs; ++p, panel += 2 * kPanel) {
    Words right[2];
    std::memcpy(right, panel, sizeof right);
#pragma GCC unroll 16
    for (int m = 0; m < R; ++m) {
      uint32_t pair;
      std::memcpy(&pair, weights + m * pitch + 2 * p, 4);
      const Words left = Words{} + pair;
#pragma GCC unroll 2
      for (int n = 0; n < 2; ++n) sum[m][n] = add_pairs(sum[m][n], left, right[n]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 2
    for (int n = 0; n < 2; ++n) CONVX_ISA::store(sums + m * kPanel + n * 16, sum[m][n]);
}

template <class T, class In>
bool suits_pair_panels(const Convolution<T, In>& cv) {
  return cv.is_pointwise() && cv.rows.count == 1 && cv.merged() == 1 && cv.in_strides.w == 1 &&
         cv.out_strides.w * cv.columns.out_step == 1;
}

// The weights as lines of pairs, and the biases as float32.
struct PairLines {
  const uint16_t* weights;
  int64_t pitch, group;
  Scratch<uint16_t> packed;
  Scratch<float> bias;

  explicit PairLines(const Convolution<float, BFloat16>& cv)
      : weights(reinterpret_cast<const uint16_t*>(cv.weight)),
        pitch(cv.weight_output),
        group(cv.weight_group),
        packed(is_in_place(cv) ? 0 : cv.G * cv.outputs * ceil_div(cv.inputs, 2) * 2),
        bias(cv.G * cv.outputs) {
    for (int64_t g = 0; g < cv.G; ++g) pack_bias(bias.data() + g * cv.outputs, cv, g, 0, cv.outputs);
    if (is_in_place(cv)) return;
    const uint16_t* const from = weights;
    pitch = ceil_div(cv.inputs, 2) * 2, group = cv.outputs * pitch, weights = packed.data();
    constexpr int64_t kRows = 32;  // of outputs
    const int64_t blocks = ceil_div(cv.outputs, kRows);
    parallel_for(cv.G * blocks, grain_for(double(kRows * pitch)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t g = i / blocks, o0 = i % blocks * kRows, o1 = smaller(cv.outputs, o0 + kRows);
        const uint16_t* const first = from + g * cv.weight_group + o0 * cv.weight_output;
        uint16_t* const to = packed.data() + g * group + o0 * pitch;
        if (cv.weight_output == 1) {
          turn_over(to, first, cv.weight_input, cv.inputs, o1 - o0);
          continue;
        }
        for (int64_t o = 0; o < o1 - o0; ++o)
          for (int64_t c = 0; c < pitch; ++c)
            to[o * pitch + c] = c < cv.inputs ? first[o * cv.weight_output + c * cv.weight_input] : uint16_t(0);
      }
    });
  }

 private:
  // Lines of inputs from lines of neighbouring outputs, `from_pitch` apart: 16 pairs of 32 of them at a time.
  void turn_over(uint16_t* to, const uint16_t* from, int64_t from_pitch, int64_t inputs, int64_t outputs) const {
    for (int64_t o = 0; o < outputs; o += 32)  // a cache line: those of many outputs are pages apart, in a few sets
      for (int64_t c = 0; c < pitch; c += kDepth) {
        const auto line = [&](int64_t i) {
          __builtin_prefetch(from + (i + kDepth) * from_pitch + o, 0, 2);
          return i < inputs ? load_some<uint16_t>(from + i * from_pitch + o, outputs - o) : Halfwords{};
        };
        Floats pairs[2][16];
#pragma GCC unroll 16
        for (int64_t p = 0; p < 16; ++p) {
          const Halfwords even = line(c + 2 * p), odd = line(c + 2 * p + 1);
          pairs[0][p] = Floats(in_turns(even, odd, false)), pairs[1][p] = Floats(in_turns(even, odd, true));
        }
        for (int64_t h = 0; h < 2; ++h) {
          transpose_square<float>(pairs[h]);
          for (int64_t k = h * 16; k < smaller(h * 16 + 16, outputs - o); ++k)
            store_some<uint16_t>(to + (o + k) * pitch + c, Halfwords(pairs[h][k % 16]), pitch - c);
        }
      }
  }

  static bool is_in_place(const Convolution<float, BFloat16>& cv) {
    return cv.weight_input == 1 && cv.inputs % 2 == 0 && cv.rows.index[0] == 0 && cv.columns.index[0] == 0;
  }
};

inline bool convolve_pair_panels(const Convolution<float, BFloat16>& cv) {
  using AddPanel = void (*)(const uint16_t*, int64_t, const uint16_t*, int64_t, const float*, float*);
  static constexpr AddPanel kAdd[kPairRows] = {add_panel<1>,  add_panel<2>,  add_panel<3>,  add_panel<4>, add_panel<5>,
                                               add_panel<6>,  add_panel<7>,  add_panel<8>,  add_panel<9>, add_panel<10>,
                                               add_panel<11>, add_panel<12>, add_panel<13>, add_panel<14>};
  constexpr int64_t kPanelBytes = 256 << 10;
  const PairLines lines(cv);
  const int64_t plane = cv.columns.count, all = cv.N * plane, chunks = ceil_div(cv.outputs, kPairRows);
  const int64_t most = larger(1, kPanelBytes / (ceil_div(cv.inputs, 2) * kPanel * 4)) * kPanel;
  const int64_t pixels = ceil_div(ceil_div(all, ceil_div(all, most)), kPanel) * kPanel, blocks = ceil_div(all, pixels);
  const int64_t items = cv.G * blocks, wanted = 8 * thread_count();
  const int64_t parts = items >= wanted ? 1 : smaller(chunks, ceil_div(wanted, items));
  const double work = double(pixels) * cv.inputs * (cv.outputs / double(parts) + 4) / 32;
  parallel_for_balanced(items * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    PairPanels panels(cv.inputs, pixels);
    Scratch<float> sums(kPairRows * kPanel + kPanel);  // whole vectors are read from any pixel on
    std::memset(sums.data(), 0, (kPairRows * kPanel + kPanel) * sizeof(float));
    int64_t packed = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t item = i / parts, part = i % parts, g = item / blocks, first = item % blocks * pixels;
      if (packed != item)
        panels.pack(plain(cv.in + cv.in_strides(0, g * cv.inputs, 0, 0)), cv.in_strides, plane, first,
                    smaller(pixels, all - first));
      packed = item;
      for (int64_t chunk = part * chunks / parts; chunk < (part + 1) * chunks / parts; ++chunk) {
        const int64_t o0 = cv.outputs * chunk / chunks, count = cv.outputs * (chunk + 1) / chunks - o0;
        for (int64_t p = 0; p < panels.count(); ++p) {
          kAdd[count - 1](lines.weights + g * lines.group + o0 * lines.pitch, lines.pitch, panels.of(p), panels.pairs(),
                          lines.bias.data() + g * cv.outputs + o0, sums.data());
          for (int64_t x = 0, run; x < panels.pixels_of(p); x += run) {
            const int64_t pixel = first + p * kPanel + x, q = pixel % plane;
            run = smaller(panels.pixels_of(p) - x, plane - q);
            BFloat16* to = cv.out + cv.out_strides(pixel / plane, g * cv.outputs + o0, 0, q);
            for (int64_t m = 0; m < count; ++m, to += cv.out_strides.c)
              for (int64_t v = 0; v < run; v += 16)
                store_some<float>(to + v, load(sums.data() + m * kPanel + x + v), smaller(16, run - v));
          }
        }
      }
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
