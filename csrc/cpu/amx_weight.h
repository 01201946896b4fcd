// grad_weight on the matrix unit: for each tap, sums of 32 input channels x 32 outputs over pixels, 32 pixels a step.
//
//   w[k,c,r,s] = sum over pixels  x[n, c, pixel shifted by tap (r,s)] * y[n,k,pixel]
//
// A result is a sum of 32 outputs x 32 channels for one tap. Left tiles are y, lines of an output's pixels; right tiles
// are x, lines of two neighbouring pixels' channels, so that a tap begins at another line: an offset again. (With x on
// the left a tap would begin within a line, and lines that cross cache lines take the unit five times as long to load.)
//
// As in outer_product_weight.h, threads divide the results and not the pixels, and pixels are cut into strips, here of
// a thousand, whose sums are added in order; what those additions round off is kept for float32.
//
// A zero of the halo must not meet an infinity, so both operands are looked through (magnitudes.h), before or as they
// are packed.
//
// Estimate: as amx_convolution.h's; each element of x is packed once for the outputs of an item.
#pragma once
#include "amx_weight_tiles.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// As for forward: no step has pixels of two images otherwise.
template <class In>
void join_images(WeightGradient<float, In>& wg) {
  const int64_t pixels = wg.columns.count;
  if (!wg.is_flat() || wg.x_strides.n != pixels * wg.x_strides.w || wg.y_strides.n != pixels * wg.y_strides.w) return;
  wg.columns.in = wg.columns.count = wg.N * pixels;
  wg.N = 1;
}

template <class In>
class WeightGradientTiles {
 public:
  static constexpr int terms = kTerms<In>;

  // `seen` takes the operands' magnitudes, or is null.
  WeightGradientTiles(const WeightGradient<float, In>& wg, OperandMagnitudes* seen)
      : wg_(wg),
        seen_(seen),
        left_(int(kDepth), wg, lanes_of_taps(wg), lanes_of_all_taps(wg)),
        strips_(wg.N, wg.rows.count, wg.columns.count, kPixels, Reaches(wg), 1),
        steps_(strips_.rows, strips_.columns, (wg.columns.highest() - wg.columns.lowest()) / wg.columns.stride),
        shape_(wg.rows, wg.columns, strips_.rows, strips_.columns, steps_.by_rows ? 2 : 1),
        x_(wg, left_, shape_, strips_.images),
        y_(wg, steps_, strips_.images),
        blocks_(ceil_div(wg.outputs, kWide)),
        x_k_(strips_.images * steps_.count),
        y_k_(strips_.images * steps_.count) {
    for (int64_t b = 0, k = 0; b < strips_.images; ++b)
      for (int64_t s = 0; s < steps_.count; ++s, ++k) {
        x_k_[k] = int32_t(b * x_.image() + steps_.place(s) / 2 * kDepth);
        y_k_[k] = int32_t(k * RunTile<In>::kStep);
      }
    divide();
  }

