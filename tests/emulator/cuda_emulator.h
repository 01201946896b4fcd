// What nvcc and a GPU would give the kernels of csrc/cuda, for a plain C++ compiler: csrc/cuda/launch.h includes this
// file where there is no nvcc, and the kernels themselves need not know. README.md beside it says what is found so.
//
// Each CUDA thread of a block runs on a stack of its own (a fiber) until it has to wait for others: at __syncthreads(),
// or at an instruction that its warp does together. Then another one runs. So threads never run at the same time, and
// what a wrong kernel does is the same on every run. The order in which they are let run is a knob: a kernel whose
// result depends on it has a race. Blocks run one after another.
//
// A __shared__ variable does not compile here: shared_memory() of csrc/cuda/launch.h is watched over, and is all that
// kernels use.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// The running thread's; the emulator sets them before it lets a thread run.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulator {

// Where in a kernel something happens, as in `Place here = Place::of()` at the end of a parameter list.
struct Place {
  const char* file;
  int line;
  static constexpr Place of(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// The block's shared memory: exactly as long as asked for, and full of NaN when the block starts.
void* shared_memory();

// __syncthreads(), and how many of the block's threads came with a `vote`.
int barrier(bool vote, Place);
void warp_barrier(uint32_t mask, Place);

// What the lanes named in `mask` do together: each comes with a pointer to its part, and the last to come calls
// work(lanes) with all of them; lanes[i] is null for one that is not in the mask or has left the kernel. `what` is the
// instruction's name; with `all`, no lane may be missing.
using WarpWork = void (*)(void* const* lanes);
void together(const char* what, uint32_t mask, bool all, void* mine, WarpWork work, Place);

int thread_of_block();  // the running thread's number, x first
inline int lane() { return thread_of_block() % 32; }

// cp.async: the copy is done at the wait, and until then the destination is NaN.
void copy_async(void* shared, const void* global, int bytes, bool valid, Place);
void copy_async_commit();
void copy_async_wait(int youngest, Place);

// fence.proxy.async: what the thread has written to shared memory so far may be read by wgmma.
void fence_async(Place);

// Copies `bytes` from the value of lane `source` to `result`.
void shuffle(const char* what, uint32_t mask, const void* value, void* result, size_t bytes, int source, Place);

template <class T>
T shuffled(const char* what, uint32_t mask, T value, int source, Place place) {
  T result;
  shuffle(what, mask, &value, &result, sizeof(T), source, place);
  return result;
}

// What follows at this address is atomic.
void atomic(const void* address, size_t bytes, Place);

uint32_t ballot(const char* what, uint32_t mask, bool vote, Place);

// The first lane of the running thread's segment of `width` lanes.
inline int segment(int width) { return lane() & ~(width - 1); }

}  // namespace emulator

inline void __syncthreads(emulator::Place place = emulator::Place::of()) { emulator::barrier(false, place); }
inline int __syncthreads_count(int vote, emulator::Place place = emulator::Place::of()) {
  return emulator::barrier(vote != 0, place);
}
inline int __syncthreads_or(int vote, emulator::Place place = emulator::Place::of()) {
  return emulator::barrier(vote != 0, place) > 0;
}
inline int __syncthreads_and(int vote, emulator::Place place = emulator::Place::of()) {
  return emulator::barrier(vote == 0, place) == 0;
}
inline void __syncwarp(uint32_t mask = 0xffffffffu, emulator::Place place = emulator::Place::of()) {
  emulator::warp_barrier(mask, place);
}

template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, emulator::Place place = emulator::Place::of()) {
  return emulator::shuffled("__shfl_sync", mask, value, emulator::segment(width) + (source & (width - 1)), place);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, emulator::Place place = emulator::Place::of()) {
  const int source = emulator::lane() ^ bits;  // past the segment: a lane keeps its own
  const bool inside = source < emulator::segment(width) + width;
  return emulator::shuffled("__shfl_xor_sync", mask, value, inside ? source : emulator::lane(), place);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned by, int width = 32, emulator::Place place = emulator::Place::of()) {
  const int source = emulator::lane() + int(by);
  const bool inside = source < emulator::segment(width) + width;
  return emulator::shuffled("__shfl_down_sync", mask, value, inside ? source : emulator::lane(), place);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned by, int width = 32, emulator::Place place = emulator::Place::of()) {
  const int source = emulator::lane() - int(by);
  const bool inside = source >= emulator::segment(width);
  return emulator::shuffled("__shfl_up_sync", mask, value, inside ? source : emulator::lane(), place);
}
inline uint32_t __ballot_sync(uint32_t mask, int vote, emulator::Place place = emulator::Place::of()) {
  return emulator::ballot("__ballot_sync", mask, vote != 0, place);
}
inline int __any_sync(uint32_t mask, int vote, emulator::Place place = emulator::Place::of()) {
  return emulator::ballot("__any_sync", mask, vote != 0, place) != 0;
}
inline int __all_sync(uint32_t mask, int vote, emulator::Place place = emulator::Place::of()) {
  return emulator::ballot("__all_sync", mask, vote == 0, place) == 0;
}

// Nothing else runs meanwhile, so a plain addition is atomic. As the hardware's, it returns the old value.
template <class T>
__attribute__((noinline, no_sanitize("thread"))) T atomicAdd(T* address, T value,
                                                             emulator::Place place = emulator::Place::of()) {
  emulator::atomic(address, sizeof(T), place);
  const T old = *address;
  *address = old + value;
  return old;
}

// Vectors that a thread moves at once; their alignment is the hardware's.
#define EMULATED_VECTORS(T, name)                                                    \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                 \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                         \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATED_VECTORS(float, float)
EMULATED_VECTORS(double, double)
EMULATED_VECTORS(int, int)
EMULATED_VECTORS(unsigned, uint)
EMULATED_VECTORS(short, short)
EMULATED_VECTORS(unsigned short, ushort)
#undef EMULATED_VECTORS

// Loads and stores with a hint for the caches, which there are none of here.
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T value) {
  *p = value;
}

inline unsigned __float_as_uint(float f) {
  unsigned u;
  memcpy(&u, &f, sizeof u);
  return u;
}
inline float __uint_as_float(unsigned u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}
inline int __popc(unsigned u) { return __builtin_popcount(u); }
inline int __ffs(int i) { return __builtin_ffs(i); }
inline int __clz(int i) { return i ? __builtin_clz(unsigned(i)) : 32; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
using std::fma;
using std::fmaf;
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
