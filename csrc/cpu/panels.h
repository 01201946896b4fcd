// forward and grad_input for small planes and large weights: the outer product over panels.
//
// outer_product.h reads its left side where the tile has it, so a register tile is a rectangle of results of one image,
// and planes of 7 x 7 or 17 x 17 leave part of it empty; and it packs all weights before it starts, which costs more
// than it gains where each weight is used for few pixels. Here all results of all images are one line of pixels, cut
// into pieces of M whatever rows and images they fall on, and both sides are copied once more, a slab of steps at a
// time:
//
//   panels [8 steps][piece][step][M]   from the tile, or straight from a pointwise layer's input
//   slab   [step][NV * lanes]          from the weights, by transposes in registers
//
// Eight steps of all pieces lie together: a few lines of pixels are read side by side and written as one stream. Pieces
// with all their steps together were read far apart or written far apart, at four times the cost. The inner loop reads
// its left side through a table anyway.
//
// For one block of pixels and one range of outputs: for each slab, pack the panels, then for each block of outputs pack
// its slab and let all panels pass over it. Sums wait in memory until the next slab. With many blocks of pixels the
// weights are packed once for all of them.
//
// Estimate: the copies cost some pixels / 4 cycles a step for the panels and steps * outputs / 4 for the slabs, beside
// pixels * outputs / 32 for the arithmetic (16 lanes): a tenth at 256 pixels and 256 outputs. Memory: the panels, a
// slab and the sums, about 1 MiB a thread whatever the problem's size, and at most one copy of the weights.
//
// Run alone: with convx.algorithm("panels"): ...
#pragma once
#include "outer_product.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Steps of a slab: whole chains, long or short ones.
template <class T>
constexpr int64_t kSlab = 2 * kChain<T>;
static_assert(kSlab<float> % kLongChain<float> == 0 && kSlab<double> % kLongChain<double> == 0);
static_assert(kParts % 2 == 0);  // so that a long sum ends with a slab

// Steps that are dealt out to the pieces together; a chain is a multiple of it.
constexpr int64_t kLines = 8;

// Neighbouring pixels, and where they go in each step's line.
struct PanelRun {
  int32_t from, to, length;
};

// Copies whole vectors, a few at a time: a load behind a store to an address that agrees in its last 12 bits waits for
// it. May read and write up to a vector past the end.
template <class T>
inline void copy_vectors(T* to, const T* from, int64_t count) {
  constexpr int64_t L = Vec<T>::lanes;
  for (; count > 4 * L; count -= 4 * L, to += 4 * L, from += 4 * L) {
    const auto a = load(from), b = load(from + L), c = load(from + 2 * L), d = load(from + 3 * L);
    store(to, a), store(to + L, b), store(to + 2 * L, c), store(to + 3 * L, d);
  }
  for (; count > 0; count -= L, to += L, from += L) store(to, load(from));
}

// The blocks of pixels and outputs that one item of work computes.
struct PanelBlocks {
  static constexpr int64_t kPixels = 36 * CONVX_MAX_M;  // at most
  int64_t pixels, outputs;                              // outputs in blocks of `width`
  int64_t line, per_line;  // pixels are cut into lines first: rows or images if they are large, or all images together
  int64_t places;

  int64_t first(int64_t place) const { return place / per_line * line + place % per_line * pixels; }
  int64_t count(int64_t place) const { return smaller(pixels, line - place % per_line * pixels); }

  template <class T, class In>
  static PanelBlocks choose(const Convolution<T, In>& cv, int64_t width) {
    constexpr int64_t kSums = (512 << 10) / sizeof(T);
    const int64_t row = cv.columns.count, plane = cv.rows.count * row, all = cv.N * plane;
    PanelBlocks b;
    b.line = row >= kPixels ? row : plane >= kPixels ? plane : all;
    b.per_line = ceil_div(b.line, kPixels);
    b.pixels = ceil_div(b.line, b.per_line);
    b.places = all / b.line * b.per_line;
    // The outputs in so many parts that threads have equal work, but few, since the panels are packed again for each of
    // them, at about the cost of one block of outputs.
    const int64_t blocks = ceil_div(cv.outputs, width), items = cv.G * b.places;
    const int64_t fewest = ceil_div(blocks, larger(1, kSums / (b.pixels * width)));
    int64_t least = INT64_MAX;
    for (int64_t parts = fewest; parts <= smaller(blocks, fewest + 4 * thread_count()); ++parts) {
      const int64_t each = ceil_div(blocks, parts);
      const int64_t time = ceil_div(items * ceil_div(blocks, each), thread_count()) * (each + 1);
      if (time < least) least = time, b.outputs = each;
    }
    return b;
  }
};

