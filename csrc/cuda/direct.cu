// The launches of direct.cuh: which tile, which loads, and into how many parts the depth is split.
#include "direct.cuh"

#include <algorithm>
#include <limits>

#include "device.h"
#include "fold_padding.cuh"
#include "rows.h"
#include "types.h"

namespace convx {
namespace cuda {
namespace direct {
namespace {

// The tiles that a type has: the first one always, the others where they pay. float64 and 16-bit types, which matrix
// units do better, have no others.
template <class T>
struct Tiles {
  using Square = Tile<64, 64, 8, 8, 4, 4>;
  using Large = void;
  using Narrow = void;
};
template <>
struct Tiles<float> : Tiles<Half> {
  using Large = Tile<128, 128, 8, 8, 4, 2>;
  using Narrow = Tile<128, 32, 8, 8, 8, 4>;
};
template <>
struct Tiles<double> : Tiles<Half> {
  using Square = Tile<64, 64, 8, 4, 4, 3>;
};

// Neighbours that are loaded together: 16 bytes, 8 of 16-bit types, which are 16 when they are float.
template <class T>
constexpr int kNeighbours = kQuad<Sums<T>>;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class Element>
bool aligned(const void* data, int count) {
  return reinterpret_cast<uintptr_t>(data) % (count * sizeof(Element)) == 0;
}

// Whether `count` channels lie together at every place, so that one load takes them.
template <class T>
bool channels_together(const View& v, int64_t channels_of_group, int count) {
  const Strides& s = v.strides;
  return s.c == 1 && channels_of_group % count == 0 && s.n % count == 0 && s.h % count == 0 && s.w % count == 0 &&
         aligned<T>(v.data, count);
}

// Whether `count` pixels of a plane of h x w lie together, wherever they begin, counted by `count`.
template <class T>
bool pixels_together(const View& v, int64_t h, int64_t w, int count) {
  const Strides& s = v.strides;
  return s.w == 1 && (h == 1 || s.h == w) && h * w % count == 0 && s.n % count == 0 && s.c % count == 0 &&
         aligned<T>(v.data, count);
}

// The number of splits, at most `most`, that leaves the fewest multiprocessors idle at the end; of equals the fewest.
int64_t balanced_splits(int64_t tiles, int64_t most, int64_t blocks_at_once) {
  int64_t best = 1;
  double best_share = 0;
  for (int64_t splits = 1; splits <= most && tiles * (splits - 1) < 4 * blocks_at_once; ++splits) {
    const double share = double(tiles * splits) / double(divide_up(tiles * splits, blocks_at_once) * blocks_at_once);
    if (share > best_share + 0.02) best = splits, best_share = share;
  }
  return best;
}

// What the choice of a tile knows: the sums of all phases and groups, and the longest depth.
struct Size {
  int64_t lefts, rights, groups, phases, depths;  // lefts of the largest phase
  bool any_splits;                                // or only into single sums
  bool unrounded;                                 // a result of sums, not of T: these are what sum_splits() stores

  template <class Tile>
  int64_t tiles() const {
    return divide_up(lefts, Tile::kLeft) * divide_up(rights, Tile::kRight) * groups * phases;
  }
  // The errors of a sum of n terms are least if about the square root of n are added up before going to the total. The
  // number of samples has no say in it, except for grad_weight.
  int64_t sum_depth() const {
    return depths <= 64 || (depths > 2048 && depths <= 8192) ? 64 : depths <= 2048 ? 32 : 128;
  }
  int64_t sums() const { return std::max<int64_t>(1, divide_up(depths, sum_depth())); }

