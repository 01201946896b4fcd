// Neighbours in memory that a thread moves at once.
#pragma once
#include "launch.h"

namespace convx {
namespace cuda {

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T v[kCount];
};

// How many numbers are sixteen bytes, the most that one instruction moves.
template <class T>
constexpr int kChunkElements = 16 / int(sizeof(T));

// Whether kCount numbers at p can be moved so.
template <int kCount, class T>
__device__ inline bool is_aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % (sizeof(T) * kCount) == 0;
}

template <int kCount, class T>
__device__ inline Vector<T, kCount> load_vector(const T* p) {
  return *reinterpret_cast<const Vector<T, kCount>*>(p);
}
template <int kCount, class T>
__device__ inline void store_vector(T* p, const Vector<T, kCount>& values) {
  *reinterpret_cast<Vector<T, kCount>*>(p) = values;
}

}  // namespace cuda
}  // namespace convx
