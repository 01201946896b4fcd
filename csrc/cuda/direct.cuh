// All three primitives as one tiled matrix product on CUDA cores, whose left matrix is read through the index maps of
// direct_maps.cuh: no im2col, no inserted zeros, no atomics.
//
// A block computes tiles of D[left][right] = sum over depth of A[depth][left] * B[depth][right], chunk by chunk of
// depth: first the places of the chunk's depths go into shared memory, so that all divisions are paid once in kChunk
// depths, then the loop of direct_tile.cuh multiplies. Bias and the conversion to a 16-bit type happen where the sums
// are stored (direct_store.cuh).
//
// Long sums are made of sums: 32 to 128 depths are added up from zero, and then to a total, which keeps the rounding
// errors of thousands of terms near those of a few hundred. Where there are fewer tiles than multiprocessors, depth is
// split too: blocks leave their sums in a workspace, and sum_splits() adds them up in order. forward and grad_input
// give every such sum to a split of its own or none at all, so that splitting does not change a bit of the result:
// whether a sample comes alone or in a batch may decide it. grad_weight, whose depth is pixels, nearly always splits,
// into as many as fill the machine; its workspace is at most some tiles for each multiprocessor.
//
// Padding and gaps are zeros in shared memory, and a zero times an infinity is NaN. Nobody looks for infinities
// beforehand: a sum that comes out as NaN is computed again by mend(), term by term, without what is skipped. A NaN
// that belongs there is found at its first term, and the others keep their bits: adding zero changes none.
//
// What limits it is the rate of float32 multiply-adds (67 TFLOP/s on an H100), half of that for float64. Of what a
// thread of a 128 x 128 tile issues for eight depths, 512 are multiply-adds, 32 load from shared memory, and finding
// and copying elements takes some 90 to 130 more: 76 % multiplies where elements of A come one by one (any strides,
// contiguous x), 80 % where they come by 16 bytes (channels_last), in the machine code for sm_90a. Adding a sum to the
// total costs 160 more, in 32 to 128 depths: 3 to 5 %. So at most three quarters of that rate are to be had, 50
// TFLOP/s; nothing of this has been timed yet. 16-bit types run at the rate of float32, and are better off with matrix
// units.
//
// Shared memory for a 128 x 128 tile is 90 KiB if it has totals, for two blocks on an H100, but one on an A100.
//
// Run it alone: `with convx.algorithm("direct"): ...` or CONVX_ALGORITHM=direct.
#pragma once
#include "direct_store.cuh"

namespace convx {
namespace cuda {

// The block's shared memory. The totals are there if a block adds several sums.
template <class Work, class Tile>
struct DirectShared {
  using Acc = Sums<typename Work::Type>;
  using Task = DirectTask<Work>;
  static constexpr int kRowA = Tile::kLeft + kQuad<Acc>, kRowB = Tile::kRight + kQuad<Acc>;
  static constexpr int kMostDepths = kChunk + kDepth;
  static constexpr size_t kPlaces = (sizeof(Task) + 15) / 16 * 16;
  static constexpr size_t kBuffers = kPlaces + size_t(2 * kMostDepths) * sizeof(Position);
  static constexpr size_t kTotals = kBuffers + 2 * kDepth * (kRowA + kRowB) * sizeof(Acc);
  static constexpr size_t bytes(bool totals) {
    return kTotals + (totals ? sizeof(Acc) * Tile::kLeft * Tile::kRight : 0);
  }