  template <class Tile>
  int64_t splits(const Device& device) const {
    const int64_t n = tiles<Tile>();
    if (any_splits) {
      const int64_t least = divide_up(depths, int64_t(1) << 28);  // a split's depth has 32 bits
      const int64_t most = std::max<int64_t>(1, depths / (2 * kChunk));
      return std::max(least, balanced_splits(n, most, int64_t(device.multiprocessors) * Tile::kBlocks));
    }
    constexpr int64_t kMostSums = int64_t(16) << 20;
    const bool few = 2 * n <= device.multiprocessors && lefts * rights * groups * phases * sums() <= kMostSums;
    return few ? sums() : 1;
  }
  // Multiply-adds of the busiest multiprocessor for one depth, and with them what loading the tile costs.
  template <class Tile>
  double cost(const Device& device) const {
    if constexpr (std::is_void_v<Tile>) {
      return std::numeric_limits<double>::infinity();
    } else {
      const int64_t s = splits<Tile>(device), busiest = divide_up(tiles<Tile>() * s, device.multiprocessors);
      const double loads = 1.0 / Tile::kLeft + 1.0 / Tile::kRight;  // for a multiply-add
      return double(busiest) / double(s) * Tile::kLeft * Tile::kRight * (1 + 8 * loads);
    }
  }
};

template <class Tile, class FetchA, class FetchB, class Work>
void launch_tiles(const Work& work, const Size& size, StoreAlong store, bool mends, const Operands& o) {
  using Acc = Sums<typename Work::Type>;
  DirectGrid<Acc> grid{};
  grid.right_tiles = unsigned(divide_up(size.rights, Tile::kRight));
  grid.left_tiles = unsigned(divide_up(size.lefts, Tile::kLeft));
  grid.groups = int(size.groups), grid.phases = int(size.phases);
  grid.sum_depth = int(size.sum_depth());
  grid.sums_per_split = int(divide_up(size.sums(), size.splits<Tile>(current_device())));
  grid.splits = int(divide_up(size.sums(), grid.sums_per_split));
  grid.store = store, grid.mends = mends;
  if (grid.splits > 1 || size.unrounded) {
    grid.lefts = size.lefts, grid.right_row = divide_up(size.rights, 4) * 4;
    const int64_t sums = grid.splits * size.phases * size.groups * grid.lefts * grid.right_row;
    grid.partial = static_cast<Acc*>(o.workspace->allocate(sums * sizeof(Acc)));
  }
  const size_t bytes = DirectShared<Work, Tile>::bytes(grid.sums_per_split > 1);
  launch("direct_product", direct_product<Work, Tile, FetchA, FetchB>,
         {int64_t(grid.items()), dim3(Tile::kThreads), bytes}, o.stream, work, grid);
  if (grid.partial)
    launch("sum_splits", sum_splits<Work>, one_thread_each(size.phases * size.groups * grid.lefts * grid.right_row),
           o.stream, work, grid);
}

template <class FetchA, class FetchB, class Work>
void launch_direct(const Work& work, const Size& size, StoreAlong store, bool mends, const Operands& o) {
  using Of = Tiles<typename Work::Type>;
  constexpr bool kFewOutputs = Work::kResultIsImage && (FetchA::count == 1 || FetchA::along_depth);
  // A large tile has no registers left for a pointer to each of many elements of both matrices (it spills on sm_80).
  constexpr bool kManyPointers = FetchA::along_depth && FetchB::along_depth;
  using Large = std::conditional_t<FetchA::folds || kManyPointers, void, typename Of::Large>;
  using Narrow = std::conditional_t<FetchA::folds || !kFewOutputs, void, typename Of::Narrow>;
  const Device& device = current_device();
  const double square = size.cost<typename Of::Square>(device);
  const double large = size.cost<Large>(device), narrow = size.cost<Narrow>(device);
  if constexpr (!std::is_void_v<Large>)
    if (large <= std::min(square, narrow)) return launch_tiles<Large, FetchA, FetchB>(work, size, store, mends, o);
  if constexpr (!std::is_void_v<Narrow>)
    if (narrow < square) return launch_tiles<Narrow, FetchA, FetchB>(work, size, store, mends, o);
  launch_tiles<typename Of::Square, FetchA, FetchB>(work, size, store, mends, o);
}

// forward or grad_input of a problem whose result may be `wide`, and not x or y themselves.
template <class T>
void gather(const ConvProblem& pb, const Operands& o, bool transposed, const View& result, bool wide) {
  const Axis rows = pb.rows(), columns = pb.columns();
  GatherWork<T> work{};
  work.pb = pb, work.transposed = transposed;
  work.source = transposed ? o.y : o.x, work.result = result, work.wide_result = wide;
  work.bias = wide ? nullptr : static_cast<const T*>(o.bias), work.bias_step = o.bias_stride;
  work.taps_h = tap_order(rows, transposed), work.taps_w = tap_order(columns, transposed);
  work.phases_w = phases_of(columns, transposed);
  const int phases_h = phases_of(rows, transposed);

  const int64_t weights = pb.G * work.packed_rows() * work.packed_row();
  if (weights > 0) {
    auto* const packed = static_cast<Sums<T>*>(o.workspace->allocate(weights * sizeof(Sums<T>)));
    work.packed = packed;
    launch("pack_weights", pack_weights<T>, one_thread_each(weights / pb.S), o.stream, work, o.w, packed);
  }

  Size size{0,
            work.result_channels(),
            pb.G,
            int64_t(phases_h) * work.phases_w,
            0,
            false,
            wide && !std::is_same_v<T, Sums<T>>};
  bool skips = false;
  for (int phase = 0; phase < size.phases; ++phase) {
    size.lefts = std::max(size.lefts, work.lefts(phase)), size.depths = std::max(size.depths, work.depths(phase));
    const PhaseAxis r = work.rows(phase), c = work.columns(phase);
    const auto leaves = [](const PhaseAxis& a, int64_t in) {
      const int64_t far = int64_t(a.count - 1) * a.step, reach = int64_t(a.taps - 1) * a.tap_step;
      return a.first + std::min<int64_t>(0, reach) < 0 || a.first + far + std::max<int64_t>(0, reach) >= in;
    };
    skips = skips || leaves(r, transposed ? pb.P : pb.H) || leaves(c, transposed ? pb.Q : pb.W);
  }
  const bool folds = skips && !transposed && !pb.is_zero_padded();

  constexpr int kNear = kNeighbours<T>;
  const auto stores_together = [&](auto type) {
    using Out = decltype(type);
    if (channels_together<Out>(result, work.result_channels(), kNear)) return StoreAlong::right;
    const bool planes =
        size.phases == 1 && pixels_together<Out>(result, transposed ? pb.H : pb.P, transposed ? pb.W : pb.Q, kNear);
    return planes ? StoreAlong::left : StoreAlong::none;
  };
  const StoreAlong store = wide ? stores_together(Sums<T>{}) : stores_together(T{});

  using Rows = Fetch<Along::width, kNear>;
  if (channels_together<T>(work.source, work.source_channels(), kNear) && !folds)
    return launch_direct<Fetch<Along::depth, kNear>, Rows>(work, size, store, skips, o);
  if constexpr (std::is_same_v<T, float>) {
    const bool same_planes = pb.R * pb.S == 1 && pb.is_unit_stride() && !skips && pb.H == pb.P && pb.W == pb.Q;
    if (same_planes && pixels_together<T>(work.source, pb.P, pb.Q, kNear))
      return launch_direct<Fetch<Along::width, kNear>, Rows>(work, size, store, false, o);
    if (!folds) return launch_direct<Fetch<Along::width, 1>, Rows>(work, size, store, skips, o);
  }
  launch_direct<Fetch<Along::width, 1, true>, Rows>(work, size, store, skips && !folds, o);
}

template <class T>
void padded_grad_input(const ConvProblem& pb, const Operands& o) {
  const ConvProblem padded = padded_problem(pb);
  const int64_t count = padded.N * padded.C * padded.H * padded.W;
  auto* const sums = static_cast<Sums<T>*>(o.workspace->allocate(count * sizeof(Sums<T>)));
  const int64_t image = padded.H * padded.W;
  const Strides strides =
      o.x.strides.c == 1 ? Strides{image * pb.C, 1, padded.W * pb.C, pb.C} : Strides{image * pb.C, image, padded.W, 1};
  gather<T>(padded, o, true, {sums, strides}, true);
  launch("fold_padding", fold_padding<T, Sums<T>>, one_thread_each(pb.N * pb.C * pb.H * pb.W), o.stream, pb,
         Tensors<T>{o}, static_cast<const Sums<T>*>(sums), strides, padded.H, padded.W);
}

template <class T>
void weight(const ConvProblem& pb, const Operands& o) {
  const WeightWork<T> work{pb, o.x, o.y, o.w};
  const Size size{work.lefts(0), work.result_channels(), pb.G, 1, work.depths(0), true, false};
  const auto leaves = [](const Axis& a) { return a.pad > 0 || a.virtual_position(a.out - 1, a.kernel - 1) >= a.in; };
  const bool skips = leaves(pb.rows()) || leaves(pb.columns());
  constexpr int kNear = kNeighbours<T>;
  const bool folds = skips && !pb.is_zero_padded();
  const auto launch_with = [&](auto a, auto b) {
    launch_direct<decltype(a), decltype(b)>(work, size, StoreAlong::none, skips && !folds, o);
  };
  using Single = Fetch<Along::depth, 1>;
  if (channels_together<T>(o.x, pb.channels_per_group(), kNear) &&
      channels_together<T>(o.y, pb.outputs_per_group(), kNear) && !folds)
    return launch_with(Fetch<Along::width, kNear>{}, Fetch<Along::width, kNear>{});
  if constexpr (std::is_same_v<T, float>) {
    if (pixels_together<T>(o.y, pb.P, pb.Q, kNear) && !folds)
      return launch_with(Single{}, Fetch<Along::depth, kNear>{});
    if (!folds) return launch_with(Single{}, Single{});
  }
  launch_with(Fetch<Along::depth, 1, true>{}, Single{});
}

}  // namespace

const char* why_not(const ConvProblem& pb, const Operands& o) {
  if (const char* reason = floating_only(pb, o)) return reason;
  const auto beyond = [](const Axis& a) {
    const int64_t end = a.virtual_position(a.out - 1, a.kernel - 1);
    return std::max({a.in, a.out, a.pad, a.stride, a.dilation, a.kernel, end, a.pad + end}) >= kLargestPosition;
  };
  if (beyond(pb.rows()) || beyond(pb.columns())) return "its rows and columns are counted to 2^29";
  const int64_t depth = pb.R * pb.S * std::max(pb.channels_per_group(), pb.outputs_per_group());
  if (std::max({depth, pb.H * pb.W, pb.P * pb.Q, pb.C, pb.K}) >= int64_t(1) << 30)
    return "taps times channels, and pixels of an image, are counted to 2^30";
  // Blocks are counted in 32 bits, those of the smallest tile and of the largest number of splits.
  const double tiles =
      double(std::max(pb.N, int64_t(1))) * std::max(pb.H * pb.W, pb.P * pb.Q) / 64 * (std::max(pb.C, pb.K) / 32 + pb.G);
  if (tiles >= 1e9) return "tiles are counted to 10^9";
  return nullptr;
}

// Where a tile would mostly be empty (depthwise, a few channels), others are better off, unless sums are long.
constexpr int64_t kLongSum = 128;
bool forward_preferred(const ConvProblem& pb, const Operands&) {
  const int64_t sum = pb.channels_per_group() * pb.R * pb.S;
  return pb.outputs_per_group() >= 8 ? sum >= 8 : sum >= kLongSum;
}
bool grad_input_preferred(const ConvProblem& pb, const Operands&) {
  const int64_t sum = pb.outputs_per_group() * pb.R * pb.S / (pb.stride_h * pb.stride_w);
  return pb.channels_per_group() >= 8 ? pb.outputs_per_group() >= 4 || sum >= 16 : sum >= kLongSum;
}
bool grad_weight_preferred(const ConvProblem& pb, const Operands&) {
  return pb.outputs_per_group() >= 8 && pb.channels_per_group() * pb.R * pb.S >= 8;
}

void forward(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto type) { gather<decltype(type)>(pb, o, false, o.y, false); });
}

void grad_input(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    if (pb.is_zero_padded())
      gather<T>(pb, o, true, o.x, false);
    else
      padded_grad_input<T>(pb, o);
  });
}

void grad_weight(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto type) { weight<decltype(type)>(pb, o); });
}

}  // namespace direct
}  // namespace cuda
}  // namespace convx
