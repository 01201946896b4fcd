// grad_weight on tensor cores: for each tap a product of matrices,
//
//   rows       output channels of a group      y[n, k, p, q]
//   columns    input channels of a group       x[n, c, h, w], where the tap reads for (p, q)
//   reduction  pixels (n, p, q)
//
// Both operands have their rows contiguous in memory and the reduction across it, so the fragments are transposed on
// their way from shared memory. A tile has one tap, and its reduction only the pixels for which that tap reads inside
// the image: nothing is multiplied by a padding zero, so infinities and NaN need no second look here.
//
// A weight has few elements and many pixels, so the pixels are split over blocks until the GPU is full. Each split
// writes its sums to the workspace, and a second kernel adds them in a fixed order, rounds, and stores the result in
// whatever layout is wanted. What a split has depends on sizes and the number of multiprocessors alone.
//
// Limit: as the other tensor-core kernels', the matrix rate (tensorcore_convolve.cuh); x is read once for each tap, but
// from the L2 cache, as blocks that run together share their pixels. With few channels of either kind tiles are padded
// to 64, and the kernel is limited by that.
#pragma once
#include "tensorcore_convolve.cuh"

namespace convx {
namespace cuda {
namespace tensorcore {

// Strides are in elements; channels are neighbours.
template <class T, class Sum>
struct WeightGradient {
  const T *x, *y;
  int64_t x_n, x_group, y_n, y_group;
  int x_h, x_w, y_h, y_w;
  int64_t x_c = 1, y_c = 1;  // of the definition only: the loaders want channels that are neighbours
  Sum* partial;              // [split][group][tap][output][input]
  T* w;
  Strides w_strides;
  int64_t N;
  int G, inputs, outputs;      // channels of a group
  int x_channels, y_channels;  // the same, in whole chunks
  Axis rows, columns;
  int splits, row_tiles, column_tiles;

  CONVX_HD int taps() const { return int(rows.kernel * columns.kernel); }
  CONVX_HD int64_t partial_size() const { return int64_t(G) * taps() * outputs * inputs; }  // of a split
};

// The outputs of one axis that tap r serves, as first and count, and where they read: i * stride + offset.
struct TapRun {
  int first, count, stride, offset;
  CONVX_HD static TapRun of(const Axis& axis, int r) {
    Run run = {0, axis.out - 1};
    if (axis.mode == PaddingMode::zeros) run = axis.outputs_inside(r);
    const int64_t count = run.last - run.first + 1;
    return {int(run.first), int(count > 0 ? count : 0), int(axis.stride), int(axis.virtual_position(run.first, r))};
  }
};

// A split's part of the reduction for one tap.
struct PixelRun {
  TapRun rows, columns;
  int64_t begin, end;

  __device__ Odometer at(int64_t pixel) const {
    const int64_t plane = int64_t(rows.count) * columns.count;
    Odometer o = Odometer::of(int(pixel % plane), rows.count, columns.count);
    o.high += int(pixel / plane);
    return o;
  }
};

template <class T, class Sum, class Shape>
class WeightGradientLoader {
 public:
  using A = AcrossReduction<Shape::kRows, sizeof(T)>;
  using B = AcrossReduction<Shape::kColumns, sizeof(T)>;
  static constexpr int kDepth = kStageBytes / sizeof(T);  // pixels of a stage

  __device__ WeightGradientLoader(const WeightGradient<T, Sum>& wg, const PixelRun& pixels, int group, int row,
                                  int column)
      : wg_(wg), pixels_(pixels) {
    row += int(threadIdx.x) % kAcross * kElements, column += int(threadIdx.x) % kAcross * kElements;
    has_row_ = row < wg.y_channels, has_column_ = column < wg.x_channels;
    y_ = wg.y + group * wg.y_group + row + pixels.rows.first * wg.y_h + pixels.columns.first * wg.y_w;
    x_ = wg.x + group * wg.x_group + column;
    const int64_t first = pixels.begin + int(threadIdx.x) / kAcross;
    left_ = int(pixels.end - first);
    step_ = Odometer::of(kDepth, pixels.rows.count, pixels.columns.count);
#pragma unroll
    for (int i = 0; i < kPasses; ++i) at_[i] = pixels.at(first + i * kPerPass);
  }

  __device__ int steps() const { return int((pixels_.end - pixels_.begin + kDepth - 1) / kDepth); }

