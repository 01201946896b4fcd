// grad_weight as outer products over registers: vectors across output channels, scalars across input channels, and the
// loop over pixels,
//
//   w[k,c,r,s] = sum over pixels (n,p,q) of  x[n, c, pixel shifted by tap (r,s)] * y[n,k,p,q].
//
// The same micro-kernel as forward's with other index maps: a step is a pixel, A is x, B is y packed for vectors
// (weight_strips.h).
//
// Threads divide the results here, not the pixels (those are divided before, where weights are few: pixel_shares.cpp):
// there is no reduction between threads, no private copy of the gradient, and each sum has one order. That order is
// fixed by the shape alone: pixels are cut into strips of a few hundred, each strip is summed in short chains and then
// added, which keeps the rounding error of long sums near that of short ones.
//
// Blocking: of as many strips as 1 MiB holds, all of an item's outputs of y are packed; then its channels of x pass in
// blocks that stay in L2, and each meets every block of outputs. Sums leave L1 once for all these strips, mostly for
// good.
//
// With few outputs, vectors would be mostly empty. Then x and y change places: vectors across input channels.
//
// Estimate: the FMA roof less packing: an element turned over takes about a cycle, y's in each part of the channels,
// x's in each part of the outputs, beside outputs * channels * taps / 32 cycles of multiply-adds a pixel (16 lanes).
#pragma once
#include "micro_kernel.h"
#include "weight_strips.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// As kChain, for sums over pixels, which are longer.
template <class T>
constexpr int64_t kPixelChain = sizeof(T) == 4 ? 128 : 48;

// Within one image torch's chains are longer still; it adds up the images one by one. So a chain is of whole images, or
// the chains of a strip are about equal, so that none is of a few pixels.
template <class T>
int64_t chain_of(const Strip& strip) {
  const int64_t image = strip.rows * strip.columns, most = sizeof(T) == 4 ? 128 : strip.images > 1 ? 50 : 100;
  if (strip.images > 1 && image <= most) return most / image * image;
  return ceil_div(strip.pixels(), ceil_div(strip.pixels(), most) * kUnrolled) * kUnrolled;
}

// Writes the sums of one unit to the gradient.
template <class T, class In>
void store_unit(const WeightGradient<T, In>& wg, const LeftTiles& left, const T* sums, int64_t unit, int64_t k0,
                int64_t count, int64_t width) {
  constexpr int64_t L = Vec<T>::lanes;
  const int64_t tile = left.tile(unit), tap = left.tap(unit);
  if (left.across_taps && !left.across_rows && wg.inputs == 1 && wg.w_strides.w == 1) {  // neighbours: turned over
    const int64_t first = left.first(tile), size = left.size(tile), s = wg.columns.index[first];
    if (wg.columns.index[first + size - 1] == s + size - 1) {
      return wg.with_gradient([&](auto* w) {
        w += wg.w_strides(k0, 0, wg.rows.index[tap], s);
        for (int64_t k = 0; k < count; k += L)
          for (int64_t m = 0; m < size; m += L)
            transpose_block<T>(sums + m * width + k, width, smaller(L, size - m), smaller(L, count - k),
                               w + k * wg.w_strides.n + m, wg.w_strides.n, smaller(L, size - m));
      });
    }
  }
  for (int m = 0; m < left.size(tile); ++m) {
    int64_t r = tap, s, c = left.first(tile) + m;
    if (left.across_taps) {
      s = c / wg.inputs, c %= wg.inputs;
      if (left.across_rows) r = s / wg.columns.taps, s %= wg.columns.taps;
    } else {
      r = tap / wg.columns.taps, s = tap % wg.columns.taps;
    }
    for (int64_t k = 0; k < count; ++k)
      wg.put(wg.w_strides(k0 + k, c, wg.rows.index[r], wg.columns.index[s]), sums[m * width + k]);
  }
}

// Writes the sums of whole tiles from `tile` on, where filters are lines: for each output a line of (channel, tap),
// turned over from the sums a square at a time.
template <class T, class In>
void store_tiles(const WeightGradient<T, In>& wg, const LeftTiles& left, const T* sums, int64_t tile, int64_t tiles,
                 int64_t k0, int64_t count, int64_t width) {
  constexpr int64_t L = Vec<T>::lanes;
  const int64_t c0 = left.first(tile), length = (left.first(tile + tiles) - c0) * left.taps;
  const T* rows[L];
  int64_t tap = 0, m = 0, t = 0;  // of the next place in the line
  for (int64_t place = 0; place < length; place += L) {
    const int64_t places = smaller(L, length - place);
    for (int64_t i = 0; i < places; ++i) {
      rows[i] = sums + ((t * left.taps + tap) * left.m + m) * width;
      if (++tap == left.taps) tap = 0, ++m;
      if (m == left.size(tile + t)) m = 0, ++t;
    }
    for (int64_t k = 0; k < count; k += L) {
      typename Vec<T>::type v[L];
      for (int64_t i = 0; i < L; ++i) v[i] = i < places ? load(rows[i] + k) : typename Vec<T>::type{};
      transpose_square<T>(v);
      wg.with_gradient([&](auto* w) {
        w += wg.w_strides(k0 + k, c0, 0, 0) + place;
        for (int64_t j = 0; j < smaller(L, count - k); ++j) store_some<T>(w + j * wg.w_strides.n, v[j], places);
      });
    }
  }
}

