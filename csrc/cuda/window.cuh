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
#include <cmath>

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

// Spelled out, so that the emulator, whose compiler does not fuse by itself, rounds as the GPU does.
CONVX_HD inline float multiply_add(float a, float b, float sum) { return fmaf(a, b, sum); }
CONVX_HD inline double multiply_add(double a, double b, double sum) { return fma(a, b, sum); }

template <class Acc>
CONVX_HD inline bool is_finite(Acc v) {
  return v - v == Acc(0);
}

// In which direction a source's elements are neighbours in memory, and whether 16 bytes of them are loaded at once.
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

// One image's channels of the source, from the tile's first channel on; `channels` of them exist. The plans see to it
// that offsets within a tile's channels fit 32 bits.
template <class T>
struct SourcePlane {
  const T* data;
  int channels, channel_stride, row_stride, column_stride;
};

// As many elements as are loaded at once: one, or 16 bytes.
template <class T, int V>
struct Loaded {
  T v[V];
};
template <class T>
struct Loaded<T, Chunk<T>::count> : Chunk<T> {};

// Fills the tile with rows `row`.. and columns `column`.. (a multiple of V along columns) of the padded source; zeros
// where it reads nothing. Returns whether this thread saw an infinity or NaN, if it was to look.
template <class T, int V, bool kLook>
__device__ inline bool stage_chunks(typename Compute<T>::type* shared, const StagedTile& tile,
                                    const SourcePlane<T>& source, const GatherAxis& rows, const GatherAxis& columns,
                                    int row, int column, bool along_channels) {
  using Acc = typename Compute<T>::type;
  constexpr int kInFlight = V == 1 ? 4 : 2;  // loads that wait for memory together
  const int count = tile.count() / V, threads = int(blockDim.x);
  const int pitch = along_channels ? tile.channel_pitch : tile.column_pitch;
  bool special = false;
  for (int first = int(threadIdx.x); first < count; first += kInFlight * threads) {
    Loaded<T, V> loaded[kInFlight];
    int places[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      int i = first + u * threads;
      if (i >= count) continue;
      const int a = tile.fastest.split(i) * V, b = tile.middle.split(i);
      const int channel = along_channels ? a : i, r = along_channels ? i : b, c = along_channels ? b : a;
      places[u] = channel * tile.channel_pitch + r * tile.row_pitch + c * tile.column_pitch;
      const int h = channel < source.channels ? rows.read(row + r) : -1;
      const T* const line = source.data + (h < 0 ? 0 : channel * source.channel_stride + h * source.row_stride);
      int w = column + c;
      if (V == 1 || along_channels) w = columns.read(w);
      if (h >= 0 && w >= 0 && (V == 1 || along_channels || w + V <= columns.source)) {
        loaded[u] = *reinterpret_cast<const Loaded<T, V>*>(line + w * source.column_stride);
      } else {  // at an edge: one by one, past the registers
#pragma unroll 1
        for (int v = 0; v < V; ++v) {
          const int at = V == 1 || along_channels || h < 0 ? -1 : columns.read(w + v);
          const Acc value = at < 0 ? Acc(0) : Acc(line[at * source.column_stride]);
          if (kLook) special |= !is_finite(value);
          shared[places[u] + v * pitch] = value;
        }
        places[u] = -1;
      }
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if (first + u * threads >= count || places[u] < 0) continue;
      constexpr int W = V < Chunk<Acc>::count ? V : Chunk<Acc>::count;
#pragma unroll
      for (int v = 0; v < V; v += W) {
        Loaded<Acc, W> part;
#pragma unroll
        for (int j = 0; j < W; ++j) {
          part.v[j] = Acc(loaded[u].v[v + j]);
          if (kLook) special |= !is_finite(part.v[j]);
        }
        Acc* const to = shared + places[u] + v * pitch;
        if (pitch == 1) {  // such tiles begin their rows, or pixels, at a multiple of 16 bytes
          *reinterpret_cast<Loaded<Acc, W>*>(to) = part;
        } else {
#pragma unroll
          for (int j = 0; j < W; ++j) to[j * pitch] = part.v[j];
        }
      }
    }
  }
  return special;
}