  __device__ void load(char* a, char* b) {
    const int chunk = int(threadIdx.x) % kAcross, k = int(threadIdx.x) / kAcross;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const Odometer& o = at_[i];
      const bool exists = left_ > i * kPerPass;
      int h = o.middle * int(wg_.rows.stride) + pixels_.rows.offset;
      int w = o.low * int(wg_.columns.stride) + pixels_.columns.offset;
      if (wg_.rows.mode != PaddingMode::zeros) h = int(wg_.rows.source(h)), w = int(wg_.columns.source(w));
      const bool reads_y = exists && has_row_, reads_x = exists && has_column_;
      cp_async_16(a + A::place(k + i * kPerPass, chunk),
                  reads_y ? y_ + o.high * wg_.y_n + o.middle * wg_.y_h + o.low * wg_.y_w : wg_.y, reads_y);
      cp_async_16(b + B::place(k + i * kPerPass, chunk),
                  reads_x ? x_ + o.high * wg_.x_n + h * wg_.x_h + w * wg_.x_w : wg_.x, reads_x);
      at_[i].advance(step_, pixels_.rows.count, pixels_.columns.count);
    }
    left_ -= kDepth;
  }

 private:
  static constexpr int kElements = kChunk / sizeof(T);
  static_assert(Shape::kRows == Shape::kColumns, "a thread has the same pixels of both operands");
  static constexpr int kAcross = Shape::kRows / kElements;    // chunks of a pixel
  static constexpr int kPerPass = Shape::kThreads / kAcross;  // pixels that all threads copy at once
  static constexpr int kPasses = kDepth / kPerPass;
  static_assert(kPasses * kPerPass == kDepth, "no remainder");

  const WeightGradient<T, Sum>& wg_;
  const PixelRun& pixels_;
  bool has_row_, has_column_;
  const T *x_, *y_;
  int left_;  // pixels from the thread's next one on
  Odometer step_, at_[kPasses];
};

template <class Arithmetic, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    weight_gradient(WeightGradient<typename Arithmetic::Element, typename Arithmetic::Sum> wg) {
  using Sum = typename Arithmetic::Sum;
  using Sums = typename Arithmetic::template Sums<Shape>;
  using Loader = WeightGradientLoader<typename Arithmetic::Element, Sum, Shape>;
  const int taps = wg.taps();
  const int64_t tiles = int64_t(wg.splits) * wg.G * taps * wg.row_tiles * wg.column_tiles;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    int64_t rest = tile;
    const int column = int(rest % wg.column_tiles) * Shape::kColumns;
    rest /= wg.column_tiles;
    const int row = int(rest % wg.row_tiles) * Shape::kRows;
    rest /= wg.row_tiles;
    const int tap = int(rest % taps);
    rest /= taps;
    const int group = int(rest % wg.G), split = int(rest / wg.G);

    PixelRun pixels;
    pixels.rows = TapRun::of(wg.rows, tap / int(wg.columns.kernel));
    pixels.columns = TapRun::of(wg.columns, tap % int(wg.columns.kernel));
    const int64_t all = wg.N * pixels.rows.count * pixels.columns.count;
    const int64_t stages = (all + Loader::kDepth - 1) / Loader::kDepth;
    pixels.begin = stages * split / wg.splits * Loader::kDepth;
    pixels.end = min(all, stages * (split + 1) / wg.splits * Loader::kDepth);

    Sums sums;
    sums.clear();
    if (pixels.begin < pixels.end) {
      Loader loader(wg, pixels, group, row, column);
      multiply_tiles<Arithmetic, Shape, typename Loader::A, typename Loader::B>(sums, loader, loader.steps(),
                                                                                shared_memory<char>());
    }

    // A lane's rows are eight apart here, its columns pairs.
    Sum* const partial =
        wg.partial + split * wg.partial_size() + (int64_t(group) * taps + tap) * wg.outputs * wg.inputs;
    const int k = row + Shape::first_row() + lane() / 4, c = column + Shape::first_column() + lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < Sums::kRows; ++i)
#pragma unroll
      for (int j = 0; j < Sums::kColumns; ++j) {
        const int to_k = k + 8 * i, to_c = c + j / 2 * 8 + j % 2;
        if (to_k < wg.outputs && to_c < wg.inputs) partial[int64_t(to_k) * wg.inputs + to_c] = sums.at(i, j);
      }
  }
}

// The definition of one element, for the sums that the arithmetic itself doubts.
template <class T, class Sum>
__device__ Sum sum_of_pixels(const WeightGradient<T, Sum>& wg, int group, int tap, int k, int c) {
  const TapRun rows = TapRun::of(wg.rows, tap / int(wg.columns.kernel));
  const TapRun columns = TapRun::of(wg.columns, tap % int(wg.columns.kernel));
  Sum sum = 0;
  for (int64_t n = 0; n < wg.N; ++n)
    for (int i = 0; i < rows.count; ++i)
      for (int j = 0; j < columns.count; ++j) {
        const int64_t h = wg.rows.source(i * rows.stride + rows.offset);
        const int64_t w = wg.columns.source(j * columns.stride + columns.offset);
        const T y = wg.y[group * wg.y_group + n * wg.y_n + (rows.first + i) * wg.y_h + (columns.first + j) * wg.y_w +
                         k * wg.y_c];
        const T x = wg.x[group * wg.x_group + n * wg.x_n + h * wg.x_h + w * wg.x_w + c * wg.x_c];
        sum = fma(Sum(y), Sum(x), sum);
      }
  return sum;
}

