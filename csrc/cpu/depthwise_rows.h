// Depthwise layers in place: vectors across the pixels of a row, nothing packed, blocks of rows. For kernels of 3x3,
// 5x5 and 7x7 and stride 1, on AVX2 and AVX-512.
//
// The results [q, q + L) of a row, a vector, read the inputs from q + offset(s) on, for each column tap s: a load,
// unaligned. Where some of its elements are beyond the row's ends a mask leaves them out, and a row of zeros stands for
// those beyond the plane. A block is BR rows of results (4; 8 of larger filters on AVX-512) and NV vectors (2, or 1 for
// want of registers). It takes the taps a column at a time, whose weights are in registers, and an input that has been
// loaded meets all the rows of taps that bring it to one of the block's results,
//
//   acc[i][v] += x[row d][q_v + offset(s)] * w[d - i][s],   i < BR,  v < NV,  0 <= d - i < R,
//
// and which those are is known to the compiler: as loops, with three rounds each, this took twice as long. Blocks
// follow each other down a strip of the plane, as many rows as L1 holds. The last block and the last vector overlap
// those before them, so that none is cut off.
//
// What it gains over depthwise_channels.h: planes are not turned over, twice 10 cycles for 8 results. Limit on AVX-512:
// a block of 3x3 taps is 72 multiply-adds, two a cycle, and 36 loads of x that lie across cache lines, 1.2 cycles each:
// 43 cycles for 128 results, whose way from and to memory takes 60. With 7x7 taps (8 rows) it is 784 and 196: 392
// cycles, and it takes some 600 in cache. On AVX2 half of the loads are within a line: 18 to 27 cycles for 32 results
// of 3x3. What is left out is read as zero, so weights that are not finite go to the reference. Alone:
//
//   with convx.algorithm("depthwise"): ...
#pragma once
#include "masked_load.h"
#include "planes.h"
#include "plans.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Which column taps need masks: those left of the middle one, those right of it, or with both the middle one too.
constexpr int kLeftTaps = 1, kRightTaps = 2;

template <int S, int masked, int s>
constexpr bool masks_tap() {
  constexpr int needed = s < S / 2 ? kLeftTaps : s > S / 2 ? kRightTaps : kLeftTaps | kRightTaps;
  return (masked & needed) == needed;
}

// Where vectors of a row begin, and which of their elements each column tap finds inside.
template <class T>
struct RowVectors {
  int64_t count, length, taps;  // of a vector: all lanes, or of a short row
  Buffer<int64_t> column, offset;
  Buffer<int> masked;        // of each vector: which of its taps need a mask
  Buffer<LaneMask<T>> mask;  // [vector][tap]
  Buffer<LaneMask<T>> own;   // of each vector: the results that no other has

  explicit RowVectors(const AxisPlan& c, int64_t L = Vec<T>::lanes)
      : count(ceil_div(c.count, L)),
        length(smaller(L, c.count)),
        taps(c.taps),
        column(count),
        offset(taps),
        masked(count),
        mask(count * taps),
        own(count) {
    const bool ascends = c.offset[0] == c.lowest();
    for (int64_t s = 0; s < taps; ++s) offset[s] = c.offset[ascends ? s : taps - 1 - s];
    for (int64_t v = 0; v < count; ++v) {
      column[v] = larger(0, smaller(v * L, c.count - L));  // the last one overlaps its neighbour: the same results
      own[v] = lanes_inside<T>(column[v], v * L, c.count, L);
      const auto inside = [&](int64_t s) { return column[v] + offset[s] >= 0 && column[v] + L + offset[s] <= c.in; };
      masked[v] = 0;
      for (int64_t s = 0; s < taps; ++s)
        if (!inside(s)) masked[v] |= s < taps / 2 ? kLeftTaps : s > taps / 2 ? kRightTaps : kLeftTaps | kRightTaps;
      for (int64_t s = 0; s < taps; ++s) mask[v * taps + s] = lanes_inside<T>(column[v] + offset[s], 0, c.in, L);
    }
  }
};

template <class T>
struct Plane {
  const T* const* rows;  // of x, from the first that a tap reads on
  T* y;
  int64_t y_pitch;
  const T* w;  // [row tap][column tap], offsets ascending
  T bias;
  int64_t x_ahead, y_ahead;  // to what is fetched on the way, 0 if nothing
};

