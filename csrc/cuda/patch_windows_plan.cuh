// First layers on tensor cores: what the kernels of patch_windows.cuh and patch_windows_weight.cuh read of an image of
// few channels, and where it lies in shared memory.
//
// A block has a patch of results, 16 columns and some rows, and copies the pixels that these read once, padding and
// all: rows of [column][channel], which for one row tap are the S * C numbers of a result's window one after the other
// (a row tap's run). So the reduction of forward, all numbers of a window, are R runs, each at a fixed distance from
// where the window begins, and a fragment of a matrix is read from the patch itself. Nothing is written down that
// image and weight don't have, and hardly anything is multiplied by a zero: a ResNet's first layer has 147 numbers to a
// window and 160 products.
//
// Products take words of four bytes: one float32, or two neighbouring 16-bit numbers.
#pragma once
#include "gather_axis.h"
#include "launch.h"
#include "tensors.cuh"

namespace convx {
namespace cuda {
namespace patch_windows {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kColumns = 16;  // of a patch's results

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the results of all images are cut into patches.
struct Patches {
  int rows, down, across;  // results down a patch; patches of an image
  int64_t count;

  static Patches of(int64_t N, int64_t height, int64_t width, int64_t rows) {
    const int64_t down = ceil_div(height, rows), across = ceil_div(width, kColumns);
    return {int(rows), int(down), int(across), N * down * across};
  }
};

// A patch: an image and its first result there.
struct Patch {
  int64_t n;
  int row, column;

  CONVX_HD static Patch of(const Patches& patches, int64_t i) {
    const int64_t image = i / (patches.down * patches.across), rest = i - image * (patches.down * patches.across);
    const int row = int(rest) / patches.across, column = int(rest) - row * patches.across;
    return {image, row * patches.rows, column * kColumns};
  }
};

// The pixels of a patch: `rows` lines of `pitch` numbers, of which [column][channel] are the first.
struct Pixels {
  int C, rows, columns, pitch;
  int run, runs;           // numbers of a row tap's run, and row taps
  int down, across, step;  // from a result to the next one down and across, and from one run to the next, in numbers
  bool together;           // whether the channels of a row's columns are one run of memory

  // `slack`: numbers beyond the last column that may be looked at (and are multiplied by zero).
  static Pixels of(const ConvProblem& pb, const Strides& x, int64_t result_rows, int64_t slack) {
    const int64_t rows = (result_rows - 1) * pb.stride_h + (pb.R - 1) * pb.dilation_h + 1;
    const int64_t columns = (kColumns - 1) * pb.stride_w + pb.S, pitch = (columns * pb.C + slack + 1) / 2 * 2;
    Pixels p = {};
    p.C = int(pb.C), p.rows = int(rows), p.columns = int(columns), p.pitch = int(pitch);
    p.run = int(pb.S * pb.C), p.runs = int(pb.R);
    p.down = int(pb.stride_h * pitch), p.across = int(pb.stride_w * pb.C), p.step = int(pb.dilation_h * pitch);
    p.together = x.c == 1 && x.w == pb.C;
    return p;
  }
  CONVX_HD int count() const { return rows * pitch; }
};

// Why patches of so many rows of results are beyond shared memory, or of so large sizes that 32 bits don't count them.
inline const char* why_not_sizes(const ConvProblem& pb) {
  constexpr int64_t kMost = 1 << 12, kMostNumbers = 1 << 16;  // along an axis, and of a window
  if (pb.G > 1) return "its windows are of all channels";
  if (pb.dilation_w != 1) return "its windows are of neighbouring columns";
  if (pb.C > 64 || pb.S > kMost || pb.R > kMost || pb.stride_h > kMost || pb.stride_w > kMost ||
      pb.dilation_h > kMost || pb.C * pb.R * pb.S > kMostNumbers)
    return "a patch of the image is beyond shared memory";
  return nullptr;
}

// Zeros where no patch stores anything, by all threads, before a barrier.
template <class T>
__device__ void clear_pixels(T* numbers, int count) {
  for (int i = int(threadIdx.x); i < count; i += kThreads) numbers[i] = T(0);
}

// How a thread goes over the pixels of a patch, plane by plane of those that it reads in runs: one of all channels
// where these lie together, or one to a channel. Found out once, as it takes divisions.
struct PixelWalk {
  int planes, width;              // of a row, in numbers
  int row, place;                 // the thread's first
  int rows_step, places_step;     // to its next
  int limit;                      // of an image's row
  uint32_t from_row, from_place;  // steps in memory; outside of the image they may go beyond 32 bits, and come back
  int64_t from_plane;
  int to_place, to_plane;  // in the patch

