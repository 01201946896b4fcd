// The one way to start a kernel. Kernels live in headers that know nothing of how they are started, so the same source
// runs on a GPU and, compiled as plain C++, on the emulator of tests/emulator, which takes nvcc's place here.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <stdexcept>
#include <string>
#else
#include "emulator.h"
#endif

namespace convx {
namespace cuda {

// How many blocks of how many threads, and how many bytes of shared memory each block gets. Every kernel strides over
// its work by the grid's size, so any number of blocks is right: `blocks` is the number that leaves each one item.
struct Grid {
  int64_t blocks;
  dim3 threads;
  size_t shared_bytes = 0;
};

// The grid for `count` items, one a thread.
inline Grid one_thread_each(int64_t count) {
  constexpr int64_t kThreads = 256;
  return {(count + kThreads - 1) / kThreads, dim3(unsigned(kThreads))};
}

#ifdef __CUDACC__

// gridDim.x may reach 2^31 - 1; this many blocks already outlast every GPU's schedulers.
constexpr int64_t kMaxBlocks = int64_t(1) << 30;

constexpr size_t kSharedUnasked = 48 * 1024;

// Starts kernel(arguments...) on the stream; `name` is for the error message.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const Grid& grid, void* stream, Arguments... arguments) {
  const unsigned blocks = unsigned(grid.blocks < kMaxBlocks ? grid.blocks : kMaxBlocks);
  // Past what every GPU gives unasked, the kernel has to be told; with too much, the launch below fails.
  if (grid.shared_bytes > kSharedUnasked)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(grid.shared_bytes));
  kernel<<<blocks, grid.threads, grid.shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess)
    throw std::runtime_error("CUDA error in launching convx's kernel " + std::string(name) + ": " +
                             cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
}

// The block's shared memory, sized by Grid::shared_bytes, as an array of T. Aligned as wgmma wants its tiles.
template <class T>
__device__ T* shared_memory() {
  extern __shared__ __align__(1024) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

#else

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const Grid& grid, void*, Arguments... arguments) {
  emulator::launch(name, reinterpret_cast<const void*>(kernel), grid.blocks, grid.threads, grid.shared_bytes,
                   [=] { kernel(arguments...); });
}

template <class T>
T* shared_memory() {
  return static_cast<T*>(emulator::shared_memory());
}

#endif

// The items a thread takes when they are dealt one a thread: first_item(), then every items_step()-th after it.
__device__ inline int64_t first_item() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t items_step() { return int64_t(gridDim.x) * blockDim.x; }

}  // namespace cuda
}  // namespace convx
