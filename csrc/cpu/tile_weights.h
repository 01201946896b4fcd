// The weights of amx_convolution.h, packed: [block of 32 outputs][32 channels][tap][term][16 outputs] of tiles, in
// which each line is a pair of channels of 16 outputs.
//
// They are packed once for all blocks of results, or, if a single block meets them, a block of outputs at a time by the
// thread that multiplies it: large weights of small planes would go to memory only to be read back once.
//
// Estimate: float32 is turned over as floats, a square of 16 x 16 in some 100 instructions, and split. bfloat16 in
// which filters lie one behind another is turned over as words of two numbers, half as many, and a pair of channels is
// put together from two words, five instructions for 32 weights. What is left is waiting for memory: of 3 x 3 filters
// on planes of 7 x 7 an eighth of forward's time.
#pragma once
#include "amx_tile.h"
#include "magnitudes.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

constexpr int64_t kWide = 32;  // outputs of a block, and pixels of a tile of sums

// bfloat16 filters of several taps that follow one another in memory, whole ones: by outputs as in forward, each
// output's filters a line, or by inputs as in grad_input, where the filters of an input's outputs are one.
class FilterLines {
 public:
  template <class In>
  explicit FilterLines(const Convolution<float, In>& cv)
      : weight_(reinterpret_cast<const uint16_t*>(cv.weight)),
        group_(cv.weight_group),
        output_(cv.weight_output),
        input_(cv.weight_input),
        inputs_(cv.inputs),
        outputs_(cv.outputs),
        taps_(cv.taps()) {
    suit_ = std::is_same_v<In, BFloat16> && taps_ > 1 && taps_ == cv.filter_size && taps_ <= kMostTaps &&
            cv.filters_are_lines() && (input_ == taps_ || output_ == taps_);
    for (int64_t t = 0; suit_ && t < taps_; ++t)
      step_[cv.rows.index[t / cv.columns.taps] * cv.weight_r + cv.columns.index[t % cv.columns.taps] * cv.weight_s] = t;
  }
  explicit operator bool() const { return suit_; }

  // Channels c0 to c0 + 32 of up to 32 outputs, `pitch` elements from step to step and `half` from output 0 to 16.
  void pack(uint16_t* to, int64_t g, int64_t first, int64_t c0, int64_t pitch, int64_t half) const {
    const uint16_t* const from = weight_ + g * group_ + first * output_ + c0 * input_;
    const int64_t channels = smaller(kDepth, inputs_ - c0), outputs = smaller(kWide, outputs_ - first);
    if (input_ != taps_) return pack_by_inputs(to, pitch, half, from, channels, outputs);
    for (int64_t o = 0; o < outputs; o += 16)
      pack_by_outputs(to + o / 16 * half, pitch, from + o * output_, channels, smaller(16, outputs - o));
  }

 private:
  static constexpr int64_t kMostTaps = 64, L = Vec<uint16_t>::lanes;
  static constexpr int64_t kAhead = 4;  // vectors of a line, or channels, that are fetched before they are needed

  static Halfwords load_rest(const uint16_t* from, int64_t count) {
    return count <= 0 ? Halfwords{} : load_some<uint16_t>(from, smaller(L, count));
  }

