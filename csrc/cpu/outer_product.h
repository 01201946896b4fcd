// forward and grad_input as outer products over registers: vectors across output channels, scalars from a packed tile.
//
// For a block of results (a few rows of one image) a thread packs the input it reads once (tile.h), then walks the
// output channels in blocks of NV vectors and the results in tiles of up to 14 (micro_kernel.h). The weights are packed
// once per call as [block of outputs][channel][tap][NV * lanes], so the loop reads them as one stream.
//
// The phases of a strided grad_input read one tile and take turns at each block of outputs. What they write lies
// between one another: phase after phase, each cache line came from afar several times, a fifth of the time on 14 x 14.
//
// Blocking: the tile stays in L2; a slab of weights (one chain of steps of one block of outputs, see kChain) stays in
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
#include "pack_tile.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// The blocks of rows x columns that a plane of results is cut into, one tile of the input each.
struct Blocks {
  int64_t rows, columns;
};

// The sums of a group of register tiles wait in L1 while a slab of weights, one chain of steps, passes over them:
// enough tiles to read the slab from afar seldom.
constexpr int64_t kSumsBytes = 8 << 10;
constexpr int kMostPieces = 24;

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
  const int64_t band = smaller(larger(r.count, 1), rows_for(int(b.columns / ceil_div(b.columns, CONVX_MAX_M))));
  b.rows = band;
  while (b.rows + band <= r.count && bytes(b.rows + band, b.columns) <= kTileBytes) b.rows += band;
  if (r.count - b.rows < band) b.rows = r.count;  // no sliver at the end
  b.rows = larger(band, ceil_div(r.count, ceil_div(r.count, b.rows)));
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
    constexpr int64_t kAhead = 4;  // inputs
    Scratch<T> turned(filter * wide);
    for (int64_t c = 0; c < cv[0].inputs; ++c) {
      const In* const filters =
          cv[0].weight + g * cv[0].weight_group + kb * width * cv[0].weight_output + c * cv[0].weight_input;
      if (cv[0].weight_output == filter)  // far from the next input's: too short for the hardware to see
        for (int64_t i = 0; i < outs * filter; i += kPerLine<In>)
          __builtin_prefetch(filters + kAhead * cv[0].weight_input + i);
      transpose<T, In>(filters, cv[0].weight_output, outs, filter, turned.data(), wide, wide);
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

// One register tile of a block of results: where it is, and where its sums are.
template <class T>
struct Piece {
  int64_t row, column, sums;
  OuterProduct<T> kernel;
};

// The register tiles of a block of results, in groups whose sums wait together: some whole rows, [row][column][width],
// or a part of one. A row is cut into nearly equal pieces, so that no result is computed twice. Pieces too narrow to
// fill a register tile take several rows at once, if there are as many.
template <class T>
class Pieces {
 public:
  Pieces(const Place& at, int64_t width)
      : ni_(at.ni),
        nj_(at.nj),
        width_(width),
        across_(ceil_div(at.nj, CONVX_MAX_M)),
        band_(rows_for(int(at.nj / across_))),
        most_(kSumsBytes / (width * int64_t(sizeof(T)))) {}

  // Goes on to the next group; false if there is none.
  bool next() {
    row_ += rows_, column_ += columns_;
    if (column_ == nj_) column_ = 0;
    if (column_ > 0) --row_;
    count_ = 0, rows_ = 0, columns_ = 0;
    if (row_ == ni_) return false;
    if (nj_ > most_ || across_ > kMostPieces) {  // a part of a row
      rows_ = 1;
      while (part_ < across_ && count_ < kMostPieces && edge(part_ + 1) - column_ <= most_) add(row_, part_++, 1);
      columns_ = edge(part_) - column_;
      if (part_ == across_) part_ = 0;
      return true;
    }
    columns_ = nj_;
    for (;;) {
      const int64_t band = ni_ - row_ - rows_ >= band_ ? band_ : 1;
      if (rows_ && ((rows_ + band) * nj_ > most_ || count_ + band * across_ > kMostPieces)) return true;
      if (row_ + rows_ == ni_) return true;
      for (int64_t part = 0; part < across_; ++part) {
        const int64_t together = rows_for(int(edge(part + 1) - edge(part))) == band ? band : 1;
        for (int64_t r = 0; r < band; r += together) add(row_ + rows_ + r, part, together);
      }
      rows_ += band;
    }
  }
  const Piece<T>* begin() const { return pieces_; }
  const Piece<T>* end() const { return pieces_ + count_; }
  int64_t row() const { return row_; }
  int64_t column() const { return column_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  // Of any group; store_pixels() reads whole vectors of pixels.
  static constexpr int64_t most_sums() { return kSumsBytes / sizeof(T) + 2 * Vec<T>::lanes * Vec<T>::lanes; }

 private:
  int64_t edge(int64_t part) const { return nj_ * part / across_; }
  void add(int64_t row, int64_t part, int64_t rows) {
    const int mr = int(rows), m = int(edge(part + 1) - edge(part));
    pieces_[count_++] = {row, edge(part), ((row - row_) * columns_ + edge(part) - column_) * width_,
                         width_ == Vec<T>::lanes ? outer_product_of<T, 1>(mr, m) : outer_product_of<T, 2>(mr, m)};
  }

  int64_t ni_, nj_, width_, across_, band_, most_, row_ = 0, column_ = 0, rows_ = 0, columns_ = 0, part_ = 0;
  int count_ = 0;
  Piece<T> pieces_[kMostPieces];
};

// One block of results, `count` outputs in vectors of `width`.
template <class T, class In>
void convolve_block(const Convolution<T, In>& cv, int64_t pitch, const T* tile, const int32_t* a_k, const T* weights,
                    int64_t width, T* partial, const T* bias, const Place& at, int64_t first, int64_t count) {
  const int64_t steps = cv.inputs * cv.taps();
  const bool one_line = cv.merged() == 1 && at.nj == cv.columns.count &&
                        cv.out_strides.h * cv.rows.out_step == at.nj * cv.out_strides.w * cv.columns.out_step;
  T* const totals = partial + Pieces<T>::most_sums();
  for (Pieces<T> pieces(at, width); pieces.next();) {
    const int64_t pixels = pieces.rows() * pieces.columns(), size = pixels * width;
    for (int64_t k0 = 0; k0 < larger(steps, 1); k0 += cv.chain) {
      if (k0 && begins_sum(k0, cv.chain)) add_sums(totals, partial, size, k0 == kParts * cv.chain);
      const T* const start = k0 == 0 ? bias : begins_sum(k0, cv.chain) ? kZeros<T> : nullptr;
      // the next slab's weights, from L3 or memory to L2
      const T *ahead = weights + smaller(steps, k0 + cv.chain) * width, *const last =
                                                                            weights +
                                                                            smaller(steps, k0 + 2 * cv.chain) * width;
      for (const Piece<T>& piece : pieces) {
        piece.kernel(tile + piece.row * pitch + piece.column, pitch, a_k + k0, weights + k0 * width, width,
                     smaller(cv.chain, steps - k0), partial + piece.sums, at.nj * width, start, ahead);
        ahead = smaller(last - ahead, cv.chain * kPerLine<T>) + ahead;
      }
    }
    if (steps > kParts * cv.chain) add_sums(partial, totals, size, false);
    const int64_t run = one_line ? pixels : pieces.columns();
    for (int64_t p = 0, row = at.i0 + pieces.row(); p < pixels; p += run, ++row)
      store_results(cv, partial + p * width, run, width, at.n, at.g, first, count, row, at.j0 + pieces.column());
  }
}

// Runs convolutions that share weights, inputs and outputs (one, or the phases of a stride).
template <class T, class In>
void convolve(const Convolution<T, In>* cv, int64_t count, const PackedWeights<T>& packed_weights) {
  const int64_t inputs = cv->inputs, kbs = packed_weights.kbs;
  const AxisPlan rows = taps_of_all(cv, count, &Convolution<T, In>::rows),
                 columns = taps_of_all(cv, count, &Convolution<T, In>::columns);
  const Blocks b = choose_blocks<T>(rows, columns, inputs);
  const TileShape shape(rows, columns, b.rows, b.columns);
  Scratch<int64_t> first_step(count + 1);
  first_step[0] = 0;
  for (int64_t j = 0; j < count; ++j) first_step[j + 1] = first_step[j] + inputs * cv[j].taps();
  Scratch<int32_t> a_k(first_step[count]);
  for (int64_t j = 0; j < count; ++j) set_places(a_k.data() + first_step[j], cv, j, inputs, shape, rows, columns);

  const Places places(cv->N, cv->G, rows.count, columns.count, b.rows, b.columns, 8 * thread_count(), kbs);
  const double work = double(b.rows) * b.columns * first_step[count] * cv->outputs / places.parts / 16;
  parallel_for_balanced(places.items(), grain_for(work), [&](int64_t begin, int64_t end) {
    Scratch<T> tile(inputs * shape.plane);
    Scratch<T> partial(2 * Pieces<T>::most_sums());
    int64_t packed = -1;
    for (int64_t item = begin; item < end; ++item) {
      const Place at = places[item];
      if (packed != at.index)
        pack_tile<T, In>(tile.data(), shape, rows, columns, at.i0, at.ni, at.j0, at.nj,
                         cv->in + cv->in_strides(at.n, at.g * inputs, 0, 0), cv->in_strides, inputs);
      packed = at.index;
      for (int64_t kb = at.part * kbs / places.parts; kb < (at.part + 1) * kbs / places.parts; ++kb) {
        const int64_t first = kb * packed_weights.width, width = packed_weights.width_of(kb);
        for (int64_t j = 0; j < count; ++j) {
          Place here = at;
          here.ni = smaller(at.ni, cv[j].rows.count - at.i0), here.nj = smaller(at.nj, cv[j].columns.count - at.j0);
          if (here.ni > 0 && here.nj > 0)
            convolve_block<T, In>(cv[j], shape.pitch, tile.data(), a_k.data() + first_step[j],
                                  packed_weights.of(cv[j], j, at.g, kb), width, partial.data(),
                                  packed_weights.bias(at.g, kb), here, first, smaller(width, cv->outputs - first));
        }
      }
    }
  });
}

// False, with nothing written, if a weight is not finite.
template <class T, class In>
bool convolve_all(const Convolution<T, In>* cv, int64_t count) {
  const PackedWeights<T> packed_weights(cv, count);
  if (packed_weights.finite) convolve(cv, count, packed_weights);
  return packed_weights.finite;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
