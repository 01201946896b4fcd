// Planes for the depthwise kernels that work in place (depthwise.h, depthwise_rows.h, depthwise_small.h,
// depthwise_strided.h): 16-bit types have no arithmetic, so theirs are converted into a buffer first, and results back.
#pragma once
#include "convert.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Layers of more memory than this fetch what they read and write next; of smaller ones L2 has all.
constexpr double kFetchedBytes = 4 << 20;

// Planes that follow each other at equal distances, of rows of neighbours.
struct PlaneLayout {
  int64_t count, step, rows, pitch, columns;

  int64_t size() const { return count * rows * columns; }
  // Calls f(place, place in a copy without gaps, how many) for runs of neighbours.
  template <class F>
  void each_run(F&& f) const {
    if (pitch == columns && (count == 1 || step == rows * columns)) return f(0, 0, size());
    for (int64_t i = 0; i < count; ++i)
      for (int64_t h = 0; h < rows; ++h) f(i * step + h * pitch, (i * rows + h) * columns, columns);
  }
};

// Converted copies of planes, without gaps: whole vectors, so there are up to a vector more elements behind them.
template <class T>
class ConvertedPlanes {
 public:
  explicit ConvertedPlanes(int64_t size) : buffer_(size > 0 ? size + L : 0) {}
  T* data() { return buffer_.data(); }

  template <class In>
  void load(const In* p, const PlaneLayout& planes) {
    planes.each_run([&](int64_t from, int64_t to, int64_t n) {
      for (int64_t i = 0; i < n; i += L) {
        __builtin_prefetch(p + from + i + kAhead, 0, 2);
        store(data() + to + i, load_some<T>(p + from + i, n - i));
      }
    });
  }
  template <class In>
  void unload(In* p, const PlaneLayout& planes) {
    planes.each_run([&](int64_t to, int64_t from, int64_t n) {
      for (int64_t i = 0; i < n; i += L) {
        __builtin_prefetch(p + to + i + kAhead, 1, 2);
        store_some<T>(p + to + i, CONVX_ISA::load(data() + from + i), n - i);
      }
    });
  }

 private:
  static constexpr int64_t L = Vec<T>::lanes, kAhead = 1024;  // elements, to what is fetched on the way
  Buffer<T> buffer_;
};

// A plane of In as T: where it is, or converted into a buffer, rows side by side.
template <class T, class In>
const T* plane_as(const In* p, int64_t pitch, int64_t rows, int64_t columns, ConvertedPlanes<T>& buffer) {
  if constexpr (std::is_same_v<T, In>) {
    return p;
  } else {
    buffer.load(p, {1, 0, rows, pitch, columns});
    return buffer.data();
  }
}

// The rows of a plane as pointers, from row `first` on, with rows of zeros around them.
template <class T>
void point_at_rows(const T** rows, int64_t count, int64_t first, const T* plane, int64_t pitch, int64_t height,
                   const T* zeros) {
  for (int64_t i = 0, h = first; i < count; ++i, ++h) rows[i] = h >= 0 && h < height ? plane + h * pitch : zeros;
}

// The same, of a plane of In as T.
template <class T, class In>
void rows_as(const T** rows, int64_t count, int64_t first, const In* plane, int64_t pitch, int64_t height,
             int64_t columns, const T* zeros, ConvertedPlanes<T>& buffer) {
  if constexpr (std::is_same_v<T, In>) {
    point_at_rows(rows, count, first, plane, pitch, height, zeros);
  } else {
    const int64_t begin = larger(0, first), inside = larger(0, smaller(height, first + count) - begin);
    buffer.load(plane + begin * pitch, {1, 0, inside, pitch, columns});
    point_at_rows<T>(rows, count, first - begin, buffer.data(), columns, inside, zeros);
  }
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
