// forward and grad_input of 3x3 filters by Winograd's F(4x4, 3x3): 49 products for sixteen results instead of 144, so
// past the FMA roof of a convolution by its definition. 2x2 filters are F(3x3, 2x2), 16 products for nine results. Such
// are the four phases of the results of a transposed 4x4 filter at stride 2, which all read the same patches. Larger
// filters, and those with a stride, are made of runs of two or three taps, which are so many more channels
// (winograd_tile.h); so are dilated ones. Their runs of three are F(2x2, 3x3), 16 products for four results. Filters of
// a single row or column have patches along it only, F(4, 3) or F(3, 4): 7 products for four results of three taps
// instead of 12, 13 for three of seven instead of 21. The transforms and their source: winograd_transforms.h; the steps
// of one block: winograd_blocks.h.
//
// A block of results (some rows of patches of one image, or several images) goes through three steps:
//   V[point][channel][patch]   the input's patches, transformed: vectors across channels, [vector][patch][lanes]
//   M[point][patch][output]    = sum over channels of V * U, for each of the points an outer product over registers
//                              (micro_kernel.h); U[point][channel][output] are the weights, transformed
//   results                    M transformed back: vectors across outputs, then turned over and stored
// V and M stay in a thread's cache and the weights, transformed once, pass by; or, for few patches, the weights of some
// outputs are transformed in cache and all patches pass by.
//
// The patches are read from a tile of one vector of channels (vector_tile.h), which has all paddings and layouts in it.
// Of a dilated filter, each remainder of the dilation is a convolution of its own.
//
// Estimate: 2.9 times fewer multiply-adds, against 117 additions and 85 loads and stores a channel and patch for V and
// about as many an output and patch for M. With 64 channels and outputs these are two fifths of what is left; of a 1x7
// filter with 160 three tenths, so it gains 1.2 where its products alone would 1.5. Runs
// multiply the weights, too: of 7x7 filters, 100 for 49, which come from afar for each block of patches.
//
// Rounding: a result is a sum of up to 25 sums of C products each, of numbers that are up to 16 and 9/4 times as large.
// For random operands that is 1 (16 channels) to 0.6 (256) times the error of a chain of 9 C products; integers are
// exact while those sums are, 16 times the result, so up to 2^20 in float32. But a result's error is relative to the
// largest of its patch, not to the inputs that it reads alone. An infinity or a NaN would reach neighbours that don't
// read it, so the input is looked through on its way and such an image is computed by outer_product.h, as is one so
// large that a transformed number might overflow.
#pragma once
#include <algorithm>

#include "winograd_blocks.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Block by block of the patches: their V stays in cache while the weights, transformed before, pass by. Of many
// channels V is made in parts, and M of all outputs waits for them. Of many weights as many outputs are taken at a time
// as fit into kBytes.
template <class R, class S, class T, class In>
void convolve_by_patches(const PatchBlocks<R, S, T, In>& blocks, int* x_exponents, int* w_exponents) {
  constexpr int64_t kBytes = 8 << 20, kFewest = 64, kMostPlanes = 512, kPoints = R::kPoints * S::kPoints;
  const Convolution<T, In>& cv = blocks.cv;
  const int64_t kbs = blocks.kbs, width = blocks.width, planes = cv.inputs * blocks.inputs.count;
  const int64_t u_pitch = odd_lines<T>(planes * width), u_size = blocks.count * kPoints * u_pitch;
  const int64_t passes = ceil_div(kbs, larger(kFewest / width, kBytes / (cv.G * u_size * int64_t(sizeof(T)))));
  const int64_t most_kbs = ceil_div(kbs, passes);
  const int64_t together =
      planes <= kMostPlanes ? cv.inputs : blocks.whole_chains(kMostPlanes / 2 / blocks.inputs.count);
  const bool whole = together == cv.inputs;
  Scratch<T> u(cv.G * most_kbs * u_size), bias(width * kbs * cv.G);
  for (int64_t first = 0; first < kbs; first += most_kbs) {
    const int64_t count = smaller(most_kbs, kbs - first);
    parallel_for(cv.G * count, grain_for(10. * blocks.count * planes * width), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t g = i / count, kb = first + i % count;
        w_exponents[g * kbs + kb] =
            transform_weights<R, S>(blocks.phases, blocks.count, blocks.inputs, g, kb * width, blocks.width_of(kb), 0,
                                    cv.inputs, u.data() + i * u_size, u_pitch);
        pack_bias(bias.data() + (g * kbs + kb) * width, cv, g, kb * width, width);
      }
    });
    const Places places = blocks.places(8 * thread_count());
    const double work = double(blocks.patches()) * blocks.count * kPoints * planes * width * count / places.parts / 16;
    parallel_for_balanced(places.items(), grain_for(work), [&](int64_t begin, int64_t end) {
      Scratch<T> v(kPoints * blocks.v_pitch(together));
      VectorTile<T> tile = blocks.make_tile();
      Scratch<int> exponents(blocks.images);
      Scratch<T> m((whole ? 1 : ceil_div(count, places.parts)) * blocks.m_size()), results(blocks.results_size());
      int64_t packed = -1;
      for (int64_t item = begin; item < end; ++item) {
        const Place at = places[item];
        const int64_t k0 = at.part * count / places.parts, k1 = (at.part + 1) * count / places.parts;
        const auto sums = [&](int64_t k) { return m.data() + (whole ? 0 : k - k0) * blocks.m_size(); };
        const auto finish = [&](int64_t k) {
          blocks.finish(at, first + k, sums(k), bias.data() + (at.g * kbs + first + k) * width, results.data());
        };
        for (int64_t c0 = 0; c0 < cv.inputs; c0 += together) {
          const int64_t c1 = smaller(cv.inputs, c0 + together);
          if (!whole || packed != at.index) blocks.transform(at, c0, c1, v.data(), tile, exponents.data());
          for (int64_t k = k0; k < k1; ++k) {
            const int64_t wide = blocks.width_of(first + k);
            blocks.multiply(at, v.data(), blocks.v_pitch(c1 - c0), 0, c1 - c0,
                            u.data() + (at.g * count + k) * u_size + c0 * wide, u_pitch, cv.inputs * wide, wide,
                            c0 == 0, false, sums(k));
            if (whole) finish(k);
          }
        }
        for (int64_t k = k0; k < k1 && !whole; ++k) finish(k);
        if (first == 0 && at.part == 0) blocks.keep(at, exponents.data(), x_exponents);
        packed = at.index;
      }
    });
  }
}

