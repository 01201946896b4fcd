// Asking Linux for huge pages; see pages.h.
#include "pages.h"

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace convx {
namespace cpu {

void prefer_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__)
  if (bytes < kLargeMemory) return;
  const uintptr_t first = (uintptr_t(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (uintptr_t(memory) + bytes) / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace cpu
}  // namespace convx
