// Patches of images for the kernels of grouped layers (tensorcore_grouped.cuh, tensorcore_grouped_weight.cuh): how a
// patch lies in shared memory, and how it is copied there with all that the taps of its results read.
//
// A patch has rows of 8 results, and fragments of matrices are made of two such rows: (f, 0..7) and
// (f + kFragments, 0..7), so that it has 2 * kFragments rows. With 7 of them images of 7 * 2^n rows are cut into whole
// patches, smaller ones take 4.
//
// Banks: ldmatrix reads a chunk of 16 bytes of eight neighbours of a row. The pitch of a pixel is an odd number of
// chunks, so these lie in eight different places of 128 bytes. Pixels that a stride takes one after the other are made
// neighbours for that: first all those of remainder 0, then of 1.
#pragma once
#include <algorithm>

#include "device.h"
#include "tensorcore_launch.cuh"

namespace convx {
namespace cuda {
namespace tensorcore_grouped {

using tensorcore::AxisPlan;
using tensorcore::kChunk;
using tensorcore::lane;
using tensorcore::Odometer;

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kWarpOutputs = 16, kOutputs = kWarps * kWarpOutputs;  // of a warp, and of a block
constexpr int kColumns = 8;                                         // results of a patch's row
template <class T>
constexpr int kElements = kChunk / int(sizeof(T));
constexpr int kMostFragments = 7, kFewestFragments = 4;

constexpr int64_t kBeyond = int64_t(1) << 40;  // more bytes than any shared memory has

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The groups of 16 outputs read inputs from this chunk of a pixel on.
struct Groups {
  int count, inputs, outputs;  // of a group
  int elements;                // of a chunk
  CONVX_HD int all_outputs() const { return count * outputs; }
  CONVX_HD int first_chunk(int output) const { return output / outputs * inputs / elements; }
  // So many outputs show all ways in which 16 of them may lie in their groups; in a single group there is one.
  int varied_outputs() const { return count == 1 ? std::min(outputs, 1) : all_outputs(); }
  // How many times two chunks of inputs that takes, for the 16 outputs that take the most.
  int depth() const {
    int64_t most = 0;
    for (int first = 0; first < varied_outputs(); first += kWarpOutputs) {
      const int64_t last = std::min(first + kWarpOutputs, all_outputs()) - 1;
      most = std::max(most,
                      ceil_div((last / outputs + 1) * inputs - int64_t(first_chunk(first)) * elements, 2 * elements));
    }
    return int(most);
  }
  // The chunks of a pixel that a block's 64 outputs read, if all take `depth`.
  int span(int depth) const {
    int most = 0;
    for (int first = 0; first < varied_outputs(); first += kWarpOutputs)
      most = std::max(most, first_chunk(first) - first_chunk(first / kOutputs * kOutputs) + 2 * depth);
    return most;
  }
};

// A patch: an image and its first result there.
struct Patch {
  int n, row, column;
};

// How the results of all images are cut into patches.
struct Patches {
  int down, across, count;

  static Patches of(int64_t N, int64_t height, int64_t width, int64_t fragments) {
    const int64_t down = ceil_div(height, 2 * fragments), across = ceil_div(width, kColumns);
    return {int(down), int(across), int(N * down * across)};
  }
  // Patch i as a number of three digits, so that to go on takes no division.
  __device__ Odometer place(int i) const { return Odometer::of(i, down, across); }
  __device__ static Patch at(const Odometer& place, int fragments) {
    return {place.high, place.middle * 2 * fragments, place.low * kColumns};
  }
};

// What is read at a position, or -1 if nothing; also if no result reads it.
__device__ inline int source(const AxisPlan& axis, int position) {
  if (unsigned(position) < unsigned(axis.in)) return position;
  if (axis.mode == PaddingMode::zeros || position > axis.position(axis.count - 1, axis.taps - 1)) return -1;
  return axis.source(position);
}

// An image of which patches are copied. Strides are in elements; all channels of a pixel are neighbours, in whole
// chunks.
template <class T>
struct Image {
  const T* data;
  int64_t n, h, w;
  int chunks;              // of a pixel
  AxisPlan rows, columns;  // what the results' taps read