  unsigned char* memory;
  __device__ Task& task() const { return *reinterpret_cast<Task*>(memory); }
  __device__ Position* depths_a() const { return reinterpret_cast<Position*>(memory + kPlaces); }
  __device__ Position* depths_b() const { return depths_a() + kMostDepths; }
  // When the sums are done, where each left index is stored: it takes the place of depths_a.
  __device__ int64_t* stored_at() const { return reinterpret_cast<int64_t*>(memory + kPlaces); }
  __device__ Acc* a(int buffer) const { return reinterpret_cast<Acc*>(memory + kBuffers) + buffer * kDepth * kRowA; }
  __device__ Acc* b(int buffer) const { return a(2) + buffer * kDepth * kRowB; }
  __device__ Acc* total() const { return reinterpret_cast<Acc*>(memory + kTotals); }
};

// The places of a chunk's depths; what its last tile has beyond them is nowhere, and so is all of the tile after that.
template <class DepthMap>
__device__ void find_depths(const DepthMap& places, int depths, Position* found, int threads) {
  for (int d = threadIdx.x; d < (depths + 2 * kDepth - 1) / kDepth * kDepth; d += threads)
    found[d] = d < depths ? places(d) : Position{kNowhere, 0, 0};
}

template <class Work, class Tile, class FetchA, class FetchB>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    direct_product(Work work, DirectGrid<Sums<typename Work::Type>> grid) {
  using Acc = Sums<typename Work::Type>;
  const DirectShared<Work, Tile> shared{shared_memory<unsigned char>()};
  DirectTask<Work>& task = shared.task();
  for (unsigned i = blockIdx.x; i < grid.items(); i += gridDim.x) {
    if (threadIdx.x == 0) task.template start<Tile>(work, grid, i);
    __syncthreads();  // the task is known
    if (!task.nothing) {
      Accumulators<Tile, Acc> sums;
      sums.clear();
      const int length = task.length;
      Filler<Tile, Tile::kLeft, Acc, typename Work::ElementA, FetchA, true> fill_a;
      Filler<Tile, Tile::kRight, Acc, typename Work::ElementB, FetchB, false> fill_b;
      fill_a.start(task.a, task.left);
      fill_b.start(task.b, task.right);
      for (int chunk = 0; chunk < length; chunk += kChunk) {
        const int depths = length - chunk < kChunk ? length - chunk : kChunk;
        find_depths(task.a.depth.from(task.begin + chunk), depths, shared.depths_a(), Tile::kThreads);
        find_depths(task.b.depth.from(task.begin + chunk), depths, shared.depths_b(), Tile::kThreads);
        __syncthreads();  // the depths' places are there, and nobody reads the last chunk's buffers any more
        fill_a.load(task.a, shared.depths_a(), shared.a(0));
        fill_b.load(task.b, shared.depths_b(), shared.b(0));
        fill_a.store(shared.a(0));
        fill_b.store(shared.b(0));
        __syncthreads();  // the first buffer is full
#pragma unroll 1
        for (int depth = 0; depth < depths; depth += kDepth) {
          const int now = depth & kDepth ? 1 : 0, next = 1 - now;  // the buffers take turns
          // After the last tile comes one that is nowhere: to load it costs less than to ask each time.
          fill_a.load(task.a, shared.depths_a() + depth + kDepth, shared.a(next));
          fill_b.load(task.b, shared.depths_b() + depth + kDepth, shared.b(next));
          sums.multiply(shared.a(now), shared.b(now));
          fill_a.store(shared.a(next));
          fill_b.store(shared.b(next));
          const int done = chunk + depth + kDepth;
          if (done >= task.length || (done & (grid.sum_depth - 1)) == 0) {  // sum_depth is a power of two
            if (done > grid.sum_depth) sums.add_total(shared.total());
            if (done < task.length) {
              sums.put_total(shared.total());
              sums.clear();
            }
          }
          __syncthreads();  // the next buffer is full, and this one is done with
        }
      }

      const auto places = task.to.left.from(task.left);
      for (int l = threadIdx.x; l < Tile::kLeft; l += Tile::kThreads)
        if (task.left + l < task.to.lefts) shared.stored_at()[l] = grid.partial ? l * grid.right_row : places(l).offset;
      __syncthreads();  // where to store is known
      finish(sums, task, grid, shared.stored_at());
    }
    __syncthreads();  // before the next task, and its places, overwrite this one's
  }
}

// Adds up the splits of every sum, in their order, and stores it where it belongs.
template <class Work>
__global__ void sum_splits(Work work, DirectGrid<Sums<typename Work::Type>> grid) {
  using Acc = Sums<typename Work::Type>;
  const int64_t count = int64_t(grid.phases) * grid.groups * grid.lefts * grid.right_row;
  for (int64_t i = first_item(); i < count; i += items_step()) {
    const int64_t right = i % grid.right_row, left = i / grid.right_row % grid.lefts;
    const int group = int(i / grid.right_row / grid.lefts % grid.groups);
    const int phase = int(i / grid.right_row / grid.lefts / grid.groups);
    const auto result = work.to(phase, group);
    if (left >= result.lefts || right >= result.rights) continue;
    Acc sum(0);
    for (int64_t split = 0, splits = grid.splits_of(work.depths(phase)); split < splits; ++split) {
      const Acc part = grid.partials(int(split), phase, group)[left * grid.right_row + right];
      sum = split ? sum + part : part;
    }
    result.put(result.left.from(left)(0).offset + right * result.right_step, sum + result.bias_of(right));
  }
}

// The weights of a GatherWork as the rows of its matrix B: for each group, in the order of TapOrder and of channels, a
// row of all result channels, with zeros up to its end. A thread goes through a row of taps, which mostly lie beside
// each other in memory, and its neighbours through those of the next result channels.
template <class T>
__global__ void pack_weights(GatherWork<T> work, View weights, Sums<T>* packed) {
  const ConvProblem& pb = work.pb;
  const int64_t depths = work.source_channels(), row = work.packed_row(), rights = work.result_channels();
  const int64_t count = pb.G * pb.R * depths * row;
  for (int64_t i = first_item(); i < count; i += items_step()) {
    const int64_t right = i % row, depth = i / row % depths, r = i / row / depths % pb.R,
                  group = i / row / depths / pb.R;
    const int64_t k = group * pb.outputs_per_group() + (work.transposed ? depth : right);
    const int64_t c = work.transposed ? right : depth;
    const int class_h = int(r % work.taps_h.modulus), in_class_h = work.taps_h.in_class(class_h);
    const T* const from = static_cast<const T*>(weights.data) + weights.strides(k, c, r, 0);
    for (int s = 0; s < work.taps_w.taps; ++s) {
      const int class_w = s % work.taps_w.modulus;
      const int64_t tap = int64_t(work.taps_h.before_class(class_h)) * pb.S +
                          int64_t(in_class_h) * work.taps_w.before_class(class_w) +
                          (r / work.taps_h.modulus) * work.taps_w.in_class(class_w) + s / work.taps_w.modulus;
      packed[(group * work.packed_rows() + tap * depths + depth) * row + right] =
          right < rights ? Sums<T>(from[s * weights.strides.w]) : Sums<T>(0);
    }
  }
}

}  // namespace cuda
}  // namespace convx
