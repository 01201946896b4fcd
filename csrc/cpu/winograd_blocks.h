// What winograd.h walks over: the results of convolutions in blocks of patches, the steps that a block takes (V, M and
// the results, see there), and the weights that it meets.
#pragma once
#include "outer_product.h"
#include "winograd_patches.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// The filters of one channel, `wide` outputs for each tap, transformed: of phase i of the input at
// to + i * phase_pitch, `pitch` elements from point to point. Of several phases of the results, `inputs` were made of
// one; `all_taps`: not only this phase's.
template <class R, class S, class T, class In>
void transform_filters(const Convolution<T, In>& phase, const InputPhases<R, S>& inputs, bool several, bool all_taps,
                       const T* filters, int64_t wide, T* to, int64_t phase_pitch, int64_t pitch) {
  constexpr int64_t L = Vec<T>::lanes;
  const AxisPlan &rows = phase.rows, &columns = phase.columns;
  const auto of_tap = [&](int64_t r, int64_t s) {
    return filters + wide * (all_taps ? rows.index[r] * phase.weight_r + columns.index[s] * phase.weight_s
                                      : r * columns.taps + s);
  };
  for (int64_t i = 0; i < inputs.count; ++i, to += phase_pitch) {
    const T* from[R::kTaps * S::kTaps];
    for (int t = 0; t < R::kTaps * S::kTaps; ++t) {
      const int64_t r = t / S::kTaps, s = t % S::kTaps;
      if (several) {
        from[(rows.offset[r] - rows.lowest()) * S::kTaps + columns.offset[s] - columns.lowest()] = of_tap(r, s);
      } else {
        const int tap = inputs.phase[i].tap[r][s];
        from[t] = tap < 0 ? kZeros<T> : of_tap(tap / columns.taps, tap % columns.taps);
      }
    }
    for (int64_t o = 0; o < wide; o += L) {
      typename Vec<T>::type filter[R::kTaps][S::kTaps], u[R::kPoints][S::kPoints];
#pragma GCC unroll 9
      for (int t = 0; t < R::kTaps * S::kTaps; ++t) filter[t / S::kTaps][t % S::kTaps] = load(from[t] + o);
      spread<PatchAxisForm<R, false>, PatchAxisForm<S, false>>(filter, u);
#pragma GCC unroll 49
      for (int p = 0; p < R::kPoints * S::kPoints; ++p) store(to + p * pitch + o, u[p / S::kPoints][p % S::kPoints]);
    }
  }
}

// The weights of `count` phases of the results, channels [c0, c1) and `wide` outputs from `first` on, transformed:
// [phase of the results][point][phase of the input][channel][wide], `pitch` elements from point to point. Returns the
// exponent of the largest.
template <class R, class S, class T, class In>
int transform_weights(const Convolution<T, In>* phases, int64_t count, const InputPhases<R, S>& inputs, int64_t g,
                      int64_t first, int64_t wide, int64_t c0, int64_t c1, T* to, int64_t pitch) {
  constexpr int64_t L = Vec<T>::lanes, kPoints = R::kPoints * S::kPoints;
  const Convolution<T, In>& cv = phases[0];
  // Of several phases, each has every stride-th tap of a filter, so whole filters are turned over for all.
  const bool together = count > 1 && cv.filters_are_lines();
  const int64_t taps = together ? cv.filter_size : cv.taps(), outs = smaller(wide, cv.outputs - first);
  // Some channels at a time: squares of outputs and taps are turned over, and filled where channels are neighbours.
  const int64_t some = larger(1, smaller(L, 9 * L / taps));
  Scratch<T> plain(some * taps * wide);
  Greatest<T> greatest;
  for (int64_t c = c0; c < c1; c += some)
    for (int64_t j = 0; j < count; ++j) {
      const int64_t channels = smaller(some, c1 - c);
      if (!together) turn_weights(plain.data(), phases[j], g, first, wide, c * taps, (c + channels) * taps);
      for (int64_t i = 0; i < channels && together && j == 0; ++i)
        transpose<T, In>(cv.weight + g * cv.weight_group + first * cv.weight_output + (c + i) * cv.weight_input,
                         cv.weight_output, outs, taps, plain.data() + i * taps * wide, wide, wide);
      if (!together || j == 0) greatest.add(plain.data(), channels * taps * wide);
      for (int64_t i = 0; i < channels; ++i)
        transform_filters(phases[j], inputs, count > 1, together, plain.data() + i * taps * wide, wide,
                          to + j * kPoints * pitch + (c - c0 + i) * wide, (c1 - c0) * wide, pitch);
    }
  return greatest.exponent();
}

// Where results of patches lie along an axis: result q of all patches' in turn at begin + q * step, if that is inside
// [first, end). The phases of a stride have their results between one another, `together` of them.
struct PatchAxis {
  int64_t begin, step, together, first, end, patches;
  bool ends_short;  // with a short patch

