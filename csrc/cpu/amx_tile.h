// The packed input tile of tile.h as the matrix unit reads it: [32 channels][term][row phase][column
// phase][row][column] of lines, a line being one pixel's 32 channels as bfloat16. So neighbouring results read
// neighbouring lines here too, and a tap is an offset.
//
// channels_last inputs are split as they are read; planes are first gathered in float32, as tile.h does, and turned
// over in registers, 16 pixels of 16 pairs of channels at a time.
#pragma once
#include "amx_product.h"
#include "convolution.h"

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

  // `planes` is room for one chunk in float32, size_of_planes() elements.
  int64_t size_of_planes() const { return kDepth * shape.plane + 16; }

  void pack(uint16_t* to, float* planes, const AxisPlan& r, const AxisPlan& c, const Place& place, const In* in,
            const Strides& strides) const {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t c0 = chunk * kDepth, count = smaller(kDepth, channels - c0);
      uint16_t* const at = to + chunk * this->chunk();
      if (strides.c == 1) {
        pack_pixels(at, r, c, place, in + c0, strides, count);
      } else {
        pack_tile<float, In>(planes, shape, r, c, place.i0, place.ni, place.j0, place.nj, in + c0 * strides.c, strides,
                             count);
        turn_over(at, planes, count);
      }
    }
  }

 private:
  void turn_over(uint16_t* to, const float* planes, int64_t count) const {
    const auto channel = [&](int64_t k, int64_t p) {
      return k < count ? load(planes + k * shape.plane + p) : Floats{};
    };
    for (int64_t p = 0; p < shape.plane; p += 16) {
      Floats pairs[terms][16];
      for (int k = 0; k < 16; ++k) {
        Words first[terms], second[terms];
        split(channel(2 * k, p), first);
        split(channel(2 * k + 1, p), second);
        for (int t = 0; t < terms; ++t) pairs[t][k] = Floats(pair(first[t], second[t]));
      }
      for (int t = 0; t < terms; ++t) store_transposed(pairs[t], to + t * term() + p * kDepth, kDepth);
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
