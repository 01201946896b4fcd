// Tiles of the tensor-core kernels: their shapes, how an operand's tile lies in shared memory so that no two threads
// of an access meet in a bank, and how a warp reads its fragments of it.
//
// A block multiplies a tile of A (rows x reduction) by a tile of B (reduction x columns). The reduction comes in stages
// of 64 bytes of every row: 32 numbers of 16 bits, 16 of 32, 8 of 64. Everything moves in chunks of 16 bytes, what
// cp.async copies and ldmatrix reads as a row, so one code serves all types: what a fragment's registers mean is the
// business of tensorcore_arithmetic.cuh.
//
// Banks: 128 bytes, eight chunks, are all banks once. Eight rows of a fragment are read together, so their chunks must
// lie at eight different places of these 128 bytes; chunks are swizzled (XORed with bits of the row) to that end.
#pragma once
#include "launch.h"
#include "ptx.h"

namespace convx {
namespace cuda {
namespace tensorcore {

constexpr int kChunk = 16;       // bytes
constexpr int kStageBytes = 64;  // of the reduction, of each row
constexpr int kChunks = kStageBytes / kChunk;

// A block's tile of the result, and each warp's part of it.
template <int kRows_, int kColumns_, int kWarpRows_, int kWarpColumns_>
struct Shape {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kWarpRows = kWarpRows_, kWarpColumns = kWarpColumns_;
  static constexpr int kWarpsAcross = kColumns / kWarpColumns;
  static constexpr int kThreads = 32 * (kRows / kWarpRows) * kWarpsAcross;
  // Blocks of a multiprocessor at a time, by what registers and shared memory allow: eight warps, or twelve small ones.
  static constexpr int kBlocks = kRows * kColumns == 64 * 64 ? 3 : 256 / kThreads;
  static constexpr int kStages = 4;  // of the pipeline: three on their way while one is multiplied
  static constexpr int kSharedBytes = kStages * (kRows + kColumns) * kStageBytes;

  // Where the running thread's warp begins.
  __device__ static int first_row() { return int(threadIdx.x) / 32 / kWarpsAcross * kWarpRows; }
  __device__ static int first_column() { return int(threadIdx.x) / 32 % kWarpsAcross * kWarpColumns; }
};

__device__ inline int lane() { return int(threadIdx.x) % 32; }

// An operand whose reduction is contiguous in memory: [row][64 bytes]. Two rows are all banks once.
//
// For A, "half" h of a stage is two chunks, and 16 rows of it are a fragment of four registers: with g = lane / 4 and
// t = lane % 4, word t of a[0] (row g, chunk 2h), a[1] (row g + 8, chunk 2h), a[2], a[3] (the same of chunk 2h + 1).
// For B, b[0] and b[1] are words t of (row g, chunk 2h) and (row g, chunk 2h + 1), where a row is a column of B.
template <int kRows, int kElementBytes>
struct AlongReduction {
  static constexpr int kBytes = kRows * kStageBytes;
  __device__ static int place(int row, int chunk) { return row * kStageBytes + (chunk ^ ((row >> 1) & 3)) * kChunk; }

