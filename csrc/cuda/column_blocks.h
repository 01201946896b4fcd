// Where a result's columns go if they are not the channels of one pixel but of a block of them: a transposed layer
// whose kernel is its stride is a 1x1 product with R * S * C columns, (block's row, block's column, channel), and each
// result is a block of R x S pixels. Stored there by the product itself, nothing is scattered afterwards.
#pragma once
#include "gather_axis.h"

namespace convx {
namespace cuda {

struct ColumnBlocks {
  bool exist = false;        // or else columns are channels
  Divider channels, across;  // of a pixel, and pixels across a block
  int64_t down_step = 0, across_step = 0, channel_step = 0;

  // Where a column is, from the block's first channel.
  CONVX_HD int64_t place(int column) const {
    int pixel = column;
    const int channel = channels.split(pixel);
    int row = pixel;
    const int within = across.split(row);
    return row * down_step + within * across_step + channel * channel_step;
  }
};

}  // namespace cuda
}  // namespace convx
