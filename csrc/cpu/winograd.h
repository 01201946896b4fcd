// forward and grad_input of 3x3 filters at stride 1 by Winograd's F(2x2, 3x3): 16 products for four results instead of
// 36, so past the FMA roof of a convolution by its definition. The transforms and their source: winograd_transforms.h.
//
// A block of results (some rows of patches of one image) goes through three steps, in one thread's cache:
//   V[point][channel][patch]   the input's patches, transformed: vectors across patches
//   M[point][patch][output]    = sum over channels of V * U, for each of the 16 points an outer product over registers
//                              (micro_kernel.h): U[block of outputs][point][channel][width] is made once per call
//   results                    M transformed back: vectors across outputs, then turned over and stored
//
// The patches are read from a tile (tile.h), which has all paddings and layouts in it; even and odd columns are dealt
// out in registers.
//
// Estimate: 2.25 times fewer multiply-adds, against 32 additions and 32 loads and stores a channel and patch for V and
// about as many an output and patch for M. With 64 channels and outputs these are about a fourth of what is left.
//
// Rounding: a result is a sum of 9 sums of C products each, of numbers that are up to 4 and 9/4 times as large. For
// random operands that is 0.6 times the error of a chain of 9 C products, however long; but a result's error is
// relative to the largest of its patch, not to the inputs that it reads alone. An infinity or a NaN would reach
// neighbours that don't read it, so the input is looked through on its way and such an image is computed by
// outer_product.h, as is one so large that a transformed number might overflow.
#pragma once
#include "outer_product.h"
#include "winograd_transforms.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

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

// Whether no intermediate result overflows: transformed, an input is at most 4 times as large, a weight 9 times, and
// a result is a sum of 9 C products.
template <class T>
bool stays_finite(int input, int weight, int64_t channels) {
  int log = 0;
  while (int64_t(1) << log < channels) ++log;
  constexpr int most = Greatest<T>::kBias;
  return input + 3 < most && weight + 5 < most && input + weight + 2 + log + 9 < most;
}

// How many patches of results cover an axis.
inline int64_t patches_of(const AxisPlan& a) { return ceil_div(a.count, kResults); }

inline bool is_winograds(const AxisPlan& a) {
  return a.taps == 3 && a.stride == 1 && a.out_step == 1 && a.highest() - a.lowest() == 2;
}

// Products that are summed from zero: a result adds up nine of these sums.
template <class T>
constexpr int64_t kShortChain = kChain<T> / 2;

// An odd number of cache lines from point to point: their 16 streams fall into different sets.
template <class T>
int64_t odd_lines(int64_t count) {
  constexpr int64_t line = 64 / sizeof(T);
  return (ceil_div(count, line) | 1) * line;
}

// U, transformed for all results: [group][block of outputs][point][channel][width].
template <class T>
class WinogradWeights {
 public:
  static constexpr int64_t L = Vec<T>::lanes;
  int64_t outputs, inputs, width, kbs;
  int exponent;