// total += part; what the additions round off is added to `lost` (Knuth, The Art of Computer Programming 2, 4.2.2,
// theorem B).
template <class T>
void add_exactly(T* total, const T* part, int64_t count, T* lost) {
  for (int64_t e = 0; e < count; ++e) {
    const T sum = total[e] + part[e], from_part = sum - total[e];
    lost[e] += (total[e] - (sum - from_part)) + (part[e] - from_part);
    total[e] = sum;
  }
}

// Adds it at the end; nothing is lost of an infinity.
template <class T>
void add_lost(T* total, const T* lost, int64_t count) {
  for (int64_t e = 0; e < count; ++e) total[e] = total[e] - total[e] == T(0) ? total[e] + lost[e] : total[e];
}

// The results in items of work: parts of a group's blocks of outputs x parts of its units.
struct WeightItems {
  int64_t groups, blocks, block_parts = 1, unit_parts = 1;
  const LeftTiles& left;

  // The cheapest division for so many threads, in cycles a pixel: `x_pixels` elements of each channel of x are packed
  // for it, of `bytes` each.
  WeightItems(int64_t groups, int64_t blocks, int64_t width, int64_t lanes, const LeftTiles& left, int64_t x_pixels,
              int bytes, int64_t threads)
      : groups(groups), blocks(blocks), left(left) {
    const auto steps_up = [](int64_t n) { return n + larger(1, n / 4); };
    const int64_t most_parts = left.tiles >= threads ? left.tiles : left.units;
    double least = 0;
    for (int64_t b = 1; b <= blocks && groups * b <= 16 * threads; b = steps_up(b))
      for (int64_t u = 1; u <= most_parts && groups * b * u <= 16 * threads; u = steps_up(u)) {
        const double block = double(ceil_div(blocks, b)),
                     unit = double(ceil_div(most_parts, u)) * left.units / most_parts;
        const double arithmetic = block * width * unit * left.m / (2 * double(lanes));
        const double channels = left.across_taps ? left.run : unit / left.taps * left.m;  // all of few, in each part
        const double packing = block * width * (1 + bytes * .25) + channels * x_pixels * (.5 + bytes * .25);
        // threads help one another with the last items
        const double time = (double(ceil_div(groups * b * u, threads)) + 0.1) * (arithmetic + packing);
        if (least == 0 || time < least) least = time, block_parts = b, unit_parts = u;
      }
  }

  int64_t count() const { return groups * block_parts * unit_parts; }
  int64_t group(int64_t item) const { return item / (block_parts * unit_parts); }
  int64_t first_block(int64_t item) const { return blocks * block_part(item) / block_parts; }
  int64_t last_block(int64_t item) const { return blocks * (block_part(item) + 1) / block_parts; }
  int64_t first_unit(int64_t item) const { return left.first_unit(item % unit_parts, unit_parts); }
  int64_t last_unit(int64_t item) const { return left.first_unit(item % unit_parts + 1, unit_parts); }

 private:
  int64_t block_part(int64_t item) const { return item / unit_parts % block_parts; }
};

template <class T, class In, int NV>
class WeightGradientSums {
 public:
  explicit WeightGradientSums(const WeightGradient<T, In>& wg)
      : wg_(wg),
        left_(wg),
        strips_(wg.N, wg.rows.count, wg.columns.count, 1536 / int64_t(sizeof(T)), Reaches(wg), 16),
        pixels_(strips_.images * strips_.rows * strips_.columns),
        items_(wg.G, ceil_div(wg.outputs, kWidth), kWidth, Vec<T>::lanes, left_, x_pixels(wg), sizeof(In),
               thread_count()),
        x_(wg, left_, strips_, ceil_div(items_.blocks, items_.block_parts) * kWidth),
        unit_size_(left_.m * kWidth),
        strips_of_sum_(smaller(larger(1, int64_t(std::sqrt(double(most_left() * left_.taps) / 4) + .5)),
                               smaller(most_left(), most_right(items_.blocks)))),
        many_(ceil_div(strips_.count, strips_of_sum_) > 8),
        a_k_(2 * pixels_),
        units_(left_.units) {
    const int64_t last_columns = strips_[strips_.per_row - 1].columns;
    for (int64_t columns : {strips_.columns, last_columns})
      for (int64_t b = 0, k = columns == strips_.columns ? 0 : pixels_; b < strips_.images; ++b)
        for (int64_t i = 0; i < strips_.rows; ++i)
          for (int64_t j = 0; j < columns; ++j) a_k_[k++] = int32_t(x_.pixel(b, i, j));
    for (int64_t u = 0; u < left_.units; ++u) {
      const int64_t tile = left_.tile(u);
      units_[u] = {tile, x_.offset(u), x_.template kernel<NV>(tile)};
    }
  }

