// One tile of a matrix product on CUDA cores, for direct.cuh: from global into shared memory, from there into
// registers, and products of those.
//
// A tile of kLeft x kRight sums is kept by threads with TL x TR (8 x 8) of them each. Eight depths at a time of A and B
// lie in shared memory, twice: while the threads multiply one buffer, the next one's elements are on their way, by
// asynchronous copies (cp.async) or, where they are converted or transposed, through registers; so one barrier for
// eight depths. Threads read 16 bytes of shared memory at a time: two loads of A and two of B for 64 multiply-adds.
// Lanes of a warp cover 32 x 64 sums, so that lanes of a row read the same bytes of A, and of a column the same of B.
#pragma once
#include <type_traits>

#include "../scalar.h"
#include "direct_maps.cuh"
#include "launch.h"
#include "ptx.h"
#include "vectors.cuh"

namespace convx {
namespace cuda {

// What the products are summed in.
template <class T>
using Sums = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr int kDepth = 8;  // of a tile in shared memory

// The places of so many depths are found at a time.
constexpr int kChunk = 256;

// Neighbours by one load if they are `found`, zeros if not. PTX, because the load should neither be a branch nor ask
// what kind of memory the pointer leads to, which nvcc can't know of one that comes out of shared memory. Nobody writes
// there.
template <int kCount, class E>
__device__ inline Vector<E, kCount> load_if(bool found, const E* p) {
  Vector<E, kCount> result{};
#ifdef __CUDA_ARCH__
  uint32_t w[4] = {};
  if constexpr (sizeof result == 16)
    asm("{.reg .pred f; setp.ne.s32 f, %4, 0; @f ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%5];}"
        : "+r"(w[0]), "+r"(w[1]), "+r"(w[2]), "+r"(w[3])
        : "r"(int(found)), "l"(p));
  else if constexpr (sizeof result == 8)
    asm("{.reg .pred f; setp.ne.s32 f, %2, 0; @f ld.global.nc.v2.u32 {%0, %1}, [%3];}"
        : "+r"(w[0]), "+r"(w[1])
        : "r"(int(found)), "l"(p));
  else if constexpr (sizeof result == 4)
    asm("{.reg .pred f; setp.ne.s32 f, %1, 0; @f ld.global.nc.u32 %0, [%2];}" : "+r"(w[0]) : "r"(int(found)), "l"(p));
  else
    asm("{.reg .pred f; setp.ne.s32 f, %1, 0; @f ld.global.nc.u16 %0, [%2];}" : "+r"(w[0]) : "r"(int(found)), "l"(p));
  memcpy(&result, w, sizeof result);
#else
  if (found) result = *reinterpret_cast<const Vector<E, kCount>*>(p);
#endif
  return result;
}

// The same into shared memory, without passing through registers (cp.async).
template <int kBytes>
__device__ inline void copy_if(void* shared, const void* p, bool found) {
  if constexpr (kBytes == 16) cp_async_16(shared, p, found);
  if constexpr (kBytes == 8) cp_async_8(shared, p, found);
  if constexpr (kBytes == 4) cp_async_4(shared, p, found);
}

// Keeps nvcc from taking a pointer apart again into a base and an index, which are two registers more each.
template <class E>
__device__ inline const E* as_one(const E* p) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+l"(p));
#endif
  return p;
}

// threadIdx.x, read again: what is computed from it is then not kept in registers from the kernel's start to its end.
__device__ inline int thread_again() {
#ifdef __CUDA_ARCH__
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#else
  return int(threadIdx.x);
#endif
}

// The shape of a tile: sums of the block and of a thread, lanes of a warp along the left index, and blocks that a
// multiprocessor should hold at once, for which the compiler keeps registers.
template <int L, int R, int TL, int TR, int kLanes, int kResident>
struct Tile {
  static constexpr int kLeft = L, kRight = R, kThreadLeft = TL, kThreadRight = TR, kBlocks = kResident;
  static constexpr int kThreads = L / TL * (R / TR);
  static constexpr int kLanesLeft = kLanes, kLanesRight = 32 / kLanes;
  static constexpr int kWarpsRight = R / (kLanesRight * TR);
  static_assert(L % (kLanesLeft * TL) == 0 && R % (kLanesRight * TR) == 0, "a tile is made of whole warps");
};

// 16 bytes of sums: what a thread reads from shared memory at once. Rows there are this much longer than the tile, so
// that the transposing stores of Fetch::along_depth fall on different banks.
template <class Acc>
constexpr int kQuad = 16 / sizeof(Acc);

// Which left (or right) index the i-th sum of a thread has: kQuad neighbours, then those of the other lanes, and so on.
template <class Acc, int kLanes, int kPerThread>
__device__ inline int index_in_tile(int warp, int lane, int i) {
  constexpr int kStep = kQuad<Acc>;
  return (warp * kPerThread + i / kStep * kStep) * kLanes + lane * kStep + i % kStep;
}

// How the elements of a matrix are taken from memory: `count` neighbours by one load, along the width of the tile or
// along the depth; and neighbouring threads go the same way. `folds`: out of the image is not out of its padding.
enum class Along { width, depth };
template <Along kAlong, int kCount, bool kFolds = false>
struct Fetch {
  static constexpr bool along_depth = kAlong == Along::depth, folds = kFolds;
  static constexpr int count = kCount;
};

// One thread's part in filling a tile of A or B: its places along the width stay the same while depth goes on.
template <class Tile, int kWidth, class Acc, class Element, class Fetch, bool kIsImage>
struct Filler {
  static constexpr int kCount = Fetch::count, kThreads = Tile::kThreads;
  static constexpr int kLoads = kDepth * kWidth / kCount / kThreads;
  static constexpr int kRow = kWidth + kQuad<Acc>;  // of shared memory
  static constexpr int kPerLine = kWidth / kCount;  // loads that fill one depth
  static constexpr int kDeep = kDepth / kCount;     // loads that fill one left or right index
  // Copies that need neither a conversion nor a transposition don't pass through registers.
  static constexpr bool kAsync = std::is_same_v<Element, Acc> && (kCount == 1 || !Fetch::along_depth);
  static constexpr int kPlaces = Fetch::along_depth ? kLoads : kPerLine > kThreads ? kPerLine / kThreads : 1;
  static_assert(kLoads * kCount * kThreads == kDepth * kWidth, "every thread takes the same number of loads");
  static_assert(kPerLine % kThreads == 0 || kThreads % kPerLine == 0 || Fetch::along_depth,
                "a thread stays on its places");

