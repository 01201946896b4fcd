// How output_blocks.cuh brings the numbers of its blocks, [n][i][j][(b, d, o)], to their places in the result. Results
// come in lines that are contiguous in memory, a row of a channel or, if channels are neighbours, a row of pixels; and
// a line is made of runs, those of its results that come from one block. A thread walks along runs: it stores sixteen
// bytes of a line at once, and where the next result's number is takes an addition.
//
// Blocks are read from shared memory, where a row of them, or a part of it, is copied as it is.
//
// Limit: memory; each result is read and written once.
#pragma once
#include "gather_axis.h"
#include "output_blocks.cuh"
#include "vectors.cuh"

namespace convx {
namespace cuda {

constexpr int kScatterThreads = 128, kScatterBlocks = 6;  // of a multiprocessor
constexpr int64_t kScatterBytes = 16 * 1024;              // of shared memory, at most

struct BlockRows {
  int height, width, down, across;  // of the results, and how many blocks there are
  bool channels_last;               // lines are of pixels, else of a channel
  int line, run, step;              // results of a line, of a run, and how far apart these are in a block
  int count, parts, pitch;          // blocks of a part of a row; parts; how far apart blocks are in shared memory
  bool shared;                      // else a block is too large for it, and is read where it is
  Divider block_rows, run_results, line_chunks, block_chunks;