constexpr int kBlockRows = 4;

// How many rows of x go by before the next vectors of them: a third of the L1 cache, whole blocks.
template <class T>
int64_t rows_at_once(int64_t pitch) {
  constexpr int64_t kBytes = 16 << 10, kBlock = 2 * kBlockRows;
  return ceil_div(kBytes, int64_t(sizeof(T)) * pitch * kBlock) * kBlock;
}

// The products of column tap s with row d of a block's inputs. Inlined, as all that has the sums: else they would be in
// memory.
template <class T, int R, int S, int NV, int BR, int masked, int s, int d>
__attribute__((always_inline)) inline void add_products(const T* x, const int64_t* column, const LaneMask<T>* mask,
                                                        const typename Vec<T>::type* w,
                                                        typename Vec<T>::type (&acc)[BR][NV]) {
  using V = typename Vec<T>::type;
  constexpr int low = d - R + 1 > 0 ? d - R + 1 : 0, high = d < BR ? d : BR - 1;
  V right[NV];
#pragma GCC unroll 2
  for (int v = 0; v < NV; ++v) {
    V loaded;
    if constexpr (masks_tap<S, masked, s>())
      loaded = V(mask[v * S + s].load(x + column[v]));
    else
      loaded = load(x + column[v]);
    asm("" : "+v"(loaded));  // once: compilers would load it again for each product
    right[v] = loaded;
  }
#pragma GCC unroll 8
  for (int i = low; i <= high; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) acc[i][v] += right[v] * w[d - i];
}

// NV vectors, from vector v0 on, of the rows first..last of results, block by block.
template <class T, int R, int S, int NV, int BR, int masked>
void convolve_strip(const Plane<T>& plane, const RowVectors<T>& rv, int64_t first, int64_t last, int64_t v0) {
  using V = typename Vec<T>::type;
  constexpr int kTogether = kChain<T> / R;  // columns of taps in a chain
  const int64_t *const column = rv.column.data() + v0, *const offsets = rv.offset.data();
  const auto* const mask = rv.mask.data() + v0 * S;
  const int64_t y_pitch = plane.y_pitch, x_ahead = plane.x_ahead, y_ahead = plane.y_ahead;
  const bool whole = rv.length == Vec<T>::lanes;
  V w[9];  // of 3x3 all stay in registers, column by column
#pragma GCC unroll 9
  for (int t = 0; t < (R == 3 ? R * S : 0); ++t) w[t % 9] = splat<T>(plane.w[t % R * S + t / R]);
  const V bias = splat<T>(plane.bias);
  for (int64_t start = first; start <= last; start += BR) {
    const int64_t row = smaller(start, last + 1 - BR);
    const T* const* const rows = plane.rows + row;
    T* const to = plane.y + row * y_pitch;
    if (x_ahead > 0) {
#pragma GCC unroll 8
      for (int i = 0; i < BR; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) {
          __builtin_prefetch(rows[R / 2 + i] + column[v] + x_ahead, 0, 2);
          __builtin_prefetch(to + i * y_pitch + column[v] + y_ahead, 0, 2);
        }
    }
    V acc[BR][NV] = {}, sums[BR][NV];
#pragma GCC unroll 8
    for (int i = 0; i < BR; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) sums[i][v] = bias;
    const auto flush = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int i = 0; i < BR; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) sums[i][v] += acc[i][v], acc[i][v] = V{};
    };
    const auto add = [&]<int s>(std::integral_constant<int, s>) __attribute__((always_inline)) {
      const int64_t offset = offsets[s];
      V weight[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) weight[r] = R == 3 ? w[(s * R + r) % 9] : splat<T>(plane.w[r * S + s]);
      [&]<int... d>(std::integer_sequence<int, d...>) __attribute__((always_inline)) {
        (add_products<T, R, S, NV, BR, masked, s, d>(rows[d] + offset, column, mask, weight, acc), ...);
      }(std::make_integer_sequence<int, R + BR - 1>{});
      if constexpr (s % kTogether == kTogether - 1 && s < S - 1) flush();
    };
    [&]<int... s>(std::integer_sequence<int, s...>) __attribute__((always_inline)) {
      (add(std::integral_constant<int, s>{}), ...);
    }(std::make_integer_sequence<int, S>{});
    flush();