  // [output][channel][tap]: place j of all lines, two to a word, and of these words the halves of two channels.
  void pack_by_outputs(uint16_t* to, int64_t pitch, const uint16_t* from, int64_t channels, int64_t outputs) const {
    const int64_t length = channels * taps_;
    Scratch<uint32_t> turned((kDepth * taps_ + L) / 2 * 16);  // [word of the line][output]
    for (int64_t j = 0; j < kDepth * taps_; j += L) {
      Floats words[16];
#pragma GCC unroll 16
      for (int64_t o = 0; o < 16; ++o) {
        __builtin_prefetch(from + o * output_ + j + kAhead * L);
        words[o] = Floats(o < outputs ? load_rest(from + o * output_ + j, length - j) : Halfwords{});
      }
      transpose_square<float>(words);
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) std::memcpy(turned.data() + (j / 2 + i) * 16, &words[i], sizeof words[i]);
    }
    const auto word = [&](int64_t place) {
      Words v;
      std::memcpy(&v, turned.data() + place / 2 * 16, sizeof v);
      return v;
    };
    for (int64_t f = 0; f < taps_; ++f)
      for (int64_t p = 0; p < kDepth / 2; ++p) {
        const int64_t a = 2 * p * taps_ + f, b = a + taps_;
        const Words low = word(a) << (a % 2 ? 0 : 16) >> 16, high = word(b) >> (b % 2 ? 16 : 0) << 16;
        store_words(to + step_[f] * pitch + p * kDepth, low | high);
      }
  }

  // [channel][output][tap]: two channels' numbers in turns are pairs, of 16 outputs a line of taps each.
  void pack_by_inputs(uint16_t* to, int64_t pitch, int64_t half, const uint16_t* from, int64_t channels,
                      int64_t outputs) const {
    const int64_t length = outputs * taps_, lines = ceil_div(outputs, 16) * 16 * taps_;
    Scratch<uint16_t> pairs(2 * (lines + L) + L);
    Scratch<float> turned(16 * taps_);  // bits, of one pair for each output
    const auto low = Interleave<uint16_t>::index(Interleave<uint16_t>::table.low),
               high = Interleave<uint16_t>::index(Interleave<uint16_t>::table.high);
    for (int64_t c = 0; c < kDepth; c += 2) {
      for (int64_t j = 0; j < lines; j += L) {
        const auto of = [&](int64_t c) {
          __builtin_prefetch(from + (c + kAhead) * input_ + j);
          return c < channels ? load_rest(from + c * input_ + j, length - j) : Halfwords{};
        };
        const Halfwords first = of(c), second = of(c + 1);
        store(pairs.data() + 2 * j, shuffle<uint16_t>(first, second, low));
        store(pairs.data() + 2 * j + L, shuffle<uint16_t>(first, second, high));
      }
      for (int64_t o = 0; o < outputs; o += 16) {
        transpose<float, float>(reinterpret_cast<const float*>(pairs.data()) + o * taps_, taps_, 16, taps_,
                                turned.data(), 16, 16);
        for (int64_t f = 0; f < taps_; ++f)
          std::memcpy(to + o / 16 * half + step_[f] * pitch + c / 2 * kDepth, turned.data() + f * 16, kLine);
      }
    }
  }

  const uint16_t* const weight_;
  const int64_t group_, output_, input_, inputs_, outputs_, taps_;
  bool suit_;
  int64_t step_[kMostTaps];  // of each tap in memory
};

// The weights as B tiles, in the order of the steps: chunk of 32 channels, tap.
template <class In>
class TileWeights {
 public:
  static constexpr int terms = kTerms<In>;
  const int64_t kbs, steps;

  // For blocks of results of which each meets its group's weights: if it is one a group, they are not packed before.
  // `seen` takes their magnitudes, or is null.
  TileWeights(const Convolution<float, In>& cv, bool one_block, Magnitudes* seen)
      : kbs(ceil_div(cv.outputs, kWide)),
        steps(ceil_div(cv.inputs, kDepth) * cv.taps()),
        cv_(cv),
        lines_(cv),
        data_(one_block ? 0 : cv.G * kbs * size()),
        bias_(cv.G * kbs * kWide),
        one_block_(one_block),
        seen_(seen) {
    const int64_t chunks = this->chunks();
    for (int64_t i = 0; i < cv.G * kbs; ++i) pack_bias(bias_.data() + i * kWide, cv, i / kbs, i % kbs * kWide, kWide);
    if (one_block) return;
    parallel_for(cv.G * kbs * chunks, grain_for(double(cv.taps()) * kDepth * kWide / 2),
                 [&](int64_t begin, int64_t end) {
                   Scratch<float> plain(plain_size());
                   for (int64_t i = begin; i < end; ++i) {
                     const int64_t g = i / chunks / kbs, kb = i / chunks % kbs;
                     if (i % chunks == 0) look_at(g, kb);
                     pack(data_.data() + i * cv.taps() * kStep, plain.data(), g, kb, i % chunks);
                   }
                 });
  }

