// Vectors of the instruction set being compiled for, as GCC/Clang vector types: arithmetic is written with operators
// and becomes the widest instructions there are. Included by the one file of each instruction set, after its target is
// set, and so must its includes be: everything in here lives in that instruction set's own namespace, since a template
// shared with the baseline could be linked in its AVX-512 edition.
#pragma once
#ifndef CONVX_ISA
#error "set CONVX_ISA, CONVX_VECTOR_BYTES and CONVX_MAX_M first; see engine_avx512.cpp"
#endif

namespace convx {
namespace cpu {
namespace CONVX_ISA {

template <class T>
struct Vec {
  static constexpr int lanes = CONVX_VECTOR_BYTES / sizeof(T);
  typedef T type __attribute__((vector_size(CONVX_VECTOR_BYTES)));
  typedef T unaligned __attribute__((vector_size(CONVX_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};

template <class T>
inline typename Vec<T>::type load(const T* p) {
  return *reinterpret_cast<const typename Vec<T>::unaligned*>(p);
}

template <class T>
inline void store(T* p, typename Vec<T>::type v) {
  *reinterpret_cast<typename Vec<T>::unaligned*>(p) = v;
}

// All elements x, as a broadcast. Without fast-math V{} + x would be an addition, since 0 + -0 is not -0, on the very
// ports that the multiply-adds need; x - 0 is x for every x, and compilers know.
template <class T>
inline typename Vec<T>::type splat(T x) {
  return x - typename Vec<T>::type{};
}

// What the arrays below have in common. (std::vector would zero its memory, and its code is shared, see above.)
template <class T>
class Array {
 public:
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 protected:
  explicit Array(T* data) : data_(data) {}
  T* data_;
};

// Cache-line aligned memory that is not initialised.
template <class T>
class Buffer : public Array<T> {
 public:
  explicit Buffer(int64_t count) : Array<T>(allocate(count)) {}
  ~Buffer() { std::free(this->data_); }
  Buffer(Buffer&& other) : Array<T>(other.data_) { other.data_ = nullptr; }
  Buffer& operator=(Buffer&& other) {
    T* const mine = this->data_;
    this->data_ = other.data_, other.data_ = mine;
    return *this;
  }

 private:
  static T* allocate(int64_t count) {
    const size_t bytes = (size_t(count > 0 ? count : 1) * sizeof(T) + 63) / 64 * 64;
    void* const memory = std::aligned_alloc(64, bytes);
    if (!memory) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }
};

// Objects that are made and destroyed.
template <class T>
class Objects : public Array<T> {
 public:
  explicit Objects(int64_t count) : Array<T>(new T[count]) {}
  ~Objects() { delete[] this->data_; }
};

// As Buffer, but from the thread's stack of working memory (scratch.h): for locals of a function or members of one.
template <class T>
class Scratch : public Array<T> {
 public:
  explicit Scratch(int64_t count) : Array<T>(static_cast<T*>(take_scratch((count > 0 ? count : 1) * sizeof(T)))) {}
  ~Scratch() { give_scratch(this->data_); }
};

// The sum of a vector's elements, always in the same order: halves onto halves.
template <class T>
inline T sum_lanes(typename Vec<T>::type v) {
  T lanes[Vec<T>::lanes];
  store(lanes, v);
  for (int width = Vec<T>::lanes / 2; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  return lanes[0];
}

// Whether all elements are finite: zero times an infinity or a NaN is NaN. In four chains, since one would wait for
// each addition.
template <class T>
bool all_finite(const T* p, int64_t count) {
  constexpr int L = Vec<T>::lanes;
  typename Vec<T>::type a{}, b{}, c{}, d{};
  int64_t i = 0;
  for (; i + 4 * L <= count; i += 4 * L) {
    a += load(p + i) * T(0), b += load(p + i + L) * T(0);
    c += load(p + i + 2 * L) * T(0), d += load(p + i + 3 * L) * T(0);
  }
  for (; i + L <= count; i += L) a += load(p + i) * T(0);
  T sum = sum_lanes<T>((a + b) + (c + d));
  for (; i < count; ++i) sum += p[i] * T(0);
  return sum == T(0);
}

inline constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