  template <class In>
  explicit WinogradWeights(const Convolution<T, In>& cv)
      : outputs(cv.outputs),
        inputs(cv.inputs),
        width(outputs <= L ? L : 2 * L),
        kbs(ceil_div(outputs, width)),
        pitch_(odd_lines<T>(inputs * width)),
        data_(cv.G * kbs * block()),
        bias_(cv.G * kbs * width) {
    constexpr int64_t kTogether = 16;  // channels
    const int64_t chunks = ceil_div(inputs, kTogether);
    Buffer<int> exponents(cv.G * kbs * chunks);
    parallel_for(cv.G * kbs * chunks, grain_for(kTogether * 10. * width), [&](int64_t begin, int64_t end) {
      Scratch<T> plain(kTogether * 9 * width);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t kb = i / chunks % kbs, g = i / chunks / kbs, c0 = i % chunks * kTogether,
                      c1 = smaller(inputs, c0 + kTogether), wide = width_of(kb);
        pack_weights(plain.data(), cv, g, kb * width, wide, c0 * 9, c1 * 9);
        Greatest<T> greatest;
        greatest.add(plain.data(), (c1 - c0) * 9 * wide);
        exponents[i] = greatest.exponent();
        for (int64_t c = c0; c < c1; ++c)
          transform(cv, plain.data() + (c - c0) * 9 * wide, wide, data_.data() + (g * kbs + kb) * block() + c * wide);
        if (c0 == 0) pack_bias(bias_.data() + (g * kbs + kb) * width, cv, g, kb * width, width);
      }
    });
    exponent = exponents[0];
    for (int64_t i = 1; i < cv.G * kbs * chunks; ++i) exponent = exponent > exponents[i] ? exponent : exponents[i];
  }

  int64_t width_of(int64_t kb) const { return outputs - kb * width <= L ? L : width; }
  const T* of(int64_t g, int64_t kb, int point) const {
    return data_.data() + (g * kbs + kb) * block() + point * pitch_;
  }
  const T* bias(int64_t g, int64_t kb) const { return bias_.data() + (g * kbs + kb) * width; }

 private:
  int64_t block() const { return kPoints * pitch_; }

  template <class In>
  void transform(const Convolution<T, In>& cv, const T* plain, int64_t wide, T* to) {
    for (int64_t o = 0; o < wide; o += L) {
      typename Vec<T>::type filter[3][3], u[kPatch][kPatch];
      for (int r = 0; r < 3; ++r)
        for (int s = 0; s < 3; ++s)
          filter[cv.rows.offset[r] - cv.rows.lowest()][cv.columns.offset[s] - cv.columns.lowest()] =
              load(plain + (3 * r + s) * wide + o);
      transform_filter(filter, u);
#pragma GCC unroll 16
      for (int p = 0; p < kPoints; ++p) store(to + p * pitch_ + o, u[p / kPatch][p % kPatch]);
    }
  }

  int64_t pitch_;  // from point to point
  Scratch<T> data_, bias_;
};

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