// How many neighbouring inputs of a weight a thread of add_splits has, and how many groups of a block's threads share
// the splits: with one, a small layer's few threads wait for one split after another (34 us for 64 splits of 32768
// weights, on an H200).
constexpr int kAddedInputs = 4, kAddThreads = 256, kMostAddGroups = 8;
CONVX_HD inline int added_inputs(int inputs) { return inputs % kAddedInputs == 0 ? kAddedInputs : 1; }
CONVX_HD inline int add_groups(int splits) { return splits >= 2 * kMostAddGroups ? kMostAddGroups : 1; }

// Adds the splits' sums of kInputs neighbouring weights in a thread: by vectors, since of single sums each would take
// the instructions that find its place, longer than memory takes for them. Each group of threads adds every groups-th
// split, and the first then the groups' sums. Index: what counts all weights.
template <class Arithmetic, int kInputs, class Index, class W>
__device__ void add_splits_of(const W& wg) {
  using T = typename Arithmetic::Element;
  using Sum = typename Arithmetic::Sum;
  constexpr int kTogether = 4;  // splits that are on their way at once
  const Index count = Index(wg.partial_size()), chunks = Index(wg.inputs / kInputs), outputs = Index(wg.outputs);
  const Index taps = Index(wg.taps()), columns = Index(wg.columns.kernel);
  Vector<Sum, kInputs>* const of_groups = shared_memory<Vector<Sum, kInputs>>();
  const int groups = add_groups(wg.splits), items = kAddThreads / groups;  // of a block
  const int group_of_splits = int(threadIdx.x) / items, own = int(threadIdx.x) - group_of_splits * items;
  const int64_t last = int64_t(count / kInputs);
  for (int64_t first = int64_t(blockIdx.x) * items; first < last; first += int64_t(gridDim.x) * items) {
    const int64_t item = first + own < last ? first + own : last - 1;  // all come to the barriers
    const Sum* const partial = wg.partial + item * kInputs;
    auto sums = load_vector<kInputs>(partial + group_of_splits * int64_t(count));
    for (int split = group_of_splits + groups; split < wg.splits; split += groups * kTogether) {
      Vector<Sum, kInputs> more[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
        if (split + i * groups < wg.splits)
          more[i] = load_vector<kInputs>(partial + (split + i * groups) * int64_t(count));
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
        if (split + i * groups < wg.splits)
          for (int e = 0; e < kInputs; ++e) sums.v[e] += more[i].v[e];
    }
    if (groups > 1) {
      __syncthreads();  // the last sums have been read
      of_groups[threadIdx.x] = sums;
      __syncthreads();
      for (int other = 1; group_of_splits == 0 && other < groups; ++other)
        for (int e = 0; e < kInputs; ++e) sums.v[e] += of_groups[other * items + own].v[e];
    }
    if (group_of_splits > 0 || first + own >= last) continue;

    const Index line = Index(item) / chunks, plane = line / outputs;
    const int c = int(Index(item) - line * chunks) * kInputs, k = int(line - plane * outputs);
    const int group = int(plane / taps), tap = int(plane - group * taps), r = int(tap / columns);
    T* const to = wg.w + wg.w_strides(int64_t(group) * wg.outputs + k, c, r, tap - r * int(columns));
    Vector<T, kInputs> results;
    int doubts = 0;  // a bit for each
#pragma unroll
    for (int e = 0; e < kInputs; ++e) {
      if (Arithmetic::kDoubtsItself && Arithmetic::is_doubtful(sums.v[e])) doubts |= 1 << e;
      results.v[e] = T(Arithmetic::finished(sums.v[e]));
    }
    if (wg.w_strides.c == 1 && is_aligned<kInputs>(to))
      store_vector(to, results);
    else
      for (int e = 0; e < kInputs; ++e) to[e * wg.w_strides.c] = results.v[e];
#pragma unroll 1
    for (int e = 0; doubts >> e != 0; ++e)
      if (doubts >> e & 1) to[e * wg.w_strides.c] = T(sum_of_pixels(wg, group, tap, k, c + e));
  }
}
template <class Arithmetic>
__global__ void __launch_bounds__(kAddThreads)
    add_splits(WeightGradient<typename Arithmetic::Element, typename Arithmetic::Sum> wg) {
  const bool small = wg.partial_size() < int64_t(1) << 31;  // then 32 bits divide in a fourth of the time
  if (added_inputs(wg.inputs) == kAddedInputs)
    small ? add_splits_of<Arithmetic, kAddedInputs, uint32_t>(wg)
          : add_splits_of<Arithmetic, kAddedInputs, int64_t>(wg);
  else
    small ? add_splits_of<Arithmetic, 1, uint32_t>(wg) : add_splits_of<Arithmetic, 1, int64_t>(wg);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
