// What winograd.h and winograd_weight.h share: which axes are theirs, and patches of the input, transformed. Vectors go
// across channels, so neither the width of a plane nor strides leave lanes empty; all paddings and layouts end in the
// tile that patches are read from (vector_tile.h).
#pragma once
#include "convolution.h"
#include "vector_tile.h"
#include "winograd_transforms.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Whether the taps that a plan has are as far apart as its results: they are neighbours in a tile (tile.h).
inline bool taps_are_neighbours(const AxisPlan& a) {
  return (a.taps == 2 || a.taps == 3) && a.highest() - a.lowest() == (a.taps - 1) * a.stride;
}

// The taps of one phase of an axis, if they are Winograd's two or three; else 0. The input of a stride is dealt out
// into phases, and each has taps of its own, neighbours there.
inline int patch_taps(const AxisPlan& a) {
  if (taps_are_neighbours(a)) return a.taps;
  const int64_t taps = a.taps / a.stride;
  return a.taps % a.stride == 0 && a.highest() - a.lowest() == a.taps - 1 && (taps == 2 || taps == 3) ? int(taps) : 0;
}
inline int64_t input_phases(const AxisPlan& a) { return taps_are_neighbours(a) ? 1 : a.stride; }

// The lines of an axis of the input that patches of results for so many taps read. Each phase of the axis has every
// `phases`-th of them.
template <int TAPS>
struct PatchLines {
  const AxisPlan& axis;
  int64_t phases, step;

  explicit PatchLines(const AxisPlan& a) : axis(a), phases(input_phases(a)), step(phases == 1 ? a.stride : 1) {}
  int64_t count(int64_t patches) const { return phases * (patches * results_of(TAPS) + TAPS - 1); }
  Lines of(int64_t first, int64_t patches) const {
    return {first * results_of(TAPS) * axis.stride + axis.lowest(), count(patches), step};
  }
};

// The phases of both axes, and the taps that read each, row by row.
template <int R, int S>
struct InputPhases {
  struct Phase {
    int tap[R][S];
  };
  PatchLines<R> rows;
  PatchLines<S> columns;
  int64_t count;
  Objects<Phase> phase;

  InputPhases(const AxisPlan& r, const AxisPlan& c)
      : rows(r), columns(c), count(rows.phases * columns.phases), phase(count) {
    for (int t = 0; t < r.taps; ++t)
      for (int u = 0; u < c.taps; ++u) {
        const int64_t i = (r.offset[t] - r.lowest()) * rows.phases / r.stride,
                      j = (c.offset[u] - c.lowest()) * columns.phases / c.stride;
        phase[i % rows.phases * columns.phases + j % columns.phases].tap[i / rows.phases][j / columns.phases] =
            t * c.taps + u;
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

// Whether no intermediate result overflows: transformed, an input is at most 4 times as large, a weight 9 times, and
// a result is a sum of 9 C products.
template <class T>
bool stays_finite(int input, int weight, int64_t channels) {
  int log = 0;
  while (int64_t(1) << log < channels) ++log;
  constexpr int most = Greatest<T>::kBias;
  return input + 3 < most && weight + 5 < most && input + weight + 2 + log + 9 < most;
}

// Products that are summed from zero: a result adds up nine of these sums, or more.
template <class T>
constexpr int64_t kShortChain = sizeof(T) == 4 ? 32 : 16;

// An odd number of cache lines from point to point: their 16 streams fall into different sets.
template <class T>
int64_t odd_lines(int64_t count) {
  constexpr int64_t line = 64 / sizeof(T);
  return (ceil_div(count, line) | 1) * line;
}

// The patches of a block, rows x columns of them, for the channels in the tile: phase p of patch t at
// to + p * phase_pitch + t * patch_pitch, a vector for each point.
template <class T, int R, int S>
void transform_patches(const VectorTile<T>& tile, const InputPhases<R, S>& phases, int64_t rows, int64_t columns, T* to,
                       int64_t point_pitch, int64_t patch_pitch, int64_t phase_pitch) {
  constexpr int64_t L = Vec<T>::lanes;
  using V = typename Vec<T>::type;
  const int64_t down = phases.rows.phases, across = phases.columns.phases, pitch = down * tile.pitch(),
                step = across * L;
  for (int64_t p = 0; p < phases.count; ++p, to += phase_pitch) {
    T* out = to;
    for (int64_t i = 0; i < rows; ++i) {
      const T* from = tile.data() + p / across * tile.pitch() + results_of(R) * i * pitch + p % across * L;
      for (int64_t j = 0; j < columns; ++j, from += results_of(S) * step, out += patch_pitch) {
        V d[kPatch][kPatch], v[kPatch][kPatch];
#pragma GCC unroll 16
        for (int e = 0; e < kPoints; ++e)
          d[e / kPatch][e % kPatch] = load(from + e / kPatch * pitch + e % kPatch * step);
        spread<V, kPatch, kPatch>(d, v);
#pragma GCC unroll 16
        for (int e = 0; e < kPoints; ++e) store(out + e * point_pitch, v[e / kPatch][e % kPatch]);
      }
    }
  }
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
