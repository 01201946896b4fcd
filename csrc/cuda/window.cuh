// What the kernels for few channels share: a tile of the source in shared memory, and a window of it in registers.
//
// stage() brings a tile of some channels into shared memory, padding, padding modes, strides in memory and 16-bit types
// all resolved on the way, each element read from global memory once, 16 bytes a load where the layout allows it.
//
// slide() is the inner loop of all three primitives: a thread owns kWindow results that lie above one another, and the
// source positions that they read by one tap are a window of kWindow values. The next tap's window is the same, moved
// on by one: one new value from shared memory, kResults * kWindow multiply-adds. So what limits the kernel is not
// shared memory (one load an element and cycle) but the multiply-adds, or, with few taps, global memory.
#pragma once
#include "../scalar.h"
#include "gather_axis.h"
#include "launch.h"

namespace convx {
namespace cuda {

// What these kernels multiply and add in.
template <class T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

// 16 bytes, loaded or stored at once.
template <class T>
struct alignas(16) Chunk {
  static constexpr int count = 16 / sizeof(T);
  T v[count];
};

template <class Acc>
CONVX_HD inline bool is_finite(Acc v) {
  return v - v == Acc(0);
}

// How the source is read: the direction in which 16 bytes are neighbours, if there is one.
enum class Loads { single_columns, single_channels, along_columns, along_channels };

// A tile of the source in shared memory. Its first column is rounded down to where 16-byte loads are aligned, so its
// rows are a bit longer than what is read of them.
struct StagedTile {
  int elements;                                // of shared memory
  int channels, rows, columns;                 // as stored
  int channel_pitch, row_pitch, column_pitch;  // in shared memory
  Loads loads;
  Divider fastest, middle;  // of the loads' order: chunks of a row (or of a pixel), then rows (or columns)

