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
#include "micro_kernel.h"
#include "tile.h"
#include "transpose.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// A convolution for the engine: N images of G groups, `inputs` channels in and `outputs` channels out each.
template <class T, class In>
struct Convolution {
  int64_t N, G, inputs, outputs;
  AxisPlan rows, columns;
  const In *in, *weight, *bias;
  In* out;
  Strides in_strides, out_strides;
  int64_t weight_output, weight_input, weight_group, weight_r, weight_s;  // strides of the weight
  int64_t bias_stride;

  int64_t taps() const { return int64_t(rows.taps) * columns.taps; }

  // Whether the taps of one filter lie in memory as the steps go over them.
  bool taps_in_order() const {
    for (int t = 0; t < rows.taps; ++t)
      if (rows.index[t] != t) return false;
    for (int t = 0; t < columns.taps; ++t)
      if (columns.index[t] != t) return false;
    return (columns.taps == 1 || weight_s == 1) && (rows.taps == 1 || weight_r == columns.taps);
  }
};

// Packs the weights of one block of outputs, [input][tap][width], zeros beyond the last output. Returns whether all
// were finite.
template <class T, class In>
bool pack_weights(T* to, const Convolution<T, In>& cv, int64_t group, int64_t first, int64_t width) {
  const int64_t count = smaller(width, cv.outputs - first), steps = cv.inputs * cv.taps();
  const In* from = cv.weight + group * cv.weight_group + first * cv.weight_output;
  if (cv.taps_in_order() && cv.weight_output != 1) {  // matrices to transpose: one in all, or one for each input
    const bool one = cv.inputs == 1 || cv.weight_input == cv.taps();
    for (int64_t c = 0; c < (one ? 1 : cv.inputs); ++c)
      transpose<T, In>(from + c * cv.weight_input, cv.weight_output, count, one ? steps : cv.taps(),
                       to + c * cv.taps() * width, width, width);
  } else {
    T* next = to;
    for (int64_t c = 0; c < cv.inputs; ++c)
      for (int r = 0; r < cv.rows.taps; ++r)
        for (int s = 0; s < cv.columns.taps; ++s, next += width) {
          const In* tap =
              from + c * cv.weight_input + cv.rows.index[r] * cv.weight_r + cv.columns.index[s] * cv.weight_s;
          if (cv.weight_output == 1)
            for (int64_t k = 0; k < count; ++k) next[k] = T(tap[k]);
          else
            for (int64_t k = 0; k < count; ++k) next[k] = T(tap[k * cv.weight_output]);
          for (int64_t k = count; k < width; ++k) next[k] = T(0);
        }
  }
  return all_finite(to, steps * width);
}

// How a plane of results is cut into register tiles of mr x mc, and into blocks of rows x columns results.
struct Blocks {
  int64_t rows, columns;
  int mr, mc;
};

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

// Writes a register tile's sums, [mr][mc][width], to the result and adds the bias. `sums` is readable up to a whole
// number of vectors of pixels.
template <class T, class In>
void store_results(T* sums, int mr, int mc, int64_t width, int64_t count, In* out, const Strides& s, int64_t row_step,
                   int64_t column_step, const T* bias) {
  constexpr int64_t L = Vec<T>::lanes;
  const bool by_planes = std::is_same_v<T, In> && column_step == 1 && s.c != 1;
  for (int64_t p = 0; p < int64_t(mr) * mc; ++p)
    for (int64_t k = 0; k < width; k += L) store(sums + p * width + k, load(sums + p * width + k) + load(bias + k));
  for (int r = 0; r < mr; ++r) {
    const T* from = sums + int64_t(r) * mc * width;
    In* to = out + r * row_step;
    if (by_planes) {
      if constexpr (std::is_same_v<T, In>)
        for (int64_t k = 0; k < count; k += L)
          for (int64_t c = 0; c < mc; c += L)
            transpose_block(from + c * width + k, width, L, smaller(L, count - k), to + k * s.c + c, s.c,
                            smaller(L, mc - c));
    } else if (s.c == 1) {
      for (int c = 0; c < mc; ++c)
        for (int64_t k = 0; k < count; ++k) to[c * column_step + k] = In(from[c * width + k]);
    } else {
      for (int64_t k = 0; k < count; ++k)
        for (int c = 0; c < mc; ++c) to[k * s.c + c * column_step] = In(from[c * width + k]);
    }
  }
}

