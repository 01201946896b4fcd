// From the sums of pixels.h to the results: a line of pixels has some rows of an image, and between two of them what
// no result is.
//
// Limit: memory. A processor here writes 8 GB/s, half a nanosecond for a result of some 30 multiply-adds in a first
// layer, as long as those take: so results are stored between products, not after them.
#pragma once
#ifdef CONVX_AVX512
#include <immintrin.h>
#endif

#include "convolution.h"
#include "pixel_product.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// A line of pixels of one image in the tile: `rows` rows of Q results, `pitch` apart, from result (i0, j0) on.
template <class T>
struct PixelLine {
  const T* tile;
  int64_t n, g, i0, j0, rows, Q, pitch;
  int64_t length() const { return (rows - 1) * pitch + Q; }
};

// Writes sums [f0, f1) of one output's line to the result.
template <class T, class In>
void store_line(const Convolution<T, In>& cv, const PixelLine<T>& line, const T* sums, int64_t f0, int64_t f1,
                int64_t channel) {
  const int64_t step = cv.out_strides.w * cv.columns.out_step;
  int64_t row = f0 / line.pitch, q = f0 % line.pitch;
  In* to = cv.out + cv.out_strides(line.n, channel, cv.rows.first_out + (line.i0 + row) * cv.rows.out_step,
                                   cv.columns.first_out + line.j0 * cv.columns.out_step);
  for (int64_t f = f0; f < f1; to += cv.out_strides.h * cv.rows.out_step) {
    const int64_t count = smaller(line.Q - q, f1 - f);
    const T* from = sums + (f - f0);
    if (step == 1)
      for (int64_t x = 0; x < count; x += Vec<T>::lanes) store_some<T>(to + q + x, load(from + x), count - x);
    else
      for (int64_t x = 0; x < count; ++x) to[(q + x) * step] = In(from[x]);
    f += line.pitch - q;
    q = 0;
  }
}

// The same for two phases whose columns alternate, interleaved in registers.
template <class T, class In>
void store_lines(const Convolution<T, In>* cv, const PixelLine<T>* lines, const T* even, const T* odd, int64_t f0,
                 int64_t f1, int64_t channel) {
  constexpr int64_t L = Vec<T>::lanes;
  const auto low = Interleave<T>::index(Interleave<T>::table.low),
             high = Interleave<T>::index(Interleave<T>::table.high);
  const PixelLine<T>& line = lines[0];
  int64_t row = f0 / line.pitch, q = f0 % line.pitch;
  In* to =
      cv->out + cv->out_strides(line.n, channel, cv->rows.first_out + (line.i0 + row) * cv->rows.out_step, 2 * line.j0);
  for (int64_t f = f0; f < f1; to += cv->out_strides.h * cv->rows.out_step) {
    const int64_t count = smaller(line.Q - q, f1 - f);
    const int64_t elements = count > 0 ? count + smaller(lines[1].Q - q, count) : 0;
    for (int64_t x = 0; x < elements; x += 2 * L) {
      const auto a = load(even + (f - f0) + x / 2), b = load(odd + (f - f0) + x / 2);
      store_some<T>(to + 2 * q + x, shuffle<T>(a, b, low), elements - x);
      if (elements - x > L) store_some<T>(to + 2 * q + x + L, shuffle<T>(a, b, high), elements - x - L);
    }
    f += line.pitch - q;
    q = 0;
  }
}

// Writes one convolution's sums vector by vector, of several outputs each, as soon as they are there: stores of a whole
// group of vectors would wait for memory with nothing else to do meanwhile. (Results in other phases' columns, or of
// few outputs, gain nothing.) What a line computes between two rows is left out by masks.
template <class T, class In>
class VectorStore {
 public:
  static constexpr int64_t L = Vec<T>::lanes;
  static constexpr bool possible = std::is_same_v<T, In>;

  // Whether the results are neighbours in memory, in rows of which a vector meets at most kMostRows. (Without AVX-512
  // whole vectors only: masked stores are slow on some processors.)
  static bool suits(const Convolution<T, In>& cv, const PixelLine<T>& line, int outputs) {
    constexpr int kFewOutputs = 4;
#ifdef CONVX_AVX512
    const bool rows = 2 * line.pitch >= L;
#else
    const bool rows = line.Q % L == 0 && pixel_vectors(outputs) == 2;
#endif
    return possible && outputs >= kFewOutputs && rows && cv.out_strides.w * cv.columns.out_step == 1;
  }

  VectorStore(const Convolution<T, In>& cv, const PixelLine<T>& line, int64_t channel)
      : line_(line),
        row_step_(cv.out_strides.h * cv.rows.out_step),
        channel_step_(cv.out_strides.c),
        out_(cv.out + cv.out_strides(line.n, channel, cv.rows.first_out + line.i0 * cv.rows.out_step,
                                     cv.columns.first_out + line.j0)) {}

  // Where the result of place f is, and how far it is to the next output's.
  In* at(int64_t f) const { return out_ + f / line_.pitch * row_step_ + f % line_.pitch; }
  int64_t channel_step() const { return channel_step_; }

  // Vectors of sums, of which the first is at place f of the line, the others follow by `step`.
  void operator()(int64_t f, int64_t step, const T* sums, int64_t pitch, int outputs, int vectors) const {
    Segment segments[kMostVectors * kMostRows];
    int count = 0;
    for (int v = 0; v < vectors; ++v) count = cut(segments, count, f + v * step, v);
    T* to = out_;
    for (int o = 0; o < outputs; ++o, sums += pitch, to += channel_step_)
      for (int i = 0; i < count; ++i) segments[i].store(to, load(sums + segments[i].vector * L));
  }

 private:
  static constexpr int kMostVectors = 8, kMostRows = 3;

  // Lanes of a vector that lie in one row, and where lane 0 would.
  struct Segment {
    int64_t first;
    int vector;
    uint16_t lanes;
#ifdef CONVX_AVX512
    void store(float* to, __m512 v) const { _mm512_mask_storeu_ps(to + first, lanes, v); }
    void store(double* to, __m512d v) const { _mm512_mask_storeu_pd(to + first, __mmask8(lanes), v); }
#else
    void store(T* to, typename Vec<T>::type v) const { CONVX_ISA::store(to + first, v); }
#endif
  };

  int cut(Segment* segments, int count, int64_t f, int vector) const {
    int64_t row = f / line_.pitch, q = f % line_.pitch;
    for (int64_t lane = 0; lane < L; q = 0, ++row) {
      const int64_t run = smaller(L - lane, line_.pitch - q), inside = smaller(run, line_.Q - q);
      if (inside > 0 && row < line_.rows)
        segments[count++] = {row * row_step_ + q - lane, vector, uint16_t(((1u << inside) - 1) << lane)};
      lane += run;
    }
    return count;
  }

  const PixelLine<T>& line_;
  int64_t row_step_, channel_step_;
  In* out_;
};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