// Block by block of the outputs: their weights are transformed in cache, and all patches, transformed before, pass by.
template <class R, class S, class T, class In>
void convolve_by_outputs(const PatchBlocks<R, S, T, In>& blocks, int* x_exponents, int* w_exponents) {
  constexpr int64_t kPoints = R::kPoints * S::kPoints;
  const Convolution<T, In>& cv = blocks.cv;
  // Channels whose weights are in cache at a time.
  const int64_t together = blocks.whole_chains(128 / (blocks.count * blocks.inputs.count));
  const int64_t kbs = blocks.kbs, width = blocks.width, planes = cv.inputs * blocks.inputs.count,
                u_pitch = odd_lines<T>(together * blocks.inputs.count * width);
  const Places places = blocks.places(1);
  const int64_t v_size = kPoints * blocks.v_pitch(cv.inputs);
  Scratch<T> v(places.count * v_size);
  parallel_for(places.count, grain_for(10. * planes * blocks.patches()), [&](int64_t begin, int64_t end) {
    VectorTile<T> tile = blocks.make_tile();
    Scratch<int> exponents(blocks.images);
    for (int64_t i = begin; i < end; ++i) {
      blocks.transform(places[i], 0, cv.inputs, v.data() + i * v_size, tile, exponents.data());
      blocks.keep(places[i], exponents.data(), x_exponents);
    }
  });
  const int64_t in_plane = blocks.in_image() / cv.G, in_group = places.count / cv.G;  // blocks
  const double work = double(in_group) * blocks.patches() * blocks.count * kPoints * planes * width / 16;
  parallel_for_balanced(cv.G * kbs, grain_for(work), [&](int64_t begin, int64_t end) {
    Scratch<T> u(blocks.count * kPoints * u_pitch), m(in_group * blocks.m_size());
    Scratch<T> results(blocks.results_size()), bias(width);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t g = item / kbs, kb = item % kbs, wide = blocks.width_of(kb);
      const auto each_block = [&](auto&& f) {
        for (int64_t j = 0; j < in_group; ++j) {
          const int64_t i = (j / in_plane * cv.G + g) * in_plane + j % in_plane;
          f(places[i], v.data() + i * v_size, m.data() + j * blocks.m_size());
        }
      };
      w_exponents[item] = Greatest<T>().exponent();
      for (int64_t c0 = 0; c0 < cv.inputs; c0 += together) {
        const int64_t c1 = smaller(cv.inputs, c0 + together);
        const int exponent = transform_weights<R, S>(blocks.phases, blocks.count, blocks.inputs, g, kb * width, wide,
                                                     c0, c1, u.data(), u_pitch);
        if (exponent > w_exponents[item]) w_exponents[item] = exponent;
        each_block([&](const Place& at, const T* block, T* sums) {
          blocks.multiply(at, block, blocks.v_pitch(cv.inputs), c0, c1 - c0, u.data(), u_pitch, (c1 - c0) * wide, wide,
                          c0 == 0, true, sums);
        });
      }
      pack_bias(bias.data(), cv, g, kb * width, width);
      each_block(
          [&](const Place& at, const T*, const T* sums) { blocks.finish(at, kb, sums, bias.data(), results.data()); });
    }
  });
}

