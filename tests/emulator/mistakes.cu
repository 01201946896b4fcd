// Kernels with one mistake each, and the same without: tests/test_emulator.py sees that the emulator reports the first
// and lets the second pass. Two blocks of 64 threads, 64 elements of shared memory (or as many as said), an operand and
// a result of 128.
#include <stdexcept>
#include <string>

#include "../../csrc/cuda/launch.h"
#include "../../csrc/cuda/ptx.h"
#include "../../csrc/cuda/ptx_tma.h"
#include "../../csrc/cuda/ptx_wgmma.h"

namespace convx {
namespace cuda {
namespace {

constexpr int kThreads = 64, kBlocks = 2, kCount = kThreads * kBlocks;
constexpr unsigned kAll = 0xffffffffu;

// What every kernel below begins with.
struct Thread {
  int t = int(threadIdx.x), lane = t % 32;
  int i = int(blockIdx.x) * kThreads + t;
  float* shared = shared_memory<float>();
};

void missing_barrier(bool mistake, const float* in, float* out) {
  const Thread me;
  me.shared[me.t] = in[me.i];
  if (!mistake) __syncthreads();
  out[me.i] = me.shared[kThreads - 1 - me.t];
}

void warp_barrier_for_a_block(bool mistake, const float* in, float* out) {
  const Thread me;
  me.shared[me.t] = in[me.i];
  mistake ? __syncwarp() : __syncthreads();
  out[me.i] = me.shared[kThreads - 1 - me.t];
}

void missing_warp_barrier(bool mistake, const float* in, float* out) {
  const Thread me;
  me.shared[me.t] = in[me.i];
  if (!mistake) __syncwarp();
  out[me.i] = me.shared[me.t ^ 1];
}

void missing_barrier_before_reuse(bool mistake, const float* in, float* out) {
  const Thread me;
  me.shared[me.t] = in[me.i];
  __syncthreads();
  const float other = me.shared[kThreads - 1 - me.t];
  if (!mistake) __syncthreads();
  me.shared[me.t] = 2 * other;
  out[me.i] = me.shared[me.t];
}

// A shuffle brings the lanes together, but says nothing about memory.
void shuffle_for_a_barrier(bool mistake, const float* in, float* out) {
  const Thread me;
  me.shared[me.t] = in[me.i];
  const float sum = __shfl_xor_sync(kAll, in[me.i], 1);
  if (!mistake) __syncwarp();
  out[me.i] = me.shared[me.t ^ 1] + sum;
}

void shared_too_far(bool mistake, const float* in, float* out) {
  const Thread me;
  me.shared[me.t] = in[me.i];
  if (mistake && me.t == 5) me.shared[kThreads] = 1;
  out[me.i] = me.shared[me.t];
}

void shared_before(bool mistake, const float* in, float* out) {
  const Thread me;
  me.shared[me.t] = in[me.i];
  out[me.i] = me.shared[mistake && me.t == 5 ? -1 : me.t];
}

void global_read_too_far(bool mistake, const float* in, float* out) {
  const Thread me;
  out[me.i] = in[me.i + (mistake ? 1 : 0)];
}

void global_written_too_far(bool mistake, const float* in, float* out) {
  const Thread me;
  out[me.i + (mistake ? 1 : 0)] = in[me.i];
}

void operand_written(bool mistake, const float* in, float* out) {
  const Thread me;
  out[me.i] = in[me.i];
  if (mistake && me.i == 7) const_cast<float*>(in)[me.i] = 0;
}

void shared_read_before_written(bool mistake, const float* in, float* out) {
  const Thread me;
  if (!mistake || me.t % 2) me.shared[me.t] = in[me.i];
  out[me.i] = me.shared[me.t];
}

// What one block leaves in shared memory is gone when the next begins.
void shared_of_another_block(bool mistake, const float* in, float* out) {
  const Thread me;
  if (!mistake || blockIdx.x == 0) me.shared[me.t] = in[me.i];
  out[me.i] = me.shared[me.t];
}

void result_read_before_written(bool mistake, const float* in, float* out) {
  const Thread me;
  if (!mistake) out[me.i] = in[me.i];
  out[me.i] = out[me.i] + 1;
}

void two_blocks_write_one_result(bool mistake, const float* in, float* out) {
  const Thread me;
  out[mistake ? me.t : me.i] = in[me.i];
}

void one_block_reads_anothers_result(bool mistake, const float* in, float* out) {
  const Thread me;
  out[me.i] = in[me.i];
  __syncthreads();
  if (blockIdx.x == 1 && mistake) out[me.i] = out[me.t] + 1;
}

void sum_without_atomics(bool mistake, const float* in, float* out) {
  const Thread me;
  if (me.t == 0) me.shared[0] = 0;
  __syncthreads();
  if (mistake && me.t == 33)
    me.shared[0] += in[me.i];
  else
    atomicAdd(&me.shared[0], in[me.i]);
  __syncthreads();
  out[me.i] = me.shared[0];
}

void misaligned_vector(bool mistake, const float* in, float* out) {
  const Thread me;
  if (me.t % 2) return;
  const auto* from = reinterpret_cast<const double*>(in + me.i + (mistake ? 1 : 0));
  *reinterpret_cast<double*>(out + me.i) = *from;
}

void half_of_the_threads_wait(bool mistake, const float*, float*) {
  if (!mistake || threadIdx.x % 2) __syncthreads();
}

void threads_wait_apart(bool mistake, const float*, float*) {
  if (mistake && threadIdx.x % 2)
    __syncthreads();
  else
    __syncthreads();
}

void half_of_a_warp_shuffles(bool mistake, const float* in, float* out) {
  const Thread me;
  float v = in[me.i];
  if (!mistake || me.lane < 16) v = __shfl_xor_sync(kAll, v, 1);
  __syncthreads();
  out[me.i] = v;
}

void lane_outside_of_its_mask(bool mistake, const float* in, float* out) {
  const Thread me;
  out[me.i] = __shfl_xor_sync(mistake ? 0x0000ffffu : kAll, in[me.i], 1);
}

void product_without_some_lanes(bool mistake, const float* in, float* out) {
  const Thread me;
  const uint32_t a[4] = {}, b[2] = {};
  float d[4] = {in[me.i], 0, 0, 0};
  if (mistake && me.t == 40) return;
  mma_m16n8k8_tf32(d, a, b);
  out[me.i] = d[0];
}

void copy_without_a_wait(bool mistake, const float* in, float* out) {
  const Thread me;
  cp_async_4(me.shared + me.t, in + me.i, true);
  cp_async_commit();
  if (!mistake) cp_async_wait<0>();
  out[me.i] = me.shared[me.t];
}

void copy_without_a_commit(bool mistake, const float* in, float* out) {
  const Thread me;
  cp_async_4(me.shared + me.t, in + me.i, true);
  if (!mistake) cp_async_commit();
  cp_async_wait<0>();
  out[me.i] = me.shared[me.t];
}

void copy_waited_for_by_another(bool mistake, const float* in, float* out) {
  const Thread me;
  cp_async_4(me.shared + me.t, in + me.i, true);
  cp_async_commit();
  cp_async_wait<0>();
  if (!mistake) __syncthreads();
  out[me.i] = me.shared[kThreads - 1 - me.t];
}

void copy_onto_what_is_read(bool mistake, const float* in, float* out) {
  const Thread me;
  me.shared[me.t] = in[me.i];
  __syncthreads();
  out[me.i] = me.shared[kThreads - 1 - me.t];
  if (!mistake) __syncthreads();
  cp_async_4(me.shared + me.t, in + me.i, true);
  cp_async_commit();
  cp_async_wait<0>();
}

void misaligned_copy(bool mistake, const float* in, float* out) {
  const Thread me;
  if (me.t % 2) return;
  cp_async_8(me.shared + me.t, in + (mistake ? 1 : 0), true);
  cp_async_commit();
  cp_async_wait<0>();
  out[me.i] = me.shared[me.t];
}

void copy_from_too_far(bool mistake, const float* in, float* out) {
  const Thread me;
  cp_async_4(me.shared + me.t, in + me.i + (mistake ? 1 : 0), true);
  cp_async_commit();
  cp_async_wait<0>();
  out[me.i] = me.shared[me.t];
}

// 64 floats are 16 rows of 16 bytes.
void matrix_without_a_barrier(bool mistake, const float* in, float* out) {
  const Thread me;
  me.shared[me.t] = in[me.i];
  if (!mistake) __syncthreads();
  uint32_t r[2];
  ldmatrix_x2(r, me.shared + me.lane % 16 * 4);
  out[me.i] = __uint_as_float(r[0]);
}

void matrix_from_too_far(bool mistake, const float* in, float* out) {
  const Thread me;
  me.shared[me.t] = in[me.i];
  __syncthreads();
  uint32_t r[2];
  ldmatrix_x2(r, me.shared + me.lane % 16 * 4 + (mistake ? 4 : 0));
  out[me.i] = __uint_as_float(r[0]);
}

// Half a warpgroup multiplies: 64 rows of 64 bytes each for both operands.
constexpr int kOperand = 64 * 64 / int(sizeof(float)), kOperands = 2 * kOperand;

struct Product {
  float sums[32] = {};