  const Element* pointer[kPlaces];
  int h[kIsImage ? kPlaces : 1], w[kIsImage ? kPlaces : 1];
  Vector<Element, kCount> loaded[kAsync ? 1 : kLoads];

  // Of the thread's first element, and what the others add to that: a constant, so that it costs no instruction.
  __device__ static int first_depth() {
    const unsigned thread = thread_again();
    return Fetch::along_depth ? thread % kDeep * kCount : thread / kPerLine;
  }
  __device__ static int first_width() {
    const unsigned thread = thread_again();
    return Fetch::along_depth ? thread / kDeep : thread % kPerLine * kCount;
  }
  __device__ static constexpr int more_depth(int load) {
    if (Fetch::along_depth) return 0;
    return kPlaces > 1 ? load / kPlaces : load * kThreads / kPerLine;
  }
  __device__ static constexpr int more_width(int load) {
    if (Fetch::along_depth) return load * kThreads / kDeep;
    return load % kPlaces * kThreads * kCount;
  }

  // What a tile has beyond the matrix is loaded from the tile's first place, and its sums are not stored.
  template <class Matrix>
  __device__ void start(const Matrix& matrix, int64_t first) {
    const auto places = matrix.width.from(first);
#pragma unroll
    for (int i = 0; i < kPlaces; ++i) {
      const int width = first_width() + more_width(i);
      const Position p = places(first + width < matrix.widths ? width : 0);
      pointer[i] = as_one(matrix.data + p.offset);
      if (kIsImage) h[i] = p.h, w[i] = p.w;
    }
  }

  // Starts the loads of a tile, whose depths' places are given, into `buffer` or into registers.
  template <class Matrix>
  __device__ void load(const Matrix& matrix, const Position* depths, Acc* buffer) {
    depths += first_depth(), buffer += first_depth() * kRow + first_width();
    const Extent extent = matrix.extent;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int place = i % kPlaces;
      Position p = depths[more_depth(i)];
      bool found = p.h != kNowhere;
      if (kIsImage) {
        p.h += h[place], p.w += w[place];
        found = Fetch::folds ? extent.reaches(p, matrix.strides) : extent.contains(p);
      }
      const Element* const from = pointer[place] + p.offset;
      if constexpr (kAsync)
        copy_if<kCount * sizeof(Element)>(buffer + more_depth(i) * kRow + more_width(i), from, found);
      else
        loaded[i] = load_if<kCount>(found, from);
    }
  }

