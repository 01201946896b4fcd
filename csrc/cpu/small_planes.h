// Which planes depthwise_small.h takes, in which blocks: for its kernels and for the choice between them and others.
// Included before any instruction set is set, so that this code runs everywhere.
#pragma once
#include <cstdint>

namespace convx {
namespace cpu {

// Rows in a block: all of a plane's if there are that few, else those that compute the fewest, in few blocks. None if
// the first block would reach beyond the lower end too, or one in the middle beyond either.
inline int64_t small_block_rows(int64_t height, int64_t kernel) {
  int64_t best = 0, least = INT64_MAX;
  for (const int64_t rows : {8, 7}) {
    const int64_t cost = (height + rows - 1) / rows * (rows + 1);
    const bool fits = rows == height || rows + (height > 2 * rows ? kernel - 1 : kernel / 2) <= height;
    if (fits && cost < least) best = rows, least = cost;
  }
  return best;
}

// Of kernel x kernel neighbouring taps, as many rows out as in, and vectors of `lanes` columns.
inline bool is_small_plane(int64_t height, int64_t columns, int64_t kernel, int64_t lanes) {
  return (kernel == 3 || kernel == 5 || kernel == 7) && height <= 32 && columns <= 2 * lanes &&
         small_block_rows(height, kernel) > 0;
}

}  // namespace cpu
}  // namespace convx
