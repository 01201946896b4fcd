// grad_weight on the matrix unit: for each tap, sums of 32 input channels x 32 outputs over pixels, 32 pixels a step.
//
//   w[k,c,r,s] = sum over pixels  x[n, c, pixel shifted by tap (r,s)] * y[n,k,pixel]
//
// The left tiles are planes of x as they lie in a packed tile (tile.h), each channel a line of bfloat16, so that a tap
// is an offset again; pixels run on from row to row over the halo. The right tiles are y over the same run, zeros where
// it crosses the halo, turned over to pairs of pixels.
//
// As in outer_product_weight.h, threads divide the results and never the pixels, and pixels are cut into strips of a
// few hundred, whose sums are added in order; what those additions round off is kept for long sums.
//
// A zero of the halo must not meet an infinity, so both operands have been looked through before (amx_terms.h).
//
// Estimate: as amx_convolution.h's; each element of x is packed once for the outputs of an item, 128 if there are so
// many, times the taps.
#pragma once
#include "amx_convolution.h"
#include "outer_product_weight.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Strip t: `images` whole images, or `rows` rows of one.
struct TileStrips {
  int64_t images, rows, per_image, count;

  TileStrips(const AxisPlan& r, const AxisPlan& c, int64_t N) {
    constexpr int64_t kPixels = 512;
    const int64_t plane = larger(1, r.count * c.count);
    images = smaller(N, larger(1, kPixels / plane));
    rows = images > 1 ? r.count : smaller(r.count, larger(1, ceil_div(kPixels, c.count)));
    per_image = ceil_div(r.count, rows);
    count = ceil_div(N, images) * per_image;
  }
};

// x for one strip: [tile of 32 channels][image][term][channel][plane].
template <class In>
struct PlaneTile {
  static constexpr int terms = kTerms<In>;
  const WeightGradient<float, In>& wg;
  TileShape shape;
  int64_t plane, image, tile;  // elements

  PlaneTile(const WeightGradient<float, In>& wg, const TileStrips& strips)
      : wg(wg), shape(wg.rows, wg.columns, strips.rows, wg.columns.count) {
    plane = ceil_div(shape.plane, kDepth) * kDepth;
    image = terms * kDepth * plane;
    tile = strips.images * image;
  }
  int64_t size(int64_t tiles) const { return tiles * tile + shape.pitch + kDepth + 64; }  // read beyond the last plane
  int64_t size_of_planes() const { return kDepth * shape.plane + kDepth; }

  void pack(uint16_t* to, float* planes, int64_t first_tile, int64_t tiles, int64_t n0, int64_t images, int64_t i0,
            int64_t ni, int64_t g) const {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t c0 = (first_tile + t) * kDepth, count = smaller(kDepth, wg.inputs - c0);
      for (int64_t b = 0; b < images; ++b) {
        pack_tile<float, In>(planes, shape, wg.rows, wg.columns, i0, ni, 0, wg.columns.count,
                             wg.x + wg.x_strides(n0 + b, g * wg.inputs + c0, 0, 0), wg.x_strides, count);
        std::memset(planes + count * shape.plane, 0, kDepth * sizeof(float));
        for (int64_t c = 0; c < count; ++c)
          for (int64_t p = 0; p < shape.plane; p += kDepth) {
            const float* from = planes + c * shape.plane + p;
            Words words[terms];
            split_run(load(from), load(from + 16), words);
            for (int i = 0; i < terms; ++i)
              store_words(to + t * tile + b * image + (i * kDepth + c) * plane + p, words[i]);
          }
      }
    }
  }
};

// y for one strip and 32 outputs as B tiles, in the order of the steps: [image][32 pixels][term][16 outputs].
template <class In>
void pack_outputs(uint16_t* to, const WeightGradient<float, In>& wg, int64_t pitch, int64_t steps, float* run,
                  int64_t n0, int64_t images, int64_t i0, int64_t ni, int64_t first, int64_t count, int64_t halves) {
  constexpr int terms = kTerms<In>;
  const int64_t length = steps * kDepth, Q = wg.columns.count;
  std::memset(run, 0, 16 * length * sizeof(float));
  for (int64_t b = 0; b < images; ++b)
    for (int64_t h = 0; h < halves; ++h) {
      for (int64_t k = 0; k < 16; ++k)
        for (int64_t i = 0; i < ni; ++i) {
          float* line = run + k * length + i * pitch;
          const In* from = wg.y + wg.y_strides(n0 + b, first + h * 16 + k, i0 + i, 0);
          if (h * 16 + k >= count)
            std::memset(line, 0, Q * sizeof(float));
          else if (wg.y_strides.w == 1)
            copy_run(line, from, Q);
          else
            for (int64_t j = 0; j < Q; ++j) line[j] = from[j * wg.y_strides.w];
        }
      for (int64_t step = 0; step < steps; ++step) {
        Floats pairs[terms][16];
        for (int64_t k = 0; k < 16; ++k) {
          Words words[terms];
          split_run(load(run + k * length + step * kDepth), load(run + k * length + step * kDepth + 16), words);
          for (int t = 0; t < terms; ++t) pairs[t][k] = Floats(words[t]);
        }
        for (int t = 0; t < terms; ++t)
          store_transposed(pairs[t], to + (((b * steps + step) * terms + t) * halves + h) * kTileElements, kDepth);
      }
    }
}

