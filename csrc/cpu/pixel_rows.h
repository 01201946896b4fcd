// forward and grad_input of one output a group on AVX2 and AVX-512: vectors across the pixels of a row, the input read
// where it is. For the last layers of networks and the images' gradients of their first ones.
//
// A block of rows of results and two vectors of them stay in registers while it goes through all columns of taps s, of
// a few channels c:
//
//   acc[i][v] += x[c][row i + r][q_v + offset(s)] * w[c][s][r],   i < 4,  v < 2,  r < R.
//
// A vector of x that has been loaded meets all the rows of taps that bring it to one of the block's results; which
// those are is known to the compiler, so kernels of more than five rows are taken in parts. Where elements are beyond
// the row's ends a mask leaves them out, and a row of zeros stands for those beyond the plane. The sums of a strip of
// rows wait in cache for the next channels; then phases of a stride are interleaved as they are written.
//
// What it gains over pixels.h: no tile is packed, of which each element would meet R * S multiply-adds only, and with
// many channels be packed twice or three times. Measured: 1.1 to 1.8 times as fast. Limit: for R = 5 and a column of
// taps, 40 multiply-adds, 16 loads of x, half of them across cache lines, and 5 of weights: 20 cycles, as long as
// memory keeps up, which takes a prefetch (see below): without, a third of this speed.
//
// What is left out is read as zero, so weights that are not finite go to the reference. Alone:
//
//   with convx.algorithm("pixel_rows"): ...
#pragma once
#include "masked_load.h"
#include "pixels.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

constexpr int kRowsOfTaps = 5;                     // at once
constexpr int kPixelBlock = 4, kPixelVectors = 2;  // rows and vectors of a block: 8 sums, 2 of x, 5 weights

// The columns of a phase's results as vectors.
template <class T>
struct PixelColumns {
  static constexpr int64_t L = Vec<T>::lanes;
  int64_t vectors, taps;
  Buffer<int64_t> offset;    // of each column tap
  Buffer<bool> masked;       // whether some tap of a vector reads beyond the row's ends
  Buffer<LaneMask<T>> mask;  // [vector][tap]

  explicit PixelColumns(const AxisPlan& c)
      : vectors(ceil_div(c.count, L)), taps(c.taps), offset(taps), masked(vectors), mask(vectors * taps) {
    for (int64_t s = 0; s < taps; ++s) offset[s] = c.offset[s];
    for (int64_t v = 0; v < vectors; ++v) {
      masked[v] = false;
      for (int64_t s = 0; s < taps; ++s) {
        LaneMask<T> there;
        for (int64_t l = 0; l < L; ++l) {
          const int64_t w = v * L + l + offset[s];
          if (w >= 0 && w < c.in)
            there.set(l);
          else
            masked[v] = true;
        }
        mask[v * taps + s] = there;
      }
    }
  }
};

// What a row of blocks is to be added from: a chunk of channels and of column taps.
template <class T>
struct RowProducts {
  const T* const* rows;  // [channel][row of x], from the block's first on
  const T* const* next;  // those of the chunk that comes after, or null
  int64_t channels, next_channels, rows_of_channel;
  const T* weights;  // [channel][column tap][row tap]
  int64_t weights_of_channel, first_tap, last_tap;
  T* sums;  // of the block's first row
  int64_t pitch;
};

