// forward and grad_input on the matrix unit: outer_product.h's way, with tiles of 32 results x 32 outputs instead of
// register tiles of 14 x 32, and 32 channels a step instead of one.
//
// A block of results is taken as one run of pixels, row after row of the packed tile with its halo, so that tiles of
// 16 pixels need not end where rows do; the sums that fall between two rows are left where they are. The weights are
// packed once per call (tile_weights.h); where a single block of results meets them, by the thread that multiplies it.
//
// Estimate: the unit's roof (2048 multiply-adds in 16 cycles and core) over the number of products of terms, less what
// falls between rows (a fifth at 7 x 7, nothing for 1x1), missing channels of 32, and the packing, which costs about a
// quarter of a cycle an element and term. float32 pays six products for one and still passes the FMA roof, if K * R * S
// is a few hundred.
//
// A result is one sum, in the order of channels (by 32), taps, products of terms: whatever the blocks and threads.
#pragma once
#include "amx_tile.h"
#include "tile_weights.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// What a block of rows x columns results takes for its tile, and the largest that stays in L2 with some weights beside.
struct TileBlocks {
  int64_t rows, columns;

  static constexpr int64_t kBytes = 768 << 10;

  TileBlocks(const AxisPlan& r, const AxisPlan& c, int64_t bytes_of_pixel, int64_t images, bool whole_rows) {
    constexpr int64_t kFewestPixels = 128;
    const int64_t span_r = r.highest() - r.lowest(), span_c = c.highest() - c.lowest();
    const auto fits = [&](int64_t rows, int64_t columns) {
      return ((rows - 1) * r.stride + span_r + 1) * ((columns - 1) * c.stride + span_c + 1) * bytes_of_pixel <= kBytes;
    };
    columns = c.count;
    while (!whole_rows && columns > kWide && !fits(1, columns)) columns = ceil_div(columns, 2);
    rows = 1;
    while (rows < r.count && fits(rows + 1, columns)) ++rows;
    // A block for each thread, unless that makes them small: halos would be packed again and again.
    const int64_t across = ceil_div(c.count, columns);
    while (images * across * ceil_div(r.count, rows) < thread_count() && (rows / 2) * columns >= kFewestPixels)
      rows = ceil_div(rows, 2);
    while (!whole_rows && rows == 1 && images * r.count * ceil_div(c.count, columns) < thread_count() &&
           columns / 2 >= kFewestPixels)
      columns = ceil_div(columns, 2);
    rows = ceil_div(r.count, ceil_div(r.count, rows));
  }
};

// The images of a pointwise layer as one row, where their pixels follow one another in memory (channels_last): the
// weights are read once for more pixels, and the tiles of small planes are filled.
template <class In>
void join_images(Convolution<float, In>& cv) {
  const int64_t pixels = cv.columns.count;
  if (!cv.is_pointwise() || cv.rows.count != 1 || cv.columns.out_step != 1 || cv.merged() != 1 ||
      cv.in_strides.n != pixels * cv.in_strides.w || cv.out_strides.n != pixels * cv.out_strides.w)
    return;
  cv.columns.in = cv.columns.count = cv.N * pixels;
  cv.N = 1;
}

// How far a run's pixels are from those of the next row: the halo between rows is part of it, unless tiles end with
// them.
inline int64_t pitch_of_run(const TileShape& shape, const Place& at) { return kEndsWithRows ? at.nj : shape.pitch; }

// The taps of an axis by which its result i reads what is not padding: [first, last).
struct TapsInside {
  int first = 0, last = 0;
  explicit TapsInside(const AxisPlan& all) : last(all.taps) {}
  TapsInside(const AxisPlan& a, int64_t i) {
    const auto reads = [&](int t) { return a.source(i * a.stride + a.offset[t]) >= 0; };
    while (first < a.taps && !reads(first)) ++first;
    for (last = a.taps; last > first && !reads(last - 1);) --last;
  }
};

// What becomes of a tile of sums: written to the results, but for those between two rows.
template <class In>
struct StoredSums {
  static constexpr bool whole_rows = false;  // whether blocks must not divide them
  const Convolution<float, In>& cv;
  const TileShape& shape;

