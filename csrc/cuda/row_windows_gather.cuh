// How row_windows.cuh gathers its windows,
//
//   windows[n, h, q, (s, c)] = x[n, c, h, q * stride - pad + s * dilation]
//
// of each row of each image: a block copies the row, or what a part of its windows reads, to shared memory, padding and
// all, as [position][channel]. A thread has the same chunk of sixteen bytes of every window that it builds, so it finds
// out once where the chunk's numbers are. No number takes a division, and memory is read and written by vectors.
//
// Limit: memory; the windows are larger than the image.
#pragma once
#include "gather_axis.h"
#include "tensors.cuh"
#include "vectors.cuh"

namespace convx {
namespace cuda {

constexpr int kWindowThreads = 64, kWindowBlocks = 16;  // of a multiprocessor
constexpr int64_t kWindowBytes = 12 * 1024;             // of a block's shared memory, at most

struct WindowParts {
  int size;       // S * C in whole chunks, the rest zeros
  int count;      // windows of a part of a row; none if a single one is too long for shared memory
  int length;     // positions of a part, with padding
  bool together;  // whether the channels of a row's positions are one run of memory; else they are a run each
  Divider run_chunks;

  template <class T>
  static WindowParts of(const ConvProblem& pb, const Strides& x, int size) {
    WindowParts p = {size, 0, 0, x.c == 1 && x.w == pb.C, Divider()};
    const int64_t most = kWindowBytes / (pb.C * int64_t(sizeof(T))), one = (pb.S - 1) * pb.dilation_w + 1;
    if (one > most) return p;
    const int64_t fitting = (most - one) / pb.stride_w + 1;
    p.count = int(fitting < pb.Q ? fitting : pb.Q);
    p.length = int((p.count - 1) * pb.stride_w + one);
    p.run_chunks = Divider(divided_up(p.length * (p.together ? int(pb.C) : 1), kChunkElements<T>));
    return p;
  }
};

// What the windows of one part read of a row: `length` positions from virtual position `first` on, of which `inside`
// from the begin-th on are inside the image.
struct LinePart {
  int64_t first;
  int length, begin, inside;

  __device__ LinePart(const Axis& columns, int64_t first_, int length_) : first(first_), length(length_) {
    begin = int(max(int64_t(0), min(-first, int64_t(length))));
    inside = int(max(int64_t(0), min(columns.in - first, int64_t(length)) - begin));
  }
};

// The first `count` numbers of a chunk, or all; `step` apart in memory. Their bits: taken apart where they are loaded,
// each load would be waited for before the next.
template <class T>
__device__ uint4 load_chunk(const T* from, int64_t step, int count) {
  constexpr int kElements = kChunkElements<T>;
  if (step == 1 && count >= kElements && is_aligned<kElements>(from)) return *reinterpret_cast<const uint4*>(from);
  Vector<T, kElements> values;
#pragma unroll
  for (int e = 0; e < kElements; ++e) values.v[e] = e < count ? from[e * step] : T(0);
  uint4 chunk;
  memcpy(&chunk, &values, sizeof chunk);
  return chunk;
}

// Copies a part of a row to shared memory. row: its position 0, channel 0.
template <class T>
__device__ void gather_line(const Axis& columns, int C, const Strides& strides, const WindowParts& parts,
                            const LinePart& part, const T* row, T* line) {
  constexpr int kElements = kChunkElements<T>, kAhead = 2;  // chunks that a thread waits for at once
  const int runs = parts.together ? 1 : C, numbers = parts.together ? part.inside * C : part.inside;
  const int64_t from_step = parts.together ? 1 : strides.w;
  const int to_step = parts.together ? 1 : C;
  const T* const from = row + (part.first + part.begin) * strides.w;
  const int chunks = runs * int(parts.run_chunks.divisor);
  for (int chunk = int(threadIdx.x); chunk < chunks; chunk += kAhead * kWindowThreads) {
    uint4 loaded[kAhead];
    T* to[kAhead];
    int count[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      int run = chunk + i * kWindowThreads;
      const int number = parts.run_chunks.split(run) * kElements;
      count[i] = run < runs ? numbers - number : 0;
      to[i] = line + part.begin * C + number * to_step + run;
      if (count[i] > 0) loaded[i] = load_chunk(from + run * strides.c + number * from_step, from_step, count[i]);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      Vector<T, kElements> values;
      memcpy(&values, &loaded[i], sizeof values);
#pragma unroll
      for (int e = 0; e < kElements; ++e)
        if (e < count[i]) to[i][e * to_step] = values.v[e];
    }
  }
#pragma unroll 1
  for (int item = int(threadIdx.x); item < (part.length - part.inside) * C; item += kWindowThreads) {
    const int outside = item / C, c = item - outside * C;
    const int position = outside < part.begin ? outside : outside + part.inside;
    const int64_t w = columns.source(part.first + position);
    line[position * C + c] = w < 0 ? T(0) : row[c * strides.c + w * strides.w];
  }
}

// One chunk of each window: where its numbers are in a line, from the window's first position on. What fills it up is
// read from there as well, and then cleared.
template <class T>
struct WindowChunk {
  static constexpr int kElements = kChunkElements<T>;
  int at[kElements];  // in bytes
  uint32_t mask[4];

