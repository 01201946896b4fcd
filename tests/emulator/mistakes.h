// What the kernels of mistakes.cu and mistakes_hopper.cu have in common. Two blocks of 64 threads, 64 elements of
// shared memory (or as many as said), an operand and a result of 128.
#pragma once
#include <vector>

#include "../../csrc/cuda/launch.h"

namespace convx {
namespace cuda {
namespace mistakes {

constexpr int kThreads = 64, kBlocks = 2, kCount = kThreads * kBlocks;
constexpr unsigned kAll = 0xffffffffu;

// What every kernel below begins with.
struct Thread {
  int t = int(threadIdx.x), lane = t % 32;
  int i = int(blockIdx.x) * kThreads + t;
  float* shared = shared_memory<float>();
};

struct Mistake {
  const char* name;
  void (*kernel)(bool mistake, const float* in, float* out);
  int shared = kThreads;  // elements
};

#define MISTAKE(name, ...) {#name, name, __VA_ARGS__}

std::vector<Mistake> hopper_mistakes();

void run_mistake(const char* name, bool mistake, const float* in, float* out);

}  // namespace mistakes
}  // namespace cuda
}  // namespace convx
