// grad_weight of 3x3 filters by Winograd's F(4x4, 3x3): the derivative by the filter of the same form that winograd.h
// computes, so 49 products instead of 144 for sixteen pixels of y. Of 2x2 filters 16 for nine; such are the four phases
// of a 4x4 filter at stride 2. Filters of a single row or column have patches along it only. Each run of taps has a
// phase of x. The transforms: winograd_transforms.h.
//
// An item of work is a part of the channels and a part of the outputs. Strips of some fifty patches pass by:
//   V[point][patch][phase][channel]   x's patches transformed, as in winograd.h
//   Y[block of outputs][point][patch][width]   y's patches of 4 x 4 (or 3 x 3), turned over and transformed
//   M[point][phase, channel][output] += sum over patches of V * Y, by outer products over registers (micro_kernel.h)
// and at the end the points of M become the 9 (or 4) taps of the gradient.
//
// Threads divide the results, not the patches (but see pixel_shares.cpp), and strips are cut by the shape alone: so
// each sum has one order.
//
// Estimate: 49 multiply-adds a channel, output and patch; V costs about 200 vector instructions a patch and channel in
// each part of the outputs, Y about 250 a patch and output in each part of the channels.
#pragma once
#include "outer_product_weight.h"
#include "winograd_patches.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

template <class T, class In, int NV, class R, class S>
class WinogradGradientSums {
 public:
  explicit WinogradGradientSums(const WeightGradient<T, In>& wg)
      : wg_(wg),
        rows_(ceil_div(wg.rows.count, R::kResults)),
        columns_(ceil_div(wg.columns.count, S::kResults)),
        strips_(wg.N, rows_, columns_, kPatches,
                {{R::kResults, R::kTaps - 1}, {S::kResults, S::kTaps - 1}, wg.inputs, wg.outputs}, 1),
        most_(strips_.images * strips_.rows * strips_.columns),
        strips_of_sum_(larger(smaller(kStripsOfSum, strips_.count), int64_t(std::sqrt(double(strips_.count))))),
        inputs_(wg.rows, wg.columns),
        y_rows_(pixel_for_pixel(wg.rows.count)),
        y_columns_(pixel_for_pixel(wg.columns.count)),
        blocks_(ceil_div(wg.outputs, kWidth)),
        units_(ceil_div(wg.inputs, kUnit)) {
    divide(thread_count());
  }

