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
constexpr int64_t kBeyond = int64_t(1) << 40;  // more bytes than any shared memory has

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
  Divider channels;        // to find a number's column

  // `slack`: numbers beyond the last column that may be looked at (and are multiplied by zero).
  static Pixels of(const ConvProblem& pb, const Strides& x, int64_t result_rows, int64_t slack) {
    const int64_t rows = (result_rows - 1) * pb.stride_h + (pb.R - 1) * pb.dilation_h + 1;
    const int64_t columns = (kColumns - 1) * pb.stride_w + pb.S, pitch = (columns * pb.C + slack + 1) / 2 * 2;
    Pixels p = {};
    p.C = int(pb.C), p.rows = int(rows), p.columns = int(columns), p.pitch = int(pitch);
    p.run = int(pb.S * pb.C), p.runs = int(pb.R);
    p.down = int(pb.stride_h * pitch), p.across = int(pb.stride_w * pb.C), p.step = int(pb.dilation_h * pitch);
    p.together = x.c == 1 && x.w == pb.C;
    p.channels = Divider(pb.C);
    return p;
  }
  CONVX_HD int count() const { return rows * pitch; }
};

// Why patches of so many rows of results are beyond shared memory, or of so large sizes that 32 bits don't count them.
inline const char* why_not_sizes(const ConvProblem& pb) {
  constexpr int64_t kMost = 1 << 12;
  if (pb.G > 1) return "its windows are of all channels";
  if (pb.dilation_w != 1) return "its windows are of neighbouring columns";
  if (pb.C > 64 || pb.S > kMost || pb.R > kMost || pb.stride_h > kMost || pb.stride_w > kMost || pb.dilation_h > kMost)
    return "a patch of the image is beyond shared memory";
  return nullptr;
}

// Reads the pixels that a patch's results read, padding too, and has each stored: store(number of the patch, value).
template <class T, class Store>
__device__ void load_pixels(const ConvProblem& pb, const Tensors<T>& t, const Pixels& p, const Patch& patch,
                            Store store) {
  constexpr int kAhead = 4;  // numbers that a thread waits for at once
  const Axis rows = pb.rows(), columns = pb.columns();
  const Strides& x = t.o.x.strides;
  const T* const image = static_cast<const T*>(t.o.x.data) + patch.n * x.n;
  const int h0 = int(patch.row * pb.stride_h - pb.pad_h), w0 = int(patch.column * pb.stride_w - pb.pad_w);
  const int H = int(pb.H), W = int(pb.W), used = p.columns * p.C, count = p.count();
  const bool repeats = pb.padding_mode != PaddingMode::zeros;
  const int rows_step = kThreads / p.pitch, places_step = kThreads - rows_step * p.pitch;
  int row = int(threadIdx.x) / p.pitch, place = int(threadIdx.x) - row * p.pitch;
  for (int first = int(threadIdx.x); first < count; first += kAhead * kThreads) {
    T values[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      values[i] = T(0);
      if (first + i * kThreads < count && place < used) {
        int h = h0 + row, column = place, c = 0;
        if (p.C > 1) column = p.channels.quotient(place), c = place - column * p.C;
        int w = w0 + column;
        bool reads = unsigned(h) < unsigned(H) && unsigned(w) < unsigned(W);
        if (!reads && repeats && h <= rows.virtual_position(pb.P - 1, pb.R - 1) &&
            w <= columns.virtual_position(pb.Q - 1, pb.S - 1)) {
          h = int(rows.source(h)), w = int(columns.source(w));
          reads = true;
        }
        if (reads) values[i] = image[int64_t(h) * x.h + (p.together ? int64_t(w) * p.C + c : w * x.w + c * x.c)];
      }
      row += rows_step, place += places_step;
      if (place >= p.pitch) place -= p.pitch, ++row;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (first + i * kThreads < count) store(first + i * kThreads, values[i]);
  }
}

}  // namespace patch_windows
}  // namespace cuda
}  // namespace convx
