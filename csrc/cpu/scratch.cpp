// The stack of working memory of each thread; see scratch.h.
#include "scratch.h"

#include <cstdint>
#include <cstdlib>
#include <new>

#include "pages.h"

namespace convx {
namespace cpu {
namespace {

constexpr size_t kSize = size_t(4) << 20;

size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

void* allocate(size_t alignment, size_t bytes) {
  void* memory = std::aligned_alloc(alignment, bytes);
  if (!memory) throw std::bad_alloc();
  prefer_huge_pages(memory, bytes);
  return memory;
}

struct Stack {
  char* base = nullptr;
  size_t top = 0;
  ~Stack() { std::free(base); }

  char* take(size_t bytes) {
    if (bytes > kSize - top) return nullptr;
    if (!base) base = static_cast<char*>(allocate(kHugePage, kSize));
    top += bytes;
    return base + top - bytes;
  }
  bool owns(const char* memory) const { return base && memory >= base && memory < base + kSize; }
};

thread_local Stack stack;

}  // namespace

void* take_scratch(size_t bytes) {
  bytes = whole_lines(bytes ? bytes : 1);
  char* memory = stack.take(bytes);
  return memory ? memory : allocate(64, bytes);
}

void give_scratch(void* memory) {
  char* const m = static_cast<char*>(memory);
  if (stack.owns(m))
    stack.top = size_t(m - stack.base);
  else
    std::free(memory);
}

}  // namespace cpu
}  // namespace convx
