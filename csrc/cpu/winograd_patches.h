// Patches of the input, transformed: in which order those of a block lie, and how they are made of a tile. Vectors go
// across channels, so neither the width of a plane nor strides leave lanes empty; all paddings and layouts end in the
// tile that patches are read from (vector_tile.h).
#pragma once
#include "vector_tile.h"
#include "winograd_tile.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// How the patches of a block follow one another, of all its images: those that are short down come first, then the
// whole ones, then those that are short across, then those that are both. So the ones that meet a point are neighbours.
struct PatchOrder {
  int64_t images, rows, columns;  // whole ones, of an image
  bool short_row, short_column;   // whether there is a row, or column, of short ones, the last

  // Of rows x columns patches, the short ones included.
  PatchOrder(int64_t images, int64_t rows, int64_t columns, bool short_row, bool short_column)
      : images(images),
        rows(rows - short_row),
        columns(columns - short_column),
        short_row(short_row),
        short_column(short_column) {}

  int64_t count() const { return images * (rows + short_row) * (columns + short_column); }
  bool is_short(int64_t row) const { return row == rows; }
  // Of a row of an image: the first of its patches that are not short across, and the one that is.
  int64_t first(int64_t image, int64_t row) const {
    return is_short(row) ? image * columns : first_whole() + (image * rows + row) * columns;
  }
  int64_t last(int64_t image, int64_t row) const {
    return first_short() + (is_short(row) ? images * rows + image : image * rows + row);
  }
  // Those that meet a point, from `begin` to `end`.
  template <class R, class S>
  int64_t begin(int64_t point) const {
    return point / S::kPoints < R::kRealPoints ? 0 : first_whole();
  }
  template <class R, class S>
  int64_t end(int64_t point) const {
    if (point % S::kPoints >= S::kRealPoints) return first_short();
    return point / S::kPoints < R::kRealPoints ? count() : first_short() + short_column * images * rows;
  }

 private:
  int64_t first_whole() const { return short_row * images * columns; }
  int64_t first_short() const { return first_whole() + images * rows * columns; }
};

// Calls run(form down, form across, its first patch in the order, its column, patches) for the one or two runs of a row
// of patches that are alike.
template <class R, class S, class Run>
__attribute__((always_inline)) inline void each_run(const PatchOrder& order, int64_t image, int64_t row, Run&& run) {
  const auto columns = [&](auto down) {
    using Down = decltype(down);
    run(down, PatchAxisForm<S, false>(), order.first(image, row), 0, order.columns);
    if constexpr (S::kShort > 0)
      if (order.short_column) run(Down(), PatchAxisForm<S, true>(), order.last(image, row), order.columns, 1);
  };
  if constexpr (R::kShort > 0)
    if (order.is_short(row)) return columns(PatchAxisForm<R, true>());
  columns(PatchAxisForm<R, false>());
}

// The patches of one image of a block for the channels in the tile: phase p of patch t at
// to + p * phase_pitch + t * patch_pitch, a vector for each point.
template <class T, class R, class S>
void transform_patches(const VectorTile<T>& tile, const InputPhases<R, S>& phases, const PatchOrder& order,
                       int64_t image, T* to, int64_t point_pitch, int64_t patch_pitch, int64_t phase_pitch) {
  constexpr int64_t L = Vec<T>::lanes;
  using V = typename Vec<T>::type;
  const int64_t down = phases.rows.spacing * tile.pitch(), across = phases.columns.spacing * L;
  for (int64_t p = 0; p < phases.count; ++p, to += phase_pitch) {
    const auto& phase = phases.phase[p];
    for (int64_t i = 0; i < order.rows + order.short_row; ++i) {
      const T* const row = tile.data() + phase.row * tile.pitch() + R::kResults * i * down + phase.column * L;
      each_run<R, S>(order, image, i, [&](auto rows, auto columns, int64_t first, int64_t j, int64_t count) {
        using Rows = decltype(rows);
        using Columns = decltype(columns);
        const T* from = row + j * S::kResults * across;
        T* out = to + first * patch_pitch;
        for (int64_t t = 0; t < count; ++t, from += S::kResults * across, out += patch_pitch) {
          V d[Rows::kInputs][Columns::kInputs], v[Rows::kPoints][Columns::kPoints];
#pragma GCC unroll 8
          for (int y = 0; y < Rows::kInputs; ++y)
#pragma GCC unroll 8
            for (int x = 0; x < Columns::kInputs; ++x) d[y][x] = load(from + y * down + x * across);
          spread<Rows, Columns>(d, v);
#pragma GCC unroll 8
          for (int y = 0; y < Rows::kPoints; ++y)
#pragma GCC unroll 8
            for (int x = 0; x < Columns::kPoints; ++x) store(out + (y * S::kPoints + x) * point_pitch, v[y][x]);
        }
      });
    }
  }
}

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