  // Of `count` plans, one of which begins first.
  template <class F, class Plans>
  PatchAxis(F, int64_t count, int64_t lowest, Plans&& plans) {
    const AxisPlan& any = plans(0);
    together = count > 1 ? any.out_step : 1, step = any.out_step / together;
    begin = first = any.first_out, end = 0;
    int64_t results = 0;
    for (int64_t j = 0; j < count; ++j) {
      const AxisPlan& a = plans(j);
      begin = smaller(begin, a.first_out - a.out_step * shift(a, lowest));
      first = smaller(first, a.first_out), end = larger(end, a.first_out + (a.count - 1) * a.out_step + 1);
      results = larger(results, a.count + shift(a, lowest));
    }
    patches = ceil_div(results, F::kResults), ends_short = is_short<F>(results);
  }
  // How many results of a plan would come before its first one in the patches that begin first.
  static int64_t shift(const AxisPlan& a, int64_t lowest) { return a.lowest() - lowest; }
  // Of a plan's first result among those of all.
  int64_t place(const AxisPlan& a, int64_t lowest) const {
    return together == 1 ? 0 : a.first_out - a.out_step * shift(a, lowest) - begin;
  }
  // Those of results q0, q0 + 1, ... that are inside.
  int64_t first_inside(int64_t q0) const { return larger(0, ceil_div(first - begin, step) - q0); }
  int64_t last_inside(int64_t q0, int64_t count) const { return smaller(count, ceil_div(end - begin, step) - q0); }
};

// How the patches of a convolution are cut into blocks, and its outputs into vectors. Phases of a stride are
// convolutions of the same patches.
template <class R, class S, class T, class In>
class PatchBlocks {
 public:
  static constexpr int kRows = R::kResults, kColumns = S::kResults;  // of a patch's results
  static constexpr int kPoints = R::kPoints * S::kPoints;
  static constexpr int64_t L = Vec<T>::lanes;
  const Convolution<T, In>* const phases;
  const int64_t count;
  const Convolution<T, In>& cv;  // the phase whose patches begin first
  const PatchAxis down, across;
  const int64_t width, kbs;  // of a block of outputs, and how many
  const InputPhases<R, S> inputs;
  const int64_t columns, rows;  // of a block of patches
  const int64_t images;         // of a block: several if their planes have few patches

  PatchBlocks(const Convolution<T, In>* phases, int64_t count)
      : phases(phases),
        count(count),
        cv(first_of(phases, count)),
        down(R(), count, cv.rows.lowest(), [&](int64_t j) -> const AxisPlan& { return phases[j].rows; }),
        across(S(), count, cv.columns.lowest(), [&](int64_t j) -> const AxisPlan& { return phases[j].columns; }),
        width(cv.outputs <= L ? L : 2 * L),
        kbs(ceil_div(cv.outputs, width)),
        inputs(cv.rows, cv.columns),
        columns(ceil_div(across.patches, ceil_div(across.patches, most()))),
        rows(ceil_div(down.patches,
                      ceil_div(down.patches, larger(1, smaller(down.patches, (most() + columns / 2) / columns))))),
        images(rows < down.patches || columns < across.patches ? 1
                                                               : smaller(cv.N, larger(1, most() / (rows * columns)))),
        a_k_(cv.inputs) {
    for (int64_t c = 0; c < cv.inputs; ++c) a_k_[c] = int32_t(place(c));
    patches_.N = ceil_div(cv.N, images), patches_.G = cv.G, patches_.rows.count = down.patches,
    patches_.columns.count = across.patches;
  }

  Places places(int64_t wanted) const { return {patches_, rows, columns, wanted, kbs}; }
  int64_t patches() const { return images * rows * columns; }  // of a block, at most
  int64_t images_of(const Place& at) const { return smaller(images, cv.N - at.n * images); }
  PatchOrder order_of(const Place& at) const {
    return {images_of(at), at.ni, at.nj, down.ends_short && at.i0 + at.ni == down.patches,
            across.ends_short && at.j0 + at.nj == across.patches};
  }
  int64_t width_of(int64_t kb) const { return cv.outputs - kb * width <= L ? L : width; }
  // From point to point in V of some channels, and in M.
  int64_t v_pitch(int64_t channels) const { return odd_lines<T>(place(ceil_div(channels, L) * L)); }
  int64_t m_pitch(int64_t patches) const { return odd_lines<T>(patches * width); }
  // Elements of the products of one block, and of what else its steps take.
  int64_t m_size() const { return count * kPoints * m_pitch(patches()); }
  VectorTile<T> make_tile() const {
    return {inputs.rows.lines(rows), inputs.columns.lines(columns), inputs.columns.step};
  }
  int64_t results_size() const { return (kRows * down.together * kColumns * across.together * columns + L) * width; }
  // About so many channels, in whole chains: the order of sums is the same however many are taken at a time.
  int64_t whole_chains(int64_t channels) const {
    return smaller(cv.inputs, larger(1, channels / kShortChain<T>) * kShortChain<T>);
  }