// Adds them to a block of NV vectors, from vector v on.
template <class T, int R, int NV, bool masked>
void add_row_products(const RowProducts<T>& p, const PixelColumns<T>& columns, int64_t v) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes;
  V acc[kPixelBlock][NV] = {};
  for (int64_t c = 0; c < p.channels; ++c) {
    const T* const* const rows = p.rows + c * p.rows_of_channel;
    const T* w = p.weights + c * p.weights_of_channel + p.first_tap * R;
    for (int64_t s = p.first_tap; s < p.last_tap; ++s, w += R) {
      const int64_t at = v * L + columns.offset[s];
      const auto* const mask = columns.mask.data() + v * columns.taps + s;
      V weights[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) weights[r] = splat<T>(w[r]);
#pragma GCC unroll 8
      for (int d = 0; d < kPixelBlock + R - 1; ++d) {
        V x[NV];
#pragma GCC unroll 2
        for (int n = 0; n < NV; ++n) {
          const T* const from = rows[d] + at + n * L;
          x[n] = masked ? V(mask[n * columns.taps].load(from)) : load(from);
          asm("" : "+v"(x[n]));  // loaded once: compilers would rather do it again for each multiply-add
        }
#pragma GCC unroll 4
        for (int i = 0; i < kPixelBlock; ++i) {
          if (i > d || d - i >= R) continue;
#pragma GCC unroll 2
          for (int n = 0; n < NV; ++n) acc[i][n] += x[n] * weights[d - i];
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kPixelBlock; ++i)
#pragma GCC unroll 2
    for (int n = 0; n < NV; ++n) {
      T* const sum = p.sums + i * p.pitch + (v + n) * L;
      store(sum, load(sum) + acc[i][n]);
    }
}

template <class T, int R, int NV>
void add_vectors(const RowProducts<T>& p, const PixelColumns<T>& columns, int64_t v) {
  // Of the rows that the same block of the next chunk reads and the block before it did not: they are in as many pages,
  // and the processor itself would see to them only after some had been waited for.
  for (int64_t c = 0; c < p.next_channels; ++c)
    for (int d = R - 1; d < R - 1 + kPixelBlock; ++d)
      for (int64_t i = 0; i < NV * Vec<T>::lanes; i += 64 / int64_t(sizeof(T)))
        __builtin_prefetch(p.next[c * p.rows_of_channel + d] + v * Vec<T>::lanes + i);
  if (columns.masked[v] || columns.masked[v + NV - 1])
    add_row_products<T, R, NV, true>(p, columns, v);
  else
    add_row_products<T, R, NV, false>(p, columns, v);
}

// A whole row of blocks.
template <class T, int R>
void add_blocks(const RowProducts<T>& p, const PixelColumns<T>& columns) {
  int64_t v = 0;
  for (; v + kPixelVectors <= columns.vectors; v += kPixelVectors) add_vectors<T, R, kPixelVectors>(p, columns, v);
  for (; v < columns.vectors; ++v) add_vectors<T, R, 1>(p, columns, v);
}

template <class T>
using AddBlocks = void (*)(const RowProducts<T>&, const PixelColumns<T>&);

template <class T, int R = kRowsOfTaps>
AddBlocks<T> add_blocks_of(int64_t r) {
  if constexpr (R > 1)
    if (r < R) return add_blocks_of<T, R - 1>(r);
  return add_blocks<T, R>;
}

// A convolution, or one phase of a stride, as this file needs it.
template <class T>
struct PixelPhase {
  PixelColumns<T> columns{AxisPlan()};
  int64_t lowest = 0, row_taps = 0, parts = 0, inputs = 0, G = 0;
  Buffer<T> weights{0};  // [part][group][channel][column tap][row tap of the part], rows by their offsets

  int64_t first(int64_t part) const { return row_taps * part / parts; }
  T* of(int64_t part, int64_t g, int64_t c) {
    const int64_t rows = first(part + 1) - first(part);
    return weights.data() + columns.taps * (first(part) * G * inputs + rows * (g * inputs + c));
  }

  template <class In>
  void prepare(const Convolution<T, In>& cv) {
    const AxisPlan &r = cv.rows, &c = cv.columns;
    columns = PixelColumns<T>(c);
    lowest = r.lowest(), row_taps = r.taps, parts = ceil_div(r.taps, kRowsOfTaps);
    inputs = cv.inputs, G = cv.G;
    weights = Buffer<T>(G * inputs * cv.taps());
    const bool ascends = r.offset[0] == lowest;
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t channel = 0; channel < G * inputs; ++channel) {
        const int64_t g = channel / inputs;
        T* to = of(part, g, channel % inputs);
        const In* const from = cv.weight + g * cv.weight_group + channel % inputs * cv.weight_input;
        for (int s = 0; s < c.taps; ++s)
          for (int64_t t = first(part); t < first(part + 1); ++t)
            *to++ = T(from[r.index[ascends ? t : r.taps - 1 - t] * cv.weight_r + c.index[s] * cv.weight_s]);
      }
  }
};

// How the results are cut: strips of rows of all phases, whose sums wait in cache, and chunks of channels, whose
// products are summed from zero.
template <class T>
struct PixelStrips {
  static constexpr int64_t kSums = 96 << 10, kInput = 192 << 10;  // bytes
  int64_t pitch, rows, strips, channels;

  template <class In>
  PixelStrips(const Convolution<T, In>* cv, int64_t count) {
    constexpr int64_t L = Vec<T>::lanes;
    int64_t results = 0, width = 0, taps = 1;
    for (int64_t j = 0; j < count; ++j) {
      results = larger(results, cv[j].rows.count), width = larger(width, cv[j].columns.count);
      taps = larger(taps, cv[j].taps());
    }
    pitch = larger(1, ceil_div(width, L)) * L;
    // Few, as all their rows are read at once; but no more than kParts chunks, see micro_kernel.h.
    channels = larger(1, smaller(ceil_div(cv[0].inputs, kParts), cv[0].chain / taps));
    const int64_t by_sums = kSums / (count * pitch * int64_t(sizeof(T)));
    const int64_t by_input = kInput / larger(1, channels * cv[0].columns.in * int64_t(sizeof(T))) - cv[0].rows.taps;
    const int64_t by_threads = ceil_div(results * cv[0].N * cv[0].G, 4 * thread_count());
    rows = larger(1, smaller(smaller(by_sums, by_input), by_threads));
    rows = ceil_div(larger(1, smaller(rows, results)), kPixelBlock) * kPixelBlock;
    strips = ceil_div(results, rows);
  }
};

// Adds the products of some channels of x to a phase's sums of `count` rows.
template <class T>
void add_channels(PixelPhase<T>& phase, const T* const* rows, int64_t rows_of_channel, int64_t g, int64_t c0,
                  int64_t c1, int64_t c2, int64_t chain, int64_t count, T* sums, int64_t pitch) {
  for (int64_t part = 0; part < phase.parts; ++part) {
    const int64_t first = phase.first(part), R = phase.first(part + 1) - first, S = phase.columns.taps;
    const auto add_blocks = add_blocks_of<T>(R);
    const int64_t taps = larger(1, smaller(S, chain / R));
    for (int64_t s = 0; s < S; s += taps)
      for (int64_t i = 0; i < count; i += kPixelBlock) {
        RowProducts<T> p;
        p.rows = rows + i + first, p.next = rows + i + (c1 - c0) * rows_of_channel;
        p.channels = c1 - c0, p.next_channels = part == 0 && s == 0 ? c2 - c1 : 0, p.rows_of_channel = rows_of_channel;
        p.weights = phase.of(part, g, c0), p.weights_of_channel = S * R;
        p.first_tap = s, p.last_tap = smaller(S, s + taps);
        p.sums = sums + i * pitch, p.pitch = pitch;
        add_blocks(p, phase.columns);
      }
  }
}

// Runs convolutions of the same input, weights and outputs (one, or the phases of a stride); false, with nothing
// written, if a weight is not finite.
template <class T, class In>
bool convolve_pixel_rows(const Convolution<T, In>* cv, int64_t count) {
  if constexpr (!std::is_same_v<T, In>) {
    return false;  // they would have to be converted first
  } else {
    constexpr int64_t L = Vec<T>::lanes;
    const int64_t inputs = cv[0].inputs, G = cv[0].G;
    Objects<PixelPhase<T>> phases(count);
    int64_t lowest = INT64_MAX, highest = INT64_MIN;
    for (int64_t j = 0; j < count; ++j) {
      phases[j].prepare(cv[j]);
      if (!all_finite(phases[j].weights.data(), G * inputs * cv[j].taps())) return false;
      lowest = smaller(lowest, phases[j].lowest), highest = larger(highest, cv[j].rows.highest());
    }
    const PixelStrips<T> cut(cv, count);
    const int64_t phase_pitch = cut.rows * cut.pitch;
    const int64_t in_rows = cut.rows + highest - lowest;
    Scratch<T> zeros(cv[0].columns.in + 2 * L);
    std::memset(zeros.data(), 0, (cv[0].columns.in + 2 * L) * sizeof(T));
    double steps = 0;
    for (int64_t j = 0; j < count; ++j) steps += double(cv[j].taps()) * inputs;
    parallel_for_balanced(
        cv[0].N * G * cut.strips, grain_for(steps * cut.rows * cut.pitch / 8), [&](int64_t begin, int64_t end) {
          Scratch<T> sums(count * phase_pitch + 2 * L);  // stores read whole vectors
          Scratch<const T*> rows(inputs * in_rows);      // [channel][row]
          for (int64_t item = begin; item < end; ++item) {
            const int64_t i0 = item % cut.strips * cut.rows, g = item / cut.strips % G, n = item / cut.strips / G;
            const auto rows_of = [&](int64_t j) { return smaller(cut.rows, cv[j].rows.count - i0); };
            const T bias = cv[0].bias ? T(cv[0].bias[g * cv[0].bias_stride]) : T(0);
            for (int64_t e = 0; e < count * phase_pitch; e += L) store(sums.data() + e, splat<T>(bias));
            for (int64_t c = 0; c < inputs; ++c)
              for (int64_t d = 0; d < in_rows; ++d) {
                const int64_t h = i0 + lowest + d;
                rows[c * in_rows + d] =
                    h < 0 || h >= cv[0].rows.in ? zeros.data() : cv[0].in + cv[0].in_strides(n, g * inputs + c, h, 0);
              }
            for (int64_t c0 = 0; c0 < inputs; c0 += cut.channels) {
              const int64_t c1 = smaller(inputs, c0 + cut.channels), c2 = smaller(inputs, c1 + cut.channels);
              for (int64_t j = 0; j < count; ++j)
                if (rows_of(j) > 0)
                  add_channels(phases[j], rows.data() + c0 * in_rows + phases[j].lowest - lowest, in_rows, g, c0, c1,
                               c2, cv[j].chain, rows_of(j), sums.data() + j * phase_pitch, cut.pitch);
            }
            for (int64_t j = 0, together; j < count; j += together) {
              together = j + 1 < count && alternate(cv + j) ? 2 : 1;
              PixelLine<T> lines[2];
              for (int64_t i = 0; i < together; ++i)
                lines[i] = {nullptr, n, g, i0, 0, rows_of(j + i), cv[j + i].columns.count, cut.pitch};
              if (lines[0].rows <= 0) continue;
              const T* const from = sums.data() + j * phase_pitch;
              if (together == 2)
                store_lines(cv + j, lines, from, from + phase_pitch, 0, lines[0].length(), g);
              else
                store_line(cv[j], lines[0], from, 0, lines[0].length(), g);
            }
          }
        });
    return true;
  }
}

struct AcrossRows {
  template <class T, class In>
  static bool convolve_all(const Convolution<T, In>* cv, int64_t count) {
    return convolve_pixel_rows(cv, count);
  }
};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
