// The packed input tile of tile.h as the matrix unit reads it: [32 channels][term][row phase][column
// phase][row][column] of lines, a line being one pixel's 32 channels as bfloat16. So neighbouring results read
// neighbouring lines here too, and a tap is an offset.
//
// channels_last inputs are split as they are read. Planes are first gathered as tile.h does, unless the tile would be a
// copy of them, and turned over in registers, 16 pairs of channels at a time.
#pragma once
#ifdef CONVX_BF16_PAIRS
#include "pairs_product.h"
#else
#include "amx_product.h"
#endif
#include "convolution.h"
#include "pack_tile.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

template <class In>
struct LineTile {
  static constexpr int terms = kTerms<In>;
  const TileShape& shape;
  int64_t channels, chunks, lines;  // lines of one term of one chunk

  // The unit reads, and the packing writes, up to a tile of lines beyond the last.
  LineTile(const TileShape& shape, int64_t channels)
      : shape(shape),
        channels(channels),
        chunks(ceil_div(channels, kDepth)),
        lines(ceil_div(shape.plane, 16) * 16 + 32) {}
  int64_t term() const { return lines * kDepth; }
  int64_t chunk() const { return terms * term(); }
  int64_t size() const { return chunks * chunk(); }

  // `planes` is room for one chunk before it is split, so many elements.
  int64_t size_of_planes(const Strides& strides) const { return strides.c == 1 ? 0 : kDepth * shape.plane; }

  void pack(uint16_t* to, Plain<In>* planes, const AxisPlan& r, const AxisPlan& c, const Place& place, const In* in,
            const Strides& strides) const {
    for (int64_t i = 0; i < chunks; ++i)
      pack_chunk(to + i * chunk(), planes, r, c, place, in + i * kDepth * strides.c, strides,
                 smaller(kDepth, channels - i * kDepth));
  }

  // `count` channels, 32 at most.
  void pack_chunk(uint16_t* to, Plain<In>* planes, const AxisPlan& r, const AxisPlan& c, const Place& place,
                  const In* in, const Strides& strides, int64_t count) const {
    if (strides.c == 1) return pack_pixels(to, r, c, place, in, strides, count);
    with_planes(planes, r, c, place, in, strides, count,
                [&](const auto* from, int64_t pitch, int64_t pixels) { turn_over(to, from, pitch, pixels, count); });
  }

  // Calls f(first plane, elements from plane to plane, pixels of a plane) with what the tile's lines are made of:
  // `planes`, packed, or the input itself.
  template <class F>
  void with_planes(Plain<In>* planes, const AxisPlan& r, const AxisPlan& c, const Place& place, const In* in,
                   const Strides& strides, int64_t count, F&& f) const {
    const bool rows_follow = place.ni == 1 || (strides.h == place.nj && shape.pitch == place.nj);
    if (is_pixel_for_pixel(r, c) && strides.w == 1 && rows_follow)
      return f(plain(in + place.i0 * strides.h + place.j0), strides.c, place.ni * place.nj);
    pack_tile(planes, shape, r, c, place.i0, place.ni, place.j0, place.nj, plain(in), strides, count);
    f(planes, shape.plane, shape.plane);
  }

 private:
  // Splits `pixels` neighbours of `count` channels, `pitch` apart, 16 pixels of 16 pairs of channels at a time.
  template <class From>
  void turn_over(uint16_t* to, const From* from, int64_t pitch, int64_t pixels, int64_t count) const {
    for (int64_t p = 0; p < pixels; p += 16) {
      const auto channel = [&](int64_t k) {
        return k < count ? load_some<float>(from + k * pitch + p, pixels - p) : Floats{};
      };
      Floats pairs[terms][16];
      for (int k = 0; k < 16; ++k) {
        Words first[terms], second[terms];
        split(channel(2 * k), first);
        split(channel(2 * k + 1), second);
        for (int t = 0; t < terms; ++t) pairs[t][k] = Floats(pair(first[t], second[t]));
      }
      for (int t = 0; t < terms; ++t) store_transposed(pairs[t], to + t * term() + p * kDepth, kDepth);
    }
  }

  // bfloat16 is only turned over. Two channels are interleaved within 16 bytes, so of 32 pixels one square has those
  // with 0 to 3 modulo 8, and one the others.
  void turn_over(uint16_t* to, const uint16_t* from, int64_t pitch, int64_t pixels, int64_t count) const {
    for (int64_t p = 0; p < pixels; p += 32) {
      const auto channel = [&](int64_t k) {
        return k < count ? load_some<uint16_t>(from + k * pitch + p, pixels - p) : Halfwords{};
      };
      for (int64_t k = 0; k < count; ++k) __builtin_prefetch(from + k * pitch + p + 128);
      for (int high = 0; high < 2; ++high) {
        Floats pairs[16];
#pragma GCC unroll 16
        for (int k = 0; k < 16; ++k)
          pairs[k] = Floats(high ? interleave_high(channel(2 * k), channel(2 * k + 1))
                                 : interleave_low(channel(2 * k), channel(2 * k + 1)));
        transpose_square<float>(pairs);
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) store_words(to + (p + i / 4 * 8 + i % 4 + high * 4) * kDepth, Words(pairs[i]));
      }
    }
  }

  // One pixel's channels, which are neighbours; zeros if it lies in the padding. Whole lines of bfloat16 are as the
  // unit reads them.
  void pack_line(uint16_t* to, const In* from, int64_t count) const {
    if (std::is_same_v<In, BFloat16> && from && count == kDepth) {
      std::memcpy(to, static_cast<const void*>(from), kLine);
      return;
    }
    Words line[terms] = {};
    if (from)
      split_run(load_some<float>(from, smaller(16, count)),
                count > 16 ? load_some<float>(from + 16, count - 16) : Floats{}, line);
    for (int t = 0; t < terms; ++t) store_words(to + t * term(), line[t]);
  }

  void pack_pixels(uint16_t* to, const AxisPlan& r, const AxisPlan& c, const Place& place, const In* in,
                   const Strides& strides, int64_t count) const {
    const int64_t height = place.ni + shape.row_span, width = place.nj + shape.column_span;
    for (int pc = 0; pc < shape.columns.count; ++pc) {
      const InsideRun run(c, place.j0 * c.stride + shape.lowest_column + shape.columns.remainder[pc], width);
      for (int pr = 0; pr < shape.rows.count; ++pr)
        for (int64_t row = 0; row < height; ++row) {
          uint16_t* const at = to + ((pr * shape.columns.count + pc) * shape.phase + row * shape.pitch) * kDepth;
          const int64_t h = r.source((place.i0 + row) * r.stride + shape.lowest_row + shape.rows.remainder[pr]);
          const In* const from = in + h * strides.h;
          const auto edge = [&](int64_t begin, int64_t end) {
            for (int64_t x = begin; x < end; ++x) {
              const int64_t w = h < 0 ? -1 : c.source(run.v0 + x * c.stride);
              pack_line(at + x * kDepth, w < 0 ? nullptr : from + w * strides.w, count);
            }
          };
          const int64_t first = h < 0 ? width : run.first, last = h < 0 ? width : run.last;
          edge(0, first);
          for (int64_t x = first; x < last; ++x)
            pack_line(at + x * kDepth, from + (run.v0 + x * c.stride) * strides.w, count);
          edge(last, width);
        }
    }
  }
};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