  __device__ WindowChunk(int chunk, int C, int S, int dilation) {
    int s = chunk * kElements / C, c = chunk * kElements - s * C;
    Vector<T, kElements> kept;
    memset(&kept, 0, sizeof kept);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      at[e] = s < S ? (s * dilation * C + c) * int(sizeof(T)) : 0;
      if (s < S) memset(&kept.v[e], 0xff, sizeof(T));
      if (++c == C) c = 0, ++s;
    }
    memcpy(mask, &kept, sizeof mask);
  }
  __device__ uint4 of(const T* window) const {
    Vector<T, kElements> values;
#pragma unroll
    for (int e = 0; e < kElements; ++e)
      values.v[e] = *reinterpret_cast<const T*>(reinterpret_cast<const char*>(window) + at[e]);
    uint32_t words[4];
    memcpy(words, &values, sizeof words);
    return make_uint4(words[0] & mask[0], words[1] & mask[1], words[2] & mask[2], words[3] & mask[3]);
  }
};

template <class T>
__global__ void __launch_bounds__(kWindowThreads, kWindowBlocks)
    gather_windows(ConvProblem pb, Tensors<T> t, T* windows, WindowParts parts) {
  T* const line = shared_memory<T>();
  const Axis columns = pb.columns();
  const int C = int(pb.C), step = int(pb.stride_w) * C, chunks = parts.size / kChunkElements<T>;
  // So many chunks of a window at a time, and so many windows; more chunks than threads take another round.
  const int across = smaller(chunks, kWindowThreads), down = kWindowThreads / across;
  const int own = int(threadIdx.x) % across, own_window = int(threadIdx.x) / across;
  for (int round = 0; round < chunks; round += across) {
    const WindowChunk<T> chunk(round + own, C, int(pb.S), int(pb.dilation_w));
    const bool has_work = own_window < down && round + own < chunks;
    for (int64_t first = 0; first < pb.Q; first += parts.count) {
      const int count = int(min(int64_t(parts.count), pb.Q - first));
      const LinePart part(columns, columns.virtual_position(first, 0),
                          parts.length - (parts.count - count) * int(pb.stride_w));
      for (int64_t row = blockIdx.x; row < pb.N * pb.H; row += gridDim.x) {
        const int64_t n = row / pb.H;
        gather_line(columns, C, t.o.x.strides, parts, part, &t.x(n, 0, row - n * pb.H, 0), line);
        __syncthreads();
        T* const to = windows + (row * pb.Q + first) * parts.size + (round + own) * kChunkElements<T>;
        for (int window = own_window; has_work && window < count; window += down)
          *reinterpret_cast<uint4*>(to + int64_t(window) * parts.size) = chunk.of(line + window * step);
        __syncthreads();  // before the next row overwrites this one
      }
    }
  }
}

// The same for windows that are too long for shared memory, a row to a block.
template <class T>
__global__ void gather_long_windows(ConvProblem pb, Tensors<T> t, T* windows, int size) {
  const Axis columns = pb.columns();
  const int count = int(pb.Q) * size, C = int(pb.C), used = int(pb.S) * C;
  for (int64_t line = blockIdx.x; line < pb.N * pb.H; line += gridDim.x) {
    const int64_t n = line / pb.H, h = line % pb.H;
    T* const to = windows + line * count;
    for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) {
      const int q = i / size, e = i - q * size, s = e / C, c = e - s * C;
      const int64_t w = e < used ? columns.source(columns.virtual_position(q, s)) : -1;
      to[i] = w < 0 ? T(0) : t.x(n, c, h, w);
    }
  }
}

}  // namespace cuda
}  // namespace convx
