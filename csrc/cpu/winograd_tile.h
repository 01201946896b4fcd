// What winograd.h and winograd_weight.h share: which taps of an axis go into which patches, and what must not go
// through patches at all. The patches themselves: winograd_patches.h.
#pragma once
#include "convolution.h"
#include "vector_tile.h"
#include "winograd_transforms.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Whether the last patch of so many results is short.
template <class F>
constexpr bool is_short(int64_t results) {
  return F::kShort > 0 && (results - 1) % F::kResults < F::kShort;
}

// How an axis' taps are dealt out to patches. The lines of the input are taken by their remainder modulo the stride:
// taps that read the same ones are neighbours there, and each run of at most F::kTaps of them is a phase, which has
// patches of its own. A shorter run is filled up with zeros, and then has no product at infinity: the transforms of
// (a0, 0) and of (b0, b1, 0) are zero there. So a 5x5 filter takes 49 products for four results instead of 100, and a
// 3x3 filter at stride 2 49 for nine instead of 81.
template <class F>
struct PatchPhases {
  struct Phase {
    int64_t line;  // of the tile, that the first tap of the first result reads
    int count, tap[F::kTaps];
    bool whole() const { return count == F::kTaps; }
  };
  const AxisPlan& axis;
  const int64_t step, spacing;  // of the tile's lines in the input, and of a patch's in the tile
  int64_t count = 0;
  Objects<Phase> phase;  // whole ones first

  explicit PatchPhases(const AxisPlan& a)
      : axis(a), step(reads_every_line(a) ? 1 : a.stride), spacing(a.stride / step), phase(larger(1, a.taps)) {
    for (const bool whole : {true, false})
      each_run(a, step, [&](int64_t remainder, int64_t first, int64_t length) {
        if ((length == F::kTaps) == whole) add(remainder + first * spacing, int(length));
      });
  }

  // Of the tile, for so many patches.
  int64_t lines(int64_t patches) const {
    int64_t last = 0;
    for (int64_t p = 0; p < count; ++p) last = larger(last, phase[p].line);
    return last + ((patches - 1) * F::kResults + F::kInputs - 1) * spacing + 1;
  }
  Lines of(int64_t first, int64_t patches) const {
    return {first * F::kResults * axis.stride + axis.lowest(), lines(patches), step};
  }
  // Products along the axis, for all results.
  static int64_t products(const AxisPlan& a) {
    int64_t sum = 0;
    each_run(a, reads_every_line(a) ? 1 : a.stride, [&](int64_t, int64_t, int64_t length) {
      const int64_t last = is_short<F>(a.count), skipped = length < F::kTaps;
      sum += (ceil_div(a.count, F::kResults) - last) * (F::kPoints - skipped) + last * (F::kRealPoints - skipped);
    });
    return sum;
  }

 private:
  static bool reads_every_line(const AxisPlan& a) {
    for (int t = 0; t < a.taps; ++t)
      if ((a.offset[t] - a.lowest()) % a.stride != 0) return true;
    return false;
  }
  // The runs of taps, as equal as can be: of each remainder, from which neighbour on and how many.
  template <class Run>
  static void each_run(const AxisPlan& a, int64_t step, Run&& f) {
    const int64_t spacing = a.stride / step;
    for (int64_t remainder = 0; remainder < spacing; ++remainder) {
      int64_t first = INT64_MAX, last = -1;
      for (int t = 0; t < a.taps; ++t) {
        const int64_t line = (a.offset[t] - a.lowest()) / step;
        if (line % spacing == remainder) first = smaller(first, line / spacing), last = larger(last, line / spacing);
      }
      const int64_t all = last < 0 ? 0 : last - first + 1, runs = ceil_div(all, F::kTaps);
      for (int64_t i = 0; i < runs; ++i) f(remainder, first + all * i / runs, all * (i + 1) / runs - all * i / runs);
    }
  }
  void add(int64_t line, int length) {
    Phase& p = phase[count++];
    p.line = line, p.count = length;
    for (int i = 0; i < F::kTaps; ++i) {
      p.tap[i] = -1;
      for (int t = 0; t < axis.taps; ++t)
        if (i < length && axis.offset[t] - axis.lowest() == (line + i * spacing) * step) p.tap[i] = t;
    }
  }
};

// The taps of a phase for which an axis takes fewest products; 0 for a single tap, which is not Winograd's.
inline int patch_taps(const AxisPlan& a) {
  if (a.taps < 2) return 0;
  if (a.taps <= 3 && a.highest() - a.lowest() == (a.taps - 1) * a.stride) return a.taps;
  return PatchPhases<F32>::products(a) < PatchPhases<F23>::products(a) ? 2 : 3;
}
// F(4, 3) is for these alone. Of larger filters the transformed weights, 49 for each run of 3 x 3 taps, would come from
// afar for each block of patches, and each remainder of a dilation transforms them anew: 5x5 filters and dilated ones
// took up to 1.3 times as long with it.
inline bool has_three_taps(const AxisPlan& a) {
  return a.taps == 3 && a.highest() - a.lowest() == 2 * a.stride && a.out_step == 1;
}