// One item of work's pixels [first, first + count) of the line of all results, and how to pack their panels.
template <class T, class In>
class Panels {
 public:
  Panels(const Convolution<T, In>& cv, int64_t most_pixels)
      : cv_(cv),
        in_place_(cv.reads_in_place() && (cv.rows.count == 1 || cv.in_strides.h == cv.columns.in) &&
                  cv.in_strides.n < INT32_MAX / smaller(cv.N, (most_pixels - 1) / plane() + 2)),
        in_a_row_(cv.columns.count >= PanelBlocks::kPixels),
        images_(in_a_row_ ? 1 : smaller(cv.N, (most_pixels - 1) / plane() + 2)),
        rows_(in_a_row_
                  ? 1
                  : smaller(cv.rows.count, images_ > 2 ? cv.rows.count : (most_pixels - 1) / cv.columns.count + 2)),
        shape_(cv.rows, cv.columns, rows_, in_a_row_ ? most_pixels : cv.columns.count),
        channels_(smaller(cv.inputs, (kSlab<T> - 1) / larger(1, cv.taps()) + 2)),
        image_size_(in_place_ ? cv.in_strides.n : channels_ * shape_.plane),
        tap_(cv.taps()),
        runs_(most_pixels),
        tile_(in_place_ ? 0 : images_ * image_size_ + 2 * CONVX_MAX_M + Vec<T>::lanes),
        pitch_(ceil_div(most_pixels + CONVX_MAX_M, Vec<T>::lanes) * Vec<T>::lanes + 2 * Vec<T>::lanes),
        lines_(pitch_ * kLines),
        panels_(kSlab<T> / kLines * group_size(ceil_div(most_pixels, CONVX_MAX_M), CONVX_MAX_M)) {
    for (int r = 0, t = 0; r < cv.rows.taps; ++r)
      for (int s = 0; s < cv.columns.taps; ++s) tap_[t++] = int32_t(shape_.tap(cv.rows, cv.columns, r, s));
  }

  int m() const { return m_; }
  int64_t pieces() const { return pieces_; }
  const T* piece(int64_t t) const { return panels_.data() + t * kLines * m_; }
  // Where step k of the slab is in a piece.
  int32_t step(int64_t k) const { return int32_t(k / kLines * group_size(pieces_, m_) + k % kLines * m_); }

  void set_pixels(int64_t first, int64_t count) {
    const int64_t Q = cv_.columns.count;
    first_ = first, count_ = count;
    first_column_ = in_a_row_ ? first % Q : 0;
    pieces_ = ceil_div(count, CONVX_MAX_M);
    m_ = int(ceil_div(count, pieces_));
    run_count_ = 0;
    for (int64_t i = 0; i < count;) {
      const int64_t pixel = first + i, n = pixel / plane(), p = pixel % plane() / Q, q = pixel % Q;
      const int64_t length = smaller(count - i, in_place_ ? plane() - pixel % plane() : Q - q);
      const int64_t place = in_place_ ? pixel % plane() : (p - first_row(n)) * shape_.pitch + q - first_column_;
      runs_[run_count_++] = {int32_t((n - first / plane()) * image_size_ + place), int32_t(i), int32_t(length)};
      i += length;
    }
  }

