// Planes for the depthwise kernels that work in place (depthwise.h, depthwise_rows.h): 16-bit types have no arithmetic,
// so theirs are converted into a buffer first.
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Layers of more memory than this fetch what they read and write next; of smaller ones L2 has all.
constexpr double kFetchedBytes = 4 << 20;

// A plane of In as T: where it is, or converted into a buffer, rows side by side.
template <class T, class In>
const T* plane_as(const In* p, int64_t pitch, int64_t rows, int64_t columns, Buffer<T>& buffer) {
  if constexpr (std::is_same_v<T, In>) {
    return p;
  } else {
    for (int64_t h = 0; h < rows; ++h)
      for (int64_t w = 0; w < columns; ++w) buffer[h * columns + w] = T(p[h * pitch + w]);
    return buffer.data();
  }
}

// The rows of a plane as pointers, from row `first` on, with rows of zeros around them.
template <class T>
void point_at_rows(const T** rows, int64_t count, int64_t first, const T* plane, int64_t pitch, int64_t height,
                   const T* zeros) {
  for (int64_t i = 0, h = first; i < count; ++i, ++h) rows[i] = h >= 0 && h < height ? plane + h * pitch : zeros;
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
