// How direct.cuh divides its work among blocks, and how a block stores what it has summed.
#pragma once
#include "direct_work.cuh"

namespace convx {
namespace cuda {

// Neighbours of a tile that are stored by one store, if memory has them so.
enum class StoreAlong { none, left, right };

// A block's item is a tile of a phase and a group, and a split of its depth.
template <class Acc>
struct DirectGrid {
  unsigned right_tiles, left_tiles;
  int groups, phases, splits;
  int sum_depth;  // of the sums that are added to a total
  int sums_per_split;
  StoreAlong store;
  bool mends;         // some element of A may be skipped
  Acc* partial;       // with splits: [split][phase][group][left][right]
  int64_t lefts;      // there, for every phase
  int64_t right_row;  // there

  CONVX_HD unsigned items() const { return right_tiles * left_tiles * unsigned(groups * phases) * unsigned(splits); }
  CONVX_HD Acc* partials(int split, int phase, int group) const {
    return partial + ((int64_t(split) * phases + phase) * groups + group) * lefts * right_row;
  }
  CONVX_HD int64_t split_depth() const { return int64_t(sums_per_split) * sum_depth; }
  CONVX_HD int64_t splits_of(int64_t depths) const { return (depths + split_depth() - 1) / split_depth(); }
};

// All that a block has to know of an item. It is kept in shared memory, because the threads' registers are needed.
template <class Work>
struct DirectTask {
  using Acc = Sums<typename Work::Type>;
  int phase, group, split;
  int64_t left, right;  // of the tile's first sum
  decltype(Work{}.a(0, 0)) a;
  decltype(Work{}.b(0, 0)) b;
  decltype(Work{}.to(0, 0)) to;
  int64_t begin;  // of depth
  int length;     // of depth from there
  bool nothing;   // to do: phases differ in size

  // Items that share pixels follow one another, so that they find each other's in the cache.
  template <class Tile>
  __device__ void start(const Work& work, const DirectGrid<Acc>& grid, unsigned item) {
    right = int64_t(item % grid.right_tiles) * Tile::kRight, item /= grid.right_tiles;
    left = int64_t(item % grid.left_tiles) * Tile::kLeft, item /= grid.left_tiles;
    group = int(item % unsigned(grid.groups)), item /= unsigned(grid.groups);
    phase = int(item % unsigned(grid.phases));
    split = int(item / unsigned(grid.phases));
    const auto matrix_a = work.a(phase, group);
    const auto matrix_b = work.b(phase, group);
    const auto result = work.to(phase, group);
    a = matrix_a, b = matrix_b, to = result;
    begin = split * grid.split_depth();
    length = int(a.depths - begin < grid.split_depth() ? a.depths - begin : grid.split_depth());
    nothing = left >= a.widths || (split > 0 && length <= 0);
  }
};

// D[left][right] over a task's depths by the definition, in the order in which a tile sums.
template <class Work>
__device__ Sums<typename Work::Type> defined_sum(const DirectTask<Work>& task, int64_t left, int64_t right,
                                                 int sum_depth) {
  using Acc = Sums<typename Work::Type>;
  const Position in_a = task.a.width.from(left)(0), in_b = task.b.width.from(right)(0);
  Acc total(0);
  for (int first = 0; first < task.length && total == total; first += sum_depth) {
    const auto depths_a = task.a.depth.from(task.begin + first);
    const auto depths_b = task.b.depth.from(task.begin + first);
    const unsigned count = unsigned(task.length - first < sum_depth ? task.length - first : sum_depth);
    Acc sum(0);
    for (unsigned d = 0; d < count && sum == sum; ++d) {
      Position p = in_a + depths_a(d);
      if (!task.a.extent.reaches(p, task.a.strides)) continue;
      sum += Acc(task.a.data[p.offset]) * Acc(task.b.data[(in_b + depths_b(d)).offset]);
    }
    total = first ? total + sum : sum;
  }
  return total;
}

// Where a tile's sums go: (left, right) to data[stored_at[left] + right * right_step], of `lefts` and `rights` that
// there are from the tile's first on. The bias belongs to what is stored as the result, and not to partial sums.
template <class Out, class T>
struct Destination {
  Out* data;
  const int64_t* stored_at;
  int64_t right_step, lefts, rights;
  const T* bias;
  int64_t bias_step;

