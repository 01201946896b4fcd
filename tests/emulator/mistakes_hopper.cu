// As mistakes.cu, of what only a Hopper GPU has: products by warpgroups, the copy engine, and its barriers in shared
// memory.
#include "../../csrc/cuda/ptx_tma.h"
#include "../../csrc/cuda/ptx_wgmma.h"
#include "mistakes.h"

namespace convx {
namespace cuda {
namespace mistakes {
namespace {

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
    tile_map(&map, MapElements::bits16, in, {64, 4, 1, 1, 1}, {64, 256, 256, 256}, {64, 64, 1, 1, 1});
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
  im2col_map(&map, MapElements::bits16, in, 64, 2, 2, 1, 64, 128, 256, {-1, 2, 2}, {0, 1, 1}, 2);
  stages.begin(me);
  if (me.t == 0) {
    mbarrier_expect(stages.full, 256);
    copy_im2col(stages.tile, map, stages.full, 0, mistake ? 0 : -1, 0, 0, 1, 0);
  }
  mbarrier_wait(stages.full, 0);
  out[me.i] = stages.read(me);
}

}  // namespace

std::vector<Mistake> hopper_mistakes() {
  return {
      MISTAKE(product_without_a_fence, kOperands),
      MISTAKE(product_without_a_barrier, kOperands),
      MISTAKE(product_never_waited_for, kOperands),
      MISTAKE(product_of_what_is_overwritten, kOperands),
      MISTAKE(product_of_a_tile_out_of_place, kOperands),
      MISTAKE(tile_without_a_wait, kTiles),
      MISTAKE(tile_waited_for_by_another, kTiles),
      MISTAKE(tile_waited_for_at_another_barrier, kTiles),
      MISTAKE(tile_waited_for_a_phase_too_early, kTiles),
      MISTAKE(more_bytes_announced_than_come, kTiles),
      MISTAKE(too_few_arrivals, kTiles),
      MISTAKE(too_many_arrivals, kTiles),
      MISTAKE(tile_onto_what_is_read, kTiles),
      MISTAKE(arrival_before_the_last_read, kTiles),
      MISTAKE(product_of_a_tile_without_a_wait, kTiles),
      MISTAKE(arrival_before_the_product_is_made, kTiles),
      MISTAKE(warp_of_a_warpgroup_stays_away, kOperands),
      MISTAKE(tile_onto_what_is_not_fenced, kTiles),
      MISTAKE(arrival_before_the_last_write, kTiles),
      MISTAKE(mbarrier_nobody_initialised, kTiles),
      MISTAKE(mbarrier_without_a_barrier, kTiles),
      MISTAKE(mbarrier_without_a_fence, kTiles),
      MISTAKE(mbarrier_overwritten, kTiles),
      MISTAKE(tile_never_waited_for, kTiles),
      MISTAKE(tile_out_of_place, kTiles),
      MISTAKE(pixels_from_beside_the_grid, kTiles),
  };
}

}  // namespace mistakes
}  // namespace cuda
}  // namespace convx
