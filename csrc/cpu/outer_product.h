// forward and grad_input as outer products over registers: vectors across output channels, scalars from a packed tile.
//
// For a block of results (a few rows of one image) a thread packs the input it reads once (tile.h), then walks the
// output channels in blocks of NV vectors and the results in tiles of up to 14 (micro_kernel.h). The weights are packed
// once per call as [block of outputs][channel][tap][NV * lanes], so the loop reads them as one stream.
//
// Blocking: the tile stays in L2; a slab of weights (a few dozen steps of one block of outputs, see kChain) stays in
// cache while all results of the block pass over it, and partial sums wait in a small buffer until the next slab.
//
// Why it beats the reference: 28 multiply-adds of 16 lanes for 16 loads, instead of one for two. Estimate: the FMA roof
// less the packing, which copies each input element about (1 + halo) times for its K * R * S / stride^2 multiply-adds.
//
// Skipped taps are zeros in the tile here, and 0 * inf is NaN: weights that are not finite are seen while they are
// packed, and the call goes to the reference instead.
//
// Every result is summed in the order channel, row tap, column tap, in parts of equal length, whatever the blocks and
// threads.
#pragma once
#include "convolution.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// How a plane of results is cut into register tiles of mr x mc, and into blocks of rows x columns results.
struct Blocks {
  int64_t rows, columns;
  int mr, mc;
};

// Register tiles whose sums wait in L1 while a slab of weights, one chain of steps, passes over them: enough to read
// the slab from L2 seldom.
constexpr int64_t kTogether = 8;

template <class T>
Blocks choose_blocks(const AxisPlan& r, const AxisPlan& c, int64_t channels) {
  constexpr int64_t kTileBytes = 384 << 10;  // of the L2 cache, which also holds a slab of weights
  Blocks b;
  const int64_t span_r = r.highest() - r.lowest(), span_c = c.highest() - c.lowest();
  const auto bytes = [&](int64_t rows, int64_t columns) {
    return ((rows - 1) * r.stride + span_r + 1) * ((columns - 1) * c.stride + span_c + 1) * channels *
           int64_t(sizeof(T));
  };
  b.columns = c.count;
  while (b.columns > 2 * CONVX_MAX_M && bytes(1, b.columns) > kTileBytes) b.columns = ceil_div(b.columns, 2);
  const int64_t across = ceil_div(b.columns, CONVX_MAX_M);
  b.mc = int(ceil_div(b.columns, across));
  b.mr = smaller(rows_for(b.mc), r.count) == rows_for(b.mc) ? rows_for(b.mc) : 1;
  b.rows = b.mr;
  while (b.rows + b.mr <= r.count && bytes(b.rows + b.mr, b.columns) <= kTileBytes) b.rows += b.mr;
  if (r.count - b.rows < b.mr) b.rows = r.count;  // no sliver at the end
  b.rows = ceil_div(r.count, ceil_div(r.count, b.rows));
  b.rows = larger(b.rows, b.mr);
  return b;
}

// One block of results: rows [i0, i0 + ni), columns [j0, j0 + nj) of image n, the blocks of outputs [kb0, kb1).
template <class T, class In, int NV>
void convolve_block(const Convolution<T, In>& cv, const Blocks& b, int64_t pitch, const T* tile,
                    const int32_t* a_k, const T* weights, T* partial, const T* bias, int64_t n, int64_t g, int64_t i0,
                    int64_t ni, int64_t j0, int64_t nj, int64_t kb0, int64_t kb1) {
  constexpr int64_t width = NV * Vec<T>::lanes;
  const int64_t steps = cv.inputs * cv.taps();
  const int mr = ni >= b.mr ? b.mr : 1;
  const int mc = int(smaller(b.mc, nj));
  const OuterProduct<T> kernel = outer_product_of<T, NV>(mr, mc);
  const int64_t across = ceil_div(nj, mc), tiles = ceil_div(ni, mr) * across, tile_size = int64_t(mr) * mc * width;
  const int64_t column_step = cv.out_strides.w * cv.columns.out_step;
  for (int64_t kb = kb0; kb < kb1; ++kb)
    for (int64_t t0 = 0; t0 < tiles; t0 += kTogether) {
      const int64_t t1 = smaller(tiles, t0 + kTogether);
      int64_t row[kTogether], column[kTogether];
      // the last tile of a row or column overlaps its neighbour rather than being a smaller one
      for (int64_t t = t0; t < t1; ++t)
        row[t - t0] = smaller(t / across * mr, ni - mr), column[t - t0] = smaller(t % across * mc, nj - mc);
      for (int64_t k0 = 0; k0 < larger(steps, 1); k0 += kChain<T>)
        for (int64_t t = 0; t < t1 - t0; ++t)
          kernel(tile + row[t] * pitch + column[t], pitch, a_k + k0, weights + (kb * steps + k0) * width,
                 smaller(kChain<T>, steps - k0), partial + t * tile_size, k0 ? nullptr : bias + kb * width);
      for (int64_t t = 0; t < t1 - t0; ++t)
        for (int r = 0; r < mr; ++r)
          store_pixels<T, In>(partial + t * tile_size + r * mc * width, mc, width,
                              smaller(width, cv.outputs - kb * width),
                              cv.out + cv.out_strides(n, g * cv.outputs + kb * width,
                                                      cv.rows.first_out + (i0 + row[t] + r) * cv.rows.out_step,
                                                      cv.columns.first_out + (j0 + column[t]) * cv.columns.out_step),
                              cv.out_strides.c, column_step);
    }
}

