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
constexpr int64_t kTogether = 4;

template <class T>
alignas(64) constexpr T kZeros[2 * Vec<T>::lanes] = {};

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

// The weights of convolutions that share them and their outputs (one, or the phases of a stride), packed for all
// results: of convolution j, group g and block of outputs kb, [step][width of kb].
template <class T>
class PackedWeights {
 public:
  static constexpr int64_t L = Vec<T>::lanes;
  int64_t outputs, width, kbs;  // the last block is a single vector if that is enough
  bool finite = true;

  template <class In>
  PackedWeights(const Convolution<T, In>* cv, int64_t count)
      : outputs(cv[0].outputs),
        width(outputs <= L ? L : 2 * L),
        kbs(ceil_div(outputs, width)),
        start_(count + 1),
        data_(set_starts(cv, count)),
        bias_(cv[0].G * kbs * width) {
    const int64_t all_steps = start_[count] / (cv[0].G * kbs * width);
    std::atomic<bool> all_finite{true};
    parallel_for(cv[0].G * kbs, grain_for(double(all_steps) * width / 2), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t g = i / kbs, kb = i % kbs;
        const bool together = count > 1 && cv[0].filters_are_lines();
        if (together) pack_phases(cv, count, g, kb);
        for (int64_t j = 0; j < count; ++j) {
          T* const to = at(cv[j], j, g, kb);
          if (!(together ? CONVX_ISA::all_finite(to, steps(cv[j]) * width_of(kb))
                         : pack_weights(to, cv[j], g, kb * width, width_of(kb), 0, steps(cv[j]))))
            all_finite = false;
        }
        pack_bias(bias_.data() + i * width, cv[0], g, kb * width, width);
      }
    });
    finite = all_finite;
  }

  int64_t width_of(int64_t kb) const { return outputs - kb * width <= L ? L : width; }
  template <class In>
  const T* of(const Convolution<T, In>& cv, int64_t j, int64_t g, int64_t kb) const {
    return data_.data() + start_[j] + (g * kbs + kb) * steps(cv) * width;
  }
  const T* bias(int64_t g, int64_t kb) const { return bias_.data() + (g * kbs + kb) * width; }

 private:
  template <class In>
  static int64_t steps(const Convolution<T, In>& cv) {
    return cv.inputs * cv.taps();
  }
  template <class In>
  T* at(const Convolution<T, In>& cv, int64_t j, int64_t g, int64_t kb) {
    return const_cast<T*>(of(cv, j, g, kb));
  }
  template <class In>
  int64_t set_starts(const Convolution<T, In>* cv, int64_t count) {
    start_[0] = 0;
    for (int64_t j = 0; j < count; ++j) start_[j + 1] = start_[j] + cv[j].G * kbs * steps(cv[j]) * width;
    return start_[count];
  }

  // Each phase takes every stride-th tap of a filter, so whole filters are transposed once for all phases.
  template <class In>
  void pack_phases(const Convolution<T, In>* cv, int64_t count, int64_t g, int64_t kb) {
    const int64_t wide = width_of(kb), outs = smaller(wide, outputs - kb * width), filter = cv[0].filter_size;
    Scratch<T> turned(filter * wide);
    for (int64_t c = 0; c < cv[0].inputs; ++c) {
      transpose<T, In>(
          cv[0].weight + g * cv[0].weight_group + kb * width * cv[0].weight_output + c * cv[0].weight_input,
          cv[0].weight_output, outs, filter, turned.data(), wide, wide);
      for (int64_t j = 0; j < count; ++j) {
        T* to = at(cv[j], j, g, kb) + c * cv[j].taps() * wide;
        for (int r = 0; r < cv[j].rows.taps; ++r)
          for (int s = 0; s < cv[j].columns.taps; ++s, to += wide) {
            const T* from =
                turned.data() + (cv[j].rows.index[r] * cv[j].weight_r + cv[j].columns.index[s] * cv[j].weight_s) * wide;
            for (int64_t o = 0; o < wide; o += L) store(to + o, load(from + o));
          }
      }
    }
  }

  Buffer<int64_t> start_;
  Scratch<T> data_, bias_;
};