  // False, with the gradient unfinished, if y was not finite.
  bool run() {
    const double work = double(strips_.count) * pixels_ * left_.units * unit_size_ * items_.blocks /
                        (items_.block_parts * items_.unit_parts) / 16;
    std::atomic<bool> finite{true};
    parallel_for_balanced(items_.count(), grain_for(work), [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end && finite; ++item)
        if (!compute(item)) finite = false;
    });
    return finite;
  }

 private:
  struct Unit {
    int64_t tile, offset;
    OuterProduct<T> kernel;
  };
  // How many strips of a tile, and of so many blocks of outputs, the caches hold.
  int64_t most_left() const { return larger(1, kLeftBytes / int64_t(sizeof(T)) / x_.size()); }
  int64_t most_right(int64_t blocks) const {
    return larger(1, kRightBytes / int64_t(sizeof(T)) / (blocks * pixels_ * kWidth));
  }
  static int64_t x_pixels(const WeightGradient<T, In>& wg) {
    return (wg.rows.taps > 1 ? wg.rows.stride : 1) * (wg.columns.taps > 1 ? wg.columns.stride : 1);
  }
  static constexpr int64_t kWidth = NV * Vec<T>::lanes;
  static constexpr int64_t kLeftBytes = 256 << 10, kRightBytes = 1 << 20;  // of L2; of L2 or L3

  bool compute(int64_t item) const {
    const int64_t g = items_.group(item), first_unit = items_.first_unit(item), last_unit = items_.last_unit(item);
    const int64_t first_block = items_.first_block(item), blocks = items_.last_block(item) - first_block;
    const int64_t first_tile = left_.tile(first_unit), last_tile = left_.tile(last_unit - 1) + 1;
    const int64_t left_size = x_.size(), right_size = pixels_ * kWidth;

    // Strips together, and tiles of x that stay in L2 meanwhile. More strips: sums go to memory and back less often.
    // More tiles: a strip of y is fetched to L1 for more units, at about four times the cycles. Best is the root of
    // their number; and if all strips are about as few as that, sums are done when they leave L1.
    const int64_t most_left = this->most_left(), most_right = this->most_right(blocks);
    int64_t together = strips_of_sum_;
    if (strips_.count <= 2 * together) together = strips_.count;
    together = smaller(together, smaller(most_left, most_right));
    if (together < strips_.count) together = larger(1, together / strips_of_sum_) * strips_of_sum_;
    const int64_t passes = ceil_div(strips_.count, together);
    int64_t tiles = smaller(last_tile - first_tile, larger(1, most_left / together));
    if (left_.across_taps) tiles = last_tile - first_tile;
    tiles = ceil_div(last_tile - first_tile, ceil_div(last_tile - first_tile, tiles));

    const int64_t run = tiles * left_.taps * unit_size_;  // sums of the units at work
    const int64_t waiting = passes == 1 ? run : blocks * (last_unit - first_unit) * unit_size_;
    Scratch<T> x(x_.in_place() ? 0 : (left_.across_taps ? 1 : tiles) * together * left_size),
        y(blocks * together * right_size);
    Scratch<T> totals(waiting + Vec<T>::lanes), sums(many_ ? run : 0), lost(many_ ? waiting : 0);
    std::memset(totals.data(), 0, waiting * sizeof(T));  // for tiles that are less than m
    if (many_) std::memset(sums.data(), 0, run * sizeof(T));
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t t0 = pass * together, count = smaller(together, strips_.count - t0);
      for (int64_t kb = 0; kb < blocks; ++kb)
        for (int64_t t = 0; t < count; ++t)
          if (!pack_strip_outputs(y.data() + (kb * together + t) * right_size, wg_, strips_[t0 + t], g,
                                  (first_block + kb) * kWidth, kWidth))
            return false;
      for (int64_t tile = first_tile; tile < last_tile; tile += tiles) {
        const int64_t stop = smaller(last_tile, tile + tiles);
        for (int64_t i = tile; i < (x_.in_place() ? 0 : left_.across_taps ? tile + 1 : stop); ++i)
          for (int64_t t = 0; t < count; ++t)
            x_.pack(x.data() + ((i - tile) * together + t) * left_size, strips_[t0 + t], g, i);
        const int64_t u0 = larger(first_unit, tile * left_.taps), u1 = smaller(last_unit, stop * left_.taps);
        for (int64_t kb = 0; kb < blocks; ++kb) {
          const int64_t at = passes == 1 ? 0 : (kb * (last_unit - first_unit) + u0 - first_unit) * unit_size_;
          T *const total = totals.data() + at, *const rounded_off = lost.data() + at;
          if (many_ && pass == 0) std::memset(rounded_off, 0, (u1 - u0) * unit_size_ * sizeof(T));
          for (int64_t t = 0; t < count; ++t) {
            const bool apart = many_ && t0 + t >= strips_of_sum_;
            const bool begins = apart ? t % strips_of_sum_ == 0 : t0 + t == 0;
            add_strip(apart ? sums.data() : total, begins, t0 + t, u0, u1, x.data() + t * left_size,
                      together * left_size, tile, g, y.data() + (kb * together + t) * right_size);
            if (apart && ((t + 1) % strips_of_sum_ == 0 || t == count - 1))
              add_exactly(total, sums.data(), (u1 - u0) * unit_size_, rounded_off);
          }
          if (pass < passes - 1) continue;
          if (many_) add_lost(total, rounded_off, (u1 - u0) * unit_size_);
          store_block(total, g, first_block + kb, u0, u1);
        }
      }
    }
    return true;
  }

  // Adds the products of strip t to the sums of units [u0, u1), or begins them. x is of tile `tile` and, `x_pitch`
  // apart, those behind it; y is of one block of outputs.
  void add_strip(T* sums, bool begins, int64_t t, int64_t u0, int64_t u1, const T* x, int64_t x_pitch, int64_t tile,
                 int64_t g, const T* y) const {
    alignas(64) static constexpr T zeros[kWidth] = {};
    const int64_t pixels = strips_[t].pixels(), chain = chain_of<T>(strips_[t]);
    const int32_t* const a_k = a_k_.data() + (strips_[t].columns == strips_.columns ? 0 : pixels_);
    for (int64_t u = u0; u < u1; ++u, sums += unit_size_) {
      const Unit& unit = units_[u];
      const T* left = x_.in_place() ? x_.of(strips_[t], g, unit.tile) : x + unit.offset;
      if (!x_.in_place() && !left_.across_taps) left += (unit.tile - tile) * x_pitch;
      for (int64_t p = 0; p < pixels; p += chain)
        unit.kernel(left, x_.pitch(), a_k + p, y + p * kWidth, kWidth, smaller(chain, pixels - p), sums, kWidth,
                    begins && p == 0 ? zeros : nullptr,
                    sums + unit_size_ + p * kPerLine<T>);  // on the way, the next unit's sums
    }
  }

  void store_block(const T* total, int64_t g, int64_t kb, int64_t u0, int64_t u1) const {
    const int64_t k0 = g * wg_.outputs + kb * kWidth, count = smaller(kWidth, wg_.outputs - kb * kWidth);
    if (!left_.across_taps && left_.whole_tiles(items_.unit_parts) && wg_.filters_are_lines())
      return store_tiles(wg_, left_, total, left_.tile(u0), (u1 - u0) / left_.taps, k0, count, kWidth);
    for (int64_t u = u0; u < u1; ++u, total += unit_size_) store_unit(wg_, left_, total, u, k0, count, kWidth);
  }

  const WeightGradient<T, In>& wg_;
  const LeftTiles left_;
  const Strips strips_;
  const int64_t pixels_;  // of a strip
  const WeightItems items_;
  const LeftSide<T, In> x_;
  const int64_t unit_size_;
  const int64_t strips_of_sum_;  // summed before they are added to the total: by the shape, whatever the threads
  const bool many_;              // such sums: then what adding them rounds off is kept, and added at the end
  Scratch<int32_t> a_k_;         // of the pixels of a strip, and of one of the last in a row, which may be narrower
  Scratch<Unit> units_;
};

template <class T, class In>
bool weight_gradient(const WeightGradient<T, In>& wg) {
  return wg.outputs <= Vec<T>::lanes ? WeightGradientSums<T, In, 1>(wg).run() : WeightGradientSums<T, In, 2>(wg).run();
}

// Vectors of multiply-adds for each pixel.
template <class T, class In>
double vectors_of(const WeightGradient<T, In>& wg) {
  const LeftTiles left(wg);
  return double(left.units) * left.m * ceil_div(wg.outputs, Vec<T>::lanes);
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
