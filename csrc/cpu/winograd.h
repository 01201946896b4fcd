// forward and grad_input of 3x3 filters at stride 1 by Winograd's F(2x2, 3x3): 16 products for four results instead of
// 36, so past the FMA roof of a convolution by its definition. The transforms and their source: winograd_transforms.h.
//
// A block of results (some rows of patches of one image) goes through three steps:
//   V[point][channel][patch]   the input's patches, transformed: vectors across patches
//   M[point][patch][output]    = sum over channels of V * U, for each of the 16 points an outer product over registers
//                              (micro_kernel.h); U[point][channel][output] are the weights, transformed
//   results                    M transformed back: vectors across outputs, then turned over and stored
// V and M stay in a thread's cache and the weights, transformed once, pass by; or, for few patches, the weights of some
// outputs are transformed in cache and all patches pass by.
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

// The weights of channels [c0, c1) for `wide` outputs from `first` on, transformed: [point][channel][wide], `pitch`
// elements from point to point. Returns the exponent of the largest.
template <class T, class In>
int transform_weights(const Convolution<T, In>& cv, int64_t g, int64_t first, int64_t wide, int64_t c0, int64_t c1,
                      T* to, int64_t pitch) {
  constexpr int64_t L = Vec<T>::lanes, kTogether = 16;  // channels
  const int64_t top = cv.rows.lowest(), left = cv.columns.lowest();
  Scratch<T> plain(kTogether * 9 * wide);
  Greatest<T> greatest;
  for (; c0 < c1; c0 += kTogether) {
    const int64_t channels = smaller(kTogether, c1 - c0);
    pack_weights(plain.data(), cv, g, first, wide, c0 * 9, (c0 + channels) * 9);
    greatest.add(plain.data(), channels * 9 * wide);
    for (const T* from = plain.data(); from < plain.data() + channels * 9 * wide; from += 9 * wide, to += wide)
      for (int64_t o = 0; o < wide; o += L) {
        typename Vec<T>::type filter[3][3], u[kPatch][kPatch];
        for (int r = 0; r < 3; ++r)
          for (int s = 0; s < 3; ++s)
            filter[cv.rows.offset[r] - top][cv.columns.offset[s] - left] = load(from + (3 * r + s) * wide + o);
        transform_filter(filter, u);
#pragma GCC unroll 16
        for (int p = 0; p < kPoints; ++p) store(to + p * pitch + o, u[p / kPatch][p % kPatch]);
      }
  }
  return greatest.exponent();
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

// How the patches of a convolution are cut into blocks, and its outputs into vectors.
template <class T, class In>
class PatchBlocks {
 public:
  static constexpr int64_t L = Vec<T>::lanes;
  const Convolution<T, In>& cv;
  const int64_t width, kbs;     // of a block of outputs, and how many
  const int64_t columns, rows;  // of a block of patches

  explicit PatchBlocks(const Convolution<T, In>& cv)
      : cv(cv),
        width(cv.outputs <= L ? L : 2 * L),
        kbs(ceil_div(cv.outputs, width)),
        columns(ceil_div(across(), ceil_div(across(), most()))),
        rows(ceil_div(down(), ceil_div(down(), larger(1, smaller(down(), most() / columns))))),
        shape_(cv.rows, cv.columns, kResults * rows, kResults * columns) {
    patches_.N = cv.N, patches_.G = cv.G, patches_.rows.count = down(), patches_.columns.count = across();
  }

  Places places(int64_t wanted) const { return {patches_, rows, columns, wanted, kbs}; }
  int64_t patches() const { return rows * columns; }
  int64_t width_of(int64_t kb) const { return cv.outputs - kb * width <= L ? L : width; }
  // Elements of one block: of the transformed input, of the products, and of what else its steps take.
  int64_t v_size() const { return kPoints * v_pitch(patches()); }
  int64_t m_size() const { return kPoints * m_pitch(patches()); }
  int64_t tile_size() const { return kTogether * shape_.plane + 2 * L + 2; }
  int64_t results_size() const { return (kResults * kResults * columns + L) * width; }

  // V of one block; returns the exponent of the largest input.
  int transform(const Place& at, T* v, T* tile) const {
    const int64_t count = at.ni * at.nj;
    Greatest<T> greatest;
    for (int64_t c = 0; c < cv.inputs; c += kTogether) {
      const int64_t channels = smaller(kTogether, cv.inputs - c);
      pack_tile<T, In>(tile, shape_, cv.rows, cv.columns, kResults * at.i0, kResults * at.ni, kResults * at.j0,
                       kResults * at.nj, cv.in + cv.in_strides(at.n, at.g * cv.inputs + c, 0, 0), cv.in_strides,
                       channels);
      add_tile(greatest, tile, shape_, channels, at.ni, at.nj);
      transform_tile(tile, shape_, channels, at.ni, at.nj, v + c * count, count, v_pitch(count));
    }
    return greatest.exponent();
  }

  // M of one block for `wide` outputs: the products of channels [c0, c1), whose weights are u, are added if c0 > 0.
  void multiply(const Place& at, const T* v, const T* u, int64_t u_pitch, int64_t wide, int64_t c0, int64_t c1,
                T* m) const {
    const int64_t count = at.ni * at.nj, pieces = ceil_div(count, CONVX_MAX_M);
    int32_t a_k[kShortChain<T>];
    for (int64_t c = 0; c < kShortChain<T>; ++c) a_k[c] = int32_t(c * count);
    for (int point = 0; point < kPoints; ++point, v += v_pitch(count), m += m_pitch(count), u += u_pitch)
      for (int64_t c = c0; c < c1; c += kShortChain<T>)
        for (int64_t piece = 0; piece < pieces; ++piece) {
          const int64_t t0 = count * piece / pieces, t1 = count * (piece + 1) / pieces;
          const OuterProduct<T> kernel =
              wide == L ? outer_product_of<T, 1>(1, int(t1 - t0)) : outer_product_of<T, 2>(1, int(t1 - t0));
          kernel(v + c * count + t0, 0, a_k, u + (c - c0) * wide, smaller(kShortChain<T>, c1 - c), m + t0 * wide, 0,
                 c ? nullptr : kZeros<T>);
        }
  }

  // The results of one block for block kb of the outputs.
  void finish(const Place& at, int64_t kb, const T* m, const T* bias, T* results) const {
    const int64_t wide = width_of(kb), count = smaller(wide, cv.outputs - kb * width), line = kResults * at.nj * wide;
    const int64_t pitch = m_pitch(at.ni * at.nj),
                  pixels = smaller(kResults * at.nj, cv.columns.count - kResults * at.j0);
    for (int64_t i = 0; i < at.ni; ++i) {
      for (int64_t j = 0; j < at.nj; ++j, m += wide)
        for (int64_t o = 0; o < wide; o += L) {
          typename Vec<T>::type sums[kPatch][kPatch], y[kResults][kResults];
#pragma GCC unroll 16
          for (int p = 0; p < kPoints; ++p) sums[p / kPatch][p % kPatch] = load(m + p * pitch + o);
          transform_output(sums, y);
#pragma GCC unroll 4
          for (int e = 0; e < kResults * kResults; ++e)
            store(results + e / kResults * line + (kResults * j + e % kResults) * wide + o,
                  y[e / kResults][e % kResults] * T(0.25) + load(bias + o));
        }
      for (int64_t a = 0, row = kResults * (at.i0 + i); a < kResults && row < cv.rows.count; ++a, ++row)
        store_results(cv, results + a * line, pixels, wide, at.n, at.g, kb * width, count, row, kResults * at.j0);
    }
  }

 private:
  static constexpr int64_t kTogether = 8;  // channels of a tile
  int64_t down() const { return patches_of(cv.rows); }
  int64_t across() const { return patches_of(cv.columns); }
  int64_t most() const {
    constexpr int64_t kBytes = 320 << 10, kFewest = 40;  // of V; weights that meet fewer patches are read too often
    return larger(kFewest, kBytes / (kPoints * cv.inputs * int64_t(sizeof(T))));
  }
  int64_t v_pitch(int64_t count) const { return odd_lines<T>(cv.inputs * count + L); }
  int64_t m_pitch(int64_t count) const { return odd_lines<T>(count * width); }

  Convolution<T, In> patches_;  // for their places
  const TileShape shape_;
};

// Block by block of the patches: their V stays in cache while the weights, transformed before, pass by.
template <class T, class In>
void convolve_by_patches(const PatchBlocks<T, In>& blocks, int* x_exponents, int* w_exponents) {
  const Convolution<T, In>& cv = blocks.cv;
  const int64_t kbs = blocks.kbs, width = blocks.width, u_pitch = odd_lines<T>(cv.inputs * width);
  Scratch<T> u(cv.G * kbs * kPoints * u_pitch), bias(cv.G * kbs * width);
  parallel_for(cv.G * kbs, grain_for(10. * cv.inputs * width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i / kbs, kb = i % kbs;
      w_exponents[i] = transform_weights(cv, g, kb * width, blocks.width_of(kb), 0, cv.inputs,
                                         u.data() + i * kPoints * u_pitch, u_pitch);
      pack_bias(bias.data() + i * width, cv, g, kb * width, width);
    }
  });
  const Places places = blocks.places(8 * thread_count());
  const double work = double(blocks.patches()) * kPoints * cv.inputs * cv.outputs / places.parts / 16;
  parallel_for_balanced(places.items(), grain_for(work), [&](int64_t begin, int64_t end) {
    Scratch<T> v(blocks.v_size()), m(blocks.m_size()), tile(blocks.tile_size()), results(blocks.results_size());
    int64_t packed = -1;
    for (int64_t item = begin; item < end; ++item) {
      const Place at = places[item];
      if (packed != at.index) {
        const int exponent = blocks.transform(at, v.data(), tile.data());
        if (at.part == 0) x_exponents[at.index] = exponent;
      }
      packed = at.index;
      for (int64_t kb = at.part * kbs / places.parts; kb < (at.part + 1) * kbs / places.parts; ++kb) {
        const int64_t i = at.g * kbs + kb;
        blocks.multiply(at, v.data(), u.data() + i * kPoints * u_pitch, u_pitch, blocks.width_of(kb), 0, cv.inputs,
                        m.data());
        blocks.finish(at, kb, m.data(), bias.data() + i * width, results.data());
      }
    }
  });
}