  // Few patches in all: their transformed weights would go to memory and come back only once or twice, if they were
  // all transformed first. (Measured: either way takes as long where patches are as many as outputs or a bit more; of
  // 4 x 4 inputs half as many.) V of all patches may take what transformed weights don't.
  bool suits_by_outputs() const {
    const int64_t all = cv.N * down.patches * across.patches, weights = cv.outputs * count * cv.taps();
    constexpr int64_t kMost = (8 << 20) / sizeof(T);
    return cv.G * kbs >= thread_count() && (kPoints == 49 ? 1 : 2) * all <= count * cv.outputs + 64 &&
           cv.G * cv.inputs * (inputs.count * all * kPoints - weights) <= kMost;
  }

  // V of one block and channels [c0, c1), and the exponent of each image's largest input in channels [0, c1).
  void transform(const Place& at, int64_t c0, int64_t c1, T* v, VectorTile<T>& tile, int* exponents) const {
    const PatchOrder order = order_of(at);
    tile.set(cv.rows, inputs.rows.of(at.i0, at.ni), cv.columns, inputs.columns.of(at.j0, at.nj), cv.in_strides);
    for (int64_t b = 0; b < order.images; ++b) {
      Greatest<T> greatest;
      for (int64_t c = c0; c < c1; c += L) {
        tile.fill(cv.in + cv.in_strides(at.n * images + b, at.g * cv.inputs + c, 0, 0), smaller(L, c1 - c));
        tile.each_row([&](const T* row, int64_t count) { greatest.add(row, count); });
        transform_patches(tile, inputs, order, b, v + place(c - c0), v_pitch(c1 - c0), L, patches() * L);
      }
      if (c0 == 0 || greatest.exponent() > exponents[b]) exponents[b] = greatest.exponent();
    }
  }
  // Puts a block's exponents to all others, [image][group][block of a plane].
  int64_t in_image() const { return cv.G * ceil_div(down.patches, rows) * ceil_div(across.patches, columns); }
  void keep(const Place& at, const int* exponents, int* all) const {
    const int64_t in_plane = in_image() / cv.G;
    for (int64_t b = 0; b < images_of(at); ++b)
      all[(at.n * images + b) * in_image() + at.g * in_plane + at.index % in_plane] = exponents[b];
  }

  // M of one block for `wide` outputs: the products of `channels` channels of V from the first on, whose weights are u,
  // u_phase elements from phase to phase, are its first ones or are added to it. Either V or the weights come from L3,
  // and are fetched a chain ahead.
  void multiply(const Place& at, const T* v, int64_t pitch, int64_t first, int64_t channels, const T* u,
                int64_t u_pitch, int64_t u_phase, int64_t wide, bool begins, bool v_from_afar, T* m) const {
    const PatchOrder order = order_of(at);
    for (int64_t point = 0; point < count * kPoints; ++point, m += m_pitch(order.count()), u += u_pitch) {
      const int64_t t0 = order.template begin<R, S>(point % kPoints),
                    met = order.template end<R, S>(point % kPoints) - t0;
      const T* const from = v + point % kPoints * pitch;
      bool empty = begins;
      for (int64_t c = 0; c < channels; c += kShortChain<T>) {
        const int64_t steps = smaller(kShortChain<T>, channels - c), v_size = steps * patches();
        // the planes of the next channels of this point, or those of the next point
        const T* const v_ahead = c + steps < channels ? from + a_k_[first + c + steps] : from + pitch + a_k_[first];
        for (int64_t p = 0; p < inputs.count; ++p)
          if (inputs.phase[p].meets(point % kPoints)) {
            const T* const weights = u + p * u_phase + c * wide;
            multiply_chain(met, from + (p * patches() + t0) * L, a_k_.data() + first + c, weights, steps, wide, empty,
                           m + t0 * wide, v_from_afar ? v_ahead + p * v_size : weights + steps * wide,
                           v_from_afar ? v_size : steps * wide);
            empty = false;
          }
      }
      if (empty) std::memset(m + t0 * wide, 0, met * wide * sizeof(T));
    }
  }