  // False, with the gradient unfinished, if a sum might overflow or an operand was not finite.
  bool run() {
    const double work = double(wg_.N) * rows_ * columns_ * kPoints * wg_.inputs * inputs_.count * wg_.outputs /
                        (block_parts_ * unit_parts_) / 16;
    std::atomic<bool> finite{true};
    parallel_for_balanced(wg_.G * block_parts_ * unit_parts_, grain_for(work), [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end && finite; ++item)
        if (!compute(item)) finite = false;
    });
    return finite;
  }

 private:
  static constexpr int64_t L = Vec<T>::lanes, kWidth = NV * L;
  static constexpr int kPoints = R::kPoints * S::kPoints;
  // By the points: those of a line, 16, or 49.
  static constexpr int64_t of(int64_t line, int64_t few, int64_t many) {
    return kPoints < 16 ? line : kPoints == 16 ? few : many;
  }
  static constexpr int64_t kPatches = of(96, 96, 48);                           // of a strip
  static constexpr int64_t kSumsBytes = of(1400 << 10, 512 << 10, 1400 << 10);  // of M, in L2 or L3
  static constexpr double kOfVector = double(of(30, 40, 170));  // instructions that transform a vector of x
  static constexpr int64_t kStripsOfSum = of(8, 8, 16);
  static constexpr int64_t kUnit = L < 8 ? L : 8;  // channels: threads want parts, and may share a vector
  using V = typename Vec<T>::type;

  // The cheapest division of blocks of outputs and units of channels, which fill register tiles, among so many threads,
  // in cycles a patch.
  void divide(int64_t threads) {
    const auto steps_up = [](int64_t n) { return n + larger(1, n / 4); };
    double least = 0;
    for (int64_t b = 1; b <= blocks_; b = steps_up(b))
      for (int64_t u = 1; u <= units_; u = steps_up(u)) {
        const int64_t inputs = smaller(wg_.inputs, ceil_div(units_, u) * kUnit), vectors = ceil_div(inputs, L);
        const double outputs = double(ceil_div(blocks_, b)) * kWidth, channels = double(inputs * inputs_.count);
        const bool fits = kPoints * outputs * channels * sizeof(T) <= kSumsBytes;
        const double item = kPoints * outputs * channels / (2 * L) * (fits ? 1 : 1.5) + double(vectors) * kOfVector +
                            outputs * 1.5 * kOfVector / L;
        // threads help one another with the last items
        const double time = (double(ceil_div(wg_.G * b * u, threads)) + 0.1) * item;
        if (least == 0 || time < least) least = time, block_parts_ = b, unit_parts_ = u;
      }
  }

  bool compute(int64_t item) const {
    const int64_t g = item / (block_parts_ * unit_parts_), bp = item / unit_parts_ % block_parts_,
                  up = item % unit_parts_;
    const int64_t kb0 = blocks_ * bp / block_parts_, kb1 = blocks_ * (bp + 1) / block_parts_;
    const int64_t c0 = first_channel(up), channels = first_channel(up + 1) - c0, blocks = kb1 - kb0;
    const int64_t planes = channels * inputs_.count, channel_pitch = ceil_div(channels, L) * L;
    const int64_t patch_pitch = odd_lines<T>(inputs_.count * channel_pitch),
                  v_pitch = odd_lines<T>(most_ * patch_pitch), y_pitch = odd_lines<T>(most_ * kWidth),
                  m_pitch = odd_lines<T>(planes * kWidth);
    const int64_t sums = blocks * kPoints * m_pitch;
    Scratch<T> v(kPoints * v_pitch), y(blocks * kPoints * y_pitch), m(sums);
    Scratch<T> total(strips_of_sum_ < strips_.count ? sums : 0);
    VectorTile<T> x_tile(inputs_.rows.lines(strips_.rows), inputs_.columns.lines(strips_.columns),
                         inputs_.columns.step),
        y_tile(R::kResults * strips_.rows, S::kResults * strips_.columns, 1);
    int32_t a_k[kShortChain<T>];
    for (int64_t t = 0; t < kShortChain<T>; ++t) a_k[t] = int32_t(t * patch_pitch);
    Greatest<T> x_greatest, y_greatest;
    for (int64_t s = 0; s < strips_.count; ++s) {
      const Strip strip = strips_[s];
      const PatchOrder order(strip.images, strip.rows, strip.columns,
                             is_short<R>(wg_.rows.count) && strip.i + strip.rows == rows_,
                             is_short<S>(wg_.columns.count) && strip.j + strip.columns == columns_);
      if (s % strips_of_sum_ == 0) std::memset(m.data(), 0, sums * sizeof(T));
      x_tile.set(wg_.rows, inputs_.rows.of(strip.i, strip.rows), wg_.columns,
                 inputs_.columns.of(strip.j, strip.columns), wg_.x_strides);
      y_tile.set(y_rows_, {R::kResults * strip.i, R::kResults * strip.rows, 1}, y_columns_,
                 {S::kResults * strip.j, S::kResults * strip.columns, 1}, wg_.y_strides);
      for (int64_t c = 0; c < channels; c += L)
        pack_inputs(v.data() + c, v_pitch, patch_pitch, channel_pitch, strip, order, g * wg_.inputs + c0 + c,
                    smaller(L, channels - c), x_tile, x_greatest);
      for (int64_t kb = 0; kb < blocks; ++kb)
        pack_outputs(y.data() + kb * kPoints * y_pitch, y_pitch, strip, order, g, kb0 + kb, y_tile, y_greatest);
      for (int p = 0; p < kPoints; ++p) {
        const int64_t t0 = order.begin<R, S>(p), met = order.end<R, S>(p) - t0;
        for (int64_t kb = 0; kb < blocks; ++kb)
          for (int64_t i = 0; i < inputs_.count; ++i)
            if (inputs_.phase[i].meets(p))
              add_products(m.data() + (kb * kPoints + p) * m_pitch + i * channels * kWidth,
                           v.data() + p * v_pitch + i * channel_pitch + t0 * patch_pitch, patch_pitch, a_k,
                           y.data() + (kb * kPoints + p) * y_pitch + t0 * kWidth, met, channels);
      }
      if (strips_of_sum_ < strips_.count && ((s + 1) % strips_of_sum_ == 0 || s + 1 == strips_.count))
        add_sums(total.data(), m.data(), sums, s < strips_of_sum_);
    }
    if (!stays_finite<R, S, T>(x_greatest.exponent(), y_greatest.exponent(), wg_.N * rows_ * columns_)) return false;
    for (int64_t kb = 0; kb < blocks; ++kb)
      write((strips_of_sum_ < strips_.count ? total : m).data() + kb * kPoints * m_pitch, m_pitch, g, kb0 + kb, c0,
            channels);
    return true;
  }

  int64_t first_channel(int64_t part) const { return smaller(wg_.inputs, units_ * part / unit_parts_ * kUnit); }

  // One vector of channels of a strip.
  void pack_inputs(T* v, int64_t v_pitch, int64_t patch_pitch, int64_t phase_pitch, const Strip& strip,
                   const PatchOrder& order, int64_t channel, int64_t lanes, VectorTile<T>& tile,
                   Greatest<T>& greatest) const {
    for (int64_t b = 0; b < strip.images; ++b) {
      tile.fill(wg_.x + wg_.x_strides(strip.n + b, channel, 0, 0), lanes);
      tile.each_row([&](const T* row, int64_t count) { greatest.add(row, count); });
      transform_patches(tile, inputs_, order, b, v, v_pitch, patch_pitch, phase_pitch);
    }
  }

  // One block of outputs.
  void pack_outputs(T* y, int64_t y_pitch, const Strip& strip, const PatchOrder& order, int64_t g, int64_t kb,
                    VectorTile<T>& tile, Greatest<T>& greatest) const {
    for (int64_t b = 0; b < strip.images; ++b)
      for (int64_t o = 0; o < kWidth; o += L) {
        const int64_t first = kb * kWidth + o;
        tile.fill(wg_.y + wg_.y_strides(strip.n + b, g * wg_.outputs + smaller(first, wg_.outputs - 1), 0, 0),
                  larger(0, smaller(L, wg_.outputs - first)));
        tile.each_row([&](const T* row, int64_t count) { greatest.add(row, count); });
        for (int64_t i = 0; i < strip.rows; ++i)
          each_run<R, S>(order, b, i, [&](auto rows, auto columns, int64_t at, int64_t j, int64_t count) {
            using Rows = decltype(rows);
            using Columns = decltype(columns);
            const T* from = tile.data() + R::kResults * i * tile.pitch() + S::kResults * j * L;
            T* to = y + at * kWidth + o;
            for (int64_t t = 0; t < count; ++t, from += S::kResults * L, to += kWidth) {
              V in[Rows::kResults][Columns::kResults], out[Rows::kPoints][Columns::kPoints];
#pragma GCC unroll 4
              for (int r = 0; r < Rows::kResults; ++r)
#pragma GCC unroll 4
                for (int c = 0; c < Columns::kResults; ++c) in[r][c] = load(from + r * tile.pitch() + c * L);
              spread<Rows, Columns>(in, out);
#pragma GCC unroll 8
              for (int p = 0; p < Rows::kPoints; ++p)
#pragma GCC unroll 8
                for (int q = 0; q < Columns::kPoints; ++q) store(to + (p * S::kPoints + q) * y_pitch, out[p][q]);
            }
          });
      }
  }

  // For one point, one block of outputs and one phase of the input.
  void add_products(T* m, const T* v, int64_t patch_pitch, const int32_t* a_k, const T* y, int64_t patches,
                    int64_t channels) const {
    const int64_t tiles = ceil_div(channels, CONVX_MAX_M);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t c = channels * tile / tiles, count = channels * (tile + 1) / tiles - c;
      const OuterProduct<T> kernel = outer_product_of<T, NV>(1, int(count));
      for (int64_t t = 0; t < patches; t += kShortChain<T>)
        kernel(v + c + t * patch_pitch, 0, a_k, y + t * kWidth, kWidth, smaller(kShortChain<T>, patches - t),
               m + c * kWidth, 0, nullptr,
               m + (c + count) * kWidth + t * kPerLine<T>);  // on the way, the next tile's sums
    }
  }

  void write(const T* m, int64_t m_pitch, int64_t g, int64_t kb, int64_t c0, int64_t channels) const {
    const bool lines = wg_.filters_are_lines();
    const int64_t k0 = g * wg_.outputs + kb * kWidth, count = smaller(kWidth, wg_.outputs - kb * kWidth);
    const int64_t taps = wg_.taps();
    Scratch<T> filters((taps * channels + L) * kWidth);
    for (int64_t i = 0; i < inputs_.count; ++i)
      for (int64_t c = 0; c < channels; ++c, m += kWidth)
        for (int64_t o = 0; o < kWidth; o += L) {
          V sums[R::kPoints][S::kPoints], filter[R::kTaps][S::kTaps];
          for (int p = 0; p < kPoints; ++p) sums[p / S::kPoints][p % S::kPoints] = load(m + p * m_pitch + o);
          gather<PatchAxisForm<R, false>, PatchAxisForm<S, false>>(sums, filter);
          for (int e = 0; e < R::kTaps * S::kTaps; ++e) {
            const int64_t tap = inputs_.phase[i].tap[e / S::kTaps][e % S::kTaps];
            if (tap < 0) continue;
            store(filters.data() + (lines ? taps * c + tap : tap * channels + c) * kWidth + o,
                  filter[e / S::kTaps][e % S::kTaps] * (T(1) / (R::kFactor * S::kFactor)));
          }
        }
    const Strides& to = wg_.w_strides;
    wg_.with_gradient([&](auto* w) {
      if (lines) return store_pixels<T>(filters.data(), taps * channels, kWidth, count, w + to(k0, c0, 0, 0), to.n, 1);
      for (int64_t t = 0; t < taps; ++t)
        store_pixels<T>(filters.data() + t * channels * kWidth, channels, kWidth, count,
                        w + to(k0, c0, wg_.rows.index[t / wg_.columns.taps], wg_.columns.index[t % wg_.columns.taps]),
                        to.n, to.c);
    });
  }

  const WeightGradient<T, In>& wg_;
  const int64_t rows_, columns_;  // of patches
  const Strips strips_;
  const int64_t most_;           // patches of a strip
  const int64_t strips_of_sum_;  // summed before they are added to the total: by the shape, whatever the threads
  const InputPhases<R, S> inputs_;
  const AxisPlan y_rows_, y_columns_;
  const int64_t blocks_, units_;
  int64_t block_parts_ = 1, unit_parts_ = 1;
};

