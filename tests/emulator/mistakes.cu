// Kernels with one mistake each, and the same without: tests/test_emulator.py sees that the emulator reports the first
// and lets the second pass. Those of wgmma and the copy engine are in mistakes_hopper.cu.
#include "mistakes.h"

#include <iterator>
#include <stdexcept>
#include <string>

#include "../../csrc/cuda/launch.h"
#include "../../csrc/cuda/ptx.h"

namespace convx {
namespace cuda {
namespace mistakes {
namespace {

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

const Mistake plain_mistakes[] = {
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
    MISTAKE(own_array_too_far),
    MISTAKE(shift_too_far),
};

}  // namespace

void run_mistake(const char* name, bool mistake, const float* in, float* out) {
  std::vector<Mistake> all = hopper_mistakes();
  all.insert(all.end(), std::begin(plain_mistakes), std::end(plain_mistakes));
  for (const Mistake& m : all)
    if (m.name == std::string(name))
      return launch(name, m.kernel, Grid{kBlocks, dim3(kThreads), m.shared * sizeof(float)}, nullptr, mistake, in, out);
  throw std::runtime_error("there is no such mistake");
}

}  // namespace mistakes
}  // namespace cuda
}  // namespace convx
