// How the checker comes to see every load and store of a kernel that keeps its plain pointers. See memory_hooks.cpp.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {
namespace hooks {

// Accesses are passed on from begin() to end(), as those of `thread`; but not those to its own stack, to the kernel's
// arguments, and to this library's own data.
void begin(int thread, const void* stack, size_t stack_bytes);
void end();
void ignore_arguments(const void* arguments, size_t bytes);

// Are kernels compiled so that the hooks are called?
bool present();

// What is called (checker.cpp defines it). `place` is an offset in this library's code.
void seen(int thread, const void* address, size_t bytes, bool write, uint32_t place);

}  // namespace hooks
}  // namespace emulator
