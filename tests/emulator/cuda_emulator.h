// What nvcc and a GPU would give the kernels of csrc/cuda, for a plain C++ compiler: csrc/cuda/launch.h includes this
// file where there is no nvcc, and the kernels themselves need not know.
//
// Each CUDA thread of a block runs on a stack of its own (a fiber) until it reaches __syncthreads() or its end; then
// the next one runs. So threads never run at the same time, and what a wrong kernel does is the same on every run. The
// order in which they are let run is a knob: a kernel whose result depends on it has a race. Blocks run one after
// another. See emulator.cpp for the fibers, and interface.cpp for what Python calls.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

#define __global__
#define __device__
#define __host__

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// The running thread's; the emulator sets them before it lets a thread run.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

enum class Order { ascending, descending, shuffled };

struct Settings {
  Order order = Order::ascending;  // of threads between two barriers, and of blocks
  uint64_t seed = 1;               // for Order::shuffled
  int64_t max_blocks = 1 << 30;    // of a launch: a small one makes the kernels stride over their work
  int dropped_line = 0;            // a __syncthreads() on this line of a kernel does nothing
};
extern Settings settings;

// Runs body() once for each thread of each block. Throws std::runtime_error if threads of a block wait at different
// barriers, or at one that others never reach.
void launch(const char* name, int64_t blocks, dim3 threads, size_t shared_bytes, const std::function<void()>& body);

// The block's shared memory: exactly as long as asked for, and full of NaN when the block starts.
void* shared_memory();

void barrier(int line);

// The lines of the barriers that threads have waited at since the last call of this function.
size_t take_barrier_lines(int* lines, size_t most);

}  // namespace emulator

#define __syncthreads() ::emulator::barrier(__LINE__)

// Nothing else runs meanwhile, so a plain addition is atomic. As the hardware's, it returns the old value.
template <class T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}