  // The patch with what its taps read, in pixels; `across` of a row's pixels are a stride apart, and lie together.
  int patch_rows, patch_columns, across;
  int span, pitch;  // of a pixel in shared memory: chunks, and bytes

  void set(const tensorcore::Packed<T>& packed) {
    data = packed.data, n = packed.n, h = packed.h, w = packed.w, chunks = packed.channels / kElements<T>;
  }

  // Patches for so many taps at a time; returns their bytes, in 64 bits.
  int64_t set_patches(int64_t fragments, int64_t row_taps, int64_t column_taps, int64_t chunks_of_pixel) {
    const auto reach = [](const AxisPlan& a, int64_t results, int64_t taps) {
      return (results - 1) * a.stride + (taps - 1) * a.dilation + 1;
    };
    const bool reads = row_taps > 0 && column_taps > 0 && chunks_of_pixel > 0;
    const int64_t high = reads ? reach(rows, 2 * fragments, row_taps) : 0;
    const int64_t wide = reads ? reach(columns, kColumns, column_taps) : 0;
    const int64_t together = ceil_div(wide, columns.stride), bytes_of_pixel = (chunks_of_pixel | 1) * kChunk;
    patch_rows = int(high), patch_columns = int(wide), across = int(together);
    span = int(chunks_of_pixel), pitch = int(bytes_of_pixel);
    return chunks_of_pixel > kThreads ? kBeyond : high * together * columns.stride * bytes_of_pixel;
  }