  // Packs the panels of steps [k0, k1) of group g.
  void pack(int64_t g, int64_t k0, int64_t k1) {
    const int64_t c0 = k0 / cv_.taps(), c1 = ceil_div(k1, cv_.taps()), n0 = first_ / plane();
    const In* const in = cv_.in + cv_.in_strides(n0, g * cv_.inputs + c0, 0, 0);
    if (!in_place_)
      for (int64_t n = n0, end = ceil_div(first_ + count_, plane()); n < end; ++n)
        pack_tile<T, In>(tile_.data() + (n - n0) * image_size_, shape_, cv_.rows, cv_.columns, first_row(n),
                         last_row(n) - first_row(n), first_column_, in_a_row_ ? count_ : cv_.columns.count,
                         in + (n - n0) * cv_.in_strides.n, cv_.in_strides, c1 - c0);
    if constexpr (std::is_same_v<T, In>)
      if (in_place_ && run_count_ == 1) {  // lines in memory already
        for (int64_t k = 0; k < k1 - k0; k += kLines)
          deal_out(k, smaller(kLines, k1 - k0 - k), in + k * cv_.in_strides.c + runs_[0].from, cv_.in_strides.c, false);
        return;
      }
    int64_t c = 0, tap = k0 - c0 * cv_.taps();
    for (int64_t k = 0; k < k1 - k0; ++k) {
      T* line = lines_.data() + k % kLines * pitch_;
      if constexpr (std::is_same_v<T, In>)
        if (in_place_)
          for (int64_t r = 0; r < run_count_; ++r)
            copy_run(line + runs_[r].to, in + k * cv_.in_strides.c + runs_[r].from, runs_[r].length);
      if (!in_place_) {
        const T* from = tile_.data() + c * shape_.plane + tap_[tap];
        for (int64_t r = 0; r < run_count_; ++r)
          copy_vectors(line + runs_[r].to, from + runs_[r].from, runs_[r].length);
        if (++tap == cv_.taps()) tap = 0, ++c;
      }
      if (k % kLines == kLines - 1 || k == k1 - k0 - 1)
        deal_out(k / kLines * kLines, k % kLines + 1, lines_.data(), pitch_, true);
    }
  }

  // Asks for part `part` of `parts` of what the steps from k0 on read, for L2, while the arithmetic of the steps before
  // them goes on: it comes from far, in pieces too short for the hardware to see them coming.
  void prefetch(int64_t g, int64_t k0, int64_t part, int64_t parts) const {
    if (cv_.in_strides.w != 1) return;
    const int64_t c0 = k0 / larger(1, cv_.taps()), c1 = smaller(cv_.inputs, c0 + channels_);
    const int64_t n0 = first_ / plane(), images = ceil_div(first_ + count_, plane()) - n0, units = (c1 - c0) * images;
    for (int64_t u = units * part / parts; u < units * (part + 1) / parts; ++u) {
      const int64_t n = n0 + u % images, W = cv_.columns.in;
      int64_t begin = larger(0, first_ - n * plane()), end = smaller(plane(), first_ + count_ - n * plane());
      if (!in_place_) {
        if (cv_.in_strides.h != W) return;
        begin = first_row(n) * cv_.rows.stride * W + first_column_ * cv_.columns.stride;
        end = smaller(cv_.rows.in, last_row(n) * cv_.rows.stride) * W;
        if (in_a_row_) end = smaller(end, begin + count_ * cv_.columns.stride);
      }
      const In* from = cv_.in + cv_.in_strides(n, g * cv_.inputs + c0 + u / images, 0, 0);
      for (int64_t x = begin; x < end; x += 64 / int64_t(sizeof(In))) __builtin_prefetch(from + x, 0, 2);
    }
  }

  // Writes the sums [pixel][width] of outputs [first, first + count) of group g.
  void write(const T* sums, int64_t g, int64_t first, int64_t count, int64_t width) const {
    const int64_t Q = cv_.columns.count, step = cv_.out_strides.w * cv_.columns.out_step;
    const bool one_line = cv_.out_strides.h * cv_.rows.out_step == Q * step;
    for (int64_t i = 0; i < count_;) {
      const int64_t pixel = first_ + i, n = pixel / plane(), p = pixel % plane() / Q, q = pixel % Q;
      const int64_t length = smaller(count_ - i, one_line ? plane() - pixel % plane() : Q - q);
      store_results(cv_, sums + i * width, length, width, n, g, first, count, p, q);
      i += length;
    }
  }