  __device__ static void load_a(uint32_t (&a)[4], const char* tile, int row, int half) {
    const int i = lane() / 8, j = lane() % 8;
    ldmatrix_x4(a, tile + place(row + i % 2 * 8 + j, 2 * half + i / 2));
  }
  // For two neighbouring tiles of eight columns.
  __device__ static void load_b(uint32_t (&b0)[2], uint32_t (&b1)[2], const char* tile, int row, int half) {
    const int i = lane() / 8, j = lane() % 8;
    uint32_t b[4];
    ldmatrix_x4(b, tile + place(row + i / 2 * 8 + j, 2 * half + i % 2));
    b0[0] = b[0], b0[1] = b[1], b1[0] = b[2], b1[1] = b[3];
  }
  // float64, for A and B alike: the numbers 2t and 2t + 1 of row g.
  __device__ static double2 load_pair(const char* tile, int row) {
    return *reinterpret_cast<const double2*>(tile + place(row + lane() / 4, lane() % 4));
  }
};

// An operand whose rows are contiguous in memory: [number of the reduction][row]. The same fragments as above: for 16
// bits ldmatrix transposes them, wider types are read one by one. 16-bit numbers lie in blocks of 64 rows, as wgmma
// wants them: [block][number of the reduction][128 bytes].
template <int kRows, int kElementBytes>
struct AcrossReduction {
  static constexpr int kBytes = kRows * kStageBytes;
  static constexpr int kPitch = kElementBytes == 2 ? 128 : kRows * kElementBytes;  // all banks once, or more often
  static constexpr int kBlockChunks = kPitch / kChunk, kBlockBytes = kStageBytes / kElementBytes * kPitch;
  __device__ static int swizzle(int k) {
    if (kElementBytes == 2) return k & 7;         // ldmatrix reads one chunk of eight neighbouring k
    if (kElementBytes == 4) return (k & 3) << 1;  // word by word: two chunks of four neighbouring k
    return ((k >> 1) & 3) << 1;                   // four rows of every other k, two at a time
  }
  __device__ static int place(int k, int chunk) {
    return chunk / kBlockChunks * kBlockBytes + k * kPitch + (chunk % kBlockChunks ^ swizzle(k)) * kChunk;
  }

  __device__ static void load_a(uint32_t (&a)[4], const char* tile, int row, int half) {
    if constexpr (kElementBytes == 2) {
      const int i = lane() / 8, j = lane() % 8;
      ldmatrix_x4_trans(a, tile + place(16 * half + i / 2 * 8 + j, row / 8 + i % 2));
    } else {
      for (int i = 0; i < 4; ++i) a[i] = word(tile, 8 * half + i / 2 * 4, row + i % 2 * 8);
    }
  }
  __device__ static void load_b(uint32_t (&b0)[2], uint32_t (&b1)[2], const char* tile, int row, int half) {
    if constexpr (kElementBytes == 2) {
      const int i = lane() / 8, j = lane() % 8;
      uint32_t b[4];
      ldmatrix_x4_trans(b, tile + place(16 * half + i % 2 * 8 + j, row / 8 + i / 2));
      b0[0] = b[0], b0[1] = b[1], b1[0] = b[2], b1[1] = b[3];
    } else {
      for (int i = 0; i < 2; ++i) {
        b0[i] = word(tile, 8 * half + 4 * i, row);
        b1[i] = word(tile, 8 * half + 4 * i, row + 8);
      }
    }
  }
  __device__ static double2 load_pair(const char* tile, int row) {
    const int k = 2 * (lane() % 4), r = row + lane() / 4;
    const auto number = [&](int at) {
      return *reinterpret_cast<const double*>(tile + place(at, r / 2) + r % 2 * sizeof(double));
    };
    return make_double2(number(k), number(k + 1));
  }

 private:
  // Word (k + t, row + g).
  __device__ static uint32_t word(const char* tile, int k, int row) {
    const int r = row + lane() / 4;
    return *reinterpret_cast<const uint32_t*>(tile + place(k + lane() % 4, r / 4) + r % 4 * sizeof(uint32_t));
  }
};

// Rows of a fragment are eight lanes apart and its columns two to a lane. What lies where in a tile is free, though, so
// the loaders place rows and columns such that a lane's results are neighbours: with I = kWarpRows / 8 rows and
// J = kWarpColumns / 4 columns to a lane, its rows are I * g .. I * g + I - 1 of its warp, its columns
// J * t .. J * t + J - 1, and it stores them as vectors whichever of the two is contiguous in the result.
//
// Row `at` of the tile's memory holds this row of the operand:
template <int kWarpRows>
__device__ inline int row_at(int at) {
  const int in_warp = at % kWarpRows;
  return at - in_warp + in_warp % 8 * (kWarpRows / 8) + in_warp / 8;
}
// And for the columns:
template <int kWarpColumns>
__device__ inline int column_at(int at) {
  const int in_warp = at % kWarpColumns;
  return at - in_warp + in_warp % 8 / 2 * (kWarpColumns / 4) + in_warp / 8 * 2 + in_warp % 2;
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