// The patches of some channels' tiles, transformed. Whole vectors are written: what is beyond a row of patches is the
// next row's or the next channel's, and is written again.
template <class T>
void transform_tile(const T* tile, const TileShape& shape, int64_t channels, int64_t rows, int64_t columns, T* to,
                    int64_t channel_pitch, int64_t point_pitch) {
  constexpr int64_t L = Vec<T>::lanes;
  using V = typename Vec<T>::type;
  for (int64_t ch = 0; ch < channels; ++ch)
    for (int64_t row = 0; row < rows; ++row) {
      const T* const from = tile + ch * shape.plane + kResults * row * shape.pitch;
      for (int64_t x = 0; x < columns; x += L) {
        V columns_of[4][kPatch], v[kPatch][kPatch];  // two vectors from 2x on, and two from 2x + 2 on
        constexpr int64_t at[4] = {0, L, 2, L + 2};
#pragma GCC unroll 4
        for (int e = 0; e < 4; ++e) {
          V d[kPatch];
#pragma GCC unroll 4
          for (int i = 0; i < kPatch; ++i) d[i] = load(from + i * shape.pitch + kResults * x + at[e]);
          transform_line(d, columns_of[e]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < kPatch; ++i) {
          V d[kPatch];
          deal_out<T>(columns_of[0][i], columns_of[1][i], d[0], d[1]);
          deal_out<T>(columns_of[2][i], columns_of[3][i], d[2], d[3]);
          transform_line(d, v[i]);
        }
        T* const out = to + ch * channel_pitch + row * columns + x;
#pragma GCC unroll 16
        for (int p = 0; p < kPoints; ++p) store(out + p * point_pitch, v[p / kPatch][p % kPatch]);
      }
    }
}

// The numbers in the tiles of a block of patches.
template <class T>
void add_tile(Greatest<T>& greatest, const T* tile, const TileShape& shape, int64_t channels, int64_t rows,
              int64_t columns) {
  const int64_t height = kResults * rows + 2, width = kResults * columns + 2;
  for (int64_t c = 0; c < channels; ++c, tile += shape.plane) {
    if (width == shape.pitch)
      greatest.add(tile, height * width);
    else
      for (int64_t row = 0; row < height; ++row) greatest.add(tile + row * shape.pitch, width);
  }
}

// A block of patches, and what it takes.
struct PatchBlocks {
  int64_t rows, columns;

  template <class T>
  static PatchBlocks choose(int64_t down, int64_t across, int64_t channels) {
    constexpr int64_t kBytes = 320 << 10, kFewest = 40;  // of V; weights that meet fewer patches are read too often
    const int64_t most = larger(kFewest, kBytes / (kPoints * channels * int64_t(sizeof(T))));
    PatchBlocks b;
    b.columns = ceil_div(across, ceil_div(across, most));
    b.rows = larger(1, smaller(down, most / b.columns));
    b.rows = ceil_div(down, ceil_div(down, b.rows));
    return b;
  }
};

// The results of one block of patches for one block of outputs.
template <class T, class In>
void winograd_block(const Convolution<T, In>& cv, const WinogradWeights<T>& weights, const Place& at, int64_t kb,
                    const T* v, int64_t v_pitch, const int32_t* a_k, T* m, T* results) {
  constexpr int64_t L = Vec<T>::lanes;
  using V = typename Vec<T>::type;
  const int64_t width = weights.width_of(kb), patches = at.ni * at.nj, pieces = ceil_div(patches, CONVX_MAX_M),
                m_pitch = odd_lines<T>(patches * width);
  for (int point = 0; point < kPoints; ++point) {
    const T* const u = weights.of(at.g, kb, point);
    for (int64_t c0 = 0; c0 < cv.inputs; c0 += kShortChain<T>)
      for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t t0 = patches * piece / pieces, t1 = patches * (piece + 1) / pieces;
        const OuterProduct<T> kernel =
            width == L ? outer_product_of<T, 1>(1, int(t1 - t0)) : outer_product_of<T, 2>(1, int(t1 - t0));
        kernel(v + point * v_pitch + t0, 0, a_k + c0, u + c0 * width, smaller(kShortChain<T>, cv.inputs - c0),
               m + point * m_pitch + t0 * width, 0, c0 ? nullptr : kZeros<T>);
      }
  }
  const int64_t first = kb * weights.width, count = smaller(width, cv.outputs - first);
  const int64_t pixels = smaller(kResults * at.nj, cv.columns.count - kResults * at.j0);
  const T* const bias = weights.bias(at.g, kb);
  for (int64_t i = 0; i < at.ni; ++i) {
    for (int64_t j = 0; j < at.nj; ++j)
      for (int64_t o = 0; o < width; o += L) {
        const T* const from = m + (i * at.nj + j) * width + o;
        V sums[kPatch][kPatch], y[kResults][kResults];
#pragma GCC unroll 16
        for (int p = 0; p < kPoints; ++p) sums[p / kPatch][p % kPatch] = load(from + p * m_pitch);
        transform_output(sums, y);
#pragma GCC unroll 2
        for (int a = 0; a < kResults; ++a)
#pragma GCC unroll 2
          for (int b = 0; b < kResults; ++b)
            store(results + ((a * at.nj + j) * kResults + b) * width + o, y[a][b] * T(0.25) + load(bias + o));
      }
    for (int64_t a = 0, row = kResults * (at.i0 + i); a < kResults && row < cv.rows.count; ++a, ++row)
      store_results(cv, results + a * at.nj * kResults * width, pixels, width, at.n, at.g, first, count, row,
                    kResults * at.j0);
  }
}