  void begin(const float* shared) {
    wgmma_fence(sums);
    wgmma_m64k16<64, false, false>(sums, wgmma_operand(shared), wgmma_operand(shared + kOperand), Half{});
    wgmma_commit();
  }
};

void fill_operands(const Thread& me, const float* in) {
  for (int i = me.t; i < kOperands; i += kThreads) me.shared[i] = in[me.i];
}

void publish_operands(const Thread& me, const float* in) {
  fill_operands(me, in);
  fence_proxy_async();
  __syncthreads();
}

void product_without_a_fence(bool mistake, const float* in, float* out) {
  const Thread me;
  fill_operands(me, in);
  if (!mistake) fence_proxy_async();
  __syncthreads();
  Product product;
  product.begin(me.shared);
  wgmma_wait<0>(product.sums);
  out[me.i] = product.sums[0];
}

void product_without_a_barrier(bool mistake, const float* in, float* out) {
  const Thread me;
  fill_operands(me, in);
  fence_proxy_async();
  if (!mistake) __syncthreads();
  Product product;
  product.begin(me.shared);
  wgmma_wait<0>(product.sums);
  out[me.i] = product.sums[0];
}

void product_never_waited_for(bool mistake, const float* in, float* out) {
  const Thread me;
  publish_operands(me, in);
  Product product;
  product.begin(me.shared);
  if (!mistake) wgmma_wait<0>(product.sums);
  out[me.i] = product.sums[0];
}

void product_of_what_is_overwritten(bool mistake, const float* in, float* out) {
  const Thread me;
  publish_operands(me, in);
  Product product;
  product.begin(me.shared);
  if (!mistake) wgmma_wait<0>(product.sums);
  __syncthreads();
  fill_operands(me, in);
  if (mistake) wgmma_wait<0>(product.sums);
  out[me.i] = product.sums[0];
}

void product_of_a_tile_out_of_place(bool mistake, const float* in, float* out) {
  const Thread me;
  publish_operands(me, in);
  Product product;
  product.begin(me.shared + (mistake ? 16 : 0));
  wgmma_wait<0>(product.sums);
  out[me.i] = product.sums[0];
}

// Tiles of the copy engine: two stages of 64 rows of 128 bytes, of which the operand has the first four and the others
// are zeros, and the barriers behind them. Thread 0 asks for copies.
constexpr int kTile = 64 * 128, kTiles = (2 * kTile + 1024) / int(sizeof(float));

struct Stages {
  char* tile;
  uint64_t *full, *empty;
  TensorMap map;