// Image by image, what is too large or not finite goes to outer_product.h: an image's result must not depend on the
// others. False, with the result unfinished, if a weight is not finite.
template <class R, class S, class T, class In>
bool convolve_patches(Convolution<T, In>* phases, int64_t count) {
  const PatchBlocks<R, S, T, In> blocks(phases, count);
  const int64_t N = phases->N, in_image = blocks.in_image(), parts = phases->G * blocks.kbs;
  Buffer<int> x_exponents(N * in_image), w_exponents(parts);
  if (blocks.suits_by_outputs())
    convolve_by_outputs(blocks, x_exponents.data(), w_exponents.data());
  else
    convolve_by_patches(blocks, x_exponents.data(), w_exponents.data());
  const int weight = greatest_of(w_exponents.data(), parts);
  for (int64_t n = 0; n < N; ++n) {
    if (!stays_finite<R, S, T>(greatest_of(x_exponents.data() + n * in_image, in_image), weight,
                               phases->inputs * blocks.inputs.count)) {
      for (int64_t j = 0; j < count; ++j) phases[j].N = 1;
      if (!convolve_all(phases, count)) return false;
    }
    for (int64_t j = 0; j < count; ++j)
      phases[j].in += phases[j].in_strides.n, phases[j].out += phases[j].out_strides.n;
  }
  return true;
}

// By the taps along each axis.
template <class T, class In>
bool convolve_patches(Convolution<T, In>* phases, int64_t count) {
  if (is_line(phases->rows, phases->columns))
    return with_forms_of_line(phases->rows, phases->columns, [&](auto down, auto across) {
      return convolve_patches<decltype(down), decltype(across)>(phases, count);
    });
  const bool three = patch_taps(phases->columns) == 3;
  constexpr int64_t kFewInputs = 16;  // whose sums are short in torch too: the error would be 2 to 2.2 times torch's
  if (has_three_taps(phases->rows) && has_three_taps(phases->columns) && phases->inputs >= kFewInputs)
    return convolve_patches<F43, F43>(phases, count);
  if (patch_taps(phases->rows) == 3)
    return three ? convolve_patches<F23, F23>(phases, count) : convolve_patches<F23, F32>(phases, count);
  return three ? convolve_patches<F32, F23>(phases, count) : convolve_patches<F32, F32>(phases, count);
}

// Every `step`-th result of an axis.
inline AxisPlan every(const AxisPlan& a, int64_t first, int64_t step) {
  AxisPlan plan(a.taps);
  plan.in = a.in, plan.count = ceil_div(a.count - first, step), plan.stride = a.stride * step, plan.mode = a.mode;
  plan.first_out = a.first_out + first * a.out_step, plan.out_step = a.out_step * step;
  for (int t = 0; t < a.taps; ++t) plan.add_tap(a.offset[t] + first * a.stride, a.index[t]);
  return plan;
}

// By this step, taps are neighbours: the dilation, at stride 1.
inline int64_t step_of_patches(const AxisPlan& a) {
  return a.taps > 1 && a.stride == 1 ? (a.highest() - a.lowest()) / (a.taps - 1) : 1;
}

// A convolution that may be dilated: each remainder of the dilation is a convolution of its own.
template <class T, class In>
bool convolve_dilated(Convolution<T, In>& cv) {
  if (cv.rows.count * cv.columns.count == 0) return true;
  const int64_t down = step_of_patches(cv.rows), across = step_of_patches(cv.columns);
  const AxisPlan rows = std::move(cv.rows), columns = std::move(cv.columns);
  const int64_t N = cv.N;
  const In* const in = cv.in;
  In* const out = cv.out;
  for (int64_t p = 0; p < smaller(down, rows.count); ++p)
    for (int64_t q = 0; q < smaller(across, columns.count); ++q) {
      cv.N = N, cv.in = in, cv.out = out;
      cv.rows = every(rows, p, down), cv.columns = every(columns, q, across);
      if (!convolve_patches(&cv, 1)) return false;
    }
  return true;
}

// Convolutions that share weights and outputs: all phases of a small stride at once if they have as many taps.
template <class T, class In>
bool convolve_all_winograd(Convolution<T, In>* cv, int64_t count) {
  constexpr int64_t kMostTogether = 4;
  if (cv->N * cv->outputs == 0) return true;
  bool together = 1 < count && count <= kMostTogether && count == cv->rows.out_step * cv->columns.out_step;
  for (int64_t j = 0; j < count; ++j)
    together = together && patch_taps(cv[j].rows) == cv->rows.taps && patch_taps(cv[j].columns) == cv->columns.taps &&
               cv[j].rows.taps == cv->rows.taps && cv[j].columns.taps == cv->columns.taps;
  if (together) return convolve_patches(cv, count);
  // Those that have a tap or none along an axis, and so no patches, are done together too.
  const auto patches = [](const Convolution<T, In>& c) {
    return smaller(c.rows.taps, c.columns.taps) >= 2 || is_line(c.rows, c.columns);
  };
  const int64_t direct = std::stable_partition(cv, cv + count, [&](const auto& c) { return !patches(c); }) - cv;
  if (direct && !convolve_all(cv, direct)) return false;
  for (int64_t j = direct; j < count; ++j)
    if (!convolve_dilated(cv[j])) return false;
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