  // The results of one block for block kb of the outputs.
  void finish(const Place& at, int64_t kb, const T* m, const T* bias, T* results) const {
    const int64_t wide = width_of(kb), outs = smaller(wide, cv.outputs - kb * width);
    const int64_t lines = kRows * down.together, in_line = kColumns * across.together * at.nj;
    const int64_t q0 = at.j0 * kColumns * across.together, x0 = across.first_inside(q0),
                  x1 = across.last_inside(q0, in_line);
    const PatchOrder order = order_of(at);
    const int64_t pitch = m_pitch(order.count());
    for (int64_t b = 0; b < order.images; ++b)
      for (int64_t i = 0; i < at.ni; ++i) {
        for (int64_t j = 0; j < count; ++j)
          gather_line(phases[j], order, b, i, wide, m + j * kPoints * pitch, pitch, bias, results, in_line * wide);
        for (int64_t line = 0; line < lines; ++line) {
          const int64_t row = down.begin + ((at.i0 + i) * lines + line) * down.step;
          if (row < down.first || row >= down.end || x0 >= x1) continue;
          store_pixels<T, In>(results + (line * in_line + x0) * wide, x1 - x0, wide, outs,
                              cv.out + cv.out_strides(at.n * images + b, at.g * cv.outputs + kb * width, row,
                                                      across.begin + (q0 + x0) * across.step),
                              cv.out_strides.c, cv.out_strides.w * across.step);
        }
      }
  }

 private:
  // For one point and phase, all patches. `size` elements from `ahead` on come next.
  static void multiply_chain(int64_t patches, const T* v, const int32_t* a_k, const T* u, int64_t steps, int64_t wide,
                             bool begins, T* m, const T* ahead, int64_t size) {
    const int64_t pieces = ceil_div(patches, CONVX_MAX_M);
    const T* const last = ahead + size;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t t0 = patches * piece / pieces, count = patches * (piece + 1) / pieces - t0;
      const OuterProduct<T> kernel =
          wide == L ? outer_product_of_planes<T, 1>(int(count)) : outer_product_of_planes<T, 2>(int(count));
      kernel(v + t0 * L, L, a_k, u, wide, steps, m + t0 * wide, wide, begins ? kZeros<T> : nullptr,
             ahead < last ? ahead : u);
      ahead += steps * kPerLine<T>;
    }
  }

  // Of a channel in V, [vector of channels][phase][patch][lanes].
  int64_t place(int64_t c) const { return c / L * inputs.count * patches() * L + c % L; }

  static const Convolution<T, In>& first_of(const Convolution<T, In>* phases, int64_t count) {
    const Convolution<T, In>* first = phases;
    for (int64_t j = 1; j < count; ++j)
      if (phases[j].rows.lowest() <= first->rows.lowest() && phases[j].columns.lowest() <= first->columns.lowest())
        first = phases + j;
    return *first;
  }
  int64_t most() const {
    // of V; weights that meet fewer patches are read too often
    constexpr int64_t kBytes = (kPoints == 49 ? 640 : 320) << 10, kFewest = 40;
    return larger(kFewest, kBytes / larger(1, kPoints * cv.inputs * inputs.count * int64_t(sizeof(T))));
  }

  // One phase's results of a row of patches of an image, at their places between those of the others.
  void gather_line(const Convolution<T, In>& phase, const PatchOrder& order, int64_t image, int64_t row, int64_t wide,
                   const T* m, int64_t pitch, const T* bias, T* results, int64_t line) const {
    T* const begin = results + down.place(phase.rows, cv.rows.lowest()) * line +
                     across.place(phase.columns, cv.columns.lowest()) * wide;
    const int64_t step = across.together * wide, next = down.together * line;
    each_run<R, S>(order, image, row, [&](auto rows, auto columns, int64_t first, int64_t j, int64_t patches) {
      using Rows = decltype(rows);
      using Columns = decltype(columns);
      constexpr T kScale = T(1) / (R::kFactor * S::kFactor);
      const T* from = m + first * wide;
      T* to = begin + j * kColumns * step;
      for (int64_t t = 0; t < patches; ++t, from += wide, to += kColumns * step)
        for (int64_t o = 0; o < wide; o += L) {
          typename Vec<T>::type sums[Rows::kPoints][Columns::kPoints], y[Rows::kResults][Columns::kResults];
#pragma GCC unroll 8
          for (int p = 0; p < Rows::kPoints; ++p)
#pragma GCC unroll 8
            for (int q = 0; q < Columns::kPoints; ++q) sums[p][q] = load(from + (p * S::kPoints + q) * pitch + o);
          gather<Rows, Columns>(sums, y);
#pragma GCC unroll 4
          for (int r = 0; r < Rows::kResults; ++r)
#pragma GCC unroll 4
            for (int s = 0; s < Columns::kResults; ++s)
              store(to + r * next + s * step + o, y[r][s] * kScale + load(bias + o));
        }
    });
  }

  Scratch<int32_t> a_k_;        // where each plane of V is
  Convolution<T, In> patches_;  // for their places
};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
