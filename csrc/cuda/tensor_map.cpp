// tile_map() and im2col_map() of tensor_map.h, by the driver's functions, which the CUDA runtime is asked for: so that
// nothing has to be linked with the driver.
#include "tensor_map.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

namespace convx {
namespace cuda {
namespace {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap), "a tensor map is the driver's");

constexpr int64_t kRowBytes = 128, kChunkBytes = 16;

int64_t bytes_of(MapElements elements) { return elements == MapElements::bits16 ? 2 : 4; }
CUtensorMapDataType type_of(MapElements elements) {
  return elements == MapElements::bits16 ? CU_TENSOR_MAP_DATA_TYPE_UINT16 : CU_TENSOR_MAP_DATA_TYPE_TFLOAT32;
}

// A function of the driver; null if it is older than CUDA 12.0.
template <class Function>
Function driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  if (cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result) != cudaSuccess) {
    cudaGetLastError();  // it is not the next launch's
    return nullptr;
  }
  return result == cudaDriverEntryPointSuccess ? reinterpret_cast<Function>(found) : nullptr;
}

// Strides in bytes, as the driver wants them; false if the engine can't have them.
template <int kCount>
bool in_bytes(const int64_t (&strides)[kCount], MapElements elements, cuuint64_t (&bytes)[kCount]) {
  for (int i = 0; i < kCount; ++i) {
    const int64_t stride = strides[i] * bytes_of(elements);
    if (stride <= 0 || stride % kChunkBytes != 0 || stride >= int64_t(1) << 40) return false;
    bytes[i] = cuuint64_t(stride);
  }
  return true;
}

bool is_small(int64_t value, int64_t least, int64_t most) { return value >= least && value <= most; }

// The lower and the upper corner of the box of first pixels, each from the image's corner.
bool corners(PixelAxis axis, int64_t size, int& lower, int& upper) {
  const int64_t past = axis.first + int64_t(axis.count - 1) * axis.step + 1 - size;
  lower = axis.first, upper = int(past);
  return axis.count > 0 && is_small(axis.first, -128, 127) && is_small(past, -128, 127) && is_small(axis.step, 1, 8);
}

}  // namespace

bool tile_map(TensorMap* map, MapElements elements, const void* data, const int64_t (&sizes)[5],
              const int64_t (&strides)[4], const int (&box)[5]) {
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  cuuint64_t dimensions[5], bytes[4];
  cuuint32_t boxes[5];
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  if (!encode || !in_bytes(strides, elements, bytes)) return false;
  for (int i = 0; i < 5; ++i) {
    if (!is_small(sizes[i], 1, (int64_t(1) << 32) - 1) || !is_small(box[i], 1, 256)) return false;
    dimensions[i] = cuuint64_t(sizes[i]), boxes[i] = cuuint32_t(box[i]);
  }
  return encode(reinterpret_cast<CUtensorMap*>(map), type_of(elements), 5, const_cast<void*>(data), dimensions, bytes,
                boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool im2col_map(TensorMap* map, MapElements elements, const void* data, int64_t C, int64_t W, int64_t H, int64_t N,
                int64_t stride_w, int64_t stride_h, int64_t stride_n, PixelAxis columns, PixelAxis rows, int pixels) {
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  const int64_t strides[3] = {stride_w, stride_h, stride_n};
  const cuuint64_t dimensions[4] = {cuuint64_t(C), cuuint64_t(W), cuuint64_t(H), cuuint64_t(N)};
  const cuuint32_t steps[4] = {1, cuuint32_t(columns.step), cuuint32_t(rows.step), 1};
  cuuint64_t bytes[3];
  int lower[2], upper[2];
  if (!encode || pixels > 256 || !in_bytes(strides, elements, bytes) || !corners(columns, W, lower[0], upper[0]) ||
      !corners(rows, H, lower[1], upper[1]))
    return false;
  return encode(reinterpret_cast<CUtensorMap*>(map), type_of(elements), 4, const_cast<void*>(data), dimensions, bytes,
                lower, upper, cuuint32_t(kRowBytes / bytes_of(elements)), cuuint32_t(pixels), steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace cuda
}  // namespace convx
