// The fibers behind cuda_emulator.h. ucontext makes each stack once; switching between stacks is setjmp and longjmp,
// because swapcontext saves the signal mask with a system call on every switch, a hundred times slower.
#undef _FORTIFY_SOURCE  // its longjmp takes a jump to another stack for an error
#include "cuda_emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

Settings settings;

namespace {

constexpr size_t kStackBytes = 64 * 1024;

enum class State { ready, waiting, finished };

struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  ucontext_t start;
  jmp_buf here;
  bool started = false;
  State state = State::ready;
  int barrier_line = 0;
};

jmp_buf scheduler;
ucontext_t scheduler_start;
Fiber* running = nullptr;
const std::function<void()>* body = nullptr;
std::vector<std::unique_ptr<Fiber>> fibers;  // kept from launch to launch: a fiber serves one thread after another
std::unique_ptr<unsigned char[]> shared;
std::set<int> barrier_lines;

void back_to_scheduler() {
  if (_setjmp(running->here) == 0) _longjmp(scheduler, 1);
}

void fiber_main() {
  for (;;) {
    (*body)();
    running->state = State::finished;
    back_to_scheduler();
  }
}

// Lets the fiber run until it waits or finishes.
void resume(Fiber& fiber) {
  running = &fiber;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.here, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStackBytes;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, fiber_main, 0);
  swapcontext(&scheduler_start, &fiber.start);
}

void put_in_order(std::vector<int64_t>& items, std::mt19937_64& random) {
  if (settings.order == Order::descending) std::sort(items.begin(), items.end(), std::greater<int64_t>());
  if (settings.order == Order::shuffled) std::shuffle(items.begin(), items.end(), random);
}

std::vector<int64_t> numbers(int64_t count) {
  std::vector<int64_t> items(count);
  for (int64_t i = 0; i < count; ++i) items[i] = i;
  return items;
}

[[noreturn]] void divergence(const std::string& what) {
  fibers.clear();  // some are left in the middle of a kernel
  throw std::runtime_error("divergent barrier: " + what);
}

void run_block(const char* name, std::vector<int64_t> threads, std::mt19937_64& random) {
  for (int64_t t : threads) fibers[t]->state = State::ready;
  for (;;) {
    put_in_order(threads, random);
    for (int64_t t : threads) {
      threadIdx = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
      resume(*fibers[t]);
    }
    // Now each thread waits at a barrier or has finished: all of them must have done the same.
    const Fiber& first = *fibers[threads[0]];
    for (int64_t t : threads) {
      const Fiber& f = *fibers[t];
      if (f.state != first.state)
        divergence(std::string(name) + ": some threads of a block ended while others wait at line " +
                   std::to_string(f.state == State::waiting ? f.barrier_line : first.barrier_line));
      if (f.state == State::waiting && f.barrier_line != first.barrier_line)
        divergence(std::string(name) + ": threads of a block wait at lines " + std::to_string(first.barrier_line) +
                   " and " + std::to_string(f.barrier_line));
    }
    if (first.state == State::finished) return;
  }
}

}  // namespace

void launch(const char* name, int64_t blocks, dim3 threads, size_t shared_bytes, const std::function<void()>& kernel) {
  const int64_t count = int64_t(threads.x) * threads.y * threads.z;
  if (count < 1 || count > 1024 || blocks < 1)
    throw std::runtime_error(std::string(name) + ": no GPU launches " + std::to_string(blocks) + " blocks of " +
                             std::to_string(count) + " threads");
  if (shared_bytes > 227 * 1024) throw std::runtime_error(std::string(name) + ": over 227 KiB of shared memory");
  while (int64_t(fibers.size()) < count) fibers.emplace_back(new Fiber);
  std::mt19937_64 random(settings.seed);
  body = &kernel;
  blockDim = threads;
  gridDim = dim3(unsigned(std::min(blocks, settings.max_blocks)));
  std::vector<int64_t> order = numbers(gridDim.x);
  put_in_order(order, random);
  for (int64_t block : order) {
    blockIdx = dim3(unsigned(block));
    shared.reset(new unsigned char[shared_bytes]);
    memset(shared.get(), 0xff, shared_bytes);  // NaN in every floating-point type
    run_block(name, numbers(count), random);
  }
}

void* shared_memory() { return shared.get(); }

void barrier(int line) {
  barrier_lines.insert(line);
  if (line == settings.dropped_line) return;
  running->state = State::waiting;
  running->barrier_line = line;
  back_to_scheduler();
}

size_t take_barrier_lines(int* lines, size_t most) {
  const size_t count = std::min(most, barrier_lines.size());
  std::copy_n(barrier_lines.begin(), count, lines);
  barrier_lines.clear();
  return count;
}

}  // namespace emulator
