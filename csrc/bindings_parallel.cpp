// parallel_for on torch's thread pool. at::parallel_for is a header template that is silently serial when its file is
// compiled without OpenMP, hence this one file and the test that two threads are used.
#include <ATen/Parallel.h>

#include "bindings.h"
#include "cpu/parallel.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace convx {

void parallel_for_impl(int64_t count, int64_t grain, LoopBody body, void* context) {
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

int64_t thread_count() { return at::get_num_threads(); }

// OpenMP's threads do not live on in a forked process, where GCC's runtime waits for them forever. Without a pool at
// the fork both processes start new threads when they need some.
void release_threads() {
#ifdef _OPENMP
  omp_pause_resource_all(omp_pause_soft);
#endif
}

}  // namespace convx