  Stages(const Thread& me, const float* in) {
    tile = reinterpret_cast<char*>(me.shared);
    full = reinterpret_cast<uint64_t*>(tile + 2 * kTile), empty = full + 2;
    tile_map(&map, in, {64, 4, 1, 1, 1}, {64, 256, 256, 256}, {64, 64, 1, 1, 1});
  }
  void init(const Thread& me, int readers = kThreads) const {
    if (me.t != 0) return;
    for (int s = 0; s < 2; ++s) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, uint32_t(readers));
    }
    fence_mbarrier_init();
  }
  void begin(const Thread& me, int readers = kThreads) const {
    init(me, readers);
    __syncthreads();
  }
  void ask(const Thread& me, int stage = 0, int bytes = kTile) const {
    if (me.t != 0) return;
    mbarrier_expect(full + stage, uint32_t(bytes));
    copy_tile(tile + stage * kTile, map, full + stage, 0, 0, 0, 0, 0);
  }
  float read(const Thread& me, int stage = 0) const {
    return reinterpret_cast<const float*>(tile + stage * kTile)[me.t];
  }
};

void tile_without_a_wait(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  stages.ask(me);
  if (!mistake || me.t == 0) mbarrier_wait(stages.full, 0);
  out[me.i] = stages.read(me);
}

void tile_waited_for_by_another(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  stages.ask(me);
  if (me.lane == 0) mbarrier_wait(stages.full, 0);
  if (!mistake) __syncwarp();
  out[me.i] = stages.read(me);
}

void tile_waited_for_at_another_barrier(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  stages.ask(me, 0);
  stages.ask(me, 1);
  if (me.t == 1) mbarrier_wait(stages.full, 0);
  mbarrier_wait(stages.full + 1, 0);
  out[me.i] = stages.read(me, mistake ? 0 : 1);
  mbarrier_wait(stages.full, 0);
}

void tile_waited_for_a_phase_too_early(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  stages.ask(me);
  mbarrier_wait(stages.full, mistake ? 1 : 0);
  out[me.i] = stages.read(me);
  if (mistake) mbarrier_wait(stages.full, 0);
}

void more_bytes_announced_than_come(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  stages.ask(me, 0, mistake ? kTile + 16 : kTile);
  mbarrier_wait(stages.full, 0);
  out[me.i] = stages.read(me);
}

void too_few_arrivals(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  out[me.i] = in[me.i];
  if (!mistake || me.t != 40) mbarrier_arrive(stages.empty);
  if (me.t == 0) mbarrier_wait(stages.empty, 0);
}

void too_many_arrivals(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  stages.ask(me);
  if (mistake && me.t == 1) mbarrier_arrive(stages.full);
  mbarrier_wait(stages.full, 0);
  out[me.i] = stages.read(me);
}

// The stage is filled again while others may still read it.
void tile_onto_what_is_read(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  stages.ask(me);
  mbarrier_wait(stages.full, 0);
  out[me.i] = stages.read(me);
  mbarrier_arrive(stages.empty);
  if (!mistake && me.t == 0) mbarrier_wait(stages.empty, 0);
  stages.ask(me);
  if (me.t == 0) mbarrier_wait(stages.full, 1);
}

// The same, if a thread says too early that it is done.
void arrival_before_the_last_read(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  stages.ask(me);
  mbarrier_wait(stages.full, 0);
  const bool early = mistake && me.t == 33;
  if (early) mbarrier_arrive(stages.empty);
  out[me.i] = stages.read(me);
  if (!early) mbarrier_arrive(stages.empty);
  if (me.t == 0) mbarrier_wait(stages.empty, 0);
  stages.ask(me);
  if (me.t == 0) mbarrier_wait(stages.full, 1);
}

void multiply_tile(const Stages& stages, float (&sums)[32]) {
  const uint64_t operand = wgmma_operand_128(stages.tile);
  wgmma_fence(sums);
  wgmma_m64k16<64, false, false>(sums, operand, operand, BFloat16{});
  wgmma_commit();
}

void product_of_a_tile_without_a_wait(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  stages.ask(me);
  if (!mistake || me.t < 32) mbarrier_wait(stages.full, 0);
  float sums[32] = {};
  multiply_tile(stages, sums);
  wgmma_wait<0>(sums);
  out[me.i] = sums[0];
}

// One thread of the warpgroup arrives for all, for the wait is all warps'; here before it, by mistake.
void arrival_before_the_product_is_made(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me, 1);
  stages.ask(me);
  mbarrier_wait(stages.full, 0);
  float sums[32] = {};
  multiply_tile(stages, sums);
  if (!mistake) wgmma_wait<0>(sums);
  if (me.t == 63) mbarrier_arrive(stages.empty);
  if (me.t == 0) mbarrier_wait(stages.empty, 0);
  stages.ask(me);
  if (mistake) wgmma_wait<0>(sums);
  if (me.t == 0) mbarrier_wait(stages.full, 1);
  out[me.i] = sums[0];
}