  static constexpr int64_t kStep = terms * 2 * kTileElements;
  static constexpr int64_t kHalf = kTileBytes, kTerm = 2 * kTileBytes;
  int64_t width_of(int64_t kb) const { return 16 * halves(kb); }
  // One block of outputs, packed into `to` if it was not before: then that takes size_on_the_way() elements, else none.
  const uint16_t* of(int64_t g, int64_t kb, uint16_t* to) const {
    if (!one_block_) return data_.data() + (g * kbs + kb) * size();
    look_at(g, kb);
    Scratch<float> plain(plain_size());
    for (int64_t chunk = 0; chunk < chunks(); ++chunk)
      pack(to + chunk * cv_.taps() * kStep, plain.data(), g, kb, chunk);
    return to;
  }
  int64_t size_on_the_way() const { return one_block_ ? size() : 0; }
  const float* bias(int64_t g, int64_t kb) const { return bias_.data() + (g * kbs + kb) * kWide; }

 private:
  int64_t halves(int64_t kb) const { return cv_.outputs - kb * kWide <= 16 ? 1 : 2; }
  int64_t chunks() const { return ceil_div(cv_.inputs, kDepth); }
  int64_t size() const { return steps * kStep; }                                                    // of a block
  int64_t plain_size() const { return is_words(cv_) || lines_ ? 0 : kDepth * cv_.taps() * kWide; }  // of pack()

  // A block's weights, which are packed next.
  void look_at(int64_t g, int64_t kb) const {
    if (!seen_) return;
    seen_->add_shared(magnitudes_of(
        cv_.weight + g * cv_.weight_group + kb * kWide * cv_.weight_output,
        Walks({smaller(kWide, cv_.outputs - kb * kWide), cv_.weight_output}, {cv_.inputs, cv_.weight_input},
              {cv_.rows.taps, cv_.weight_r}, {cv_.columns.taps, cv_.weight_s})));
  }

  // One chunk of channels of a block, by way of `plain`, [channel][tap][output].
  void pack(uint16_t* to, float* plain, int64_t g, int64_t kb, int64_t chunk) const {
    const int64_t taps = cv_.taps(), c0 = chunk * kDepth, c1 = smaller(cv_.inputs, c0 + kDepth);
    if (is_words(cv_)) return pack_words(to, cv_, g, kb * kWide, c0);
    if (lines_) return lines_.pack(to, g, kb * kWide, c0, kStep, kTileElements);
    pack_weights(plain, cv_, g, kb * kWide, kWide, c0 * taps, c1 * taps);
    for (int64_t t = 0; t < taps; ++t) pack_step(to + t * kStep, plain + t * kWide, taps * kWide, c1 - c0, halves(kb));
  }

  // Whether an output's pairs of inputs are words in memory, which need only be turned over.
  static bool is_words(const Convolution<float, In>& cv) {
    return std::is_same_v<In, BFloat16> && cv.taps() == 1 && cv.weight_input == 1;
  }

  static void pack_words(uint16_t* to, const Convolution<float, In>& cv, int64_t g, int64_t first, int64_t c0) {
    const int64_t tap = cv.rows.index[0] * cv.weight_r + cv.columns.index[0] * cv.weight_s;
    const auto* const from =
        reinterpret_cast<const uint16_t*>(cv.weight + g * cv.weight_group + first * cv.weight_output + c0 + tap);
    for (int64_t h = 0; h < (cv.outputs - first <= 16 ? 1 : 2); ++h) {
      Floats pairs[16];
#pragma GCC unroll 16
      for (int64_t k = 0; k < 16; ++k)
        pairs[k] =
            h * 16 + k < cv.outputs - first
                ? Floats(load_some<uint16_t>(from + (h * 16 + k) * cv.weight_output, smaller(kDepth, cv.inputs - c0)))
                : Floats{};
      store_transposed(pairs, to + h * kTileElements, kDepth);
    }
  }

  static void pack_step(uint16_t* to, const float* plain, int64_t pitch, int64_t channels, int64_t halves) {
    const auto channel = [&](int64_t c, int64_t h) {
      return c < channels ? load(plain + c * pitch + h * 16) : Floats{};
    };
    for (int64_t h = 0; h < halves; ++h)
      for (int64_t p = 0; p < 16; ++p) {
        Words first[terms], second[terms];
        split(channel(2 * p, h), first);
        split(channel(2 * p + 1, h), second);
        for (int t = 0; t < terms; ++t)
          store_words(to + (t * 2 + h) * kTileElements + p * kDepth, pair(first[t], second[t]));
      }
  }

  const Convolution<float, In>& cv_;
  const FilterLines lines_;
  Scratch<uint16_t> data_;
  Scratch<float> bias_;
  const bool one_block_;
  Magnitudes* const seen_;
};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
