// parallel_for without torch headers: bindings_parallel.cpp hands the loop to torch's own thread pool, so
// torch.set_num_threads and nested parallelism mean what they mean everywhere else in torch.
#pragma once
#include <cstdint>

namespace convx {

using LoopBody = void (*)(void* context, int64_t begin, int64_t end);
void parallel_for_impl(int64_t count, int64_t grain, LoopBody body, void* context);
void parallel_for_balanced_impl(int64_t count, int64_t grain, LoopBody body, void* context);

// How many threads a loop may run on: one, within a loop. Work may be divided by it, sums may not: results don't depend
// on threads.
int64_t thread_count();

// Calls body(begin, end) on disjoint ranges that cover [0, count). A range shorter than `grain` is not split further:
// pass the number of iterations that is worth waking a thread for.
template <class Body>
void parallel_for(int64_t count, int64_t grain, Body&& body) {
  parallel_for_impl(
      count, grain, [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); },
      &body);
}

// The same, but a thread that is done takes over some of what is left: body is called several times by each. For work
// that is as good in pieces: where items take different times, their number is no multiple of the threads', or other
// programs take a processor away for a while, nobody waits long.
template <class Body>
void parallel_for_balanced(int64_t count, int64_t grain, Body&& body) {
  parallel_for_balanced_impl(
      count, grain, [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); },
      &body);
}

// About how many multiply-adds make a thread's wake-up worth while (some ten microseconds of scalar work).
constexpr double kParallelWork = 32768;

inline int64_t grain_for(double work_per_iteration) {
  const double grain = kParallelWork / (work_per_iteration > 1 ? work_per_iteration : 1);
  return grain < 1 ? 1 : int64_t(grain);
}

}  // namespace convx
