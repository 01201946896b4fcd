// A convolution as the engine's kernels take it, and what they share: weights and biases packed for vectors across
// output channels, and sums written back from them.
#pragma once
#include "micro_kernel.h"
#include "tile.h"
#include "transpose.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// A convolution for the engine: N images of G groups, `inputs` channels in and `outputs` channels out each.
template <class T, class In>
struct Convolution {
  int64_t N, G, inputs, outputs;
  AxisPlan rows, columns;
  const In *in, *weight, *bias;
  In* out;
  Strides in_strides, out_strides;
  int64_t weight_output, weight_input, weight_group, weight_r, weight_s;  // strides of the weight
  int64_t filter_size;                                                    // all taps of a filter, R * S
  bool filter_is_line;
  // Where the kernel is as large as the stride, each result has one tap, and the results of a channel's R x S phases
  // are outputs of one product: output (c * merged_h + a) * merged_w + b goes to row a and column b of its pixel's
  // patch.
  int64_t merged_h = 1, merged_w = 1;
  int64_t merged() const { return merged_h * merged_w; }
  int64_t bias_stride;
  int64_t chain = kChain<T>;  // products that are summed from zero

  int64_t taps() const { return int64_t(rows.taps) * columns.taps; }

  bool is_pointwise() const { return is_pixel_for_pixel(rows, columns); }
  // Such a layer can take its input from where it is: pixels are neighbours there already.
  bool reads_in_place() const {
    return std::is_same_v<T, In> && is_pointwise() && in_strides.w == 1 && inputs * in_strides.c < INT32_MAX;
  }
  // And its planes are lines, if they are contiguous.
  void flatten() {
    if (is_pointwise() && rows.out_step == 1 && columns.out_step == 1 && in_strides.h == columns.in * in_strides.w &&
        out_strides.h == columns.in * out_strides.w)
      make_one_row(rows, columns);
  }

  // Whether each filter is a line in memory (and not one element of it beside those of other outputs).
  bool filters_are_lines() const { return filter_is_line && weight_output != 1; }

  // Whether the taps of one filter lie in memory as the steps go over them.
  bool taps_in_order() const {
    for (int t = 0; t < rows.taps; ++t)
      if (rows.index[t] != t) return false;
    for (int t = 0; t < columns.taps; ++t)
      if (columns.index[t] != t) return false;
    return (columns.taps == 1 || weight_s == 1) && (rows.taps == 1 || weight_r == columns.taps);
  }
};

// The axis of a tile for several convolutions: the taps of all, one's behind the other's.
template <class T, class In>
AxisPlan taps_of_all(const Convolution<T, In>* cv, int64_t count, AxisPlan Convolution<T, In>::* axis) {
  const AxisPlan& one = cv[0].*axis;
  int64_t most = 0;
  for (int64_t j = 0; j < count; ++j) most += (cv[j].*axis).taps;
  AxisPlan all(most);
  all.in = one.in, all.stride = one.stride, all.mode = one.mode;
  for (int64_t j = 0; j < count; ++j) {
    const AxisPlan& a = cv[j].*axis;
    all.count = larger(all.count, a.count);
    for (int t = 0; t < a.taps; ++t) all.add_tap(a.offset[t], a.index[t]);
  }
  return all;
}

// Where the steps of convolution j with the first `inputs` channels are in such a tile.
template <class T, class In>
void set_places(int32_t* to, const Convolution<T, In>* cv, int64_t j, int64_t inputs, const TileShape& shape,
                const AxisPlan& all_rows, const AxisPlan& all_columns) {
  int row = 0, column = 0;
  for (int64_t i = 0; i < j; ++i) row += cv[i].rows.taps, column += cv[i].columns.taps;
  for (int64_t c = 0; c < inputs; ++c)
    for (int r = 0; r < cv[j].rows.taps; ++r)
      for (int s = 0; s < cv[j].columns.taps; ++s)
        *to++ = int32_t(c * shape.plane + shape.tap(all_rows, all_columns, row + r, column + s));
}

// One item of work: rows [i0, i0 + ni), columns [j0, j0 + nj) of group g of image n, and part `part` of the outputs.
struct Place {
  int64_t index, part, n, g, i0, ni, j0, nj;
};

// All results in blocks of rows x columns; the parts of one block follow one another, so that a thread packs its tile
// once. With fewer blocks than `wanted` items of work the outputs are divided too, into at most `most_parts`.
struct Places {
  int64_t rows, columns, all_rows, all_columns, down, across, G, count, parts;

  Places(int64_t N, int64_t G, int64_t all_rows, int64_t all_columns, int64_t rows, int64_t columns, int64_t wanted,
         int64_t most_parts)
      : rows(rows),
        columns(columns),
        all_rows(all_rows),
        all_columns(all_columns),
        down(ceil_div(all_rows, rows)),
        across(ceil_div(all_columns, columns)),
        G(G),
        count(N * G * down * across),
        parts(count >= wanted ? 1 : smaller(most_parts, ceil_div(wanted, count))) {}
  template <class T, class In>
  Places(const Convolution<T, In>& cv, int64_t rows, int64_t columns, int64_t wanted, int64_t most_parts)
      : Places(cv.N, cv.G, cv.rows.count, cv.columns.count, rows, columns, wanted, most_parts) {}