void warp_of_a_warpgroup_stays_away(bool mistake, const float* in, float* out) {
  const Thread me;
  publish_operands(me, in);
  Product product;
  product.begin(me.shared);
  if (mistake && me.t < 32) __syncthreads();
  wgmma_wait<0>(product.sums);
  if (!mistake || me.t >= 32) __syncthreads();
  out[me.i] = product.sums[0];
}

// What a thread has written the copy engine may overwrite only after a fence.
void tile_onto_what_is_not_fenced(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  me.shared[me.t] = in[me.i];
  if (!mistake) fence_proxy_async();
  stages.begin(me);
  stages.ask(me);
  mbarrier_wait(stages.full, 0);
  out[me.i] = stages.read(me);
}

// What others have written is ordered by a barrier in shared memory, too.
void arrival_before_the_last_write(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  if (mistake && me.t == 20) mbarrier_arrive(stages.empty);
  me.shared[me.t] = in[me.i];
  if (!mistake || me.t != 20) mbarrier_arrive(stages.empty);
  mbarrier_wait(stages.empty, 0);
  out[me.i] = me.shared[kThreads - 1 - me.t];
}

void mbarrier_nobody_initialised(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  stages.ask(me);
  mbarrier_wait(stages.full + (mistake ? 4 : 0), 0);
  out[me.i] = stages.read(me);
}

