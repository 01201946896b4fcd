// What the choice of an algorithm and the size of its grid may ask of the GPU that is current.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace convx {
namespace cuda {

struct Device {
  int capability;           // 10 * major + minor: 80, 90
  int multiprocessors;      // a grid wants a multiple of these
  size_t shared_per_block;  // the most dynamic shared memory a block may ask for, in bytes
  bool has_wgmma;           // capability 9.0, and the kernels were built for 9.0a
};

// Read once for each GPU. The emulator of tests/emulator answers for itself.
const Device& current_device();

// Blocks of so much shared memory that fit on a multiprocessor, which keeps 1 KiB for itself of each.
inline int64_t fitting_blocks(int64_t shared_bytes, int64_t most) {
  constexpr int64_t kReserved = 1024;
  return std::min(most, (int64_t(current_device().shared_per_block) + kReserved) / (shared_bytes + kReserved));
}

}  // namespace cuda
}  // namespace convx