  int64_t items() const { return count * parts; }
  Place operator[](int64_t item) const {
    const int64_t index = item / parts, i0 = index / across % down * rows, j0 = index % across * columns;
    return {index,
            item % parts,
            index / across / down / G,
            index / across / down % G,
            i0,
            smaller(rows, all_rows - i0),
            j0,
            smaller(columns, all_columns - j0)};
  }
};

// The weights of steps [k0, k1) of one block of outputs, [step][width], zeros beyond the last output; a step is an
// (input, row tap, column tap).
template <class T, class In>
void turn_weights(T* to, const Convolution<T, In>& cv, int64_t group, int64_t first, int64_t width, int64_t k0,
                  int64_t k1) {
  if (k0 == k1) return;
  const int64_t count = smaller(width, cv.outputs - first), taps = cv.taps();
  const In* from = cv.weight + group * cv.weight_group + first * cv.weight_output;
  if (cv.taps_in_order() && cv.weight_output != 1) {  // matrices to transpose: one in all, or one for each input
    if (cv.inputs == 1 || cv.weight_input == taps) {
      transpose<T, In>(from + k0, cv.weight_output, count, k1 - k0, to, width, width);
    } else {
      constexpr int64_t kAhead = 2;                   // inputs
      const bool is_line = cv.weight_output == taps;  // an input's filters
      const bool converted_at_once = is_line && !std::is_same_v<T, In>;
      Scratch<T> line(converted_at_once ? count * taps : 0);
      for (int64_t k = k0; k < k1;) {
        const int64_t c = k / taps, t = k % taps, stop = smaller(k1, (c + 1) * taps);
        if (is_line)  // far from the next: too short for the hardware to see
          for (int64_t i = 0; i < count * taps; i += 64 / int64_t(sizeof(In)))
            __builtin_prefetch(from + (c + kAhead) * cv.weight_input + i);
        if (converted_at_once) copy_run(line.data(), from + c * cv.weight_input, count * taps);
        if (converted_at_once)
          transpose<T, T>(line.data() + t, taps, count, stop - k, to + (k - k0) * width, width, width);
        else
          transpose<T, In>(from + c * cv.weight_input + t, cv.weight_output, count, stop - k, to + (k - k0) * width,
                           width, width);
        k = stop;
      }
    }
  } else {
    T* next = to;
    int64_t c = k0 / taps, r = k0 % taps / cv.columns.taps, s = k0 % cv.columns.taps;
    for (int64_t k = k0; k < k1; ++k, next += width) {
      const In* tap = from + c * cv.weight_input + cv.rows.index[r] * cv.weight_r + cv.columns.index[s] * cv.weight_s;
      if (cv.weight_output == 1) {
        constexpr int64_t L = Vec<T>::lanes;
        for (int64_t o = 0; o < width; o += kPerLine<In>)  // each step's outputs are lines of their own
          __builtin_prefetch(tap + o + 16 * cv.weight_input);
        for (int64_t o = 0; o < width; o += L)
          store_some<T>(next + o, load_some<T>(tap + o, larger(0, count - o)), width - o);
      } else {
        for (int64_t o = 0; o < count; ++o) next[o] = T(tap[o * cv.weight_output]);
        for (int64_t o = count; o < width; ++o) next[o] = T(0);
      }
      if (++s == cv.columns.taps) s = 0, ++r;
      if (r == cv.rows.taps) r = 0, ++c;
    }
  }
}

// Whether all were finite, too.
template <class T, class In>
bool pack_weights(T* to, const Convolution<T, In>& cv, int64_t group, int64_t first, int64_t width, int64_t k0,
                  int64_t k1) {
  turn_weights(to, cv, group, first, width, k0, k1);
  return all_finite(to, (k1 - k0) * width);
}

// The biases of one block of outputs, zeros beyond the last output.
template <class T, class In>
void pack_bias(T* to, const Convolution<T, In>& cv, int64_t group, int64_t first, int64_t width) {
  for (int64_t o = 0; o < width; ++o)
    to[o] = cv.bias && first + o < cv.outputs
                ? T(cv.bias[(group * cv.outputs + first + o) / cv.merged() * cv.bias_stride])
                : T(0);
}

// Whether every other result is written by vectors. (Of wider types, two vectors for one and shuffled: nothing gained.)
#ifdef CONVX_AVX512
template <class T, class In>
constexpr bool kStoresEveryOther = !std::is_same_v<T, In>;

// Writes the first n elements to every other place, and leaves those between as they are.
template <class T, class In>
inline void store_every_other(In* to, typename Vec<T>::type v, int64_t n) {
  const __mmask32 lanes = 0x55555555u & uint32_t((uint64_t(1) << 2 * n) - 1);
  _mm512_mask_storeu_epi16(to, lanes, _mm512_maskz_cvtepu16_epi32(0xffff, Converted<T, In>::bits(v)));
}
#else
template <class T, class In>
constexpr bool kStoresEveryOther = false;
#endif