  __device__ static PixelWalk of(const Pixels& p, const Strides& x, int64_t W) {
    PixelWalk walk;
    walk.planes = p.together ? 1 : p.C, walk.width = p.together ? p.columns * p.C : p.columns;
    walk.row = int(threadIdx.x) / walk.width, walk.place = int(threadIdx.x) - walk.row * walk.width;
    walk.rows_step = kThreads / walk.width, walk.places_step = kThreads - walk.rows_step * walk.width;
    walk.limit = int(W) * (p.together ? p.C : 1);
    walk.from_row = uint32_t(x.h), walk.from_place = p.together ? 1 : uint32_t(x.w), walk.from_plane = x.c;
    walk.to_place = p.together ? 1 : p.C, walk.to_plane = 1;
    return walk;
  }
};

// Reads the pixels that a patch's results read and has each stored: store(number of the patch, value). Zeros of the
// padding, too, but not what lies beyond the last column (clear_pixels()).
template <class T, class Store>
__device__ void load_plain_pixels(const ConvProblem& pb, const Tensors<T>& t, const Pixels& p, const PixelWalk& walk,
                                  const Patch& patch, Store store) {
  constexpr int kAhead = 6;  // numbers that a thread waits for at once
  const int H = int(pb.H), count = p.rows * walk.width;
  const int h0 = int(patch.row * pb.stride_h - pb.pad_h), columns = int(patch.column * pb.stride_w - pb.pad_w);
  const int w0 = p.together ? columns * p.C : columns;
  const uint32_t from_step = uint32_t(walk.rows_step) * walk.from_row + uint32_t(walk.places_step) * walk.from_place;
  const uint32_t from_wrap = walk.from_row - uint32_t(walk.width) * walk.from_place;
  const int to_step = walk.rows_step * p.pitch + walk.places_step * walk.to_place;
  const int to_wrap = p.pitch - walk.width * walk.to_place;
  const T* image = static_cast<const T*>(t.o.x.data) + patch.n * t.o.x.strides.n;
  for (int plane = 0; plane < walk.planes; ++plane, image += walk.from_plane) {
    int h = h0 + walk.row, w = w0 + walk.place;
    uint32_t from = uint32_t(h) * walk.from_row + uint32_t(w) * walk.from_place;
    int to = walk.row * p.pitch + walk.place * walk.to_place + plane;
    const int last = w0 + walk.width - walk.places_step;
    for (int left = count - int(threadIdx.x); left > 0; left -= kAhead * kThreads) {
      T values[kAhead];
      int places[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const bool reads = unsigned(h) < unsigned(H) && unsigned(w) < unsigned(walk.limit) && left > i * kThreads;
        values[i] = reads ? image[from] : T(0);
        places[i] = to;
        const bool wraps = w >= last;
        h += wraps ? walk.rows_step + 1 : walk.rows_step;
        w += wraps ? walk.places_step - walk.width : walk.places_step;
        from += wraps ? from_step + from_wrap : from_step;
        to += wraps ? to_step + to_wrap : to_step;
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (left > i * kThreads) store(places[i], values[i]);
    }
  }
}

// The same for padding that repeats the image.
template <class T, class Store>
__device__ void load_repeated_pixels(const ConvProblem& pb, const Tensors<T>& t, const Pixels& p, const Patch& patch,
                                     Store store) {
  const Axis rows = pb.rows(), columns = pb.columns();
  const int64_t h0 = rows.virtual_position(patch.row, 0), w0 = columns.virtual_position(patch.column, 0);
  const int64_t last_h = rows.virtual_position(pb.P - 1, pb.R - 1),
                last_w = columns.virtual_position(pb.Q - 1, pb.S - 1);
  const int width = p.columns * p.C;
  for (int i = int(threadIdx.x); i < p.rows * width; i += kThreads) {
    const int row = i / width, place = i - row * width, column = place / p.C;
    const int64_t h = h0 + row, w = w0 + column;
    const bool reads = h <= last_h && w <= last_w;
    store(row * p.pitch + place, reads ? t.x(patch.n, place - column * p.C, rows.source(h), columns.source(w)) : T(0));
  }
}

template <class T, class Store>
__device__ void load_pixels(const ConvProblem& pb, const Tensors<T>& t, const Pixels& p, const PixelWalk& walk,
                            const Patch& patch, Store store) {
  if (pb.padding_mode == PaddingMode::zeros)
    load_plain_pixels(pb, t, p, walk, patch, store);
  else
    load_repeated_pixels(pb, t, p, patch, store);
}

}  // namespace patch_windows
}  // namespace cuda
}  // namespace convx
