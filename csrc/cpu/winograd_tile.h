// What winograd.h and winograd_weight.h share: which axes are theirs, and a tile of the input (tile.h) as transformed
// patches. All paddings and layouts end in the tile, which is a plain copy; patches lie two or three columns apart, and
// are dealt out in registers.
#pragma once
#include "convolution.h"
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

// The phases of both axes: where each begins in the tile, and the taps that read it, row by row.
template <int R, int S>
struct InputPhases {
  struct Phase {
    int64_t offset;
    int tap[R][S];
  };
  int64_t count;
  Objects<Phase> phase;

  InputPhases(const AxisPlan& rows, const AxisPlan& columns, const TileShape& shape)
      : count(input_phases(rows) * input_phases(columns)), phase(count) {
    const int64_t down = input_phases(rows), across = input_phases(columns);
    for (int r = 0; r < rows.taps; ++r)
      for (int s = 0; s < columns.taps; ++s) {
        const int64_t i = (rows.offset[r] - rows.lowest()) * down / rows.stride,
                      j = (columns.offset[s] - columns.lowest()) * across / columns.stride;
        Phase& one = phase[i % down * across + j % across];
        one.tap[i / down][j / across] = r * columns.taps + s;
        if (i < down && j < across) one.offset = shape.tap(rows, columns, r, s);
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

// The even and the odd elements of two vectors.
template <class T>
__attribute__((always_inline)) inline void deal_out(typename Vec<T>::type a, typename Vec<T>::type b,
                                                    typename Vec<T>::type& even, typename Vec<T>::type& odd) {
  using Index = typename Interleave<T>::Index;
#if CONVX_VECTOR_BYTES == 32
  // within halves of 16 bytes first: one instruction each
  using D = Vec<double>::type;
  const auto swap_quarters = [](D v) { return __builtin_shuffle(v, Interleave<double>::Index{0, 2, 1, 3}); };
  if constexpr (sizeof(T) == 4) {
    even = typename Vec<T>::type(swap_quarters(D(shuffle<T>(a, b, Index{0, 2, 8, 10, 4, 6, 12, 14}))));
    odd = typename Vec<T>::type(swap_quarters(D(shuffle<T>(a, b, Index{1, 3, 9, 11, 5, 7, 13, 15}))));
  } else {
    even = swap_quarters(shuffle<T>(a, b, Index{0, 4, 2, 6})), odd = swap_quarters(shuffle<T>(a, b, Index{1, 5, 3, 7}));
  }
#else
  const Index evens = Interleave<T>::index(Evens<T>::table.even);
  even = shuffle<T>(a, b, evens), odd = shuffle<T>(a, b, evens + 1);
#endif
}

// Every third element of three vectors, from the first, second and third one on. L is no multiple of three: so from
// lane i, exactly one of the vectors has an element to give to each, and the others' places are for them.
template <class T>
struct Thirds {
  static constexpr int L = Vec<T>::lanes;
  using Integer = typename Interleave<T>::Integer;
  alignas(64) Integer from_first[3][L], from_second[3][L], place[3][L];
  constexpr Thirds() : from_first(), from_second(), place() {
    for (int e = 0; e < 3; ++e)
      for (int i = 0; i < L; ++i) {
        from_first[e][i] = i % 3 == e ? -1 : 0;
        from_second[e][i] = (L + i) % 3 == e ? -1 : 0;
        place[e][i] = (3 * i + e) % L;
      }
  }
  static const Thirds table;
};
template <class T>
constexpr Thirds<T> Thirds<T>::table{};

template <class T>
__attribute__((always_inline)) inline void deal_out(typename Vec<T>::type a, typename Vec<T>::type b,
                                                    typename Vec<T>::type c, typename Vec<T>::type* thirds, int count) {
  using Table = Thirds<T>;
#pragma GCC unroll 3
  for (int e = 0; e < count; ++e) {
    const auto first = Interleave<T>::index(Table::table.from_first[e]);
    const auto second = Interleave<T>::index(Table::table.from_second[e]);
    const typename Vec<T>::type mixed = first ? a : second ? b : c;
    thirds[e] = shuffle<T>(mixed, mixed, Interleave<T>::index(Table::table.place[e]));
  }
}

// The patches of a plane of the tile, RR rows and RS columns apart, transformed. Whole vectors are written: what is
// beyond a row of patches is the next row's or the next plane's, and is written again.
template <class T, int RR, int RS>
void transform_plane(const T* plane, int64_t pitch, int64_t rows, int64_t columns, T* to, int64_t point_pitch) {
  constexpr int64_t L = Vec<T>::lanes;
  using V = typename Vec<T>::type;
  constexpr int vectors = RS == 2 ? 4 : 6;  // of a line: the elements of L patches, and those RS further on
  for (int64_t row = 0; row < rows; ++row) {
    const T* const from = plane + RR * row * pitch;
    for (int64_t x = 0; x < columns; x += L) {
      V lines[vectors][kPatch], v[kPatch][kPatch];
#pragma GCC unroll 6
      for (int e = 0; e < vectors; ++e) {
        V d[kPatch];
#pragma GCC unroll 4
        for (int i = 0; i < kPatch; ++i) d[i] = load(from + i * pitch + RS * x + e % RS * L + e / RS * RS);
        spread(d, lines[e]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < kPatch; ++i) {
        V d[kPatch];
        if constexpr (RS == 2) {
          deal_out<T>(lines[0][i], lines[1][i], d[0], d[1]);
          deal_out<T>(lines[2][i], lines[3][i], d[2], d[3]);
        } else {
          deal_out<T>(lines[0][i], lines[1][i], lines[2][i], d, 3);
          deal_out<T>(lines[3][i], lines[4][i], lines[5][i], d + 3, 1);
        }
        spread(d, v[i]);
      }
      T* const out = to + row * columns + x;
#pragma GCC unroll 16
      for (int p = 0; p < kPoints; ++p) store(out + p * point_pitch, v[p / kPatch][p % kPatch]);
    }
  }
}
// How far beyond a tile that reads.
template <class T>
constexpr int64_t kBeyondTile = 3 * Vec<T>::lanes + 3;

// The planes of a tile's channels and phases, transformed one after another; returns the exponent of the largest
// number.
template <class T, int R, int S>
int transform_tile(const T* tile, const TileShape& shape, const InputPhases<R, S>& phases, int64_t channels,
                   int64_t rows, int64_t columns, T* to, int64_t plane_pitch, int64_t point_pitch) {
  constexpr int RR = results_of(R), RS = results_of(S);
  const int64_t height = RR * rows + R - 1, width = RS * columns + S - 1;
  Greatest<T> greatest;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t p = 0; p < phases.count; ++p, to += plane_pitch) {
      const T* const plane = tile + c * shape.plane + phases.phase[p].offset;
      if (width == shape.pitch)
        greatest.add(plane, height * width);
      else
        for (int64_t row = 0; row < height; ++row) greatest.add(plane + row * shape.pitch, width);
      transform_plane<T, RR, RS>(plane, shape.pitch, rows, columns, to, point_pitch);
    }
  return greatest.exponent();
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