#pragma GCC unroll 8
    for (int i = 0; i < BR; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v)
        if (whole)
          store(to + i * y_pitch + column[v], sums[i][v]);
        else
          store_some<T>(to + i * y_pitch + column[v], sums[i][v], rv.length);
  }
}

template <class T, int R, int S, int NV, int BR>
void convolve_strip_of(int masked, const Plane<T>& plane, const RowVectors<T>& rv, int64_t first, int64_t last,
                       int64_t v) {
  switch (masked) {
    case 0: return convolve_strip<T, R, S, NV, BR, 0>(plane, rv, first, last, v);
    case kLeftTaps: return convolve_strip<T, R, S, NV, BR, kLeftTaps>(plane, rv, first, last, v);
    case kRightTaps: return convolve_strip<T, R, S, NV, BR, kRightTaps>(plane, rv, first, last, v);
    default: return convolve_strip<T, R, S, NV, BR, kLeftTaps | kRightTaps>(plane, rv, first, last, v);
  }
}

template <class T, int R, int S, int BR>
void convolve_plane(const Plane<T>& plane, const RowVectors<T>& rv, int64_t results, int64_t at_once) {
  constexpr int NV =
      CONVX_VECTOR_BYTES == 64 || R == 5 ? 2 : 1;  // that many sums, and a column's weights, in registers
  for (int64_t row = 0; row < results; row += at_once) {
    const int64_t last = smaller(row + at_once, results) - 1, first = smaller(row, results - BR);
    int64_t v = 0;
    for (; NV == 2 && v + 1 < rv.count; v += 2)
      convolve_strip_of<T, R, S, NV, BR>(rv.masked[v] | rv.masked[v + 1], plane, rv, first, last, v);
    for (; v < rv.count; ++v) convolve_strip_of<T, R, S, 1, BR>(rv.masked[v], plane, rv, first, last, v);
  }
}

// The weights as [channel][row tap][column tap], offsets ascending: where they are, or copied.
template <class T, class In>
class PlaneWeights {
 public:
  explicit PlaneWeights(const Convolution<T, In>& cv) : copy_(in_place(cv) ? 0 : cv.G * cv.outputs * cv.taps()) {
    data_ = copy_.data();
    if constexpr (std::is_same_v<T, In>)
      if (in_place(cv)) data_ = cv.weight;
    if (in_place(cv)) return;
    const AxisPlan &r = cv.rows, &c = cv.columns;
    const bool down = r.offset[0] == r.lowest(), right = c.offset[0] == c.lowest();
    Buffer<int64_t> from(cv.taps());
    for (int64_t t = 0; t < cv.taps(); ++t)
      from[t] = r.index[down ? t / c.taps : r.taps - 1 - t / c.taps] * cv.weight_r +
                c.index[right ? t % c.taps : c.taps - 1 - t % c.taps] * cv.weight_s;
    T* to = copy_.data();
    for (int64_t g = 0; g < cv.G; ++g)
      for (int64_t k = 0; k < cv.outputs; ++k, to += cv.taps()) {
        const In* const filter = cv.weight + g * cv.weight_group + k * cv.weight_output;
        for (int64_t t = 0; t < cv.taps(); ++t) to[t] = T(filter[from[t]]);
      }
  }
  const T* data() const { return data_; }

 private:
  static bool in_place(const Convolution<T, In>& cv) {
    const auto ascends = [](const AxisPlan& a) { return a.offset[0] == a.lowest(); };
    return std::is_same_v<T, In> && ascends(cv.rows) && ascends(cv.columns) && cv.taps_in_order() &&
           (cv.outputs == 1 || cv.weight_output == cv.taps()) && cv.weight_group == cv.outputs * cv.taps();
  }
  Buffer<T> copy_;
  const T* data_;
};

template <class T>
using ConvolvePlane = void (*)(const Plane<T>&, const RowVectors<T>&, int64_t results, int64_t at_once);