// One block of results: rows [i0, i0 + ni), columns [j0, j0 + nj) of image n, the blocks of outputs [kb0, kb1).
template <class T, class In, int NV>
void convolve_block(const Convolution<T, In>& cv, const Blocks& b, const TileShape& shape, const T* tile,
                    const int32_t* a_k, const T* weights, T* partial, const T* bias, int64_t n, int64_t g, int64_t i0,
                    int64_t ni, int64_t j0, int64_t nj, int64_t kb0, int64_t kb1) {
  constexpr int64_t width = NV * Vec<T>::lanes;
  const int64_t taps = cv.taps(), steps = cv.inputs * taps;
  // a slab of weights stays in cache, and is no longer than a chain of additions should be
  const int64_t slab = larger(1, smaller(kChain<T>, ceil_div(steps, ceil_div(larger(steps, 1), kChain<T>))));
  const int mr = ni >= b.mr ? b.mr : 1;
  const int mc = int(smaller(b.mc, nj));
  const OuterProduct<T> kernel = outer_product_of<T, NV>(mr, mc);
  const int64_t row_step = cv.out_strides.h * cv.rows.out_step, column_step = cv.out_strides.w * cv.columns.out_step;
  for (int64_t kb = kb0; kb < kb1; ++kb)
    for (int64_t k0 = 0; k0 < larger(steps, 1); k0 += slab) {
      const int64_t k1 = smaller(steps, k0 + slab);
      T* sums = partial;
      // the last tile of a row or column overlaps its neighbour rather than being a smaller one
      for (int64_t ii = 0; ii < ni; ii += mr)
        for (int64_t jj = 0; jj < nj; jj += mc) {
          const int64_t i = smaller(ii, ni - mr), j = smaller(jj, nj - mc);
          kernel(tile + i * shape.pitch + j, shape.pitch, a_k + k0, weights + (kb * steps + k0) * width, k1 - k0, sums,
                 k0 > 0);
          if (k1 == steps) {
            const int64_t first = kb * width;
            In* out =
                cv.out + cv.out_strides(n, g * cv.outputs + first, cv.rows.first_out + (i0 + i) * cv.rows.out_step,
                                        cv.columns.first_out + (j0 + j) * cv.columns.out_step);
            store_results<T, In>(sums, mr, mc, width, smaller(width, cv.outputs - first), out, cv.out_strides, row_step,
                                 column_step, bias + first);
          }
          if (slab < steps) sums += int64_t(mr) * mc * width;
        }
    }
}

// Runs a convolution; false, with nothing written, if a weight is not finite.
template <class T, class In, int NV>
bool convolve(const Convolution<T, In>& cv) {
  constexpr int64_t width = NV * Vec<T>::lanes;
  const int64_t taps = cv.taps(), steps = cv.inputs * taps, kbs = ceil_div(cv.outputs, width);
  Buffer<T> weights(cv.G * kbs * steps * width), bias(cv.G * kbs * width);
  std::atomic<bool> finite{true};
  parallel_for(cv.G * kbs, grain_for(double(steps) * width / 2), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i / kbs, kb = i % kbs;
      if (!pack_weights(weights.data() + i * steps * width, cv, g, kb * width, width)) finite = false;
      for (int64_t k = 0; k < width; ++k)
        bias[i * width + k] = cv.bias && kb * width + k < cv.outputs
                                  ? T(cv.bias[(g * cv.outputs + kb * width + k) * cv.bias_stride])
                                  : T(0);
    }
  });
  if (!finite) return false;

  const Blocks b = choose_blocks<T>(cv.rows, cv.columns, cv.inputs);
  const TileShape shape(cv.rows, cv.columns, b.rows, b.columns);
  Buffer<int32_t> a_k(steps);
  for (int64_t c = 0, k = 0; c < cv.inputs; ++c)
    for (int r = 0; r < cv.rows.taps; ++r)
      for (int s = 0; s < cv.columns.taps; ++s)
        a_k[k++] = int32_t(c * shape.plane + shape.tap(cv.rows, cv.columns, r, s));

  const int64_t down = ceil_div(cv.rows.count, b.rows), across = ceil_div(cv.columns.count, b.columns);
  const int64_t places = cv.N * cv.G * down * across;
  // Few blocks: split the output channels as well, at the price of packing the tile once for each part.
  const int64_t parts = places >= 8 ? 1 : smaller(kbs, ceil_div(8, places));
  const double work = double(b.rows) * b.columns * steps * cv.outputs / parts / 16;
  parallel_for(places * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    Buffer<T> tile(cv.inputs * shape.plane);
    Buffer<T> partial(((ceil_div(b.rows, b.mr) + 1) * b.mr * (b.columns + b.mc) + Vec<T>::lanes) * width);
    int64_t packed = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t place = i / parts, part = i % parts;
      const int64_t q = place % across, p = place / across % down, g = place / across / down % cv.G,
                    n = place / across / down / cv.G;
      const int64_t i0 = p * b.rows, j0 = q * b.columns;
      const int64_t ni = smaller(b.rows, cv.rows.count - i0), nj = smaller(b.columns, cv.columns.count - j0);
      if (packed != place)
        pack_tile<T, In>(tile.data(), shape, cv.rows, cv.columns, i0, ni, j0, nj,
                         cv.in + cv.in_strides(n, g * cv.inputs, 0, 0), cv.in_strides, cv.inputs);
      packed = place;
      convolve_block<T, In, NV>(cv, b, shape, tile.data(), a_k.data(), weights.data() + g * kbs * steps * width,
                                partial.data(), bias.data() + g * kbs * width, n, g, i0, ni, j0, nj, part * kbs / parts,
                                (part + 1) * kbs / parts);
    }
  });
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