// Of one image, or all but those that were found to be for outer_product.h.
template <class T, class In>
void convolve_patches(const Convolution<T, In>& cv, const WinogradWeights<T>& weights, std::atomic<bool>* too_large) {
  constexpr int64_t L = Vec<T>::lanes, kTogether = 8;  // channels
  Convolution<T, In> patches;                          // for their places
  patches.N = cv.N, patches.G = cv.G;
  patches.rows.count = patches_of(cv.rows), patches.columns.count = patches_of(cv.columns);
  const PatchBlocks b = PatchBlocks::choose<T>(patches.rows.count, patches.columns.count, cv.inputs);
  const TileShape shape(cv.rows, cv.columns, kResults * b.rows, kResults * b.columns);
  const int64_t most = b.rows * b.columns, width = weights.width;
  const Places places(patches, b.rows, b.columns, 8 * thread_count(), weights.kbs);
  const double work = double(most) * kPoints * cv.inputs * cv.outputs / places.parts / 16;
  parallel_for_balanced(places.items(), grain_for(work), [&](int64_t begin, int64_t end) {
    Scratch<T> tile(kTogether * shape.plane + 2 * L + 2);
    Scratch<T> v(kPoints * odd_lines<T>(cv.inputs * most + L));
    Scratch<T> m(kPoints * odd_lines<T>(most * width));
    Scratch<T> results((kResults * kResults * b.columns + L) * width);
    Scratch<int32_t> a_k(cv.inputs);
    int64_t packed = -1;
    for (int64_t item = begin; item < end; ++item) {
      const Place at = places[item];
      const int64_t count = at.ni * at.nj, v_pitch = odd_lines<T>(cv.inputs * count + L);
      if (packed != at.index) {
        Greatest<T> greatest;
        for (int64_t c = 0; c < cv.inputs; ++c) a_k[c] = int32_t(c * count);
        for (int64_t c = 0; c < cv.inputs; c += kTogether) {
          const int64_t channels = smaller(kTogether, cv.inputs - c);
          pack_tile<T, In>(tile.data(), shape, cv.rows, cv.columns, kResults * at.i0, kResults * at.ni,
                           kResults * at.j0, kResults * at.nj, cv.in + cv.in_strides(at.n, at.g * cv.inputs + c, 0, 0),
                           cv.in_strides, channels);
          add_tile(greatest, tile.data(), shape, channels, at.ni, at.nj);
          transform_tile(tile.data(), shape, channels, at.ni, at.nj, v.data() + c * count, count, v_pitch);
        }
        if (!stays_finite<T>(greatest.exponent(), weights.exponent, cv.inputs)) too_large[at.n] = true;
      }
      packed = at.index;
      for (int64_t kb = at.part * weights.kbs / places.parts; kb < (at.part + 1) * weights.kbs / places.parts; ++kb)
        winograd_block(cv, weights, at, kb, v.data(), v_pitch, a_k.data(), m.data(), results.data());
    }
  });
}

// False, with its result unfinished, if a weight is not finite. What is not Winograd's goes to outer_product.h.
template <class T, class In>
bool convolve_winograd(Convolution<T, In>& cv) {
  if (!is_winograds(cv.rows) || !is_winograds(cv.columns)) return convolve_all(&cv, 1);
  Objects<std::atomic<bool>> too_large(cv.N);
  for (int64_t n = 0; n < cv.N; ++n) too_large[n] = false;
  {
    const WinogradWeights<T> weights(cv);
    if (!stays_finite<T>(0, weights.exponent, cv.inputs)) return convolve_all(&cv, 1);
    convolve_patches(cv, weights, too_large.data());
  }
  const int64_t N = cv.N;
  cv.N = 1;
  for (int64_t n = 0; n < N; ++n, cv.in += cv.in_strides.n, cv.out += cv.out_strides.n)
    if (too_large[n] && !convolve_all(&cv, 1)) return false;
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