  // Sums [m0, m1) of the run of a block's pixels, for `count` outputs from `first` on.
  void put(const float* sums, const Place& at, int64_t m0, int64_t m1, int64_t width, int64_t first,
           int64_t count) const {
    const int64_t pitch = pitch_of_run(shape, at), line = results_follow(at) && pitch == at.nj ? m1 : at.nj;
    for (int64_t m = m0; m < m1;) {
      const int64_t i = m / pitch, j = m % pitch, pixels = smaller(line - j, m1 - m);
      if (pixels > 0)
        store_results(cv, sums + (m - m0) * width, pixels, width, at.n, at.g, first, count, at.i0 + i, at.j0 + j);
      m += pixels > 0 ? pixels : pitch - j;
    }
  }
  void finish(const Place&) const {}  // a block

 private:
  // Whether its rows of results follow one another in memory.
  bool results_follow(const Place& at) const {
    return cv.merged() == 1 && at.nj == cv.columns.count && cv.rows.out_step == 1 && cv.columns.out_step == 1 &&
           cv.out_strides.h == at.nj * cv.out_strides.w;
  }
};

// A block of results whose lines are packed, of one image or of several.
template <class In>
struct PackedBlock {
  const Convolution<float, In>& cv;
  const TileShape& shape;
  const TileWeights<In>& weights;
  const int32_t *a_k, *b_k;  // where the lines, and the weights, of each step are
  const uint16_t* lines;
  int64_t term, tile;  // elements from term to term, and from image to image
  Place at;            // in the first image
  int64_t images;
  const uint16_t* right_side;  // block kb of the weights

  // Lines from `line` of an image on, and the weights.
  Tiles left(int64_t image, int64_t line) const {
    return {lines + image * tile + line * kDepth, a_k, kTileBytes, term * 2};
  }
  Tiles right() const { return {right_side, b_k, TileWeights<In>::kHalf, TileWeights<In>::kTerm}; }
  // Those of rows of taps, and of columns, that are read.
  Steps steps(const TapsInside& down, const TapsInside& across) const {
    const int64_t chunks = ceil_div(cv.inputs, kDepth), row = cv.columns.taps;
    return {chunks, cv.taps(),    down.first * row, down.last * row,
            row,    across.first, across.last,      ceil_div(cv.inputs - (chunks - 1) * kDepth, 2)};
  }
  Place in_image(int64_t image) const {
    Place place = at;
    place.n += image;
    return place;
  }
};

// Its results for block kb of the outputs: as one run of pixels, the halo between rows too.
template <class In, class Results>
void sum_run(const PackedBlock<In>& block, int64_t kb, float* sums, Results& results) {
  const int64_t first = kb * kWide, width = block.weights.width_of(kb),
                count = smaller(width, block.cv.outputs - first);
  const int64_t run = (block.at.ni - 1) * block.shape.pitch + block.at.nj;
  for (int64_t m0 = 0; m0 < run; m0 += kWide) {
    const int64_t m1 = smaller(m0 + kWide, run);
    tile_product_of<kTerms<In>>(m1 - m0, width)(block.left(0, m0), block.right(), block.weights.steps, sums,
                                                block.weights.bias(block.at.g, kb));
    results.put(sums, block.at, m0, m1, width, first, count);
  }
}

// Where blocks end with rows, the sums of some rows wait for one another, and are stored at once: where rows of results
// follow one another in memory, squares of pixels and outputs are filled.
constexpr int64_t kWaitingSums = 128, kWaitingSumsOfImages = 256;  // pixels, at most if a row has no more

// Row by row of each image.
template <class In, class Results>
void sum_rows(const PackedBlock<In>& block, int64_t kb, float* sums, Results& results) {
  const Convolution<float, In>& cv = block.cv;
  const Place& at = block.at;
  const int64_t first = kb * kWide, width = block.weights.width_of(kb), count = smaller(width, cv.outputs - first);
  const int64_t pieces = ceil_div(at.nj, kWide), rows = larger(1, kWaitingSums / at.nj);
  for (int64_t image = 0; image < block.images; ++image)
    for (int64_t i = 0; i < at.ni; ++i) {
      const Steps steps = block.steps(TapsInside(cv.rows, at.i0 + i), TapsInside(cv.columns));
      const int64_t first_row = i / rows * rows;
      for (int64_t p = 0; p < pieces; ++p) {
        const int64_t j0 = at.nj * p / pieces, j1 = at.nj * (p + 1) / pieces;
        tile_product_of<kTerms<In>>(j1 - j0, width)(block.left(image, i * block.shape.pitch + j0), block.right(), steps,
                                                    sums + ((i - first_row) * at.nj + j0) * width,
                                                    block.weights.bias(at.g, kb));
      }
      if (i + 1 == at.ni || (i + 1) % rows == 0)
        results.put(sums, block.in_image(image), first_row * at.nj, (i + 1) * at.nj, width, first, count);
    }
}