void mbarrier_without_a_barrier(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.init(me);
  mistake ? __syncwarp() : __syncthreads();
  stages.ask(me);
  mbarrier_wait(stages.full, 0);
  out[me.i] = stages.read(me);
}

void mbarrier_without_a_fence(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  if (me.t == 0) {
    mbarrier_init(stages.full, 1);
    if (!mistake) fence_mbarrier_init();
  }
  __syncthreads();
  stages.ask(me);
  mbarrier_wait(stages.full, 0);
  out[me.i] = stages.read(me);
}

void mbarrier_overwritten(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  if (me.t == 5) reinterpret_cast<uint32_t*>(stages.full)[mistake ? 1 : 8] = 0;
  stages.ask(me);
  mbarrier_wait(stages.full, 0);
  out[me.i] = stages.read(me);
}

void tile_never_waited_for(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  stages.ask(me);
  if (!mistake) mbarrier_wait(stages.full, 0);
  out[me.i] = in[me.i];
}

void tile_out_of_place(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  stages.begin(me);
  if (me.t == 0) {
    mbarrier_expect(stages.full, kTile);
    copy_tile(stages.tile + (mistake ? 512 : 1024), stages.map, stages.full, 0, 0, 0, 0, 0);
  }
  mbarrier_wait(stages.full, 0);
  out[me.i] = in[me.i];
}

void pixels_from_beside_the_grid(bool mistake, const float* in, float* out) {
  const Thread me;
  const Stages stages(me, in);
  TensorMap map;
  im2col_map(&map, in, 64, 2, 2, 1, 64, 128, 256, {-1, 2, 2}, {0, 1, 1}, 2);
  stages.begin(me);
  if (me.t == 0) {
    mbarrier_expect(stages.full, 256);
    copy_im2col(stages.tile, map, stages.full, 0, mistake ? 0 : -1, 0, 0, 1, 0);
  }
  mbarrier_wait(stages.full, 0);
  out[me.i] = stages.read(me);
}

// These two only AddressSanitizer and UndefinedBehaviorSanitizer see: what is a thread's own is not watched.
void own_array_too_far(bool mistake, const float* in, float* out) {
  const Thread me;
  float registers[4] = {in[me.i], 1, 2, 3};
  float* const first = registers;
  out[me.i] = first[mistake && in[me.i] > 100 ? 4 : me.t % 4];
}

void shift_too_far(bool mistake, const float* in, float* out) {
  const Thread me;
  out[me.i] = float(1 << (int(in[me.i]) % 8 + (mistake ? 30 : 0)));
}

struct Mistake {
  const char* name;
  void (*kernel)(bool, const float*, float*);
  int shared = kThreads;  // elements
};

