// Huge pages for large results. Memory that is new to a process comes page by page when it is first written: 0.7 us
// each, 4 KiB at a time. Of a depthwise layer whose result is 50 MiB that is two thirds of the call, since malloc takes
// blocks of more than 32 MiB from the system anew each time. In pages of 2 MiB it takes a fourth (`make bench-cpu
// ARGS="--classes depthwise"`; the system's setting is /sys/kernel/mm/transparent_hugepage/enabled). NumPy does the
// same with its arrays, from the same size on.
#pragma once
#include <cstddef>

namespace convx {
namespace cpu {

constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kLargeMemory = 2 * kHugePage;

// Asks for huge pages where whole ones lie in this memory, if it is large. A wish: nothing depends on it.
void prefer_huge_pages(void* memory, size_t bytes);

}  // namespace cpu
}  // namespace convx
