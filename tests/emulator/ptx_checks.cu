// Kernels of a few warps that do one instruction each, of csrc/cuda/ptx.h, ptx_wgmma.h, ptx_tma.h or of CUDA's own
// that lanes do together, on plain matrices in memory: for tests/test_ptx.py, on the emulator and, compiled by nvcc, on
// a GPU. The lanes are written down here once more, from the PTX manual, so that what is tested is the twins and not
// only that they agree with themselves.
#include "../../csrc/cuda/launch.h"
#include "../../csrc/cuda/ptx.h"
#include "../../csrc/cuda/ptx_tma.h"
#include "../../csrc/cuda/ptx_wgmma.h"

namespace convx {
namespace cuda {
namespace {

constexpr unsigned kAll = 0xffffffffu;

__device__ inline uint32_t pair(uint16_t low, uint16_t high) { return uint32_t(low) | uint32_t(high) << 16; }

// d[16][8] += a[16][16] * b[16][8], row-major, fragments picked from memory element by element.
template <class T>
__global__ void product_by_elements(const uint16_t* a, const uint16_t* b, float* d) {
  const int lane = int(threadIdx.x), g = lane >> 2, t = lane & 3;
  uint32_t fa[4], fb[2];
  for (int i = 0; i < 4; ++i) {
    const uint16_t* from = a + (i & 1 ? g + 8 : g) * 16 + t * 2 + (i & 2 ? 8 : 0);
    fa[i] = pair(from[0], from[1]);
  }
  for (int i = 0; i < 2; ++i) {
    const int k = t * 2 + (i ? 8 : 0);
    fb[i] = pair(b[k * 8 + g], b[(k + 1) * 8 + g]);
  }
  float fd[4] = {d[g * 8 + t * 2], d[g * 8 + t * 2 + 1], d[(g + 8) * 8 + t * 2], d[(g + 8) * 8 + t * 2 + 1]};
  mma_m16n8k16(fd, fa, fb, T{});
  d[g * 8 + t * 2] = fd[0], d[g * 8 + t * 2 + 1] = fd[1];
  d[(g + 8) * 8 + t * 2] = fd[2], d[(g + 8) * 8 + t * 2 + 1] = fd[3];
}

// The same by ldmatrix, from shared memory as kernels lay it out: a by rows or, `transposed`, by columns; b the other
// way around.
template <class T, bool kTransposed>
__global__ void product_by_ldmatrix(const uint16_t* a, const uint16_t* b, float* d) {
  uint16_t* const sa = shared_memory<uint16_t>();
  uint16_t* const sb = sa + 16 * 16;
  const int lane = int(threadIdx.x), g = lane >> 2, t = lane & 3;
  for (int i = lane; i < 16 * 16; i += 32) sa[kTransposed ? i % 16 * 16 + i / 16 : i] = a[i];
  for (int i = lane; i < 16 * 8; i += 32) sb[kTransposed ? i : i % 8 * 16 + i / 8] = b[i];
  __syncwarp();
  uint32_t fa[4], fb[2];
  const int matrix = lane / 8, row = lane % 8;
  if (kTransposed) {
    ldmatrix_x4_trans(fa, sa + (row + (matrix & 2 ? 8 : 0)) * 16 + (matrix & 1 ? 8 : 0));
    ldmatrix_x2_trans(fb, sb + (row + (matrix & 1 ? 8 : 0)) * 8);
  } else {
    ldmatrix_x4(fa, sa + (row + (matrix & 1 ? 8 : 0)) * 16 + (matrix & 2 ? 8 : 0));
    ldmatrix_x2(fb, sb + row * 16 + (matrix & 1 ? 8 : 0));
  }
  float fd[4] = {d[g * 8 + t * 2], d[g * 8 + t * 2 + 1], d[(g + 8) * 8 + t * 2], d[(g + 8) * 8 + t * 2 + 1]};
  mma_m16n8k16(fd, fa, fb, T{});
  d[g * 8 + t * 2] = fd[0], d[g * 8 + t * 2 + 1] = fd[1];
  d[(g + 8) * 8 + t * 2] = fd[2], d[(g + 8) * 8 + t * 2 + 1] = fd[3];
}

// d[16][8] += a[16][8] * b[8][8], a and b as they are: the instruction looks at the upper 19 bits.
__global__ void product_tf32(const float* a, const float* b, float* d) {
  const int lane = int(threadIdx.x), g = lane >> 2, t = lane & 3;
  const uint32_t fa[4] = {bit_cast<uint32_t>(a[g * 8 + t]), bit_cast<uint32_t>(a[(g + 8) * 8 + t]),
                          bit_cast<uint32_t>(a[g * 8 + t + 4]), bit_cast<uint32_t>(a[(g + 8) * 8 + t + 4])};
  const uint32_t fb[2] = {bit_cast<uint32_t>(b[t * 8 + g]), bit_cast<uint32_t>(b[(t + 4) * 8 + g])};
  float fd[4] = {d[g * 8 + t * 2], d[g * 8 + t * 2 + 1], d[(g + 8) * 8 + t * 2], d[(g + 8) * 8 + t * 2 + 1]};
  mma_m16n8k8_tf32(fd, fa, fb);
  d[g * 8 + t * 2] = fd[0], d[g * 8 + t * 2 + 1] = fd[1];
  d[(g + 8) * 8 + t * 2] = fd[2], d[(g + 8) * 8 + t * 2 + 1] = fd[3];
}

// d[8][8] += a[8][4] * b[4][8]
__global__ void product_f64(const double* a, const double* b, double* d) {
  const int lane = int(threadIdx.x), g = lane >> 2, t = lane & 3;
  double fd[2] = {d[g * 8 + t * 2], d[g * 8 + t * 2 + 1]};
  mma_m8n8k4_f64(fd, a[g * 4 + t], b[t * 8 + g]);
  d[g * 8 + t * 2] = fd[0], d[g * 8 + t * 2 + 1] = fd[1];
}

// d[64][N] += a[64][16] * b[16][N], by a warpgroup, from tiles in shared memory that have a reduction of 32 or, in rows
// of 128 bytes, of 64, of which one part of sixteen holds the operands and the others NaN: rows of 64 bytes or, across,
// lines of 64 rows each.
template <bool kAcross>
__device__ int place_in_tile(int row, int k) {
  return kAcross ? row / 64 * 2048 + k * 64 + (row % 64 / 8 ^ k % 8) * 8 + row % 8
                 : row * 32 + (k / 8 ^ row / 2 % 4) * 8 + k % 8;
}
template <bool kAcross>
__device__ uint64_t operand_of(const uint16_t* tile, int half) {
  return kAcross ? wgmma_operand_across(tile + half * 16 * 64, 64 * 64) : wgmma_operand(tile + half * 16);
}
template <class T, int N, int kHalf, bool kAcrossA, bool kAcrossB>
__global__ void product_by_wgmma(const uint16_t* a, const uint16_t* b, float* d) {
  uint16_t* const tile_of_a = shared_memory<uint16_t>();
  uint16_t* const tile_of_b = tile_of_a + 64 * 32;
  const int thread = int(threadIdx.x), warp = thread >> 5, g = thread % 32 >> 2, t = thread & 3;
  for (int i = thread; i < (64 + N) * 32; i += 128) {
    const int row = i / 32, k = i % 32 - 16 * kHalf;
    const bool inside = k >= 0 && k < 16;
    if (row < 64)
      tile_of_a[place_in_tile<kAcrossA>(row, i % 32)] = inside ? a[row * 16 + k] : 0x7fff;
    else
      tile_of_b[place_in_tile<kAcrossB>(row - 64, i % 32)] = inside ? b[k * N + row - 64] : 0x7fff;
  }
  fence_proxy_async();
  __syncthreads();
  float sums[N / 2];
  for (int i = 0; i < N / 2; ++i) sums[i] = d[(16 * warp + g + i % 4 / 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2];
  wgmma_fence(sums);
  wgmma_m64k16<N, kAcrossA, kAcrossB>(sums, operand_of<kAcrossA>(tile_of_a, kHalf),
                                      operand_of<kAcrossB>(tile_of_b, kHalf), T{});
  wgmma_commit();
  wgmma_wait<0>(sums);
  for (int i = 0; i < N / 2; ++i) d[(16 * warp + g + i % 4 / 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2] = sums[i];
}

// The same from rows of 128 bytes.
__device__ inline int place_in_wide_tile(int row, int k) { return row * 64 + (k / 8 ^ row % 8) * 8 + k % 8; }
template <class T, int N, int kPart>
__global__ void product_by_wgmma_128(const uint16_t* a, const uint16_t* b, float* d) {
  uint16_t* const tile_of_a = shared_memory<uint16_t>();
  uint16_t* const tile_of_b = tile_of_a + 64 * 64;
  const int thread = int(threadIdx.x), warp = thread >> 5, g = thread % 32 >> 2, t = thread & 3;
  for (int i = thread; i < (64 + N) * 64; i += 128) {
    const int row = i / 64, k = i % 64 - 16 * kPart;
    const bool inside = k >= 0 && k < 16;
    if (row < 64)
      tile_of_a[place_in_wide_tile(row, i % 64)] = inside ? a[row * 16 + k] : 0x7fff;
    else
      tile_of_b[place_in_wide_tile(row - 64, i % 64)] = inside ? b[k * N + row - 64] : 0x7fff;
  }
  fence_proxy_async();
  __syncthreads();
  float sums[N / 2];
  for (int i = 0; i < N / 2; ++i) sums[i] = d[(16 * warp + g + i % 4 / 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2];
  wgmma_fence(sums);
  wgmma_m64k16<N, false, false>(sums, wgmma_operand_128(tile_of_a + kPart * 16),
                                wgmma_operand_128(tile_of_b + kPart * 16), T{});
  wgmma_commit();
  wgmma_wait<0>(sums);
  for (int i = 0; i < N / 2; ++i) d[(16 * warp + g + i % 4 / 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2] = sums[i];
}

// The same of TF32, a reduction of 8 of the 32 that a row has.
__device__ inline int place_in_wide_tile_of_floats(int row, int k) { return row * 32 + (k / 4 ^ row % 8) * 4 + k % 4; }
template <int N, int kPart>
__global__ void product_of_tf32_by_wgmma(const float* a, const float* b, float* d) {
  float* const tile_of_a = shared_memory<float>();
  float* const tile_of_b = tile_of_a + 64 * 32;
  const int thread = int(threadIdx.x), warp = thread >> 5, g = thread % 32 >> 2, t = thread & 3;
  const float nan = bit_cast<float>(0x7fffffffu);
  for (int i = thread; i < (64 + N) * 32; i += 128) {
    const int row = i / 32, k = i % 32 - 8 * kPart;
    const bool inside = k >= 0 && k < 8;
    if (row < 64)
      tile_of_a[place_in_wide_tile_of_floats(row, i % 32)] = inside ? a[row * 8 + k] : nan;
    else
      tile_of_b[place_in_wide_tile_of_floats(row - 64, i % 32)] = inside ? b[k * N + row - 64] : nan;
  }
  fence_proxy_async();
  __syncthreads();
  float sums[N / 2];
  for (int i = 0; i < N / 2; ++i) sums[i] = d[(16 * warp + g + i % 4 / 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2];
  wgmma_fence(sums);
  wgmma_m64k8_tf32<N>(sums, wgmma_operand_128(tile_of_a + kPart * 8), wgmma_operand_128(tile_of_b + kPart * 8));
  wgmma_commit();
  wgmma_wait<0>(sums);
  for (int i = 0; i < N / 2; ++i) d[(16 * warp + g + i % 4 / 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2] = sums[i];
}

__global__ void rounding_to_tf32(const float* from, uint32_t* to, int count) {
  for (int i = int(threadIdx.x); i < count; i += 32) to[i] = to_tf32(from[i]);
}

// to[i] = from[i] for i in [0, count), through shared memory in three stages of `kBytes` a lane; of every five pieces
// the last is not valid, and zero.
template <int kBytes>
__device__ void cp_async(void* shared, const void* global, bool valid) {
  if (kBytes == 16) cp_async_16(shared, global, valid);
  if (kBytes == 8) cp_async_8(shared, global, valid);
  if (kBytes == 4) cp_async_4(shared, global, valid);
}
template <int kBytes>
__global__ void copy_in_stages(const unsigned char* from, unsigned char* to, int count) {
  constexpr int kStage = 32 * kBytes, kStages = 3;
  unsigned char* const stages = shared_memory<unsigned char>();
  const int lane = int(threadIdx.x), steps = count / kStage;
  const auto begin = [&](int step) {
    const int piece = step * 32 + lane;
    if (step < steps)
      cp_async<kBytes>(stages + step % kStages * kStage + lane * kBytes, from + piece * kBytes, piece % 5 != 4);
    cp_async_commit();
  };
  begin(0);
  begin(1);
  for (int step = 0; step < steps; ++step) {
    begin(step + 2);
    cp_async_wait<2>();
    __syncwarp();  // what follows reads what other lanes have copied
    const unsigned char* stage = stages + step % kStages * kStage;
    for (int i = lane; i < kStage; i += 32) to[step * kStage + i] = stage[i];
    __syncwarp();  // before the stage is filled again
  }
}

// Six rows of 32: what each lane gets by the shuffles and votes.
__global__ void shuffles(const int* from, int* to) {
  const int lane = int(threadIdx.x), value = from[lane];
  to[lane] = __shfl_sync(kAll, value, (lane * 5 + 3) % 32);
  to[32 + lane] = __shfl_xor_sync(kAll, value, 5);
  to[64 + lane] = __shfl_down_sync(kAll, value, 3, 16);
  to[96 + lane] = __shfl_up_sync(kAll, value, 2);
  to[128 + lane] = int(__ballot_sync(kAll, value % 3 == 0));
  to[160 + lane] = __any_sync(kAll, value == 7) * 2 + __all_sync(kAll, value >= 0);
}

// How many of a block's 64 threads have a positive value; whether any has, and whether all have.
__global__ void votes_of_a_block(const int* from, int* to) {
  const int positive = from[threadIdx.x] > 0;
  const int counted = __syncthreads_count(positive);
  const int any = __syncthreads_or(positive);
  to[threadIdx.x] = 4 * counted + 2 * (any != 0) + (__syncthreads_and(positive) != 0);
}

// One copy of the copy engine, and what it brought: `bytes`, as they lie in shared memory.
struct Copied {
  int at[5], across, down;  // at: of im2col (channel, w, h, n)
};
constexpr int kMostCopied = 64 * 1024;
template <bool kIm2col>
__global__ void copy_by_engine(const CONVX_GRID_CONSTANT TensorMap map, Copied c, int bytes, uint32_t* to) {
  unsigned char* const tile = shared_memory<unsigned char>();
  uint64_t* const barrier = reinterpret_cast<uint64_t*>(tile + kMostCopied);
  const int thread = int(threadIdx.x);
  if (thread == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
  }
  __syncthreads();
  if (thread == 0) {
    mbarrier_expect(barrier, uint32_t(bytes));
    if (kIm2col)
      copy_im2col(tile, map, barrier, c.at[0], c.at[1], c.at[2], c.at[3], c.across, c.down);
    else
      copy_tile(tile, map, barrier, c.at[0], c.at[1], c.at[2], c.at[3], c.at[4]);
  }
  mbarrier_wait(barrier, 0);
  const uint32_t* words = reinterpret_cast<const uint32_t*>(tile);
  for (int i = thread; i < bytes / 4; i += 64) to[i] = words[i];
}

// A matrix of rows of 128 bytes, eight at a time through three stages of shared memory: one thread asks for them, a
// warp takes them away, as they lie.
__global__ void tiles_in_stages(const CONVX_GRID_CONSTANT TensorMap map, int tiles, uint32_t* to) {
  constexpr int kStage = 1024, kStages = 3;
  unsigned char* const stages = shared_memory<unsigned char>();
  uint64_t* const full = reinterpret_cast<uint64_t*>(stages + kStages * kStage);
  uint64_t* const empty = full + kStages;
  const int lane = int(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, 32);
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    for (int i = 0; i < tiles && lane == 0; ++i) {
      const int s = i % kStages, round = i / kStages;
      mbarrier_wait(empty + s, uint32_t(round % 2 ^ 1));
      mbarrier_expect(full + s, kStage);
      copy_tile(stages + s * kStage, map, full + s, 0, 8 * i, 0, 0, 0);
    }
  } else {
    for (int i = 0; i < tiles; ++i) {
      const int s = i % kStages, round = i / kStages;
      mbarrier_wait(full + s, uint32_t(round % 2));
      const uint32_t* words = reinterpret_cast<const uint32_t*>(stages + s * kStage);
      for (int j = lane; j < kStage / 4; j += 32) to[i * kStage / 4 + j] = words[j];
      mbarrier_arrive(empty + s);
    }
  }
}

// d[128][64] = a[128][depth] * b[64][depth] transposed or, `kAcross`, b[depth][64]: the last of three warpgroups asks
// for tiles, three stages ahead, and the first two make 64 rows each, of which the last product is still at work when
// the next begins.
template <bool kAcross>
__global__ void __launch_bounds__(384, 1)
    product_in_stages(const CONVX_GRID_CONSTANT TensorMap map_of_a, const CONVX_GRID_CONSTANT TensorMap map_of_b,
                      int steps, float* d) {
  constexpr int kRowBytes = 128, kTileOfA = 128 * kRowBytes, kStage = kTileOfA + 64 * kRowBytes, kStages = 3;
  unsigned char* const stages = shared_memory<unsigned char>();
  uint64_t* const full = reinterpret_cast<uint64_t*>(stages + kStages * kStage);
  uint64_t* const empty = full + kStages;
  const int thread = int(threadIdx.x), warpgroup = thread / 128;
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, 2);
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  if (warpgroup == 2) {
    give_registers<40>();
    for (int i = 0; i < steps && thread == 256; ++i) {
      const int s = i % kStages, round = i / kStages;
      mbarrier_wait(empty + s, uint32_t(round % 2 ^ 1));
      mbarrier_expect(full + s, kStage);
      copy_tile(stages + s * kStage, map_of_a, full + s, 64 * i, 0, 0, 0, 0);
      copy_tile(stages + s * kStage + kTileOfA, map_of_b, full + s, kAcross ? 0 : 64 * i, kAcross ? 64 * i : 0, 0, 0,
                0);
    }
    return;
  }
  take_registers<232>();
  float sums[32] = {};
  for (int i = 0; i < steps; ++i) {
    const int s = i % kStages, round = i / kStages;
    const unsigned char* const a = stages + s * kStage + warpgroup * 64 * kRowBytes;
    const unsigned char* const b = stages + s * kStage + kTileOfA;
    mbarrier_wait(full + s, uint32_t(round % 2));
    wgmma_fence(sums);
    for (int part = 0; part < 4; ++part)
      wgmma_m64k16<64, false, kAcross>(
          sums, wgmma_operand_128(a + part * 32),
          kAcross ? wgmma_operand_across(b + part * 16 * kRowBytes, 64 * kRowBytes) : wgmma_operand_128(b + part * 32),
          BFloat16{});
    wgmma_commit();
    wgmma_wait<1>(sums);
    if (i > 0 && thread % 128 == 0) mbarrier_arrive(empty + (i - 1) % kStages);
  }
  wgmma_wait<0>(sums);
  const int row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
  for (int i = 0; i < 32; ++i) d[(row + i % 4 / 2 * 8) * 64 + i / 4 * 8 + column + i % 2] = sums[i];
}

}  // namespace
}  // namespace cuda
}  // namespace convx

// Makes a map of `from` and one copy by it. Numbers of a tile (which = 0): sizes, strides, box and place, of five
// dimensions each but the strides; of im2col (1): C, W, H, N, the strides of the last three, columns and rows (first,
// count, step), pixels, and channel, w, h, n, across, down; then, of both, whether they are float32. All tiles of a
// matrix (2): rows. A product (3): depth; whether b is across. 1 if there is no such map.
extern "C" int tma_check(int which, const void* from, void* to, const int64_t* n) {
  using namespace convx;
  using namespace convx::cuda;
  auto* words = static_cast<uint32_t*>(to);
  TensorMap map;
  Copied c = {};
  const Grid grid = {1, dim3(64), size_t(kMostCopied + 8)};
  if (which == 0) {
    const int64_t sizes[] = {n[0], n[1], n[2], n[3], n[4]}, strides[] = {n[5], n[6], n[7], n[8]};
    const int box[] = {int(n[9]), int(n[10]), int(n[11]), int(n[12]), int(n[13])};
    if (!tile_map(&map, n[19] ? MapElements::tf32 : MapElements::bits16, from, sizes, strides, box)) return 1;
    for (int i = 0; i < 5; ++i) c.at[i] = int(n[14 + i]);
    launch("copy_tile", copy_by_engine<false>, grid, nullptr, map, c, box[1] * box[2] * box[3] * box[4] * 128, words);
  } else if (which == 1) {
    const PixelAxis columns = {int(n[7]), int(n[8]), int(n[9])}, rows = {int(n[10]), int(n[11]), int(n[12])};
    const int pixels = int(n[13]);
    if (!im2col_map(&map, n[20] ? MapElements::tf32 : MapElements::bits16, from, n[0], n[1], n[2], n[3], n[4], n[5],
                    n[6], columns, rows, pixels))
      return 1;
    for (int i = 0; i < 4; ++i) c.at[i] = int(n[14 + i]);
    c.across = int(n[18]), c.down = int(n[19]);
    launch("copy_im2col", copy_by_engine<true>, grid, nullptr, map, c, pixels * 128, words);
  } else if (which == 3) {
    const int64_t depth = n[0];
    const auto* b = static_cast<const uint16_t*>(from) + 128 * depth;
    TensorMap of_b;
    const auto matrix = [](TensorMap* m, const void* data, int64_t columns, int64_t rows, int box_rows) {
      const int64_t all = columns * rows;
      return tile_map(m, MapElements::bits16, data, {columns, rows, 1, 1, 1}, {columns, all, all, all},
                      {64, box_rows, 1, 1, 1});
    };
    if (!matrix(&map, from, depth, 128, 128) ||
        !(n[1] ? matrix(&of_b, b, 64, depth, 64) : matrix(&of_b, b, depth, 64, 64)))
      return 1;
    launch("product_in_stages", n[1] ? product_in_stages<true> : product_in_stages<false>,
           Grid{1, dim3(384), 3 * 192 * 128 + 6 * 8}, nullptr, map, of_b, int(depth / 64), static_cast<float*>(to));
  } else {
    const int64_t sizes[] = {64, n[0], 1, 1, 1}, strides[] = {64, 64 * n[0], 64 * n[0], 64 * n[0]};
    if (!tile_map(&map, MapElements::bits16, from, sizes, strides, {64, 8, 1, 1, 1})) return 1;
    launch("tiles_in_stages", tiles_in_stages, Grid{1, dim3(64), 3 * 1024 + 6 * 8}, nullptr, map, int(n[0] / 8), words);
  }
  return 0;
}

// Runs one of the kernels above. For matrices `from` holds a, then b.
extern "C" int ptx_check(int which, const void* from, void* to, int count) {
  using namespace convx;
  using namespace convx::cuda;
  const auto* words = static_cast<const uint16_t*>(from);
  const auto* floats = static_cast<const float*>(from);
  const auto* doubles = static_cast<const double*>(from);
  const auto* bytes = static_cast<const unsigned char*>(from);
  auto* d = static_cast<float*>(to);
  const Grid warp = {1, dim3(32), 768};
  const auto product = [&](auto* kernel) { launch("product", kernel, warp, nullptr, words, words + 256, d); };
  const auto copy = [&](auto* kernel, int piece) {
    launch("copy_in_stages", kernel, Grid{1, dim3(32), size_t(96 * piece)}, nullptr, bytes,
           static_cast<unsigned char*>(to), count);
  };
  const auto by_wgmma_128 = [&](auto* kernel, int columns) {
    launch("product_by_wgmma_128", kernel, Grid{1, dim3(128), size_t(64 + columns) * 128}, nullptr, words,
           words + 64 * 16, d);
  };
  const auto tf32_by_wgmma = [&](auto* kernel, int columns) {
    launch("product_of_tf32_by_wgmma", kernel, Grid{1, dim3(128), size_t(64 + columns) * 128}, nullptr, floats,
           floats + 64 * 8, d);
  };
  const auto by_wgmma = [&](auto* kernel, int columns) {
    launch("product_by_wgmma", kernel, Grid{1, dim3(128), size_t(64 + columns) * 64}, nullptr, words, words + 64 * 16,
           d);
  };
  switch (which) {
    case 0: product(product_by_elements<Half>); break;
    case 1: product(product_by_elements<BFloat16>); break;
    case 2: product(product_by_ldmatrix<Half, false>); break;
    case 3: product(product_by_ldmatrix<Half, true>); break;
    case 4: product(product_by_ldmatrix<BFloat16, false>); break;
    case 5: product(product_by_ldmatrix<BFloat16, true>); break;
    case 6: launch("product_tf32", product_tf32, warp, nullptr, floats, floats + 128, d); break;
    case 7: launch("product_f64", product_f64, warp, nullptr, doubles, doubles + 32, static_cast<double*>(to)); break;
    case 8: launch("rounding", rounding_to_tf32, warp, nullptr, floats, static_cast<uint32_t*>(to), count); break;
    case 9: copy(copy_in_stages<4>, 4); break;
    case 10: copy(copy_in_stages<8>, 8); break;
    case 11: copy(copy_in_stages<16>, 16); break;
    case 12: launch("shuffles", shuffles, warp, nullptr, static_cast<const int*>(from), static_cast<int*>(to)); break;
    case 13:
      launch("votes_of_a_block", votes_of_a_block, Grid{1, dim3(64)}, nullptr, static_cast<const int*>(from),
             static_cast<int*>(to));
      break;
    case 14: by_wgmma(product_by_wgmma<Half, 64, 0, false, false>, 64); break;
    case 15: by_wgmma(product_by_wgmma<Half, 128, 1, true, false>, 128); break;
    case 16: by_wgmma(product_by_wgmma<Half, 256, 0, true, true>, 256); break;
    case 17: by_wgmma(product_by_wgmma<BFloat16, 64, 1, true, true>, 64); break;
    case 18: by_wgmma(product_by_wgmma<BFloat16, 128, 0, false, true>, 128); break;
    case 19: by_wgmma(product_by_wgmma<BFloat16, 256, 1, false, false>, 256); break;
    case 20: by_wgmma_128(product_by_wgmma_128<Half, 64, 3>, 64); break;
    case 21: by_wgmma_128(product_by_wgmma_128<BFloat16, 256, 1>, 256); break;
    case 22: tf32_by_wgmma(product_of_tf32_by_wgmma<64, 3>, 64); break;
    case 23: tf32_by_wgmma(product_of_tf32_by_wgmma<128, 0>, 128); break;
    case 24: tf32_by_wgmma(product_of_tf32_by_wgmma<256, 2>, 256); break;
    default: return 1;
  }
  return 0;
}
