// The least and the greatest magnitudes of operands, by which it is known whether what reads them as bfloat16, or as
// terms of it (amx_terms.h), computes what float32 would.
//
// Limit: one pass over memory, so operands that are read by whole images and whole filters are looked at just before
// they are packed, when that fetches them (OperandMagnitudes). A pass of its own took 5 to 10 % of the time of layers
// in groups of 32 to 512 channels.
#pragma once
#include "amx_terms.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// The least magnitude of what is not zero, and the greatest, as the bits of floats: they are ordered as floats are.
struct Magnitudes {
  uint32_t least = 0xffffffffu, greatest = 0;
  void add(const Magnitudes& m) {
    least = m.least < least ? m.least : least;
    greatest = m.greatest > greatest ? m.greatest : greatest;
  }
  // The same where other threads may add, too.
  void add_shared(const Magnitudes& m) {
    const auto exchange = [](uint32_t& to, uint32_t value, auto better) {
      uint32_t now = __atomic_load_n(&to, __ATOMIC_RELAXED);
      while (better(value, now) &&
             !__atomic_compare_exchange_n(&to, &now, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      }
    };
    exchange(least, m.least, [](uint32_t a, uint32_t b) { return a < b; });
    exchange(greatest, m.greatest, [](uint32_t a, uint32_t b) { return a > b; });
  }
  bool finite() const { return greatest < 0x7f800000u; }
};

inline int exponent(uint32_t bits) { return int(bits >> 23) - 127; }

// The same in each lane, until all has been seen: across the lanes they take as long as dozens of vectors do.
template <class In>
class LaneMagnitudes {
 public:
  static constexpr int64_t L = 16;
  void add(const In* p, int64_t count) { add(load_some<float>(p, count)); }
  void add(In x) { add(Floats{float(x)}); }
  Magnitudes of_all() const {
    Magnitudes m;
    for (int l = 0; l < L; ++l) m.add({least_[l] == ~0u ? ~0u : least_[l] + 1, greatest_[l]});
    return m;
  }

 private:
  void add(Floats f) {
    const Words v = Words(f) & 0x7fffffffu, place = v - 1;  // zero becomes the largest
    least_ = place < least_ ? place : least_;
    greatest_ = v > greatest_ ? v : greatest_;
  }
  Words least_ = ~Words{}, greatest_{};
};

// bfloat16's bits are the upper half of float32's.
template <>
class LaneMagnitudes<BFloat16> {
 public:
  static constexpr int64_t L = Vec<uint16_t>::lanes;
  void add(const BFloat16* p, int64_t count) {
    add(load_some<uint16_t>(reinterpret_cast<const uint16_t*>(p), smaller(count, L)));
  }
  void add(BFloat16 x) { add(reinterpret_cast<const BFloat16*>(&x), 1); }
  Magnitudes of_all() const {
    Magnitudes m;
    for (int l = 0; l < L; ++l)
      m.add({least_[l] == 0xffffu ? ~0u : (least_[l] + 1u) << 16, uint32_t(greatest_[l]) << 16});
    return m;
  }

 private:
  void add(Halfwords v) {
    v &= 0x7fff;
    const Halfwords place = v - 1;
    least_ = place < least_ ? place : least_;
    greatest_ = v > greatest_ ? v : greatest_;
  }
  Halfwords least_ = ~Halfwords{}, greatest_{};
};

// Elements `stride` apart.
struct Walk {
  int64_t count, stride;
};

// The axes of an array in the order in which they lie in memory, as one where they follow one another: the first is the
// longest run of neighbours that there is. (A filter of 1x1 or 3x3 is none, the filters of an output are.)
struct Walks {
  Walk axes[4];

  Walks(Walk a, Walk b, Walk c, Walk d) : axes{a, b, c, d} {
    for (Walk& w : axes)
      if (w.stride == 0) w.count = smaller(w.count, 1);  // expanded: the same elements again
    for (int i = 1; i < 4; ++i)
      for (int j = i; j > 0 && place(axes[j]) < place(axes[j - 1]); --j) {
        const Walk before = axes[j - 1];
        axes[j - 1] = axes[j], axes[j] = before;
      }
    for (int i = 1; i < 4; ++i) {
      if (axes[i].stride != axes[0].count * axes[0].stride) break;
      axes[0].count *= axes[i].count;
      axes[i].count = 1;
    }
  }