  // Puts what was loaded into registers into a buffer of kDepth rows, and waits for what goes there by itself.
  __device__ void store(Acc* buffer) const {
    if constexpr (kAsync) {
      cp_async_commit();
      cp_async_wait<0>();
    } else {
      buffer += first_depth() * kRow + first_width();
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        Acc* const to = buffer + more_depth(i) * kRow + more_width(i);
        Vector<Acc, kCount> converted;
#pragma unroll
        for (int j = 0; j < kCount; ++j) converted.v[j] = Acc(loaded[i].v[j]);
        if constexpr (Fetch::along_depth) {
#pragma unroll
          for (int j = 0; j < kCount; ++j) to[j * kRow] = converted.v[j];
        } else {
          *reinterpret_cast<Vector<Acc, kCount>*>(to) = converted;
        }
      }
    }
  }
};

// A thread's sums.
template <class Tile, class Acc>
struct Accumulators {
  static constexpr int kLeft = Tile::kThreadLeft, kRight = Tile::kThreadRight, kVector = kQuad<Acc>;
  Acc sum[kLeft][kRight];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kLeft; ++i)
#pragma unroll
      for (int j = 0; j < kRight; ++j) sum[i][j] = Acc(0);
  }

  __device__ bool all_numbers() const {
    bool numbers = true;
#pragma unroll
    for (int i = 0; i < kLeft; ++i)
#pragma unroll
      for (int j = 0; j < kRight; ++j) numbers = numbers & (sum[i][j] == sum[i][j]);
    return numbers;
  }

  __device__ static int left(int thread, int i) {
    return index_in_tile<Acc, Tile::kLanesLeft, kLeft>(thread / 32 / Tile::kWarpsRight, thread % 32 / Tile::kLanesRight,
                                                       i);
  }
  __device__ static int right(int thread, int j) {
    return index_in_tile<Acc, Tile::kLanesRight, kRight>(thread / 32 % Tile::kWarpsRight,
                                                         thread % 32 % Tile::kLanesRight, j);
  }

  // Adds the products of kDepth rows of A and B.
  __device__ void multiply(const Acc* a, const Acc* b) {
    constexpr int kRowA = Tile::kLeft + kVector, kRowB = Tile::kRight + kVector;
    const int thread = thread_again();
    a += left(thread, 0), b += right(thread, 0);
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      Vector<Acc, kVector> x[kLeft / kVector], y[kRight / kVector];
#pragma unroll
      for (int i = 0; i < kLeft / kVector; ++i) x[i] = read(a + d * kRowA + i * kVector * Tile::kLanesLeft);
#pragma unroll
      for (int j = 0; j < kRight / kVector; ++j) y[j] = read(b + d * kRowB + j * kVector * Tile::kLanesRight);
#pragma unroll
      for (int i = 0; i < kLeft; ++i)
#pragma unroll
        for (int j = 0; j < kRight; ++j) sum[i][j] += x[i / kVector].v[i % kVector] * y[j / kVector].v[j % kVector];
    }
  }

  // The total of the sums so far is in shared memory, each thread's part where only it looks.
  __device__ void add_total(const Acc* total) {
    total += thread_again() * kVector;
#pragma unroll
    for (int i = 0; i < kLeft; ++i)
#pragma unroll
      for (int j = 0; j < kRight; j += kVector) {
        const Vector<Acc, kVector> before = read(part(total, i, j));
#pragma unroll
        for (int v = 0; v < kVector; ++v) sum[i][j + v] = before.v[v] + sum[i][j + v];
      }
  }
  __device__ void put_total(Acc* total) const {
    total += thread_again() * kVector;
#pragma unroll
    for (int i = 0; i < kLeft; ++i)
#pragma unroll
      for (int j = 0; j < kRight; j += kVector) {
        Vector<Acc, kVector> now;
#pragma unroll
        for (int v = 0; v < kVector; ++v) now.v[v] = sum[i][j + v];
        *reinterpret_cast<Vector<Acc, kVector>*>(part(total, i, j)) = now;
      }
  }
  template <class Pointer>
  __device__ static Pointer part(Pointer total, int i, int j) {
    return total + (i * kRight + j) * Tile::kThreads;
  }

  __device__ static Vector<Acc, kVector> read(const Acc* p) {
    return *reinterpret_cast<const Vector<Acc, kVector>*>(p);
  }
};

}  // namespace cuda
}  // namespace convx
