// The copy engine and its barriers in shared memory: what ptx_tma_twins.h is made of.
//
// A copy comes as late as it may: when threads wait on the barrier that it reports to and nobody else can go on. Until
// then its destination is NaN and belongs to nobody. Barriers live here, and the eight bytes of a kernel's are only
// their names. Which thread may touch what the engine writes or has to wait before it lets it write is checked by
// clocks (clocks.h): who arrives at a barrier tells it what is over, and who waits for the phase learns that.
#pragma once
#include <cstdint>

#include "cuda_emulator.h"

namespace emulator {

void init_barrier(const void* barrier, uint32_t arrivals, Place);
void fence_barriers(Place);
void arrive(const void* barrier, uint32_t announced_bytes, Place);
void wait_for_phase(const void* barrier, uint32_t parity, Place);

// `map` is a TensorMap that tile_map() or im2col_map() of tma.cpp made. Of an im2col copy at[0] is the channel, then
// come w, h and n.
void copy_tile(void* shared, const void* map, const void* barrier, const int (&at)[5], Place);
void copy_im2col(void* shared, const void* map, const void* barrier, const int (&at)[4], int across, int down, Place);

// What the scheduler tells and asks: a block begins; no thread can go on, so does a copy come that one waits for? All
// threads have ended.
void forget_barriers();
bool bring_a_copy();
void check_no_copy_is_left();

}  // namespace emulator
