// Each thread's working memory for packed data. It is taken and given back in the order of a stack, kept from call to
// call, and asked for in huge pages: kernels walk it in dozens of streams, a page each, and a call that took its memory
// from the system would first wait for thousands of pages to be zeroed.
//
// A thread keeps 4 MiB. What doesn't fit is allocated and freed.
#pragma once
#include <cstddef>

namespace convx {
namespace cpu {

void* take_scratch(size_t bytes);  // aligned to a cache line, not initialised; throws std::bad_alloc
void give_scratch(void* memory);   // the last one taken and not given back, by the same thread

}  // namespace cpu
}  // namespace convx