// More rows at a time where there are registers for their sums: an input meets more of them, and a vector's
// multiply-adds wait less for one another. Of 3x3 taps that gains nothing.
template <class T>
ConvolvePlane<T> convolve_plane_of(int64_t kernel, int64_t results) {
  if (kernel == 3) return convolve_plane<T, 3, 3, kBlockRows>;
  if (CONVX_VECTOR_BYTES == 64 && results >= 2 * kBlockRows)
    return kernel == 5 ? convolve_plane<T, 5, 5, 2 * kBlockRows> : convolve_plane<T, 7, 7, 2 * kBlockRows>;
  return kernel == 5 ? convolve_plane<T, 5, 5, kBlockRows> : convolve_plane<T, 7, 7, kBlockRows>;
}

// Plane by plane, convolve_plane(plane, results, at_once) of rows of results, of which so many at once stay in L1.
template <class T, class In, class ConvolvePlane>
bool convolve_planes_by(const Convolution<T, In>& cv, const ConvolvePlane& convolve_plane) {
  constexpr bool same = std::is_same_v<T, In>;
  constexpr int64_t kConverted = 1 << 14;  // elements
  const AxisPlan &r = cv.rows, &c = cv.columns;
  const int64_t taps = cv.taps();
  const PlaneWeights<T, In> weights(cv);
  if (!all_finite(weights.data(), cv.G * cv.outputs * taps)) return false;
  Buffer<T> zeros(c.in);
  std::memset(zeros.data(), 0, c.in * sizeof(T));
  const int64_t x_pitch = same ? cv.in_strides.h : c.in, y_pitch = same ? cv.out_strides.h : c.count;
  const int64_t at_once = rows_at_once<T>(x_pitch), row_count = (r.count - 1) * r.stride + r.taps;
  // What is converted at a time: all of a plane, or of a large one strips of results, whole blocks at least.
  const int64_t most_strips = same ? 1 : smaller(r.count / (2 * kBlockRows), r.count * c.in / kConverted);
  const int64_t strips = larger(1, most_strips), strip_rows = ceil_div(r.count, strips);
  const bool fetches = same && double(cv.N) * cv.G * r.in * c.in * sizeof(T) > kFetchedBytes;
  const double work = double(r.count) * c.count * taps * cv.outputs / 8;
  parallel_for_balanced(cv.N * cv.G, grain_for(work), [&](int64_t begin, int64_t end) {
    ConvertedPlanes<T> x(same ? 0 : (strip_rows * r.stride + r.taps) * c.in), y(same ? 0 : strip_rows * c.count);
    Buffer<const T*> rows(row_count);
    Plane<T> plane;
    plane.rows = rows.data(), plane.y_pitch = y_pitch;
    plane.x_ahead = fetches ? smaller(at_once * r.stride * x_pitch, cv.in_strides.c) : 0;
    plane.y_ahead = fetches ? smaller(at_once * y_pitch, cv.out_strides.c) : 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / cv.G, g = i % cv.G;
      const In* const from = cv.in + cv.in_strides(n, g, 0, 0);
      for (int64_t s = 0; s < strips; ++s) {
        const int64_t p0 = r.count * s / strips, p1 = r.count * (s + 1) / strips;
        rows_as(rows.data(), (p1 - p0 - 1) * r.stride + r.taps, p0 * r.stride + r.lowest(), from, cv.in_strides.h, r.in,
                c.in, zeros.data(), x);
        for (int64_t k = g * cv.outputs; k < (g + 1) * cv.outputs; ++k) {
          In* const to = cv.out + cv.out_strides(n, k, p0, 0);
          plane.w = weights.data() + k * taps;
          plane.bias = cv.bias ? T(cv.bias[k * cv.bias_stride]) : T(0);
          if constexpr (same)
            plane.y = to;
          else
            plane.y = y.data();
          convolve_plane(plane, p1 - p0, at_once);
          if constexpr (!same) y.unload(to, {1, 0, p1 - p0, cv.out_strides.h, c.count});
        }
      }
    }
  });
  return true;
}

template <class T, class In>
bool convolve_planes(const Convolution<T, In>& cv) {
  const RowVectors<T> rv(cv.columns);
  const auto convolve = convolve_plane_of<T>(cv.rows.taps, cv.rows.count);
  return convolve_planes_by(
      cv, [&](const Plane<T>& plane, int64_t results, int64_t at_once) { convolve(plane, rv, results, at_once); });
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