template <class T, bool kLook = false>
__device__ inline bool stage(typename Compute<T>::type* shared, const StagedTile& tile, const SourcePlane<T>& source,
                             const GatherAxis& rows, const GatherAxis& columns, int row, int column) {
  const bool along_channels = tile.loads == Loads::along_channels || tile.loads == Loads::single_channels;
  if (tile.loads == Loads::along_columns || tile.loads == Loads::along_channels)
    return stage_chunks<T, Chunk<T>::count, kLook>(shared, tile, source, rows, columns, row, column, along_channels);
  return stage_chunks<T, 1, kLook>(shared, tile, source, rows, columns, row, column, along_channels);
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

template <int kResults, int kWindow, class Acc>
__device__ inline void add_to(Acc (&totals)[kResults][kWindow], const Acc (&sums)[kResults][kWindow]) {
#pragma unroll
  for (int k = 0; k < kResults; ++k)
#pragma unroll
    for (int i = 0; i < kWindow; ++i) totals[k][i] += sums[k][i];
}

// sums[k][i] += sum over t < taps of factor[t][k] * source[i + t], for a number of taps known to the compiler, which
// needs no count of them then, all of whose sources are loaded.
template <int kTaps, int kWindow, class Acc>
__device__ inline void slide_taps(Acc (&sums)[1][kWindow], const Acc* source, int source_step, const Acc* factor,
                                  int factor_step) {
  Acc factors[kTaps];
#pragma unroll
  for (int t = 0; t < kTaps; ++t, factor += factor_step) factors[t] = *factor;
#pragma unroll
  for (int i = 0; i < kTaps + kWindow - 1; ++i, source += source_step) {
    const Acc value = *source;
#pragma unroll
    for (int t = 0; t < kTaps; ++t)
      if (i >= t && i - t < kWindow) sums[0][i - t] = multiply_add(factors[t], value, sums[0][i - t]);
  }
}

// The window of one tap: its first value is in register j of the ring.
template <int kResults, int kWindow, class Acc>
__device__ inline void add_tap(Acc (&sums)[kResults][kWindow], const Acc (&window)[kWindow], int j, const Acc* factor,
                               int first, int last) {
  Acc factors[kResults];
  load_factors(factors, factor);
#pragma unroll
  for (int i = 0; i < kWindow; ++i) {
    if (i < first || i > last) continue;
#pragma unroll
    for (int k = 0; k < kResults; ++k) sums[k][i] = multiply_add(factors[k], window[(i + j) % kWindow], sums[k][i]);
  }
}

// The same for any number of taps. Sources lie source_step apart, factors factor_step. Only sources first..last count
// (kMasked), or else all that are loaded, 0..last: what the others meet is no result.
template <bool kMasked, int kResults, int kWindow, class Acc>
__device__ inline void slide(Acc (&sums)[kResults][kWindow], const Acc* source, int source_step, int first, int last,
                             const Acc* factor, int factor_step, int taps) {
  const bool all_loaded = taps + kWindow - 2 <= last;
  if constexpr (kResults == 1 && !kMasked) {  // the sizes that networks have most
    if (all_loaded && taps == 3) return slide_taps<3>(sums, source, source_step, factor, factor_step);
    if (all_loaded && taps == 5) return slide_taps<5>(sums, source, source_step, factor, factor_step);
    if (all_loaded && taps == 7) return slide_taps<7>(sums, source, source_step, factor, factor_step);
  }
  Acc window[kWindow];
#pragma unroll
  for (int i = 0; i < kWindow - 1; ++i) window[i] = i <= last ? source[i * source_step] : Acc(0);
  source += (kWindow - 1) * source_step;
  int t = 0;
  if (!kMasked && all_loaded) {
    for (; t + kWindow <= taps; t += kWindow) {
#pragma unroll
      for (int j = 0; j < kWindow; ++j, source += source_step, factor += factor_step) {
        window[(j + kWindow - 1) % kWindow] = *source;
        add_tap(sums, window, j, factor, 0, kWindow);
      }
    }
  }
  for (; t < taps; t += kWindow) {
#pragma unroll
    for (int j = 0; j < kWindow; ++j) {  // unrolled so far that the window's registers come round again
      if (t + j >= taps) break;
      const int at = t + j;
      window[(j + kWindow - 1) % kWindow] = at + kWindow - 1 <= last ? *source : Acc(0);
      add_tap(sums, window, j, factor, kMasked ? first - at : 0, kMasked ? last - at : kWindow);
      source += source_step, factor += factor_step;
    }
  }
}

}  // namespace cuda
}  // namespace convx