// Block by block of the outputs: their weights are transformed in cache, and all patches, transformed before, pass by.
template <class T, class In>
void convolve_by_outputs(const PatchBlocks<T, In>& blocks, int* x_exponents, int* w_exponents) {
  constexpr int64_t kChannels = 128;  // whose weights are in cache at a time
  const Convolution<T, In>& cv = blocks.cv;
  const int64_t kbs = blocks.kbs, width = blocks.width, u_pitch = odd_lines<T>(smaller(kChannels, cv.inputs) * width);
  const Places places = blocks.places(1);
  Scratch<T> v(places.count * blocks.v_size());
  parallel_for(places.count, grain_for(10. * cv.inputs * blocks.patches()), [&](int64_t begin, int64_t end) {
    Scratch<T> tile(blocks.tile_size());
    for (int64_t i = begin; i < end; ++i)
      x_exponents[i] = blocks.transform(places[i], v.data() + i * blocks.v_size(), tile.data());
  });
  const int64_t in_group = places.count / cv.N / cv.G;  // blocks of one image and group
  const double work = double(cv.N) * in_group * blocks.patches() * kPoints * cv.inputs * width / 16;
  parallel_for_balanced(cv.G * kbs, grain_for(work), [&](int64_t begin, int64_t end) {
    Scratch<T> u(kPoints * u_pitch), m(cv.N * in_group * blocks.m_size()), results(blocks.results_size());
    Scratch<T> bias(width);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t g = item / kbs, kb = item % kbs, wide = blocks.width_of(kb);
      const auto each_block = [&](auto&& f) {
        for (int64_t n = 0, j = 0; n < cv.N; ++n)
          for (int64_t b = 0; b < in_group; ++b, ++j) {
            const int64_t i = (n * cv.G + g) * in_group + b;
            f(places[i], v.data() + i * blocks.v_size(), m.data() + j * blocks.m_size());
          }
      };
      w_exponents[item] = Greatest<T>().exponent();
      for (int64_t c0 = 0; c0 < cv.inputs; c0 += kChannels) {
        const int64_t c1 = smaller(cv.inputs, c0 + kChannels);
        const int exponent = transform_weights(cv, g, kb * width, wide, c0, c1, u.data(), u_pitch);
        if (exponent > w_exponents[item]) w_exponents[item] = exponent;
        each_block([&](const Place& at, const T* block, T* sums) {
          blocks.multiply(at, block, u.data(), u_pitch, wide, c0, c1, sums);
        });
      }
      pack_bias(bias.data(), cv, g, kb * width, width);
      each_block(
          [&](const Place& at, const T*, const T* sums) { blocks.finish(at, kb, sums, bias.data(), results.data()); });
    }
  });
}

