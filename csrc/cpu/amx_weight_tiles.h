// What amx_weight.h multiplies, of one strip of pixels: x as lines of pairs of pixels, y as lines of an output's
// pixels, and into which steps the pixels are cut.
#pragma once
#include "amx_convolution.h"
#include "outer_product_weight.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// A strip's x, for one tile of 32 channels, as the unit's lines: [image][term][parity][half of the channels][pair] of
// 16 channels of two neighbouring pixels. Of each parity, since a tap may begin at an even or an odd pixel.
//
// They are made from forward's tile, lines of a pixel's channels, two of which are interleaved; or, where pixels of
// bfloat16 are neighbours, by turning pairs of them over as 32-bit words: then the pairs of odd parity are the halves
// of two even ones. Of few channels of bfloat16 a line has those of all column taps, each a lane: 7x7 of three channels
// is 21 lanes for each of 7 rows of taps, instead of 3 for each of 49 taps. Or of all taps, 147 lanes.
template <class In>
class PairTile {
 public:
  static constexpr int terms = kTerms<In>;

  PairTile(const WeightGradient<float, In>& wg, const LeftTiles& left, const TileShape& shape, int64_t images)
      : wg_(wg),
        left_(left),
        shape_(shape),
        lines_(shape, kDepth),
        half_(lines_.lines / 2 * kDepth),
        parities_(left.across_rows   ? 1
                  : left.across_taps ? 1 + shape.pitch % 2
                  : wg.taps() == 1   ? 1
                                     : 2),
        term_(parities_ * 2 * half_),
        images_(images) {}

  int64_t size() const { return images_ * image(); }
  int64_t size_of_lines() const { return left_.across_taps ? 0 : lines_.size(); }
  int64_t size_of_planes() const {
    return left_.across_taps ? images_ * planes_of_lanes() : lines_.size_of_planes(wg_.x_strides);
  }
  int64_t image() const { return terms * term_; }
  // In bytes, as a tile operand has them.
  int64_t half() const { return half_ * 2; }
  int64_t term() const { return term_ * 2; }
  int64_t tap(int64_t t) const {
    const AxisPlan &r = wg_.rows, &c = wg_.columns;
    if (left_.across_rows) return 0;
    const int64_t first = left_.across_taps ? shape_.rows.slot[t] * row_phase() +
                                                  (r.offset[t] - shape_.lowest_row) / r.stride * shape_.pitch
                                            : shape_.tap(r, c, int(t / c.taps), int(t % c.taps));
    return first % 2 * 2 * half_ + first / 2 * kDepth;
  }

  // `lines` are for one image, and so are `planes`, unless lanes are taps: then they are a strip's, for all tiles of
  // which they are packed with the first.
  void pack(uint16_t* to, uint16_t* lines, Plain<In>* planes, const Strip& strip, int64_t g, int64_t tile,
            bool first) const {
    for (int64_t b = 0; b < strip.images; ++b, to += image()) {
      const Place place = {0, 0, strip.n + b, g, strip.i, strip.rows, strip.j, strip.columns};
      if constexpr (std::is_same_v<In, BFloat16>) {
        if (left_.across_taps) {
          pack_lanes_of_taps(to, planes + b * planes_of_lanes(), place, tile, first);
          continue;
        }
        if (wg_.x_strides.c != 1) {
          pack_words(to, planes, place, tile);
          continue;
        }
      }
      const int64_t count = left_.size(tile);
      lines_.pack_chunk(lines, planes, wg_.rows, wg_.columns, place, input(place, tile * kDepth), wg_.x_strides, count);
      for (int t = 0; t < terms; ++t) interleave(to + t * term_, lines + t * lines_.term(), count > 16);
    }
  }

 private:
  const In* input(const Place& place, int64_t channel) const {
    return wg_.x + wg_.x_strides(place.n, place.g * wg_.inputs + channel, 0, 0);
  }
  // Of an image. Lanes are read beyond the last plane.
  int64_t planes_of_lanes() const { return (wg_.inputs + 1) * shape_.plane + kDepth; }
  // Pixels of one row phase, all of whose column phases are lanes.
  int64_t row_phase() const { return ceil_div(shape_.phase, 2) * 2; }

  void pack_words(uint16_t* to, uint16_t* planes, const Place& place, int64_t tile) const {
    const int64_t count = left_.size(tile);
    lines_.with_planes(planes, wg_.rows, wg_.columns, place, input(place, tile * kDepth), wg_.x_strides, count,
                       [&](const uint16_t* from, int64_t pitch, int64_t pixels) {
                         const uint16_t* lanes[kDepth];
                         for (int64_t k = 0; k < kDepth; ++k) lanes[k] = k < count ? from + k * pitch : nullptr;
                         turn_over(to, lanes, pixels);
                       });
  }