  __device__ int place(int column) const {
    return columns.stride == 1 ? column : column % columns.stride * across + column / columns.stride;
  }
  __device__ int row_bytes() const { return (columns.stride == 1 ? patch_columns : across * columns.stride) * pitch; }
  // Where a lane's pixel and chunk of the first fragment is, for ldmatrix_x4 of two rows of eight pixels (`half`, from
  // the lane's number) and two chunks of channels.
  __device__ int lane_offset(int fragments, int half, int chunk) const {
    return half * fragments * rows.stride * row_bytes() + lane() % 8 * pitch + chunk * kChunk;
  }
};

// The pixels of every patch that a thread copies a chunk of, always the same one of a pixel: from the first on, in
// steps of all that the threads copy at once.
struct Walk {
  int chunk, row, column, pixels, rows_step, columns_step;
  int count;
  template <class T>
  __device__ static Walk of(const Image<T>& image) {
    const int columns = max(image.patch_columns, 1), span = max(image.span, 1), pixels = kThreads / span;
    const int first = int(threadIdx.x) / span, left = image.patch_rows * image.patch_columns - first;
    const bool is_idle = first >= pixels;  // of threads that are not enough for another pixel
    return {int(threadIdx.x) % span,
            first / columns,
            first % columns,
            pixels,
            pixels / columns,
            pixels % columns,
            is_idle ? 0 : (max(left, 0) + pixels - 1) / pixels};
  }
};

// Begins to copy what a patch's results read from tap (i, j) on, from a chunk of its pixels on. kPlain: padding is
// zeros and the stride along rows is 1; then both ends of a copy go on by fixed steps, which leaves half of the
// instructions.
template <bool kPlain, class T>
__device__ void copy_pixels(const Image<T>& image, const Walk& walk, const Patch& patch, int i, int j, int first_chunk,
                            char* to) {
  const int left = image.columns.position(patch.column, j), right = left + image.patch_columns;
  const int chunk = first_chunk + walk.chunk, across = image.patch_columns;
  const bool exists = chunk < image.chunks, repeats = image.rows.mode != PaddingMode::zeros;
  const int rows = exists ? image.rows.in : 0, columns = image.columns.in;
  int h = image.rows.position(patch.row, i) + walk.row, w = left + walk.column;
  const T* from = image.data + patch.n * image.n + (exists ? chunk * kElements<T> : 0);
  to += walk.chunk * kChunk;
  if (kPlain) {
    // Where there is an image only if the pixel is read.
    const char* pixel = reinterpret_cast<const char*>(from + h * image.h + w * image.w);
    to += (walk.row * across + walk.column) * image.pitch;
    const int64_t step = (walk.rows_step * image.h + walk.columns_step * image.w) * int64_t(sizeof(T));
    const int64_t step_to_next_row = step + (image.h - across * image.w) * int64_t(sizeof(T));
    const int to_step = walk.pixels * image.pitch, last = right - walk.columns_step;
#pragma unroll 5  // ten of 16 x 10 pixels with eight chunks
    for (int count = walk.count; count > 0; --count) {
      cp_async_16(to, pixel, unsigned(h) < unsigned(rows) && unsigned(w) < unsigned(columns));
      const bool wraps = w >= last;
      h += wraps ? walk.rows_step + 1 : walk.rows_step;
      w += wraps ? walk.columns_step - across : walk.columns_step;
      pixel += wraps ? step_to_next_row : step;
      to += to_step;
    }
    return;
  }
  const int row_bytes = image.row_bytes();
  int row = walk.row;
  for (int count = walk.count; count > 0; --count) {
    int read_h = h, read_w = w;
    bool reads = unsigned(h) < unsigned(rows) && unsigned(w) < unsigned(columns);
    if (!reads && repeats && exists) {
      read_h = source(image.rows, h), read_w = source(image.columns, w);
      reads = read_h >= 0 && read_w >= 0;
    }
    cp_async_16(to + row * row_bytes + image.place(w - left) * image.pitch,
                reads ? from + (read_h * image.h + read_w * image.w) : image.data, reads);
    h += walk.rows_step, row += walk.rows_step, w += walk.columns_step;
    if (w >= right) w -= across, ++h, ++row;
  }
}
template <class T>
__device__ void load_patch(const Image<T>& image, const Walk& walk, const Patch& patch, int i, int j, int first_chunk,
                           char* to) {
  if (image.columns.stride == 1 && image.rows.mode == PaddingMode::zeros)
    copy_pixels<true>(image, walk, patch, i, j, first_chunk, to);
  else
    copy_pixels<false>(image, walk, patch, i, j, first_chunk, to);
}

inline AxisPlan forward_plan(const Axis& a) {
  return {int(a.in), int(a.out), int(a.kernel), int(a.stride), -int(a.pad), int(a.dilation), 0, 1, 0, 1, a.mode};
}

// Whether 32 bits count the patches, and the chunks of an image.
inline const char* why_not_in_patches(const ConvProblem& pb) {
  const auto is_large = [&](int64_t height, int64_t width, int64_t channels) {
    constexpr int64_t kMost = int64_t(1) << 30;
    return height * width * ceil_div(channels, kElements<float>) > kMost ||
           pb.N * ceil_div(height, 2 * kFewestFragments) * ceil_div(width, kColumns) > kMost;
  };
  return is_large(pb.H, pb.W, pb.C) || is_large(pb.P, pb.Q, pb.K)
             ? "there are more pixels than its 32-bit numbers count"
             : nullptr;
}

// Whether three row taps go together: the row that one reads for a result is the next one's for the result above.
inline bool rows_together(const AxisPlan& rows) { return rows.stride == 1 && rows.dilation == 1 && rows.taps % 3 == 0; }

// How many fragments a patch has: those of which the fewest pixels are copied, but at least two blocks to a
// multiprocessor, if they fit. 0: none does. set(fragments) sets them and returns the bytes of shared memory.
template <class T, class Set>
int64_t choose_fragments(const Image<T>& image, int64_t most_blocks, Set set) {
  const auto cost = [&](int64_t fragments) {
    const int64_t blocks = fitting_blocks(set(fragments), most_blocks);
    const Patches patches = Patches::of(1, image.rows.count, image.columns.count, fragments);
    const double pixels = double(patches.count) *
                          std::max(double(image.patch_rows) * image.patch_columns, double(2 * fragments * kColumns));
    return blocks == 0 ? 1e300 : blocks == 1 ? pixels * 4 : pixels;
  };
  const int64_t best = cost(kMostFragments) <= cost(kFewestFragments) ? kMostFragments : kFewestFragments;
  return fitting_blocks(set(best), most_blocks) > 0 ? best : 0;
}

// How many blocks share the patches of an item: as many as run at a time. One more, and it would run when all others
// are done; fewer of as many patches each would leave some multiprocessors a block less.
inline int64_t streams_of(int64_t patches, int64_t blocks, int64_t items) {
  return std::min(patches, std::max(current_device().multiprocessors * blocks / items, int64_t(1)));
}

}  // namespace tensorcore_grouped
}  // namespace cuda
}  // namespace convx