 private:
  // Deals the lines of steps [k, k + lines), `pitch` apart, out to the pieces. `padded`: a vector can be read past
  // them.
  void deal_out(int64_t k, int64_t lines, const T* from, int64_t pitch, bool padded) {
    constexpr int64_t L = Vec<T>::lanes;
    T* const to = panels_.data() + k / kLines * group_size(pieces_, m_);
    const int64_t wide = padded ? pieces_ - 1 : smaller(pieces_, larger(0, count_ - ceil_div(m_, L) * L) / m_);
    // in ascending order, since each copy may write past its end
    for (int64_t t = 0; t < wide; ++t) {
      T* next = to + t * kLines * m_;
      const T* line = from + t * m_;
      for (int64_t i = 0; i < lines; ++i, next += m_, line += pitch)
        for (int64_t l = 0; l < m_; l += L) store(next + l, load(line + l));
    }
    for (int64_t t = wide; t < pieces_; ++t)  // zeros beyond the pixels: stale memory could be subnormal, which is slow
      for (int64_t i = 0; i < lines; ++i)
        for (int64_t l = 0; l < m_; l += L)
          store(to + (t * kLines + i) * m_ + l,
                load_some<T>(from + i * pitch + t * m_ + l, larger(0, smaller(m_ - l, count_ - t * m_ - l))));
  }
  // Eight steps of all pieces; a copy may write a vector past their end.
  static int64_t group_size(int64_t pieces, int64_t m) { return pieces * kLines * m + Vec<T>::lanes; }
  int64_t plane() const { return cv_.rows.count * cv_.columns.count; }
  // The rows of image n that the pixels reach.
  int64_t first_row(int64_t n) const { return larger(0, first_ - n * plane()) / cv_.columns.count; }
  int64_t last_row(int64_t n) const {
    return smaller(cv_.rows.count, ceil_div(first_ + count_ - n * plane(), cv_.columns.count));
  }

  const Convolution<T, In>& cv_;
  bool in_place_, in_a_row_;  // all pixels of an item
  int64_t images_, rows_;
  TileShape shape_;
  int64_t channels_, image_size_;
  Scratch<int32_t> tap_;
  Scratch<PanelRun> runs_;
  Scratch<T> tile_;
  int64_t pitch_;
  Scratch<T> lines_, panels_;
  int64_t first_ = 0, count_ = 0, first_column_ = 0, pieces_ = 0, run_count_ = 0;
  int m_ = 1;
};

