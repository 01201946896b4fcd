// Tensor maps: what the copy engine of a Hopper GPU has to know of a tensor to find tiles in it (ptx_tma.h). They are
// made on the host, by functions of the driver, and are kernel parameters.
//
// Tiles have the swizzle of 128 bytes: a tile's rows of 128 bytes, 64 elements of the fastest dimension or 32, lie one
// behind the other, and chunk c of 16 bytes of row r is at c ^ r % 8.
#pragma once
#include <cstdint>

namespace convx {
namespace cuda {

// The driver's CUtensorMap, which is opaque.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// What is copied: 16 bits as they are, or float32 that the engine rounds to TF32's 11 significant bits on the way, to
// the nearest, ties to even (as was seen on an H200; cvt.rna's ties go away from zero).
enum class MapElements { bits16, tf32 };

// Of a tensor of five dimensions, the fastest first; strides in elements, of all but the fastest. A tile is box[0]
// elements wide, 128 bytes, and has box[1] * ... * box[4] rows, each box at most 256. False if the engine can't:
// addresses and strides must be multiples of 16 bytes, sizes below 2^32, strides below 2^40 bytes.
bool tile_map(TensorMap* map, MapElements elements, const void* data, const int64_t (&sizes)[5],
              const int64_t (&strides)[4], const int (&box)[5]);

// One axis of an image as an im2col map sees it: pixels are read at first + i * step, i < count, plus the tap's offset
// (0 to 255) that the copy is given.
struct PixelAxis {
  int first, count, step;
};

// Of N images of H x W pixels with C channels, which are neighbours; strides in elements. A copy brings `pixels` (256
// at most) of the N * rows.count * columns.count pixels in a row, of each 128 bytes of channels. False if the engine
// can't: as above, and its fields are small: `first`, and how far the last pixel is from the image's end, are -128 to
// 127, and steps 8 at most.
bool im2col_map(TensorMap* map, MapElements elements, const void* data, int64_t C, int64_t W, int64_t H, int64_t N,
                int64_t stride_w, int64_t stride_h, int64_t stride_n, PixelAxis columns, PixelAxis rows, int pixels);

}  // namespace cuda
}  // namespace convx