// A line: a filter of one row, or of one column.
inline bool is_line(const AxisPlan& r, const AxisPlan& c) {
  return smaller(r.taps, c.taps) == 1 && larger(r.taps, c.taps) >= 3;
}

// Calls f(form down, form across) for a line: along it F(4, 3), or F(3, 4) if that takes fewer products.
template <class Run>
auto with_forms_of_line(const AxisPlan& r, const AxisPlan& c, Run&& f) {
  const AxisPlan& a = r.taps == 1 ? c : r;
  if (PatchPhases<F34>::products(a) < PatchPhases<F43>::products(a))
    return r.taps == 1 ? f(F11(), F34()) : f(F34(), F11());
  return r.taps == 1 ? f(F11(), F43()) : f(F43(), F11());
}

// The phases of both axes.
template <class R, class S>
struct InputPhases {
  struct Phase {
    int64_t row, column;  // of the tile
    bool whole_rows, whole_columns;
    int tap[R::kTaps][S::kTaps];  // -1: none
    // Whether there are products at a point.
    bool meets(int64_t point) const {
      return (whole_rows || point / S::kPoints != R::kInfinity) &&
             (whole_columns || point % S::kPoints != S::kInfinity);
    }
  };
  PatchPhases<R> rows;
  PatchPhases<S> columns;
  int64_t count;
  Objects<Phase> phase;

  InputPhases(const AxisPlan& r, const AxisPlan& c)
      : rows(r), columns(c), count(rows.count * columns.count), phase(larger(1, count)) {
    for (int64_t p = 0; p < count; ++p) {
      const auto &down = rows.phase[p / columns.count], &across = columns.phase[p % columns.count];
      phase[p].row = down.line, phase[p].column = across.line;
      phase[p].whole_rows = down.whole(), phase[p].whole_columns = across.whole();
      for (int t = 0; t < R::kTaps * S::kTaps; ++t) {
        const int i = down.tap[t / S::kTaps], j = across.tap[t % S::kTaps];
        phase[p].tap[t / S::kTaps][t % S::kTaps] = i < 0 || j < 0 ? -1 : i * c.taps + j;
      }
    }
  }
};

// The largest magnitude of some numbers, above any other if one is not finite: floats are ordered as their bits are.
template <class T>
class Greatest {
 public:
  using Integer = typename Interleave<T>::Integer;
  using V = typename Vec<T>::type;
  void add(const T* p, int64_t count) {
    constexpr int L = Vec<T>::lanes;
    Index a{}, b{};  // two chains
    int64_t i = 0;
    for (; i + 2 * L <= count; i += 2 * L) {
      a = larger_of(a, Index(load(p + i)) & kMagnitude);
      b = larger_of(b, Index(load(p + i + L)) & kMagnitude);
    }
    for (; i < count; i += L) a = larger_of(a, Index(load_some<T>(p + i, count - i)) & kMagnitude);
    most_ = larger_of(most_, larger_of(a, b));
  }
  int exponent() const {
    Integer most = 0;
    for (int l = 0; l < Vec<T>::lanes; ++l) most = most_[l] > most ? most_[l] : most;
    return int(most >> kMantissa) - kBias;
  }
  static constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52, kBias = sizeof(T) == 4 ? 127 : 1023;

 private:
  using Index = typename Interleave<T>::Index;
  static Index larger_of(Index a, Index b) { return a > b ? a : b; }
  static constexpr Integer kMagnitude = ~(Integer(1) << (8 * sizeof(T) - 1));
  Index most_{};
};

inline int greatest_of(const int* p, int64_t count) {
  int most = p[0];
  for (int64_t i = 1; i < count; ++i) most = p[i] > most ? p[i] : most;
  return most;
}

// Whether no intermediate result overflows, by the exponents of the largest operands.
template <class R, class S, class T>
bool stays_finite(int input, int weight, int64_t channels) {
  int log = 0;
  while (int64_t(1) << log < channels) ++log;
  constexpr int most = Greatest<T>::kBias - 1;  // a bit to spare
  return input + R::kInputBits + S::kInputBits < most && weight + R::kWeightBits + S::kWeightBits < most &&
         input + weight + log + R::kSumBits + S::kSumBits < most;
}

// Products that are summed from zero: a result adds up nine of these sums, or more.
template <class T>
constexpr int64_t kShortChain = sizeof(T) == 4 ? 32 : 16;

// An odd number of cache lines from point to point: their 16 or 49 streams fall into different sets.
template <class T>
int64_t odd_lines(int64_t count) {
  constexpr int64_t line = 64 / sizeof(T);
  return (ceil_div(count, line) | 1) * line;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