// Or pixel by pixel, of all images at once: what one reads of the padding the others do, so it is left out, columns of
// taps too. The sums are [image][pixel].
template <class In, class Results>
void sum_across_images(const PackedBlock<In>& block, int64_t kb, float* sums, Results& results) {
  const Convolution<float, In>& cv = block.cv;
  const Place& at = block.at;
  const int64_t first = kb * kWide, width = block.weights.width_of(kb), count = smaller(width, cv.outputs - first);
  const int64_t rows = larger(1, kWaitingSumsOfImages / (block.images * at.nj));
  for (int64_t i0 = 0; i0 < at.ni; i0 += rows) {
    const int64_t i1 = smaller(at.ni, i0 + rows), pixels = (i1 - i0) * at.nj;
    for (int64_t i = i0; i < i1; ++i) {
      const TapsInside down(cv.rows, at.i0 + i);
      for (int64_t j = 0; j < at.nj; ++j)
        product_across_images(block.left(0, i * block.shape.pitch + j), block.tile * 2, block.right(),
                              block.steps(down, TapsInside(cv.columns, at.j0 + j)),
                              sums + ((i - i0) * at.nj + j) * width, pixels * width, block.weights.bias(at.g, kb),
                              block.images, width);
    }
    for (int64_t image = 0; image < block.images; ++image)
      results.put(sums + image * pixels * width, block.in_image(image), i0 * at.nj, i1 * at.nj, width, first, count);
  }
}

// How the images of a layer of small planes are dealt out to items where blocks end with rows: several to an item, so
// that their weights are read once for them, and whether blocks go across them.
struct Images {
  int64_t together = 1;
  bool across = false;

  template <class In>
  Images(const Convolution<float, In>& cv, const TileBlocks& b, int64_t bytes, bool whole_rows) {
    if (!kEndsWithRows || whole_rows || b.rows < cv.rows.count || b.columns < cv.columns.count) return;
    // Weights read once for 100 pixels: 5 to 10 % with planes of 4 x 4 and 7 x 7. Across images another 10 % with 4 x
    // 4, 1 to 3 % with 7 x 7; with planes of 17 x 17, whose tiles fill L2, 1.1 times as long.
    constexpr int64_t kPixels = 100, kMostAcross = 64, kFewestAcross = 4;
    const int64_t most = smaller(cv.N, larger(1, TileBlocks::kBytes / bytes));
    together = smaller(most, ceil_div(kPixels, larger(1, b.rows * b.columns)));
    // The time of either way: a block's steps, but for those left out, and what they take besides multiplying.
    const auto of_block = [](int64_t count) { return 1 + 0.5 / double(count) * double(ceil_div(count, kPairRows)); };
    const int64_t images = ceil_div(most, ceil_div(most, kPairRows));
    int64_t inside = 0;
    for (int64_t j = 0; j < cv.columns.count; ++j) {
      const TapsInside taps(cv.columns, j);
      inside += taps.last - taps.first;
    }
    across =
        b.rows * b.columns <= kMostAcross && images >= kFewestAcross &&
        double(inside) / double(cv.columns.taps * cv.columns.count) * of_block(images) < 0.97 * of_block(b.columns);
    if (across) together = images;
  }
};

