// A rectangle of an image for one vector of channels, [row][column][lanes]: any pixel is one load, whatever the layout,
// strides and padding are. Contiguous planes are turned over in registers, all rows of the rectangle at once where they
// are neighbours in memory, so that narrow planes fill the squares, too.
//
// Where the pixels go is found once for all channels (set), which then pass by one vector after another (fill).
#pragma once
#include "channel_tile.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// Lines first, first + step, ... of an axis, padding included.
struct Lines {
  int64_t first, count, step;
};

template <class T>
class VectorTile {
 public:
  static constexpr int64_t L = Vec<T>::lanes;

  // For rectangles of at most so many rows and columns, these at most `step` apart.
  VectorTile(int64_t most_rows, int64_t most_columns, int64_t step)
      : data_(most_rows * (most_columns + 1) * L), place_(most_rows * 2 * most_columns * step) {}

  const T* data() const { return data_.data(); }
  int64_t pitch() const { return pitch_; }

  // The rectangle; its axes must last until the last fill().
  void set(const AxisPlan& r, Lines rows, const AxisPlan& c, Lines columns, const Strides& strides) {
    rows_axis_ = &r, columns_axis_ = &c, rows_ = rows, columns_ = columns, strides_ = strides;
    pitch_ = (columns.count + 1) * L;  // a row ends in a place for what is not read
    inside_rows_ = InsideRun(r, rows.first, rows.count, rows.step);
    inside_ = InsideRun(c, columns.first, columns.count, columns.step);
    const int64_t first = columns.first + inside_.first * columns.step, count = inside_.last - inside_.first;
    begin_ = first, width_ = count > 0 ? (count - 1) * columns.step + 1 : 0;
    if (2 * width_ >= c.in) begin_ = 0, width_ = c.in;
    for (int64_t w = 0; w < width_; ++w) {
      const int64_t v = begin_ + w - first;
      const bool read = v >= 0 && v % columns.step == 0 && v / columns.step < count;
      place_[w] = int32_t((read ? inside_.first + v / columns.step : columns.count) * L);
    }
    at_once_ = width_ == c.in && strides.h == c.in * strides.w && rows.step == 1;
    for (int64_t i = width_; at_once_ && i < (inside_rows_.last - inside_rows_.first) * width_; ++i)
      place_[i] = int32_t(place_[i - width_] + pitch_);
    std::memset(data_.data(), 0, rows.count * pitch_ * sizeof(T));
  }

  // `lanes` channels, `in` the first of them; the others are zeros.
  template <class In>
  void fill(const In* in, int64_t lanes) {
    for (int64_t row = 0, done; row < rows_.count; row += done) {
      const bool inside = row >= inside_rows_.first && row < inside_rows_.last;
      done = inside && at_once_ ? inside_rows_.last - row : 1;
      const int64_t h = rows_axis_->source(rows_.first + row * rows_.step);
      if (h < 0) continue;
      T* const to = data_.data() + row * pitch_;
      load_channels<T, In>(in + h * strides_.h + begin_ * strides_.w, strides_.c, strides_.w, lanes, done * width_, to,
                           place_.data());
      if (columns_axis_->mode != PaddingMode::zeros)
        for (int64_t i = 0; i < done; ++i) fill_edges(in + (h + i) * strides_.h, lanes, to + i * pitch_);
    }
  }

  template <class F>
  void each_row(F&& f) const {
    for (int64_t row = 0; row < rows_.count; ++row) f(data() + row * pitch_, columns_.count * L);
  }

 private:
  template <class In>
  void fill_edges(const In* row, int64_t lanes, T* to) const {
    constexpr int32_t here = 0;
    for (int64_t x = 0; x < columns_.count; ++x) {
      if (x == inside_.first) x = inside_.last;
      if (x >= columns_.count) break;
      const int64_t w = columns_axis_->source(columns_.first + x * columns_.step);
      if (w >= 0) load_channels<T, In>(row + w * strides_.w, strides_.c, strides_.w, lanes, 1, to + x * L, &here);
    }
  }

  const AxisPlan *rows_axis_ = nullptr, *columns_axis_ = nullptr;
  Lines rows_{}, columns_{};
  Strides strides_{};
  InsideRun inside_rows_, inside_;
  int64_t pitch_ = 0, begin_ = 0, width_ = 0;  // of memory's rows: the pixels that are loaded
  bool at_once_ = false;
  Scratch<T> data_;
  Scratch<int32_t> place_;  // of the pixels of a row, or of all rows
};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