// Runs a convolution; false, with nothing written, if a weight is not finite.
template <class T, class In, int NV>
bool convolve(const Convolution<T, In>& cv) {
  constexpr int64_t width = NV * Vec<T>::lanes;
  const int64_t taps = cv.taps(), steps = cv.inputs * taps, kbs = ceil_div(cv.outputs, width);
  Scratch<T> weights(cv.G * kbs * steps * width), bias(cv.G * kbs * width);
  std::atomic<bool> finite{true};
  parallel_for(cv.G * kbs, grain_for(double(steps) * width / 2), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i / kbs, kb = i % kbs;
      if (!pack_weights(weights.data() + i * steps * width, cv, g, kb * width, width, 0, steps)) finite = false;
      pack_bias(bias.data() + i * width, cv, g, kb * width, width);
    }
  });
  if (!finite) return false;

  const Blocks b = choose_blocks<T>(cv.rows, cv.columns, cv.inputs);
  const TileShape shape(cv.rows, cv.columns, b.rows, b.columns);
  Scratch<int32_t> a_k(steps);
  const bool in_place = cv.reads_in_place();
  for (int64_t c = 0, k = 0; c < cv.inputs; ++c)
    for (int r = 0; r < cv.rows.taps; ++r)
      for (int s = 0; s < cv.columns.taps; ++s)
        a_k[k++] = int32_t(in_place ? c * cv.in_strides.c
                                    : c * shape.plane + shape.tap(cv.rows, cv.columns, r, s));

  const int64_t down = ceil_div(cv.rows.count, b.rows), across = ceil_div(cv.columns.count, b.columns);
  const int64_t places = cv.N * cv.G * down * across;
  // Few blocks: split the output channels as well, at the price of packing the tile once for each part.
  const int64_t parts = places >= 8 ? 1 : smaller(kbs, ceil_div(8, places));
  const double work = double(b.rows) * b.columns * steps * cv.outputs / parts / 16;
  parallel_for(places * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    Scratch<T> buffer(in_place ? 0 : cv.inputs * shape.plane);
    Scratch<T> partial((kTogether * CONVX_MAX_M + Vec<T>::lanes) * width);
    int64_t packed = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t place = i / parts, part = i % parts;
      const int64_t q = place % across, p = place / across % down, g = place / across / down % cv.G,
                    n = place / across / down / cv.G;
      const int64_t i0 = p * b.rows, j0 = q * b.columns;
      const int64_t ni = smaller(b.rows, cv.rows.count - i0), nj = smaller(b.columns, cv.columns.count - j0);
      const T* tile = buffer.data();
      if constexpr (std::is_same_v<T, In>)
        if (in_place) tile = cv.in + cv.in_strides(n, g * cv.inputs, i0, j0);
      if (packed != place && !in_place)
        pack_tile<T, In>(buffer.data(), shape, cv.rows, cv.columns, i0, ni, j0, nj,
                         cv.in + cv.in_strides(n, g * cv.inputs, 0, 0), cv.in_strides, cv.inputs);
      packed = place;
      convolve_block<T, In, NV>(cv, b, in_place ? cv.in_strides.h : shape.pitch, tile, a_k.data(), weights.data() + g * kbs * steps * width,
                                partial.data(), bias.data() + g * kbs * width, n, g, i0, ni, j0, nj, part * kbs / parts,
                                (part + 1) * kbs / parts);
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