  // A lane is a channel seen through a column tap: its plane from another element on.
  void pack_lanes_of_taps(uint16_t* to, uint16_t* planes, const Place& place, int64_t tile, bool first_tile) const {
    const AxisPlan& c = wg_.columns;
    if (first_tile)
      pack_tile(planes, shape_, wg_.rows, c, place.i0, place.ni, place.j0, place.nj, plain(input(place, 0)),
                wg_.x_strides, wg_.inputs);
    const uint16_t* lanes[kDepth];
    const auto lane = [&](int64_t tap, int64_t rp) {  // column tap (and channel) of a row phase
      const int64_t s = tap / wg_.inputs;
      return planes + tap % wg_.inputs * shape_.plane +
             (rp * shape_.columns.count + shape_.columns.slot[s]) * shape_.phase +
             (c.offset[s] - shape_.lowest_column) / c.stride;
    };
    const int64_t first = left_.first(tile), size = left_.size(tile);
    if (left_.across_rows) {
      const AxisPlan& r = wg_.rows;
      const int64_t in_row = wg_.inputs * c.taps;
      for (int64_t k = 0; k < kDepth; ++k) {
        const int64_t t = (first + k) / in_row;
        lanes[k] = k >= size ? nullptr
                             : lane((first + k) % in_row, shape_.rows.slot[t]) +
                                   (r.offset[t] - shape_.lowest_row) / r.stride * shape_.pitch;
      }
      return turn_over(to, lanes, place.ni * shape_.pitch);
    }
    for (int rp = 0; rp < shape_.rows.count; ++rp) {
      for (int64_t k = 0; k < kDepth; ++k) lanes[k] = k >= size ? nullptr : lane(first + k, rp);
      turn_over(to + rp * row_phase() / 2 * kDepth, lanes, shape_.phase);
    }
  }

  // 16 pairs of 16 lanes at a time.
  void turn_over(uint16_t* to, const uint16_t* const (&lanes)[kDepth], int64_t pixels) const {
    for (int h = 0; h < (lanes[16] ? 2 : 1); ++h) {
      Words last{};  // the pair before
      uint16_t* line = to + h * half_;
      for (int64_t p = 0; p < pixels; p += 32) {
        Floats pairs[16];
#pragma GCC unroll 16
        for (int k = 0; k < 16; ++k) {
          const uint16_t* const from = lanes[h * 16 + k];
          pairs[k] = from ? Floats(load_some<uint16_t>(from + p, pixels - p)) : Floats{};
        }
        transpose_square<float>(pairs);
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i, line += kDepth) {
          const Words here = Words(pairs[i]);
          store_words(line, here);
          if (parities_ > 1 && p + i > 0) store_words(line + 2 * half_ - kDepth, last >> 16 | here << 16);
          last = here;
        }
      }
      if (parities_ > 1) store_words(line + 2 * half_ - kDepth, last >> 16);
    }
  }

  void interleave(uint16_t* to, const uint16_t* lines, bool both_halves) const {
    // interleaving works within 16 bytes: of the first 16 channels their lower halves are taken, of the others the
    // upper
    using Quarters = Interleave<double>::Index;
    const auto pixel = [&](int64_t p) {
      const Vec<double>::type v = Vec<double>::type(load(lines + p * kDepth));
      return Halfwords(shuffle<double>(v, v, Quarters{0, 4, 1, 5, 2, 6, 3, 7}));
    };
    const int64_t last = lines_.lines - 1, step = 3 - parities_;
    Halfwords here = pixel(0);
    for (int64_t p = 0; p < last; p += step) {
      const Halfwords next = pixel(p + 1);
      uint16_t* const at = to + p % 2 * 2 * half_ + p / 2 * kDepth;
      CONVX_ISA::store(at, interleave_low(here, next));
      if (both_halves) CONVX_ISA::store(at + half_, interleave_high(here, next));
      here = step == 1 || p + 2 > last ? next : pixel(p + 2);
    }
  }

  const WeightGradient<float, In>& wg_;
  const LeftTiles& left_;
  const TileShape& shape_;
  const LineTile<In> lines_;
  const int64_t half_, parities_, term_, images_;  // elements
};