// One block of results: rows [i0, i0 + ni), columns [j0, j0 + nj) of image n, `count` outputs in vectors of `width`.
template <class T, class In>
void convolve_block(const Convolution<T, In>& cv, const Blocks& b, int64_t pitch, const T* tile, const int32_t* a_k,
                    const T* weights, int64_t width, T* partial, const T* bias, int64_t n, int64_t g, int64_t first,
                    int64_t count, int64_t i0, int64_t ni, int64_t j0, int64_t nj) {
  const int64_t steps = cv.inputs * cv.taps();
  const int mr = ni >= b.mr ? b.mr : 1;
  const int mc = int(smaller(b.mc, nj));
  const OuterProduct<T> kernel =
      width == Vec<T>::lanes ? outer_product_of<T, 1>(mr, mc) : outer_product_of<T, 2>(mr, mc);
  const int64_t across = ceil_div(nj, mc), tiles = ceil_div(ni, mr) * across, tile_size = int64_t(mr) * mc * width;
  for (int64_t t0 = 0; t0 < tiles; t0 += kTogether) {
    const int64_t together = smaller(kTogether, tiles - t0);
    int64_t row[kTogether], column[kTogether];
    // the last tile of a row or column overlaps its neighbour rather than being a smaller one
    for (int64_t t = 0; t < together; ++t) {
      row[t] = smaller((t0 + t) / across * mr, ni - mr);
      column[t] = smaller((t0 + t) % across * mc, nj - mc);
    }
    T* const totals = partial + kTogether * CONVX_MAX_M * width;
    for (int64_t k0 = 0; k0 < larger(steps, 1); k0 += kChain<T>) {
      if (k0 && begins_sum<T>(k0)) add_sums(totals, partial, together * tile_size, k0 == kParts * kChain<T>);
      for (int64_t t = 0; t < together; ++t)
        kernel(tile + row[t] * pitch + column[t], pitch, a_k + k0, weights + k0 * width, smaller(kChain<T>, steps - k0),
               partial + t * tile_size,
               k0 == 0             ? bias
               : begins_sum<T>(k0) ? kZeros<T>
                                   : nullptr);
    }
    if (steps > kParts * kChain<T>) add_sums(partial, totals, together * tile_size, false);
    for (int64_t t = 0; t < together; ++t)
      for (int r = 0; r < mr; ++r)
        store_results(cv, partial + t * tile_size + r * mc * width, mc, width, n, g, first, count, i0 + row[t] + r,
                      j0 + column[t]);
  }
}

// Runs convolution j of those whose weights are packed.
template <class T, class In>
void convolve(const Convolution<T, In>& cv, const PackedWeights<T>& packed_weights, int64_t j) {
  const int64_t steps = cv.inputs * cv.taps(), kbs = packed_weights.kbs;
  const Blocks b = choose_blocks<T>(cv.rows, cv.columns, cv.inputs);
  const TileShape shape(cv.rows, cv.columns, b.rows, b.columns);
  Scratch<int32_t> a_k(steps);
  for (int64_t c = 0, k = 0; c < cv.inputs; ++c)
    for (int r = 0; r < cv.rows.taps; ++r)
      for (int s = 0; s < cv.columns.taps; ++s)
        a_k[k++] = int32_t(c * shape.plane + shape.tap(cv.rows, cv.columns, r, s));

  const int64_t down = ceil_div(cv.rows.count, b.rows), across = ceil_div(cv.columns.count, b.columns);
  const int64_t places = cv.N * cv.G * down * across;
  // Few blocks: split the output channels as well, at the price of packing the tile once for each part.
  const int64_t wanted = 2 * thread_count(), parts = places >= wanted ? 1 : smaller(kbs, ceil_div(wanted, places));
  const double work = double(b.rows) * b.columns * steps * cv.outputs / parts / 16;
  parallel_for(places * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    Scratch<T> tile(cv.inputs * shape.plane);
    Scratch<T> partial((2 * kTogether * CONVX_MAX_M + Vec<T>::lanes) * packed_weights.width);
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
      for (int64_t kb = part * kbs / parts; kb < (part + 1) * kbs / parts; ++kb) {
        const int64_t first = kb * packed_weights.width, width = packed_weights.width_of(kb);
        convolve_block<T, In>(cv, b, shape.pitch, tile.data(), a_k.data(), packed_weights.of(cv, j, g, kb), width,
                              partial.data(), packed_weights.bias(g, kb), n, g, first,
                              smaller(width, cv.outputs - first), i0, ni, j0, nj);
      }
    }
  });
}

// Runs convolutions that share weights and outputs; false, with nothing written, if a weight is not finite.
template <class T, class In>
bool convolve_all(const Convolution<T, In>* cv, int64_t count) {
  const PackedWeights<T> packed_weights(cv, count);
  for (int64_t j = 0; j < count && packed_weights.finite; ++j) convolve(cv[j], packed_weights, j);
  return packed_weights.finite;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
