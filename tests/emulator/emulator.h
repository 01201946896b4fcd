// How the emulator is told to run kernels, for launch() of csrc/cuda/launch.h and for interface.cpp. Kernels see only
// what is in cuda_emulator.h.
#pragma once
#include <string>
#include <vector>

#include "cuda_emulator.h"

namespace emulator {

enum class Order { ascending, descending, shuffled };

struct Settings {
  Order order = Order::ascending;  // of threads between two barriers, and of blocks
  uint64_t seed = 1;               // for Order::shuffled
  int64_t max_blocks = 1 << 30;    // of a launch: a small one makes the kernels stride over their work
  std::string dropped;             // a barrier or wait that does nothing, as places() has it
};
extern Settings settings;

// Runs body() once for each thread of each block. `kernel` is the function that body calls. Throws std::runtime_error
// if the kernel does what it must not.
void launch(const char* name, const void* kernel, int64_t blocks, dim3 threads, size_t shared_bytes,
            const std::function<void()>& body);

// Ends the launch, which throws this.
[[noreturn]] void fail(const std::string& what);

// The barriers and waits that threads have come to since the last call of this function, as in "scatter.cuh:93".
std::vector<std::string> take_places();

}  // namespace emulator