// How the pixels of an image's part of a strip are cut into steps, lines of at most 32 pixels. As one run they go on
// over the halo between rows of x, where y is zero. Where lines need not be full (pairs_product.h), pieces are equal,
// and a row, or each of its pieces, may be a step, so that no products of the halo are made.
struct PixelSteps {
  bool by_rows = false;
  int64_t count, piece = kDepth;     // steps, and the pixels of each
  int64_t x_pitch, y_pitch, in_row;  // from row to row of x, and of y's pieces; the steps of a row

  PixelSteps(int64_t rows, int64_t columns, int64_t halo) : x_pitch(columns + halo) {
    const int64_t run = (rows - 1) * x_pitch + columns;
    if (kEndsWithRows) {
      // A step takes as long as half a pair besides its pairs: 3x1 filters on 8 x 8, which have no halo between rows,
      // took 1.13 times as long by rows.
      const auto time = [](int64_t rows, int64_t pixels) {
        return double(rows * ceil_div(pixels, kDepth)) * (double(piece_of(pixels)) / 2 + 0.5);
      };
      by_rows = rows > 1 && time(rows, columns) < time(1, run);
      piece = piece_of(by_rows ? columns : run);
    }
    in_row = ceil_div(by_rows ? columns : run, piece);
    count = by_rows ? rows * in_row : in_row;
    if (by_rows) x_pitch = ceil_div(x_pitch, 2) * 2;  // pairs begin anew with each row
    y_pitch = by_rows ? in_row * piece : x_pitch;
  }

  // Where a step's first pixel is in x, an even number.
  int64_t place(int64_t step) const { return step / in_row * x_pitch + step % in_row * piece; }
  // Those of some images, as a product takes them.
  auto of_images(int64_t images) const {
    const int64_t all = images * count;
    if constexpr (kEndsWithRows)
      return Steps{1, all, 0, all, all, 0, all, piece / 2};
    else
      return all;
  }

 private:
  static int64_t piece_of(int64_t pixels) { return ceil_div(ceil_div(pixels, ceil_div(pixels, kDepth)), 2) * 2; }
};

// y of a strip, for one block of 32 outputs, as A tiles in the order of the steps: [image][step][term][32 outputs] of
// lines of 32 pixels.
template <class In>
class RunTile {
 public:
  static constexpr int terms = kTerms<In>;
  static constexpr int64_t kStep = terms * 2 * kTileElements;

  RunTile(const WeightGradient<float, In>& wg, const PixelSteps& steps, int64_t images)
      : wg_(wg), steps_(steps), images_(images) {}

  int64_t size() const { return images_ * steps_.count * kStep; }
  int64_t size_of_run() const { return kWide * steps_.count * kDepth; }

  // `run` is for one image.
  void pack(uint16_t* to, Plain<In>* run, const Strip& strip, int64_t g, int64_t block) const {
    const int64_t first = block * kWide, count = smaller(kWide, wg_.outputs - first), length = steps_.count * kDepth;
    std::memset(run, 0, size_of_run() * sizeof *run);
    const Strides& s = wg_.y_strides;
    for (int64_t b = 0; b < strip.images; ++b, to += steps_.count * kStep) {
      for (int64_t i = 0; i < strip.rows; ++i)
        for (int64_t j = 0, pixels; j < strip.columns; j += pixels) {
          const int64_t place = i * steps_.y_pitch + j, in_step = place % steps_.piece;
          pixels = smaller(steps_.piece - in_step, strip.columns - j);
          const auto* from = plain(wg_.y + s(strip.n + b, g * wg_.outputs + first, strip.i + i, strip.j + j));
          Plain<In>* const line = run + place / steps_.piece * kDepth + in_step;
          if (s.c == 1 && s.w != 1)
            transpose<Plain<In>>(from, s.w, pixels, count, line, length, pixels);
          else
            for (int64_t k = 0; k < count; ++k) copy_strided(line + k * length, from + k * s.c, s.w, pixels);
        }
      for (int64_t k = 0; k < kWide; ++k) split_line(to + k * kDepth, run + k * length);
    }
  }

 private:
  void split_line(uint16_t* to, const Plain<In>* line) const {
    for (int64_t s = 0; s < steps_.count; ++s, line += kDepth, to += kStep)
      if constexpr (std::is_same_v<In, BFloat16>) {
        std::memcpy(to, line, kLine);
      } else {
        Words words[terms];
        split_run(load(line), load(line + 16), words);
        for (int t = 0; t < terms; ++t) store_words(to + t * 2 * kTileElements, words[t]);
      }
  }

  const WeightGradient<float, In>& wg_;
  const PixelSteps& steps_;
  const int64_t images_;
};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