// Few patches in all: by patches, the transformed weights would go to memory and come back only once or twice.
// (Measured on AVX2: either way takes as long where patches are half as many as outputs, or a bit more.)
template <class T, class In>
bool suits_by_outputs(const Convolution<T, In>& cv) {
  constexpr int64_t kBytes = 8 << 20;  // of V
  const int64_t patches = cv.N * patches_of(cv.rows) * patches_of(cv.columns);
  return 2 * patches <= cv.outputs + 64 && patches * kPoints * cv.G * cv.inputs * int64_t(sizeof(T)) <= kBytes;
}

// False, with its result unfinished, if a weight is not finite. What is not Winograd's goes to outer_product.h, image
// by image: an image's result must not depend on the others.
template <class T, class In>
bool convolve_winograd(Convolution<T, In>& cv) {
  if (!is_winograds(cv.rows) || !is_winograds(cv.columns)) return convolve_all(&cv, 1);
  if (cv.N == 0) return true;
  const PatchBlocks<T, In> blocks(cv);
  const int64_t N = cv.N, places = blocks.places(1).count, in_image = places / N;
  Buffer<int> x_exponents(places), w_exponents(cv.G * blocks.kbs);
  if (suits_by_outputs(cv))
    convolve_by_outputs(blocks, x_exponents.data(), w_exponents.data());
  else
    convolve_by_patches(blocks, x_exponents.data(), w_exponents.data());
  const int weight = greatest_of(w_exponents.data(), cv.G * blocks.kbs);
  cv.N = 1;
  for (int64_t n = 0; n < N; ++n, cv.in += cv.in_strides.n, cv.out += cv.out_strides.n)
    if (!stays_finite<T>(greatest_of(x_exponents.data() + n * in_image, in_image), weight, cv.inputs) &&
        !convolve_all(&cv, 1))
      return false;
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
