// The twins of csrc/cuda/ptx_tma.h; tma.cpp has what they do. tile_map() and im2col_map() of csrc/cuda/tensor_map.h are
// there, too: the copy engine that reads such maps is the emulator's.
#pragma once
#include <cstdint>

#include "cuda_emulator.h"
#include "tma.h"

#define CONVX_GRID_CONSTANT

namespace convx {
namespace cuda {

inline void mbarrier_init(uint64_t* barrier, uint32_t arrivals, Place place = Place::of()) {
  emulator::init_barrier(barrier, arrivals, place);
}
inline void fence_mbarrier_init(Place place = Place::of()) { emulator::fence_barriers(place); }
inline void mbarrier_arrive(uint64_t* barrier, Place place = Place::of()) { emulator::arrive(barrier, 0, place); }
inline void mbarrier_expect(uint64_t* barrier, uint32_t bytes, Place place = Place::of()) {
  emulator::arrive(barrier, bytes, place);
}
inline void mbarrier_wait(uint64_t* barrier, uint32_t parity, Place place = Place::of()) {
  emulator::wait_for_phase(barrier, parity, place);
}

inline void copy_tile(void* shared, const TensorMap& map, uint64_t* barrier, int c0, int c1, int c2, int c3, int c4,
                      Place place = Place::of()) {
  emulator::copy_tile(shared, &map, barrier, {c0, c1, c2, c3, c4}, place);
}
inline void copy_im2col(void* shared, const TensorMap& map, uint64_t* barrier, int channel, int w, int h, int n,
                        int across, int down, Place place = Place::of()) {
  emulator::copy_im2col(shared, &map, barrier, {channel, w, h, n}, across, down, place);
}

// A thread of the emulator has as many as it wants.
template <int kCount>
void give_registers() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256, "what setmaxnreg takes");
}
template <int kCount>
void take_registers() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256, "what setmaxnreg takes");
}

}  // namespace cuda
}  // namespace convx