  template <class T>
  static BlockRows of(const OutputBlocks& blocks, const Strides& to, int height, int width, int down, int across) {
    constexpr int kElements = kChunkElements<T>, kWord = sizeof(T) == 2 ? 2 : 1;
    const int outputs = blocks.outputs, channels = blocks.channels();
    BlockRows r = {};
    r.height = height, r.width = width, r.down = down, r.across = across;
    r.channels_last = to.c == 1 && to.w == outputs;
    r.line = r.channels_last ? width * outputs : width;
    r.run = r.channels_last ? blocks.columns.block * outputs : blocks.columns.block;
    r.step = r.channels_last ? 1 : outputs;
    // An odd number of words, so that threads that read neighbouring blocks meet in few banks.
    r.pitch = (divided_up(channels, kWord) / 2 * 2 + 1) * kWord;
    const int64_t fitting = kScatterBytes / (r.pitch * int64_t(sizeof(T)));
    r.shared = fitting > 0;
    if (!r.shared) r.pitch = channels;
    r.count = r.shared && fitting < across ? int(fitting) : across;
    if (r.count < across && r.count > kElements) r.count -= r.count % kElements;  // parts begin where chunks do
    r.parts = divided_up(across, r.count);
    r.block_rows = Divider(blocks.rows.block), r.run_results = Divider(r.run);
    r.line_chunks = Divider(divided_up(r.count * r.run, kElements));
    r.block_chunks = Divider(channels % kElements == 0 ? channels / kElements : channels);
    return r;
  }
  size_t shared_bytes(size_t element) const { return shared ? size_t(count) * pitch * element : 0; }
};

// Copies `count` blocks to shared memory.
template <class T>
__device__ void copy_blocks(const BlockRows& rows, int channels, const T* from, int count, T* tile) {
  constexpr int kElements = kChunkElements<T>, kAhead = 4;  // chunks that a thread waits for at once
  const int items = count * int(rows.block_chunks.divisor);
  if (channels % kElements == 0) {
    for (int first = int(threadIdx.x); first < items; first += kAhead * kScatterThreads) {
      uint4 chunks[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (first + i * kScatterThreads < items)
          chunks[i] = *reinterpret_cast<const uint4*>(from + (first + i * kScatterThreads) * kElements);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i * kScatterThreads >= items) break;
        int block = first + i * kScatterThreads;
        const int chunk = rows.block_chunks.split(block);
        uint32_t* const to = reinterpret_cast<uint32_t*>(tile + block * rows.pitch + chunk * kElements);
        to[0] = chunks[i].x, to[1] = chunks[i].y, to[2] = chunks[i].z, to[3] = chunks[i].w;
      }
    }
  } else {
#pragma unroll 1
    for (int item = int(threadIdx.x); item < items; item += kScatterThreads) {
      int block = item;
      const int channel = rows.block_chunks.split(block);
      tile[block * rows.pitch + channel] = from[item];
    }
  }
}

// Stores the results of the blocks of a part, those of image n and row i from block j on.
template <class T>
__device__ void store_blocks(const ConvProblem& pb, const OutputBlocks& blocks, const Tensors<T>& t,
                             const BlockRows& rows, int64_t n, int i, int j, const T* tile) {
  constexpr int kElements = kChunkElements<T>;
  const View& view = blocks.rows.is_grad_input ? t.o.x : t.o.y;
  const int64_t step = rows.channels_last ? 1 : view.strides.w;
  const int jump = rows.pitch - rows.run * rows.step;  // from the end of a run to the next one
  const int begin = j * rows.run, end = smaller((j + rows.count) * rows.run, rows.line);
  const int lines = blocks.rows.block * (rows.channels_last ? 1 : blocks.outputs);
  for (int item = int(threadIdx.x); item < lines * int(rows.line_chunks.divisor); item += kScatterThreads) {
    int line = item;
    const int first = rows.line_chunks.split(line) * kElements, count = end - begin - first;
    int output = line;
    const int b = rows.block_rows.split(output), h = i * blocks.rows.block + b;
    if (count <= 0 || h >= rows.height) continue;

    int block = first;
    int at = rows.run_results.split(block);
    const T* from = tile + block * rows.pitch + b * blocks.columns.block * blocks.outputs + output + at * rows.step;
    Vector<T, kElements> results;
    int doubts = 0;  // a bit for each
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      results.v[e] = e < count ? *from : T(0);
      const auto value = widen(results.v[e]);
      if (value != value) doubts |= 1 << e;
      from += rows.step;
      if (++at == rows.run) at = 0, from += jump;
    }

    T* const to = static_cast<T*>(view.data) + view.strides(n, output, h, 0) + (begin + first) * step;
    if (step == 1 && count >= kElements && is_aligned<kElements>(to)) {
      store_vector(to, results);
    } else {
#pragma unroll
      for (int e = 0; e < kElements; ++e)
        if (e < count) to[e * step] = results.v[e];
    }
#pragma unroll 1
    for (int e = 0; doubts >> e != 0; ++e) {
      if (!(doubts >> e & 1)) continue;
      const int place = begin + first + e, w = rows.channels_last ? place / blocks.outputs : place;
      to[e * step] = block_result(pb, blocks, t, n, output + (rows.channels_last ? place - w * blocks.outputs : 0),
                                  int64_t(h), int64_t(w));
    }
  }
}

// From blocks to results, a part of a row of blocks to a block of the grid.
template <class T>
__global__ void __launch_bounds__(kScatterThreads, kScatterBlocks)
    scatter_blocks(ConvProblem pb, OutputBlocks blocks, Tensors<T> t, BlockRows rows, const T* from) {
  const int channels = blocks.channels();
  for (int64_t item = blockIdx.x; item < pb.N * rows.down * rows.parts; item += gridDim.x) {
    const int64_t row = rows.parts == 1 ? item : item / rows.parts, n = row / rows.down;
    const int i = int(row - n * rows.down), j = int(item - row * rows.parts) * rows.count;
    const T* const source = from + (row * rows.across + j) * channels;
    if (rows.shared) {
      T* const tile = shared_memory<T>();
      copy_blocks(rows, channels, source, smaller(rows.count, rows.across - j), tile);
      __syncthreads();
      store_blocks(pb, blocks, t, rows, n, i, j, tile);
      __syncthreads();  // before the next part overwrites this one
    } else {
      store_blocks(pb, blocks, t, rows, n, i, j, source);
    }
  }
}

}  // namespace cuda
}  // namespace convx
