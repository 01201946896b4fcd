// parallel_for on torch's thread pool. at::parallel_for is a header template that is silently serial when its file is
// compiled without OpenMP, hence this one file and the test that two threads are used.
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

#include "bindings.h"
#include "cpu/parallel.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace convx {

void parallel_for_impl(int64_t count, int64_t grain, LoopBody body, void* context) {
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

// Guided self-scheduling: each piece is a share of what is left, so pieces are few at first and small at the end
// (Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987).
void parallel_for_balanced_impl(int64_t count, int64_t grain, LoopBody body, void* context) {
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), (count + grain - 1) / grain);
  if (threads <= 1 || at::in_parallel_region()) {
    if (count > 0) body(context, 0, count);
    return;
  }
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t begin = next; begin < count;) {
      const int64_t end = std::min(count, begin + std::max(grain, (count - begin) / (2 * threads)));
      if (next.compare_exchange_weak(begin, end)) {
        body(context, begin, end);
        begin = next;
      }
    }
  });
}

int64_t thread_count() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

// OpenMP's threads do not live on in a forked process, where GCC's runtime waits for them forever. Without a pool at
// the fork both processes start new threads when they need some.
void release_threads() {
#ifdef _OPENMP
  omp_pause_resource_all(omp_pause_soft);
#endif
}

}  // namespace convx
