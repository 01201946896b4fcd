// Watches over every load and store of a kernel: what lies outside of its operands, what nobody has written yet, and
// what two threads touch without a barrier between them. See checker.cpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "cuda_emulator.h"

namespace emulator {

// Memory that kernels may touch until clear_regions(): an operand, the result, workspace. What is `written` may be read
// before any kernel has written there. `name` is for messages.
void add_region(const std::string& name, const void* begin, size_t bytes, bool writable, bool written);
void clear_regions();

// What the scheduler tells the checker.
namespace checker {

void begin_launch(const void* arguments, size_t argument_bytes, void* shared, size_t shared_bytes);
void begin_block(uint32_t block, int threads);
void begin_turn(int thread, const void* stack, size_t stack_bytes);
void end_turn();
void block_barrier();
void warp_barrier(int warp);

enum class Access { load, store, atomic, copy_begins, copy_ends, barrier };

// An access that `thread` of the block makes by other means than a plain load or store.
void access(int thread, const void* address, size_t bytes, Access, Place);

// A load from shared memory by wgmma, for the warpgroup of `thread`: it sees only what was fenced by who wrote it.
void read_by_async_proxy(int thread, const void* address, size_t bytes, Place);
void fence_async(int thread);

// A copy by the copy engine, which `thread` asks for, to shared memory, and its end. Of `barrier`, the number of the
// mbarrier that it reports to, others learn that it is over.
void copy_by_engine_begins(int thread, int barrier, const void* address, size_t bytes, Place);
void copy_by_engine_ends(int thread, int barrier, const void* address, size_t bytes, Place);

// Is what `other` did at `when` over for `thread`?
bool is_over(uint32_t when, int other, int thread);

}  // namespace checker
}  // namespace emulator
