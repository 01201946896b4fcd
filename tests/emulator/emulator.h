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
  std::string dropped;             // a barrier or wait that does nothing, as take_places() has it
  bool dry = false;                // launches are only noted
};
extern Settings settings;

// Runs body() once for each thread of each block. `kernel` is the function that body calls. Throws std::runtime_error
// if the kernel does what it must not.
template <class F>
void launch(const char* name, const void* kernel, int64_t blocks, dim3 threads, size_t shared_bytes, const F& body);

// Ends the launch, which throws this.
[[noreturn]] void fail(const std::string& what);

// Notes that a thread came here; false if it is to go on as if nothing were (see Settings::dropped).
bool comes_to(Place);

// The barriers and waits that threads have come to since the last call of this function, as in "scatter.cuh:93".
std::vector<std::string> take_places();

// What has been launched so far: each kernel with each size of blocks, in the order of their first launches.
struct Launched {
  std::string symbol;  // mangled; empty for kernels of an unnamed namespace, which are the tests' own
  int threads;
  size_t shared_bytes;
  int64_t launches, most_blocks;
  bool dry;  // only noted
};
const std::vector<Launched>& launched();
void forget_launches();

std::string text(Place);  // without folders

// Lets other threads run until over(about); the launch fails if that never comes. For its message: what it is that the
// thread waits for.
struct Until {
  bool (*over)(const void* about);
  std::string (*what)(const void* about);
  const void* about;
};
void wait_until(Until, Place);

// Has a thread of the block left the kernel, or never existed?
bool has_ended(int thread);

// launch() with the body as a function of an argument, which it alone reads.
struct Body {
  void (*run)(const void* argument);
  const void* argument;
  size_t bytes;
};
void launch_body(const char* name, const void* kernel, int64_t blocks, dim3 threads, size_t shared_bytes, Body);

template <class F>
void launch(const char* name, const void* kernel, int64_t blocks, dim3 threads, size_t shared_bytes, const F& body) {
  launch_body(name, kernel, blocks, threads, shared_bytes,
              {[](const void* f) { (*static_cast<const F*>(f))(); }, &body, sizeof body});
}

}  // namespace emulator
