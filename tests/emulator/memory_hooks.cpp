// -fsanitize=thread makes the compiler put a call of __tsan_read4(address), or the like, before each access to memory
// that is not a thread's own variable. The kernels are compiled so, but not linked with ThreadSanitizer: the functions
// that they call are these.
#include "memory_hooks.h"

#include <link.h>

#include <cstring>

namespace emulator {
namespace {

struct Range {
  const char *begin = nullptr, *end = nullptr;
  bool has(const char* p) const { return p >= begin && p < end; }
};

int thread = -1;
Range stack, arguments, own;
bool ever_called = false;

// Where this library lies in memory, with its constants and variables: threadIdx, tables.
int find_own(dl_phdr_info* info, size_t, void*) {
  Range r;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    const char* begin = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
    if (!r.begin) r.begin = begin;
    r.end = begin + segment.p_memsz;
  }
  if (!r.has(reinterpret_cast<const char*>(&thread))) return 0;
  own = r;
  return 1;
}

inline void pass_on(const void* address, size_t bytes, bool write, const void* code) {
  const char* p = static_cast<const char*>(address);
  if (thread < 0 || stack.has(p) || own.has(p) || arguments.has(p)) return;
  hooks::seen(thread, address, bytes, write, uint32_t(static_cast<const char*>(code) - own.begin));
}

}  // namespace

void hooks::begin(int t, const void* begin, size_t bytes) {
  thread = t;
  stack.begin = static_cast<const char*>(begin), stack.end = stack.begin + bytes;
}
void hooks::end() { thread = -1; }
void hooks::ignore_arguments(const void* begin, size_t bytes) {
  arguments.begin = static_cast<const char*>(begin), arguments.end = arguments.begin + bytes;
}
bool hooks::present() { return ever_called; }

}  // namespace emulator

#define SEEN(address, bytes, write) emulator::pass_on(address, bytes, write, __builtin_return_address(0))
#define HOOKS_FOR(bytes)                                                \
  void __tsan_read##bytes(void* p) { SEEN(p, bytes, false); }           \
  void __tsan_write##bytes(void* p) { SEEN(p, bytes, true); }           \
  void __tsan_unaligned_read##bytes(void* p) { SEEN(p, bytes, false); } \
  void __tsan_unaligned_write##bytes(void* p) { SEEN(p, bytes, true); }

extern "C" {

void __tsan_init() {  // called when the library is loaded
  emulator::ever_called = true;
  dl_iterate_phdr(emulator::find_own, nullptr);
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
HOOKS_FOR(1)
HOOKS_FOR(2)
HOOKS_FOR(4)
HOOKS_FOR(8)
HOOKS_FOR(16)
void __tsan_read_range(void* p, size_t bytes) { SEEN(p, bytes, false); }
void __tsan_write_range(void* p, size_t bytes) { SEEN(p, bytes, true); }
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {  // Clang's, for copies that it makes no loads of
  SEEN(from, bytes, false);
  SEEN(to, bytes, true);
  return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  SEEN(from, bytes, false);
  SEEN(to, bytes, true);
  return memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  SEEN(to, bytes, true);
  return memset(to, value, bytes);
}

}  // extern "C"
