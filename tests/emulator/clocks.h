// What a thread of the block can know to be over, where threads wait for others by more than the barriers of a block
// and of a warp: by mbarriers, and for the copy engine and the tensor cores. Kept from a block's first mbarrier on.
//
// Time is a counter that moves on whenever somebody tells others how far it is. Of each thread a clock says up to when
// what the others did is over for it: telling writes into a clock, learning reads it, and what one has learned it tells
// on. (These are vector clocks, as race detectors have them.)
#pragma once
#include <cstdint>
#include <vector>

namespace emulator {
namespace clocks {

// Who does things: the threads of a block, and then those that no thread waits for unless it says so: what wgmma reads
// for a warpgroup, and what the copy engine writes for a barrier.
constexpr int kThreads = 1024, kGroup = 128;
constexpr int kTensorCores = kThreads, kEngine = kTensorCores + kThreads / kGroup, kBarriers = 256;
constexpr int kAll = kEngine + kBarriers;

using Clock = std::vector<uint32_t>;

extern uint32_t now;

void begin_block(int threads);
void keep();
bool are_kept();

// Has what `who` did at `when` ended, as far as `thread` knows?
bool is_over(uint32_t when, int who, int thread);

void tell(int thread, Clock& clock);
void learn(int thread, const Clock& clock);
void learn(int thread, int who, uint32_t until);

// Threads [first, first + count) have met.
void meet(int first, int count);

}  // namespace clocks
}  // namespace emulator