template <class In>
bool weight_gradient_tiles(const WeightGradient<float, In>& wg) {
  constexpr int terms = kTerms<In>;
  const LeftTiles left(int(kDepth), wg);
  const TileStrips strips(wg.rows, wg.columns, wg.N);
  const PlaneTile<In> x_tile(wg, strips);
  const TileShape& shape = x_tile.shape;
  const int64_t steps = ceil_div((strips.rows - 1) * shape.pitch + wg.columns.count, kDepth);
  Scratch<int32_t> a_k(strips.images * steps);
  for (int64_t b = 0; b < strips.images; ++b)
    for (int64_t s = 0; s < steps; ++s) a_k[b * steps + s] = int32_t(b * x_tile.image + s * kDepth);
  const Lines lines = {x_tile.plane * 2, 16 * x_tile.plane * 2, kDepth * x_tile.plane * 2};

  // An item is a run of units (32 channels, a tap) for a group of blocks of outputs: large, so that what is packed
  // serves long, but one for each thread, and sums that stay in L2.
  constexpr int64_t kUnitSums = kDepth * kWide, kMostSums = 128 << 10;
  const int64_t kbs = ceil_div(wg.outputs, kWide);
  int64_t together = smaller(kbs, 4), parts = 1;  // blocks of outputs, runs of units
  while (parts < left.units && (wg.G * ceil_div(kbs, together) * parts < thread_count() ||
                                ceil_div(left.units, parts) * together * kUnitSums > kMostSums)) {
    if (together > 1 && (parts >= left.tiles || together > 2))
      together /= 2;
    else
      parts = smaller(2 * parts, left.units);
  }
  const int64_t groups = ceil_div(kbs, together);
  const bool in_lines = left.whole_tiles(parts) && wg.filters_are_lines();
  parallel_for(wg.G * groups * parts, 1, [&](int64_t begin, int64_t end) {
    [[maybe_unused]] const MatrixUnit unit;
    int64_t most_units = 0, most_tiles = 0;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t u0 = left.first_unit(part, parts), u1 = left.first_unit(part + 1, parts);
      most_units = larger(most_units, u1 - u0);
      if (u1 > u0) most_tiles = larger(most_tiles, left.tile(u1 - 1) - left.tile(u0) + 1);
    }
    const int64_t y_block = strips.images * steps * terms * 2 * kTileElements;
    const int64_t most_sums = together * most_units * kUnitSums;
    Scratch<uint16_t> x(x_tile.size(most_tiles)), y(together * y_block);
    Scratch<float> planes(x_tile.size_of_planes()), run(16 * steps * kDepth);
    Scratch<float> totals(most_sums), lost(strips.count > 1 ? most_sums : 0), sums(kUnitSums);
    // What lies between planes meets zeros of y, and has to be a number; of missing channels nothing is kept.
    std::memset(x.data(), 0, x_tile.size(most_tiles) * sizeof(uint16_t));
    std::memset(planes.data(), 0, x_tile.size_of_planes() * sizeof(float));
    std::memset(totals.data(), 0, most_sums * sizeof(float));
    std::memset(sums.data(), 0, kUnitSums * sizeof(float));
    alignas(64) float zeros[kWide] = {};
    for (int64_t item = begin; item < end; ++item) {
      const int64_t part = item % parts, group = item / parts % groups, g = item / parts / groups;
      const int64_t u0 = left.first_unit(part, parts), u1 = left.first_unit(part + 1, parts);
      const int64_t kb0 = group * together, kb1 = smaller(kbs, kb0 + together);
      if (u0 == u1) continue;
      std::memset(lost.data(), 0, (strips.count > 1 ? most_sums : 0) * sizeof(float));
      for (int64_t t = 0; t < strips.count; ++t) {
        const int64_t n0 = t / strips.per_image * strips.images, images = smaller(strips.images, wg.N - n0);
        const int64_t i0 = t % strips.per_image * strips.rows, ni = smaller(strips.rows, wg.rows.count - i0);
        x_tile.pack(x.data(), planes.data(), left.tile(u0), left.tile(u1 - 1) - left.tile(u0) + 1, n0, images, i0, ni,
                    g);
        float* total = totals.data();
        for (int64_t kb = kb0; kb < kb1; ++kb) {
          const int64_t k0 = kb * kWide, count = smaller(kWide, wg.outputs - k0), halves = ceil_div(count, 16);
          const int64_t unit_sums = kDepth * 16 * halves;
          pack_outputs(y.data(), wg, shape.pitch, steps, run.data(), n0, images, i0, ni, g * wg.outputs + k0, count,
                       halves);
          for (int64_t u = u0; u < u1; ++u, total += unit_sums) {
            const int64_t r = left.tap(u) / wg.columns.taps, s = left.tap(u) % wg.columns.taps;
            const uint16_t* from = x.data() + (left.tile(u) - left.tile(u0)) * x_tile.tile +
                                   shape.tap(wg.rows, wg.columns, int(r), int(s));
            tile_product_of<terms>(smaller(kDepth, wg.inputs - left.tile(u) * kDepth), count)(
                from, lines, a_k.data(), y.data(), images * steps, t ? sums.data() : total, zeros);
            if (t) add_exactly(total, sums.data(), unit_sums, lost.data() + (total - totals.data()));
          }
        }
      }
      if (strips.count > 1) add_lost(totals.data(), lost.data(), most_sums);
      const float* total = totals.data();
      for (int64_t kb = kb0; kb < kb1; ++kb) {
        const int64_t k0 = g * wg.outputs + kb * kWide, count = smaller(kWide, wg.outputs - kb * kWide);
        const int64_t width = 16 * ceil_div(count, 16);
        if (in_lines) store_tiles(wg, left, total, left.tile(u0), (u1 - u0) / left.taps, k0, count, width);
        for (int64_t u = u0; u < u1; ++u, total += kDepth * width)
          if (!in_lines) store_unit(wg, left, total, u, k0, count, width);
      }
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