// Writes sums [pixels][width] of `count` outputs to as many neighbouring results, `step` apart. `sums` is readable up
// to a whole number of vectors of pixels.
template <class T, class In>
void store_pixels(const T* sums, int64_t pixels, int64_t width, int64_t count, In* out, int64_t output_stride,
                  int64_t step) {
  constexpr int64_t L = Vec<T>::lanes;
  if (output_stride == 1) {
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t k = 0; k < count; k += L) store_some<T>(out + p * step + k, load(sums + p * width + k), count - k);
  } else if (step == 1) {
    for (int64_t k = 0; k < count; k += L) {
      const int64_t squares = count - k >= L ? pixels / L : 0;
      transpose_squares<T>(squares, sums + k, width, L * width, out + k * output_stride, output_stride, L);
      for (int64_t p = squares * L; p < pixels; p += L)
        transpose_block<T>(sums + p * width + k, width, L, smaller(L, count - k), out + k * output_stride + p,
                           output_stride, smaller(L, pixels - p));
    }
  } else if (kStoresEveryOther<T, In> && step == 2) {
    if constexpr (kStoresEveryOther<T, In>)
      for (int64_t k = 0; k < count; k += L)
        for (int64_t p = 0; p < pixels; p += L) {
          typename Vec<T>::type v[L];
#pragma GCC unroll 16
          for (int64_t i = 0; i < L; ++i) v[i] = load(sums + (p + i) * width + k);
          transpose_square<T>(v);
          for (int64_t i = 0; i < smaller(L, count - k); ++i)
            store_every_other<T>(out + (k + i) * output_stride + 2 * p, v[i], smaller(L, pixels - p));
        }
  } else {
    for (int64_t k = 0; k < count; ++k)
      for (int64_t p = 0; p < pixels; ++p) out[k * output_stride + p * step] = In(sums[p * width + k]);
  }
}

// The same for merged phases: each output's pixels are a column step apart, and the outputs of one row of patches fill
// the gaps. Two phases side by side are interleaved in registers.
template <class T, class In>
void store_patches(const Convolution<T, In>& cv, const T* sums, int64_t pixels, int64_t width, int64_t first,
                   int64_t count, In* image, int64_t row, int64_t column) {
  constexpr int64_t L = Vec<T>::lanes;
  const Strides& s = cv.out_strides;
  const auto place = [&](int64_t o) {
    return image + s(0, o / cv.merged(), row + o / cv.merged_w % cv.merged_h, column + o % cv.merged_w);
  };
  const int64_t step = s.w * cv.columns.out_step;
  if (pixels == 1 && s.w == 1 && s.h == cv.merged_w && s.c == cv.merged()) {
    for (int64_t k = 0; k < count; k += L) store_some<T>(place(first) + k, load(sums + k), count - k);
    return;
  }
  if (cv.merged_w == 2 && step == 2 && count % 2 == 0) {
    const auto low = Interleave<T>::index(Interleave<T>::table.low),
               high = Interleave<T>::index(Interleave<T>::table.high);
    for (int64_t k = 0; k < count; k += L)
      for (int64_t p = 0; p < pixels; p += L) {
        typename Vec<T>::type v[L];
        for (int64_t i = 0; i < L; ++i) v[i] = load(sums + (p + i) * width + k);
        transpose_square<T>(v);
        const int64_t left = 2 * smaller(L, pixels - p);
        for (int64_t i = 0; i < smaller(L, count - k); i += 2) {
          In* to = place(first + k + i) + 2 * p;
          store_some<T>(to, shuffle<T>(v[i], v[i + 1], low), smaller(L, left));
          if (left > L) store_some<T>(to + L, shuffle<T>(v[i], v[i + 1], high), left - L);
        }
      }
    return;
  }
  for (int64_t o = 0; o < count; ++o) {
    In* to = place(first + o);
    for (int64_t p = 0; p < pixels; ++p) to[p * step] = In(sums[p * width + o]);
  }
}

// Writes sums [pixels][width] of outputs [first, first + count) of group g to the results from (i, j) of image n on.
template <class T, class In>
void store_results(const Convolution<T, In>& cv, const T* sums, int64_t pixels, int64_t width, int64_t n, int64_t g,
                   int64_t first, int64_t count, int64_t i, int64_t j) {
  const int64_t row = cv.rows.first_out + i * cv.rows.out_step, column = cv.columns.first_out + j * cv.columns.out_step;
  if (cv.merged() > 1)
    return store_patches(cv, sums, pixels, width, first, count,
                         cv.out + cv.out_strides(n, g * (cv.outputs / cv.merged()), 0, 0), row, column);
  store_pixels<T, In>(sums, pixels, width, count, cv.out + cv.out_strides(n, g * cv.outputs + first, row, column),
                      cv.out_strides.c, cv.out_strides.w * cv.columns.out_step);
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