// Runs convolution j of those whose weights are packed, or, if only the biases were, packs them slab by slab. False,
// with the result unfinished, if a weight is not finite.
template <class T, class In>
bool convolve_panels(const Convolution<T, In>& cv, const PackedWeights<T>& weights, int64_t j, bool packed_once) {
  constexpr int64_t L = Vec<T>::lanes, width = 2 * L;
  const int64_t steps = cv.inputs * cv.taps(), plane = cv.rows.count * cv.columns.count;
  if (cv.N * plane == 0) return true;
  const PanelBlocks b = PanelBlocks::choose(cv, width);
  const int64_t kbs = ceil_div(cv.outputs, width), parts = ceil_div(kbs, b.outputs), places = b.places;
  const bool lines_of_weights = cv.weight_output == 1 && cv.taps() == 1;
  // As outer_product.h has it, to the bit: which of the two runs depends on the batch.
  const bool very_long = steps > kParts * cv.chain;
  std::atomic<bool> finite{true};
  const double work = double(b.pixels) * b.outputs * width * steps / 16;
  parallel_for_balanced(cv.G * places * parts, grain_for(work), [&](int64_t begin, int64_t end) {
    Panels<T, In> panels(cv, b.pixels);
    const int64_t most_sums = (b.pixels + CONVX_MAX_M + L) * b.outputs * width + L * width;
    Scratch<T> sums(most_sums), totals(very_long ? most_sums : 0), slab(kSlab<T> * width);
    int32_t a_k[kSlab<T>];
    for (int64_t i = begin; i < end && finite; ++i) {
      const int64_t part = i % parts, place = i / parts % places, g = i / parts / places;
      const int64_t kb0 = part * b.outputs, kb1 = smaller(kbs, kb0 + b.outputs);
      panels.set_pixels(b.first(place), b.count(place));
      const int m = panels.m();
      const int64_t block = (panels.pieces() * m + L) * width;  // the sums of one block of outputs
      for (int64_t k = 0; k < kSlab<T>; ++k) a_k[k] = panels.step(k);
      for (int64_t k0 = 0; k0 < larger(steps, 1); k0 += kSlab<T>) {
        const int64_t k1 = smaller(steps, k0 + kSlab<T>);
        if (k1 > k0) panels.pack(g, k0, k1);
        for (int64_t kb = kb0; kb < kb1; ++kb) {
          const bool narrow = cv.outputs - kb * width <= L;
          const int64_t wide = narrow ? L : width;
          if (!packed_once && !pack_weights(slab.data(), cv, g, kb * width, wide, k0, k1)) finite = false;
          const T* const right = packed_once ? weights.of(cv, j, g, kb) + k0 * wide : slab.data();
          const OuterProduct<T> kernel = narrow ? outer_product_of<T, 1>(1, m) : outer_product_of<T, 2>(1, m);
          // The weights that come next, packed or still to be packed: of the next outputs, then of the next slab. Where
          // they are a line for each step, call after call fetches another cache line of all.
          const int64_t next_kb = kb + 1 < kb1 ? kb + 1 : kb0, next_k0 = kb + 1 < kb1 ? k0 : k1;
          const T* const next = packed_once ? weights.of(cv, j, g, next_kb) + smaller(next_k0, steps) * wide : right;
          const In* const next_line =
              !packed_once && lines_of_weights && next_k0 < steps
                  ? cv.weight + g * cv.weight_group + next_kb * width + next_k0 * cv.weight_input
                  : nullptr;
          const auto ahead = [&](int64_t t, int64_t k) {
            if (next_line && t <= ceil_div(width, kPerLine<In>))
              return NextLines(next_line + (k - k0) * cv.weight_input + t * kPerLine<In>,
                               cv.weight_input * int64_t(sizeof(In)));
            const int64_t line = (t * ceil_div(k1 - k0, cv.chain) * cv.chain + k - k0) * kPerLine<T>;
            return NextLines(line < (k1 - k0) * wide ? next + line : right);
          };
          T *sum = sums.data() + (kb - kb0) * block, *const total = totals.data() + (kb - kb0) * block;
          const int64_t size = panels.pieces() * m * wide;
          const bool begins = k0 && begins_sum(k0, cv.chain);
          if (begins) add_sums(total, sum, size, k0 == kParts * cv.chain);
          for (int64_t t = 0; t < panels.pieces(); ++t, sum += m * wide) {
            for (int64_t k = k0; k < larger(k1, k0 + 1); k += cv.chain) {
              kernel(panels.piece(t), 0, a_k + (k - k0), right + (k - k0) * wide, wide, smaller(cv.chain, k1 - k), sum,
                     0,
                     k == 0              ? weights.bias(g, kb)
                     : begins && k == k0 ? kZeros<T>
                                         : nullptr,
                     ahead(t, k));
            }
            if (k1 < steps) panels.prefetch(g, k1, (kb - kb0) * panels.pieces() + t, (kb1 - kb0) * panels.pieces());
          }
          if (k1 < steps) continue;
          sum -= size;
          if (very_long) add_sums(sum, total, size, false);
          panels.write(sum, g, kb * width, smaller(width, cv.outputs - kb * width), wide);
        }
      }
    }
  });
  return finite;
}

// Runs convolutions that share weights and outputs. Weights are packed once for all if several blocks of pixels read
// them, or several phases, whose taps lie between one another; but not more than malloc keeps from call to call, since
// new memory costs more than it saves.
template <class T, class In>
bool convolve_all_panels(const Convolution<T, In>* cv, int64_t count) {
  constexpr int64_t kKept = 32 << 20;
  const int64_t plane = cv[0].rows.count * cv[0].columns.count, width = 2 * Vec<T>::lanes;
  if (cv[0].N * plane == 0) return true;
  const int64_t bytes = cv[0].G * cv[0].inputs * cv[0].filter_size * ceil_div(cv[0].outputs, width) * width * sizeof(T);
  const bool packed_once = PanelBlocks::choose(cv[0], width).places > 2 || (count > 1 && bytes < kKept);
  const PackedWeights<T> weights(cv, packed_once ? count : 0);  // 0: of the biases only
  for (int64_t j = 0; j < count; ++j)
    if (!weights.finite || !convolve_panels(cv[j], weights, j, packed_once)) return false;
  return true;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
