// parallel_for on torch's thread pool. at::parallel_for is a header template that is silently serial when its file is
// compiled without OpenMP, hence this one file and the test that two threads are used.
#include <ATen/Parallel.h>

#include "cpu/parallel.h"

namespace convx {

void parallel_for_impl(int64_t count, int64_t grain, LoopBody body, void* context) {
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

int64_t thread_count() { return at::get_num_threads(); }

}  // namespace convx
