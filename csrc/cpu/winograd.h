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
#include "winograd_tile.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// The weights of channels [c0, c1) for `wide` outputs from `first` on, transformed: [point][channel][wide], `pitch`
// elements from point to point. Returns the exponent of the largest.
template <int R, int S, class T, class In>
int transform_weights(const Convolution<T, In>& cv, int64_t g, int64_t first, int64_t wide, int64_t c0, int64_t c1,
                      T* to, int64_t pitch) {
  constexpr int64_t L = Vec<T>::lanes, kTogether = 16;  // channels
  constexpr int64_t taps = R * S;
  int64_t place[taps];  // of a step's tap in the filter
  for (int64_t t = 0; t < taps; ++t)
    place[t] = (cv.rows.offset[t / S] - cv.rows.lowest()) / cv.rows.stride * S +
               (cv.columns.offset[t % S] - cv.columns.lowest()) / cv.columns.stride;
  Scratch<T> plain(kTogether * taps * wide);
  Greatest<T> greatest;
  for (; c0 < c1; c0 += kTogether) {
    const int64_t channels = smaller(kTogether, c1 - c0);
    pack_weights(plain.data(), cv, g, first, wide, c0 * taps, (c0 + channels) * taps);
    greatest.add(plain.data(), channels * taps * wide);
    for (const T* from = plain.data(); from < plain.data() + channels * taps * wide; from += taps * wide, to += wide)
      for (int64_t o = 0; o < wide; o += L) {
        typename Vec<T>::type filter[R][S], u[kPatch][kPatch];
        for (int64_t t = 0; t < taps; ++t) (&filter[0][0])[place[t]] = load(from + t * wide + o);
        spread(filter, u);
#pragma GCC unroll 16
        for (int p = 0; p < kPoints; ++p) store(to + p * pitch + o, u[p / kPatch][p % kPatch]);
      }
  }
  return greatest.exponent();
}

// How the patches of a convolution are cut into blocks, and its outputs into vectors.
template <int R, int S, class T, class In>
class PatchBlocks {
 public:
  static constexpr int kRows = results_of(R), kColumns = results_of(S);  // of a patch's results
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
        shape_(cv.rows, cv.columns, kRows * rows, kColumns * columns) {
    patches_.N = cv.N, patches_.G = cv.G, patches_.rows.count = down(), patches_.columns.count = across();
  }

  Places places(int64_t wanted) const { return {patches_, rows, columns, wanted, kbs}; }
  int64_t patches() const { return rows * columns; }
  int64_t width_of(int64_t kb) const { return cv.outputs - kb * width <= L ? L : width; }
  // Elements of one block: of the transformed input, of the products, and of what else its steps take.
  int64_t v_size() const { return kPoints * v_pitch(patches()); }
  int64_t m_size() const { return kPoints * m_pitch(patches()); }
  int64_t tile_size() const { return kTogether * shape_.plane + kBeyondTile<T>; }
  int64_t results_size() const { return (kRows * kColumns * columns + L) * width; }

  // V of one block; returns the exponent of the largest input.
  int transform(const Place& at, T* v, T* tile) const {
    const int64_t count = at.ni * at.nj;
    Greatest<T> greatest;
    for (int64_t c = 0; c < cv.inputs; c += kTogether) {
      const int64_t channels = smaller(kTogether, cv.inputs - c);
      pack_tile<T, In>(tile, shape_, cv.rows, cv.columns, kRows * at.i0, kRows * at.ni, kColumns * at.j0,
                       kColumns * at.nj, cv.in + cv.in_strides(at.n, at.g * cv.inputs + c, 0, 0), cv.in_strides,
                       channels);
      add_tile(greatest, tile, shape_, channels, kRows * at.ni + R - 1, kColumns * at.nj + S - 1);
      transform_tile<T, kRows, kColumns>(tile, shape_, channels, at.ni, at.nj, v + c * count, count, v_pitch(count));
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
    const int64_t wide = width_of(kb), count = smaller(wide, cv.outputs - kb * width), line = kColumns * at.nj * wide;
    const int64_t pitch = m_pitch(at.ni * at.nj),
                  pixels = smaller(kColumns * at.nj, cv.columns.count - kColumns * at.j0);
    for (int64_t i = 0; i < at.ni; ++i) {
      for (int64_t j = 0; j < at.nj; ++j, m += wide)
        for (int64_t o = 0; o < wide; o += L) {
          typename Vec<T>::type sums[kPatch][kPatch], y[kRows][kColumns];
#pragma GCC unroll 16
          for (int p = 0; p < kPoints; ++p) sums[p / kPatch][p % kPatch] = load(m + p * pitch + o);
          gather(sums, y);
#pragma GCC unroll 9
          for (int e = 0; e < kRows * kColumns; ++e)
            store(results + e / kColumns * line + (kColumns * j + e % kColumns) * wide + o,
                  y[e / kColumns][e % kColumns] * T(0.25) + load(bias + o));
        }
      for (int64_t a = 0, row = kRows * (at.i0 + i); a < kRows && row < cv.rows.count; ++a, ++row)
        store_results(cv, results + a * line, pixels, wide, at.n, at.g, kb * width, count, row, kColumns * at.j0);
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
template <int R, int S, class T, class In>
void convolve_by_patches(const PatchBlocks<R, S, T, In>& blocks, int* x_exponents, int* w_exponents) {
  const Convolution<T, In>& cv = blocks.cv;
  const int64_t kbs = blocks.kbs, width = blocks.width, u_pitch = odd_lines<T>(cv.inputs * width);
  Scratch<T> u(cv.G * kbs * kPoints * u_pitch), bias(cv.G * kbs * width);
  parallel_for(cv.G * kbs, grain_for(10. * cv.inputs * width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i / kbs, kb = i % kbs;
      w_exponents[i] = transform_weights<R, S>(cv, g, kb * width, blocks.width_of(kb), 0, cv.inputs,
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
template <int R, int S, class T, class In>
void convolve_by_outputs(const PatchBlocks<R, S, T, In>& blocks, int* x_exponents, int* w_exponents) {
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
        const int exponent = transform_weights<R, S>(cv, g, kb * width, wide, c0, c1, u.data(), u_pitch);
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

// Image by image, what is too large or not finite goes to outer_product.h: an image's result must not depend on the
// others. False, with the result unfinished, if a weight is not finite.
template <int R, int S, class T, class In>
bool convolve_patches(Convolution<T, In>& cv) {
  const PatchBlocks<R, S, T, In> blocks(cv);
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

template <class T, class In>
bool convolve_winograd(Convolution<T, In>& cv) {
  if (cv.N * cv.rows.count * cv.columns.count == 0) return true;
  if (!has_patches(cv.rows) || !has_patches(cv.columns)) return convolve_all(&cv, 1);
  if (cv.rows.taps == 3) return cv.columns.taps == 3 ? convolve_patches<3, 3>(cv) : convolve_patches<3, 2>(cv);
  return cv.columns.taps == 3 ? convolve_patches<2, 3>(cv) : convolve_patches<2, 2>(cv);
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