template <class R, class S, class T, class In>
bool weight_gradient_of_patches(const WeightGradient<T, In>& wg) {
  return wg.outputs <= Vec<T>::lanes ? WinogradGradientSums<T, In, 1, R, S>(wg).run()
                                     : WinogradGradientSums<T, In, 2, R, S>(wg).run();
}

// What is not Winograd's goes to outer_product_weight.h, and what is too large or not finite.
template <class T, class In>
bool weight_gradient_winograd(const WeightGradient<T, In>& wg) {
  const AxisPlan &r = wg.rows, &c = wg.columns;
  if (is_line(r, c) && with_forms_of_line(r, c, [&](auto down, auto across) {
        return weight_gradient_of_patches<decltype(down), decltype(across)>(wg);
      }))
    return true;
  if (r.taps < 2 || c.taps < 2) return weight_gradient(wg);
  constexpr int64_t kPixels = 600;  // what 49 sums a weight must meet; of 392 it took 1.1 to 1.25 times as long
  if (has_three_taps(r) && has_three_taps(c) && wg.N * r.count * c.count >= kPixels)
    return weight_gradient_of_patches<F43, F43>(wg) || weight_gradient(wg);
  const bool three = PatchPhases<F23>::products(r) * PatchPhases<F23>::products(c) <=
                     PatchPhases<F32>::products(r) * PatchPhases<F32>::products(c);
  return (three ? weight_gradient_of_patches<F23, F23>(wg) : weight_gradient_of_patches<F32, F32>(wg)) ||
         weight_gradient(wg);
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