  void run() const {
    parallel_for(wg_.G * block_parts_ * unit_parts_, 1, [&](int64_t begin, int64_t end) {
      [[maybe_unused]] const MatrixUnit unit;
      Room room(*this);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t part = item % unit_parts_, block_part = item / unit_parts_ % block_parts_;
        const Item at = {item / unit_parts_ / block_parts_, left_.first_unit(part, unit_parts_),
                         left_.first_unit(part + 1, unit_parts_), blocks_ * block_part / block_parts_,
                         blocks_ * (block_part + 1) / block_parts_};
        if (at.units() == 0) continue;
        add_strips(at, room);
        store(at, room);
      }
    });
  }

 private:
  // Enough pixels to outweigh loading and storing the sums, and so few that x and y stay in L2.
  static constexpr int64_t kPixels = 1024;
  static constexpr int64_t kUnitSums = kDepth * kWide;
  // In float32 what adding a strip's sums rounds off is kept; 16 bits round it off.
  static constexpr bool kExact = terms == 3;

  // Lines need not be full where pairs are multiplied, but whole vectors are: so they are filled by all taps, if rows
  // of taps would leave a sixth and more empty.
  static bool lanes_of_all_taps(const WeightGradient<float, In>& wg) {
    const auto vectors = [](int64_t lanes) { return ceil_div(lanes, 16); };
    const int64_t in_row = wg.inputs * wg.columns.taps;
    return kEndsWithRows && lanes_of_taps(wg) &&
           6 * vectors(in_row * wg.rows.taps) <= 5 * wg.rows.taps * vectors(in_row);
  }

  // Of few channels of bfloat16 a tile's lanes are (column tap, channel), as in LeftTiles.
  static bool lanes_of_taps(const WeightGradient<float, In>& wg) {
    constexpr int64_t kFewInputs = 8;
    return std::is_same_v<In, BFloat16> && wg.inputs <= kFewInputs && wg.columns.taps > 1;
  }

  // Units (32 channels, a tap) x blocks of outputs.
  struct Item {
    int64_t group, first_unit, last_unit, first_block, last_block;
    int64_t units() const { return last_unit - first_unit; }
    int64_t blocks() const { return last_block - first_block; }
  };

  // A thread's memory. What lies between rows and planes meets zeros of y, and has to be a number.
  struct Room {
    Scratch<uint16_t> x, lines, y;
    Scratch<Plain<In>> planes, run;
    Scratch<float> totals, sums, lost;

    explicit Room(const WeightGradientTiles& w)
        : x(w.x_.size()),
          lines(w.x_.size_of_lines()),
          y(w.most_blocks() * w.y_.size()),
          planes(w.x_.size_of_planes()),
          run(w.y_.size_of_run()),
          totals(w.most_sums()),
          sums(larger(kUnitSums, w.most_units() * kUnitSums)),
          lost(w.keeps_lost() ? w.most_sums() : 0) {
      std::memset(x.data(), 0, w.x_.size() * sizeof(uint16_t));
      std::memset(lines.data(), 0, w.x_.size_of_lines() * sizeof(uint16_t));
      std::memset(planes.data(), 0, w.x_.size_of_planes() * sizeof(Plain<In>));
    }
  };

  bool keeps_lost() const { return kExact && strips_.count > 1; }
  int64_t most_units() const {
    int64_t most = 0;
    for (int64_t part = 0; part < unit_parts_; ++part)
      most = larger(most, left_.first_unit(part + 1, unit_parts_) - left_.first_unit(part, unit_parts_));
    return most;
  }
  int64_t most_blocks() const { return ceil_div(blocks_, block_parts_); }
  int64_t most_sums() const { return most_blocks() * most_units() * kUnitSums; }

  // The cheapest division into items for the threads, in cycles a strip, with sums and y in L2. Measured: a step of
  // 2 x 2 tiles takes 64, packing about 10 for a pixel of 32 channels of x and 4 for one of 32 outputs of y.
  void divide() {
    constexpr int64_t kMostSums = 256 << 10, kMostOfY = 512 << 10;  // elements
    const auto steps_up = [](int64_t n) { return n + larger(1, n / 4); };
    const double pixels = double(strips_.images * steps_.count * steps_.piece);
    const int64_t threads = thread_count(), most_parts = left_.tiles >= 4 * threads ? left_.tiles : left_.units;
    double least = 0;
    for (int64_t b = 1; b <= blocks_; b = steps_up(b))
      for (int64_t u = 1; u <= most_parts; u = steps_up(u)) {
        const int64_t block = ceil_div(blocks_, b), tiles = ceil_div(left_.tiles, u),
                      parts = left_.whole_tiles(u) ? left_.tiles : left_.units;
        const int64_t unit = ceil_div(parts, u) * (left_.units / parts);
        const bool last = b == blocks_ && steps_up(u) > most_parts;
        if ((block * unit * kUnitSums > kMostSums || (block > 1 && block * y_.size() > kMostOfY)) &&
            !(last && least == 0))
          continue;
        const double item =
            double(block * unit) * 2 * Products<terms>::count + double(tiles) * 10 * terms + double(block) * 4 * terms;
        const double time = double(ceil_div(wg_.G * b * u, threads)) * item * pixels;
        if (least == 0 || time < least) least = time, block_parts_ = b, unit_parts_ = u;
      }
  }

  // Looks at a strip's y of a block, which is packed next, and, of a tile's channels, at the images that begin with it.
  void look_at_y(const Strip& strip, int64_t g, int64_t block) const {
    const Strides& s = wg_.y_strides;
    seen_->other.add_shared(magnitudes_of(wg_.y + s(strip.n, g * wg_.outputs + block * kWide, strip.i, strip.j),
                                          Walks({strip.images, s.n}, {smaller(kWide, wg_.outputs - block * kWide), s.c},
                                                {strip.rows, s.h}, {strip.columns, s.w})));
  }
  void look_at_x(const Strip& strip, int64_t g, int64_t tile) const {
    if (strip.i + strip.j > 0) return;
    const int64_t first = left_.across_taps ? 0 : left_.first(tile),
                  channels = left_.across_taps ? wg_.inputs : left_.size(tile);
    const Strides& s = wg_.x_strides;
    seen_->images[0].add_shared(
        magnitudes_of(wg_.x + s(strip.n, g * wg_.inputs + first, 0, 0),
                      Walks({strip.images, s.n}, {channels, s.c}, {wg_.rows.in, s.h}, {wg_.columns.in, s.w})));
  }

  void add_strips(const Item& at, Room& room) const {
    alignas(64) static constexpr float zeros[kWide] = {};
    if (keeps_lost()) std::memset(room.lost.data(), 0, most_sums() * sizeof(float));
    for (int64_t t = 0; t < strips_.count; ++t) {
      const Strip strip = strips_[t];
      for (int64_t block = at.first_block; block < at.last_block; ++block) {
        if (seen_ && at.first_unit == 0) look_at_y(strip, at.group, block);
        y_.pack(room.y.data() + (block - at.first_block) * y_.size(), room.run.data(), strip, at.group, block);
      }
      for (int64_t u0 = at.first_unit, u1; u0 < at.last_unit; u0 = u1) {
        const int64_t tile = left_.tile(u0), lanes = left_.size(tile);
        u1 = smaller(at.last_unit, (tile + 1) * left_.taps);
        if (seen_ && at.first_block == 0 && u0 == (left_.across_taps ? 0 : tile * left_.taps))
          look_at_x(strip, at.group, tile);
        x_.pack(room.x.data(), room.lines.data(), room.planes.data(), strip, at.group, tile, u0 == at.first_unit);
        for (int64_t block = at.first_block; block < at.last_block; ++block) {
          const int64_t outputs = smaller(kWide, wg_.outputs - block * kWide);
          const Tiles y = {room.y.data() + (block - at.first_block) * y_.size(), y_k_.data(), kTileBytes,
                           2 * kTileBytes};
          for (int64_t u = u0; u < u1; ++u) {
            const int64_t place = ((block - at.first_block) * at.units() + u - at.first_unit) * kUnitSums;
            float* const total = room.totals.data() + place;
            const Tiles x = {room.x.data() + x_.tap(left_.tap(u)), x_k_.data(), x_.half(), x_.term()};
            const bool apart = kExact && t > 0;
            tile_product_of<terms>(outputs, lanes)(y, x, steps_.of_images(strip.images),
                                                   apart ? room.sums.data() : total, t == 0 || apart ? zeros : nullptr);
            if (apart) add_exactly(total, room.sums.data(), kUnitSums, room.lost.data() + place);
          }
        }
      }
    }
    if (keeps_lost()) add_lost(room.totals.data(), room.lost.data(), at.blocks() * at.units() * kUnitSums);
  }

  // Sums are [output][channel], and leave as store_tiles has them, [channel][output].
  void store(const Item& at, Room& room) const {
    for (int64_t block = at.first_block; block < at.last_block; ++block) {
      const int64_t k0 = at.group * wg_.outputs + block * kWide, outputs = smaller(kWide, wg_.outputs - block * kWide);
      const int64_t width = ceil_div(outputs, 16) * 16, unit_sums = kDepth * width;
      const float* const totals = room.totals.data() + (block - at.first_block) * at.units() * kUnitSums;
      float* const sums = room.sums.data();
      for (int64_t u = 0; u < at.units(); ++u) {
        const int64_t pitch = left_.size(left_.tile(at.first_unit + u)) <= 16 ? 16 : 32;
        transpose<float, float>(totals + u * kUnitSums, pitch, width, pitch, sums + u * unit_sums, width, width);
      }
      if (!left_.across_taps && left_.whole_tiles(unit_parts_) && wg_.filters_are_lines())
        store_tiles(wg_, left_, sums, left_.tile(at.first_unit), at.units() / left_.taps, k0, outputs, width);
      else
        for (int64_t u = 0; u < at.units(); ++u)
          store_unit(wg_, left_, sums + u * unit_sums, at.first_unit + u, k0, outputs, width);
    }
  }

  const WeightGradient<float, In>& wg_;
  OperandMagnitudes* const seen_;
  const LeftTiles left_;
  const Strips strips_;
  const PixelSteps steps_;
  const TileShape shape_;
  const PairTile<In> x_;
  const RunTile<In> y_;
  const int64_t blocks_;
  int64_t block_parts_ = 1, unit_parts_ = 1;
  Scratch<int32_t> x_k_, y_k_;
};

template <class In>
bool weight_gradient_tiles(const WeightGradient<float, In>& wg, OperandMagnitudes* seen) {
  WeightGradientTiles<In>(wg, seen).run();
  if (seen) seen->images_seen = seen->other_seen = true;
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