  template <class Acc>
  __device__ Acc bias_of(int right) const {
    return bias && right < rights ? Acc(bias[right * bias_step]) : Acc(0);
  }
};

// Stores a thread's sums.
template <StoreAlong kAlong, class Out, class T, class Tile, class Acc>
__device__ void store_sums(const Accumulators<Tile, Acc>& sums, const Destination<Out, T>& to) {
  constexpr int V = kQuad<Acc>;
  constexpr bool kTurned = kAlong == StoreAlong::left;  // neighbours to be stored together are left indices
  using S = Accumulators<Tile, Acc>;
  const int thread = thread_again();
#pragma unroll
  for (int j = 0; j < S::kRight; j += V) {
    const int right = S::right(thread, j);
    Acc bias[V];
#pragma unroll
    for (int v = 0; v < V; ++v) bias[v] = to.template bias_of<Acc>(right + v);
#pragma unroll
    for (int i = 0; i < S::kLeft; i += V) {
      const int left = S::left(thread, i);
#pragma unroll
      for (int u = 0; u < V; ++u) {
        Vector<Out, V> out;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const Acc sum = sums.sum[i + (kTurned ? v : u)][j + (kTurned ? u : v)];
          out.v[v] = Out(sum + bias[kTurned ? u : v]);
        }
        const int l = left + (kTurned ? 0 : u), r = right + (kTurned ? u : 0);  // of out.v[0]
        if (l >= to.lefts || r >= to.rights) continue;
        Out* const at = to.data + to.stored_at[l] + r * to.right_step;
        if (kAlong != StoreAlong::none) {
          *reinterpret_cast<Vector<Out, V>*>(at) = out;
        } else {
#pragma unroll
          for (int v = 0; v < V; ++v)
            if (r + v < to.rights) at[v * to.right_step] = out.v[v];
        }
      }
    }
  }
}

// Goes through what a thread has stored, and where that is NaN computes it again.
template <class Tile, class Work, class Out, class T>
__device__ void mend(const DirectTask<Work>& task, const Destination<Out, T>& to, int sum_depth) {
  using Acc = Sums<typename Work::Type>;
  using S = Accumulators<Tile, Acc>;
  const int thread = thread_again();
#pragma unroll 1
  for (int e = 0; e < S::kLeft * S::kRight; ++e) {
    const int l = S::left(thread, e / S::kRight), r = S::right(thread, e % S::kRight);
    if (l >= to.lefts || r >= to.rights || task.right + r >= task.to.rights) continue;
    Out& stored = to.data[to.stored_at[l] + r * to.right_step];
    if (Acc(stored) == Acc(stored)) continue;
    stored = Out(defined_sum(task, task.left + l, task.right + r, sum_depth) + to.template bias_of<Acc>(r));
  }
}

template <class Work, class Tile, class Acc, class Out, class T>
__device__ void store_and_mend(const Accumulators<Tile, Acc>& sums, const DirectTask<Work>& task,
                               const Destination<Out, T>& to, StoreAlong along, const DirectGrid<Acc>& grid) {
  const bool numbers = !grid.mends || sums.all_numbers();
  if (along == StoreAlong::right)
    store_sums<StoreAlong::right>(sums, to);
  else if (Work::kResultIsImage && along == StoreAlong::left)
    store_sums<StoreAlong::left>(sums, to);
  else
    store_sums<StoreAlong::none>(sums, to);
  if (!numbers) mend<Tile>(task, to, grid.sum_depth);
}

// The end of a task: its sums are stored, as the result or as a part of it.
template <class Work, class Tile, class Acc>
__device__ void finish(const Accumulators<Tile, Acc>& sums, const DirectTask<Work>& task, const DirectGrid<Acc>& grid,
                       const int64_t* stored_at) {
  using T = typename Work::Type;
  const auto& result = task.to;
  const int64_t lefts = result.lefts - task.left;
  const int64_t step = grid.partial ? 1 : result.right_step;
  const int64_t rights = (grid.partial ? grid.right_row : result.rights) - task.right;
  const T* const bias = result.bias && !grid.partial ? result.bias + task.right * result.bias_step : nullptr;
  const int64_t first = task.right * step + (grid.partial ? task.left * grid.right_row : 0);
  Acc* const partials = grid.partial ? grid.partials(task.split, task.phase, task.group) : nullptr;
  if constexpr (std::is_same_v<T, Acc>) {
    T* const data = (partials ? partials : static_cast<T*>(result.data)) + first;
    const Destination<T, T> to{data, stored_at, step, lefts, rights, bias, result.bias_step};
    store_and_mend(sums, task, to, grid.partial ? StoreAlong::right : grid.store, grid);
  } else if (grid.partial) {
    const Destination<Acc, T> to{partials + first, stored_at, step, lefts, rights, bias, 0};
    store_and_mend(sums, task, to, StoreAlong::right, grid);
  } else {
    const Destination<T, T> to{
        static_cast<T*>(result.data) + first, stored_at, step, lefts, rights, bias, result.bias_step};
    store_and_mend(sums, task, to, grid.store, grid);
  }
}

}  // namespace cuda
}  // namespace convx