#define MISTAKE(name) {#name, name}
const Mistake mistakes[] = {
    MISTAKE(missing_barrier),
    MISTAKE(warp_barrier_for_a_block),
    MISTAKE(missing_warp_barrier),
    MISTAKE(missing_barrier_before_reuse),
    MISTAKE(shuffle_for_a_barrier),
    MISTAKE(shared_too_far),
    MISTAKE(shared_before),
    MISTAKE(global_read_too_far),
    MISTAKE(global_written_too_far),
    MISTAKE(operand_written),
    MISTAKE(shared_read_before_written),
    MISTAKE(shared_of_another_block),
    MISTAKE(result_read_before_written),
    MISTAKE(two_blocks_write_one_result),
    MISTAKE(one_block_reads_anothers_result),
    MISTAKE(sum_without_atomics),
    MISTAKE(misaligned_vector),
    MISTAKE(half_of_the_threads_wait),
    MISTAKE(threads_wait_apart),
    MISTAKE(half_of_a_warp_shuffles),
    MISTAKE(lane_outside_of_its_mask),
    MISTAKE(product_without_some_lanes),
    MISTAKE(copy_without_a_wait),
    MISTAKE(copy_without_a_commit),
    MISTAKE(copy_waited_for_by_another),
    MISTAKE(copy_onto_what_is_read),
    MISTAKE(misaligned_copy),
    MISTAKE(copy_from_too_far),
    MISTAKE(matrix_without_a_barrier),
    MISTAKE(matrix_from_too_far),
    {"product_without_a_fence", product_without_a_fence, kOperands},
    {"product_without_a_barrier", product_without_a_barrier, kOperands},
    {"product_never_waited_for", product_never_waited_for, kOperands},
    {"product_of_what_is_overwritten", product_of_what_is_overwritten, kOperands},
    {"product_of_a_tile_out_of_place", product_of_a_tile_out_of_place, kOperands},
    {"tile_without_a_wait", tile_without_a_wait, kTiles},
    {"tile_waited_for_by_another", tile_waited_for_by_another, kTiles},
    {"tile_waited_for_at_another_barrier", tile_waited_for_at_another_barrier, kTiles},
    {"tile_waited_for_a_phase_too_early", tile_waited_for_a_phase_too_early, kTiles},
    {"more_bytes_announced_than_come", more_bytes_announced_than_come, kTiles},
    {"too_few_arrivals", too_few_arrivals, kTiles},
    {"too_many_arrivals", too_many_arrivals, kTiles},
    {"tile_onto_what_is_read", tile_onto_what_is_read, kTiles},
    {"arrival_before_the_last_read", arrival_before_the_last_read, kTiles},
    {"product_of_a_tile_without_a_wait", product_of_a_tile_without_a_wait, kTiles},
    {"arrival_before_the_product_is_made", arrival_before_the_product_is_made, kTiles},
    {"warp_of_a_warpgroup_stays_away", warp_of_a_warpgroup_stays_away, kOperands},
    {"tile_onto_what_is_not_fenced", tile_onto_what_is_not_fenced, kTiles},
    {"arrival_before_the_last_write", arrival_before_the_last_write, kTiles},
    {"mbarrier_nobody_initialised", mbarrier_nobody_initialised, kTiles},
    {"mbarrier_without_a_barrier", mbarrier_without_a_barrier, kTiles},
    {"mbarrier_without_a_fence", mbarrier_without_a_fence, kTiles},
    {"mbarrier_overwritten", mbarrier_overwritten, kTiles},
    {"tile_never_waited_for", tile_never_waited_for, kTiles},
    {"tile_out_of_place", tile_out_of_place, kTiles},
    {"pixels_from_beside_the_grid", pixels_from_beside_the_grid, kTiles},
    MISTAKE(own_array_too_far),
    MISTAKE(shift_too_far),
};

}  // namespace

void run_mistake(const char* name, bool mistake, const float* in, float* out) {
  for (const Mistake& m : mistakes)
    if (m.name == std::string(name))
      return launch(name, m.kernel, Grid{kBlocks, dim3(kThreads), m.shared * sizeof(float)}, nullptr, mistake, in, out);
  throw std::runtime_error("mistakes.cu has no such kernel");
}

}  // namespace cuda
}  // namespace convx
