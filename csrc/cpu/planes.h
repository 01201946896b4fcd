// Planes for the depthwise kernels that work in place (depthwise.h, depthwise_rows.h): 16-bit types have no arithmetic,
// so theirs are converted into a buffer first.
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

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

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