// tile_of makes the tile of a block, sums_of what a thread does with its sums; a group has `inputs` channels in memory.
// The images' magnitudes are seen if `seen` is not null, and the weights' if they are whole filters.
template <class In, class TileOf, class SumsOf>
bool convolve_tiles(const Convolution<float, In>& cv, TileOf&& tile_of, int64_t inputs, SumsOf&& sums_of,
                    OperandMagnitudes* seen = nullptr) {
  constexpr int terms = kTerms<In>;
  const int64_t chunks = ceil_div(cv.inputs, kDepth), steps = chunks * cv.taps();
  constexpr bool whole_rows = std::invoke_result_t<SumsOf, const TileShape&>::whole_rows;
  const TileBlocks b(cv.rows, cv.columns, chunks * kLine * terms, cv.N * cv.G, whole_rows);
  const TileShape shape(cv.rows, cv.columns, b.rows, b.columns);
  const auto tile = tile_of(shape);
  Scratch<int32_t> a_k(steps), b_k(steps);
  for (int64_t k = 0; k < steps; ++k) b_k[k] = int32_t(k * TileWeights<In>::kStep);
  for (int64_t chunk = 0, k = 0; chunk < chunks; ++chunk)
    for (int r = 0; r < cv.rows.taps; ++r)
      for (int s = 0; s < cv.columns.taps; ++s)
        a_k[k++] = int32_t(chunk * tile.chunk() + shape.tap(cv.rows, cv.columns, r, s) * kDepth);

  // Several items to a thread, for a like share to each. (Not measured on the unit, where packing a tile twice counts
  // for more.)
  constexpr int64_t kOfThread = kEndsWithRows ? 8 : 1;
  const int64_t pitch =
      (ceil_div(tile.size(), kDepth) | 1) * kDepth;  // an odd number of lines: other sets of the cache
  const Images images(cv, b, pitch * 2, whole_rows);
  Convolution<float, In> blocks;  // for their places
  blocks.N = ceil_div(cv.N, images.together), blocks.G = cv.G;
  blocks.rows.count = cv.rows.count, blocks.columns.count = cv.columns.count;
  const int64_t kbs = ceil_div(cv.outputs, kWide);
  const Places places(blocks, b.rows, b.columns, kOfThread * thread_count(), kbs);
  const bool sees_weights = seen && cv.taps() == cv.filter_size;
  const TileWeights<In> weights(cv, places.count == cv.G, sees_weights ? &seen->other : nullptr);
  const double work =
      double(images.together) * b.rows * b.columns * steps * kbs / places.parts * 2 * Products<terms>::count;
  parallel_for_balanced(places.items(), grain_for(work), [&](int64_t begin, int64_t end) {
    [[maybe_unused]] const MatrixUnit unit;
    Scratch<uint16_t> lines_of_tile(images.together * pitch), right_side(weights.size_on_the_way());
    Scratch<Plain<In>> planes(tile.size_of_planes(cv.in_strides));
    // store_results reads whole vectors of pixels
    const int64_t waiting = !kEndsWithRows  ? kWide
                            : images.across ? larger(kWaitingSumsOfImages, images.together * b.columns)
                                            : larger(kWaitingSums, b.columns),
                  size_of_sums = (waiting + kWide) * kWide;
    Scratch<float> sums(size_of_sums);
    std::memset(sums.data(), 0, size_of_sums * sizeof(float));
    // stale memory could be subnormal numbers, which are slow
    std::memset(planes.data(), 0, tile.size_of_planes(cv.in_strides) * sizeof(Plain<In>));
    auto results = sums_of(shape);
    int64_t packed = -1;
    for (int64_t item = begin; item < end; ++item) {
      Place at = places[item];
      at.n *= images.together;
      PackedBlock<In> block{cv,          shape,
                            weights,     a_k.data(),
                            b_k.data(),  lines_of_tile.data(),
                            tile.term(), pitch,
                            at,          smaller(images.together, cv.N - at.n),
                            nullptr};
      for (int64_t image = 0; image < block.images && packed != at.index; ++image) {
        const In* const in = cv.in + cv.in_strides(at.n + image, at.g * inputs, 0, 0);
        const Strides& s = cv.in_strides;
        if (seen && at.part == 0 && at.i0 == 0 && at.j0 == 0)
          seen->images[at.n + image].add_shared(
              magnitudes_of(in, Walks({1, 0}, {inputs, s.c}, {cv.rows.in, s.h}, {cv.columns.in, s.w})));
        tile.pack(lines_of_tile.data() + image * pitch, planes.data(), cv.rows, cv.columns, at, in, s);
      }
      packed = at.index;
      for (int64_t kb = at.part * kbs / places.parts; kb < (at.part + 1) * kbs / places.parts; ++kb) {
        block.right_side = weights.of(at.g, kb, right_side.data());
        if constexpr (kEndsWithRows) {
          images.across ? sum_across_images(block, kb, sums.data(), results)
                        : sum_rows(block, kb, sums.data(), results);
        } else {
          sum_run(block, kb, sums.data(), results);
        }
      }
      results.finish(at);
    }
  });
  if (seen) seen->images_seen = true, seen->other_seen = sees_weights;
  return true;
}

template <class In>
bool convolve_tiles(const Convolution<float, In>& cv, OperandMagnitudes* seen) {
  return convolve_tiles(
      cv, [&](const TileShape& shape) { return LineTile<In>(shape, cv.inputs); }, cv.inputs,
      [&](const TileShape& shape) { return StoredSums<In>{cv, shape}; }, seen);
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