  CONVX_HD int count() const { return channels * rows * columns; }
  // Of the first column: `column` rounded down.
  template <class T>
  CONVX_HD int first_column(int column) const {
    if (loads != Loads::along_columns) return column;
    constexpr int V = Chunk<T>::count;
    return column >= 0 ? column / V * V : -((-column + V - 1) / V * V);
  }
};

// One image's channels of the source, from the tile's first channel on; `channels` of them exist.
template <class T>
struct SourcePlane {
  const T* data;
  int channels;
  int64_t channel_stride, row_stride, column_stride;
};

// Fills the tile with rows `row`.. and columns `column`.. (a multiple of the chunk along columns) of the padded source;
// zeros where it reads nothing. Returns whether this thread saw an infinity or NaN, if it was to look.
template <class T, int V, bool kAlongChannels, bool kLook>
__device__ inline bool stage_chunks(typename Compute<T>::type* shared, const StagedTile& tile,
                                    const SourcePlane<T>& source, const GatherAxis& rows, const GatherAxis& columns,
                                    int row, int column) {
  using Acc = typename Compute<T>::type;
  constexpr int kInFlight = 4;  // loads that wait for memory together
  const int count = tile.count() / V;
  const int pitch = kAlongChannels ? tile.channel_pitch : tile.column_pitch;
  const int threads = int(blockDim.x);
  bool special = false;
  for (int first = int(threadIdx.x); first < count; first += kInFlight * threads) {
    Acc values[kInFlight][V];
    int places[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      int i = first + u * threads;
      if (i >= count) continue;
      const int a = tile.fastest.split(i), b = tile.middle.split(i);
      const int channel = kAlongChannels ? a * V : i, r = kAlongChannels ? i : b, c = kAlongChannels ? b : a * V;
      places[u] = channel * tile.channel_pitch + r * tile.row_pitch + c * tile.column_pitch;
      const int h = channel < source.channels ? rows.read(row + r) : -1;
      const T* const line = source.data + (h < 0 ? 0 : channel * source.channel_stride + h * source.row_stride);
      bool whole = h >= 0;  // all of the chunk is there, and side by side
      int w = column + c;
      if (kAlongChannels)
        w = columns.read(w), whole = whole && w >= 0;
      else
        whole = whole && w >= 0 && w + V <= columns.source;
      if (V == 1 && !kAlongChannels && h >= 0) w = columns.read(w), whole = w >= 0;
      if (whole && V == Chunk<T>::count) {
        const Chunk<T> chunk = *reinterpret_cast<const Chunk<T>*>(line + w * source.column_stride);
#pragma unroll
        for (int v = 0; v < V; ++v) values[u][v] = Acc(chunk.v[v]);
      } else if (whole && V == 1) {
        values[u][0] = Acc(line[w * source.column_stride]);
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const int at = kAlongChannels || V == 1 || h < 0 ? -1 : columns.read(w + v);
          values[u][v] = at < 0 ? Acc(0) : Acc(line[at * source.column_stride]);
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if (first + u * threads >= count) continue;
      if (kLook) {
#pragma unroll
        for (int v = 0; v < V; ++v) special |= !is_finite(values[u][v]);
      }
      if (V > 1 && pitch == 1) {  // tiles whose rows are loaded in chunks begin them at a multiple of 16 bytes
        constexpr int W = V > 1 ? (V < Chunk<Acc>::count ? V : Chunk<Acc>::count) : 1;
#pragma unroll
        for (int v = 0; v < V; v += W) {
          Chunk<Acc> chunk;
#pragma unroll
          for (int j = 0; j < W; ++j) chunk.v[j] = values[u][v + j];
          *reinterpret_cast<Chunk<Acc>*>(shared + places[u] + v) = chunk;
        }
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) shared[places[u] + v * pitch] = values[u][v];
      }
    }
  }
  return special;
}

template <class T, bool kLook = false>
__device__ inline bool stage(typename Compute<T>::type* shared, const StagedTile& tile, const SourcePlane<T>& source,
                             const GatherAxis& rows, const GatherAxis& columns, int row, int column) {
  constexpr int V = Chunk<T>::count;
  switch (tile.loads) {
    case Loads::along_columns:
      return stage_chunks<T, V, false, kLook>(shared, tile, source, rows, columns, row, column);
    case Loads::along_channels:
      return stage_chunks<T, V, true, kLook>(shared, tile, source, rows, columns, row, column);
    case Loads::single_channels:
      return stage_chunks<T, 1, true, kLook>(shared, tile, source, rows, columns, row, column);
    case Loads::single_columns: break;
  }
  return stage_chunks<T, 1, false, kLook>(shared, tile, source, rows, columns, row, column);
}

// kResults factors that lie side by side.
template <int kResults, class Acc>
__device__ inline void load_factors(Acc (&factors)[kResults], const Acc* from) {
  constexpr int W = Chunk<Acc>::count;
  if (kResults % W == 0) {
#pragma unroll
    for (int k = 0; k < kResults; k += W) {
      const Chunk<Acc> chunk = *reinterpret_cast<const Chunk<Acc>*>(from + k);
#pragma unroll
      for (int j = 0; j < W; ++j) factors[k + j] = chunk.v[j];
    }
  } else {
#pragma unroll
    for (int k = 0; k < kResults; ++k) factors[k] = from[k];
  }
}

// sums[k][i] += sum over t < taps of factor[t][k] * source[i + t]. Sources lie source_step apart, factors factor_step.
// Only sources first..last count (kMasked), or else all that are loaded, 0..last: what the others meet is no result.
template <bool kMasked, int kResults, int kWindow, class Acc>
__device__ inline void slide(Acc (&sums)[kResults][kWindow], const Acc* source, int source_step, int first, int last,
                             const Acc* factor, int factor_step, int taps) {
  Acc window[kWindow];
#pragma unroll
  for (int i = 0; i < kWindow - 1; ++i) window[i] = i <= last ? source[i * source_step] : Acc(0);
  for (int t = 0; t < taps; t += kWindow) {
#pragma unroll
    for (int j = 0; j < kWindow; ++j) {  // unrolled so far that the window's registers come round again
      if (t + j >= taps) break;
      const int next = t + j + kWindow - 1;
      window[(j + kWindow - 1) % kWindow] = next <= last ? source[next * source_step] : Acc(0);
      Acc factors[kResults];
      load_factors(factors, factor + (t + j) * factor_step);
#pragma unroll
      for (int i = 0; i < kWindow; ++i) {
        if (kMasked && (t + j + i < first || t + j + i > last)) continue;
#pragma unroll
        for (int k = 0; k < kResults; ++k) sums[k][i] += factors[k] * window[(i + j) % kWindow];
      }
    }
  }
}

}  // namespace cuda
}  // namespace convx