  int64_t length() const { return axes[0].count; }  // of a line
  int64_t lines() const { return axes[1].count * axes[2].count * axes[3].count; }
  int64_t start_of_line(int64_t i) const {
    return i % axes[1].count * axes[1].stride + i / axes[1].count % axes[2].count * axes[2].stride +
           i / axes[1].count / axes[2].count * axes[3].stride;
  }

 private:
  static int64_t place(const Walk& w) { return w.count == 1 ? INT64_MAX : w.stride; }  // single elements last
};

// Elements [first, last) of a line.
template <class In>
inline void add_line(LaneMagnitudes<In>& m, const In* line, int64_t first, int64_t last, int64_t stride) {
  if (stride == 1)
    for (int64_t e = first; e < last; e += m.L) m.add(line + e, last - e);
  else
    for (int64_t e = first; e < last; ++e) m.add(line[e * stride]);
}

template <class In>
Magnitudes magnitudes_of(const In* data, const Walks& walks) {
  LaneMagnitudes<In> m;
  if (walks.length() > 0)
    for (int64_t l = 0; l < walks.lines(); ++l)
      add_line(m, data + walks.start_of_line(l), 0, walks.length(), walks.axes[0].stride);
  return m.of_all();
}

// Of each of N images, `pitch` apart, by all threads.
template <class In>
void magnitudes_of_images(Magnitudes* images, const In* data, int64_t N, int64_t pitch, const Walks& walks) {
  constexpr int64_t kPart = 8192;  // elements: some lines, or a piece of one
  const int64_t length = walks.length(), lines = walks.lines();
  for (int64_t n = 0; n < N; ++n) images[n] = {};
  if (N * length * lines == 0) return;
  const int64_t pieces = ceil_div(length, kPart), together = larger(1, kPart / length);
  const int64_t parts = pieces * ceil_div(lines, together);
  Buffer<Magnitudes> found(N * parts);
  parallel_for(N * parts, grain_for(double(together) * smaller(length, kPart) / 4), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i % parts, line = part / pieces * together;
      const int64_t first = part % pieces * kPart, last = smaller(length, first + kPart);
      LaneMagnitudes<In> m;
      for (int64_t l = line; l < smaller(lines, line + together); ++l)
        add_line(m, data + i / parts * pitch + walks.start_of_line(l), first, last, walks.axes[0].stride);
      found[i] = m.of_all();
    }
  });
  for (int64_t i = 0; i < N * parts; ++i) images[i / parts].add(found[i]);
}

// Those of one problem's operands, as far as a kernel sees them on its way: all of the images, or all of the other one.
struct OperandMagnitudes {
  Buffer<Magnitudes> images;  // of each image that is convolved; of a weight's gradient only one, of all
  Magnitudes other;           // of the weights; of a weight's gradient those of y
  bool images_seen = false, other_seen = false;

  explicit OperandMagnitudes(int64_t count) : images(count) {
    for (int64_t n = 0; n < count; ++n) images[n] = {};
  }
};

// Whether products of the two come out as float32's would: every term is at least what the unit takes as it is, 2^-126,
// and so is the last bit of every product. (Numbers that are their own term may be infinite.)
template <int terms>
bool can_multiply(const Magnitudes& a, const Magnitudes& b) {
  constexpr uint32_t kRoundsToInfinity = 0x7f7f8000u;
  if (terms > 1 && (a.greatest >= kRoundsToInfinity || b.greatest >= kRoundsToInfinity)) return false;
  constexpr int kLowest = terms == 1 ? -126 : -103, kLowestProduct = terms == 1 ? -110 : -103;
  const int x = exponent(a.least), y = exponent(b.least);  // above any other if all are zero
  return x >= kLowest && y >= kLowest && x + y >= kLowestProduct;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
