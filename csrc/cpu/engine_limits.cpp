// What the engine's kernels can't do, and why.
#include "engine.h"
#include "engine_rows.h"

namespace convx {
namespace cpu {

const char* why_not_engine(const ConvProblem& pb, const Operands& o) {
  if (o.dtype == DType::int64) return "it computes in floating point";
  return nullptr;
}

namespace {

// A transformed sum over channels rounds less than a convolution's; of one channel there is no sum, and its transforms
// only add their own rounding: twice torch's error in float64 weight gradients.
const char* why_not_winograd(const ConvProblem& pb, const Operands& o) {
  if (pb.G > 1 && pb.channels_per_group() == 1) return "it is not for depthwise layers, where it would round more";
  return why_not_engine(pb, o);
}

}  // namespace

bool is_line(const ConvProblem& pb) { return (pb.R == 1 && pb.S > 2) || (pb.S == 1 && pb.R > 2); }

// Of more taps the weights' patches would be many times the weights.
const char* why_not_winograd_forward(const ConvProblem& pb, const Operands& o) {
  for (const Axis& a : {pb.rows(), pb.columns()}) {
    if (is_line(pb) && a.kernel == 1) continue;
    if (a.kernel <= a.stride || a.kernel > 8 || (a.dilation != 1 && a.stride != 1))
      return "it is for kernels of 2 to 8 taps, more than the stride, along each axis (or of 3 to 8 along one and "
             "a single one along the other), dilated only at stride 1";
  }
  return why_not_winograd(pb, o);
}

const char* why_not_winograd_grad_input(const ConvProblem& pb, const Operands& o) {
  return why_not_winograd_forward(pb, o);
}

const char* why_not_winograd_grad_weight(const ConvProblem& pb, const Operands& o) {
  if (pb.is_dilated()) return "it is for kernels of 2 to 8 taps along each axis, not dilated";
  return why_not_winograd_forward(pb, o);
}

namespace {

// What a piece of one row of results reads must fit the packed tile of the matrix unit's lines, so many bytes a pixel:
// 64 a term for 32 channels, and three terms at most.
const char* why_not_lines_of(double bytes, const Axis& r, const Axis& c) {
  const double rows = double(r.kernel - 1) * r.dilation + 1, columns = double(c.kernel - 1) * c.dilation + 1;
  constexpr double kMostBytes = 4 << 20;
  return rows * (columns + 32 * c.stride) * bytes > kMostBytes ? "what a row of results reads doesn't fit its tile"
                                                               : nullptr;
}

const char* why_not_lines_forward(const ConvProblem& pb) {
  return why_not_lines_of(6.0 * (pb.channels_per_group() + 31), pb.rows(), pb.columns());
}

const char* why_not_lines_grad_input(const ConvProblem& pb) {
  return why_not_lines_of(6.0 * (pb.outputs_per_group() + 31), pb.rows(), pb.columns());
}

// Of 32 channels, and whole rows of results.
const char* why_not_lines_grad_weight(const ConvProblem& pb) {
  Axis columns = pb.columns();
  columns.stride = (columns.stride * columns.out + 31) / 32;
  return why_not_lines_of(6.0 * 32, pb.rows(), columns);
}

const char* why_not_amx(const Operands& o) {
  if (!current_matrix_engine()) return "it needs AMX";
  return o.dtype == DType::float64 || o.dtype == DType::int64 ? "it is for float32 and the 16-bit types" : nullptr;
}

const char* why_not_pairs(const Operands& o) {
  if (!current_pairs_engine()) return "it needs AVX-512 with products of bfloat16 (VDPBF16PS), and no AMX";
  return o.dtype == DType::bfloat16 ? nullptr : "it is for bfloat16";
}

}  // namespace

const char* why_not_amx_forward(const ConvProblem& pb, const Operands& o) {
  const char* const why = why_not_amx(o);
  return why ? why : why_not_lines_forward(pb);
}

const char* why_not_amx_grad_input(const ConvProblem& pb, const Operands& o) {
  const char* const why = why_not_amx(o);
  return why ? why : why_not_lines_grad_input(pb);
}

const char* why_not_amx_grad_weight(const ConvProblem& pb, const Operands& o) {
  const char* const why = why_not_amx(o);
  return why ? why : why_not_lines_grad_weight(pb);
}

const char* why_not_pairs_forward(const ConvProblem& pb, const Operands& o) {
  const char* const why = why_not_pairs(o);
  return why ? why : why_not_lines_forward(pb);
}

const char* why_not_pairs_grad_input(const ConvProblem& pb, const Operands& o) {
  if (!pb.is_zero_padded()) return "what other padding modes fold is float32";
  const char* const why = why_not_pairs(o);
  return why ? why : why_not_lines_grad_input(pb);
}

const char* why_not_pairs_grad_weight(const ConvProblem& pb, const Operands& o) {
  const char* const why = why_not_pairs(o);
  return why ? why : why_not_lines_grad_weight(pb);
}

// What one row of results reads must fit the tile of a vector of groups.
const char* why_not_tile(double rows, double columns, int64_t channels) {
  return rows * columns * channels * 64 > 512 * 1024 ? "what one row of results reads doesn't fit its tile" : nullptr;
}

const char* why_not_channels(const ConvProblem& pb, const Operands& o) {
  if (const char* why = why_not_engine(pb, o)) return why;
  if (pb.outputs_per_group() * pb.channels_per_group() > 64) return "it is for groups of few channels";
  const Axis r = pb.rows(), c = pb.columns();
  const double rows = double(r.kernel - 1) * r.dilation + 1;
  return why_not_tile(pb.is_zero_padded() && rows > r.in ? r.in : rows,
                      double(c.out) * c.stride + double(c.kernel - 1) * c.dilation, pb.channels_per_group());
}

const char* why_not_channels_grad_input(const ConvProblem& pb, const Operands& o) {
  if (const char* why = why_not_engine(pb, o)) return why;
  if (pb.outputs_per_group() * pb.channels_per_group() > 64) return "it is for groups of few channels";
  const Axis r = pb.rows(), c = pb.columns();
  if (r.stride > 64 || c.stride > 64) return "its tables hold at most 64 phases along an axis";
  const double rows = double(r.kernel - 1) * r.dilation / r.stride + 1;
  return why_not_tile(rows > r.out ? r.out : rows, (double(c.in) + double(c.kernel - 1) * c.dilation) / c.stride + 1,
                      pb.outputs_per_group());
}

namespace {

// What depthwise_rows.h and depthwise_strided.h take: any planes but the smallest.
const char* why_not_rows(const ConvProblem& pb) {
  const bool even = pb.R == 4 && !pb.is_unit_stride();
  if (pb.R != pb.S || (pb.R != 3 && pb.R != 5 && pb.R != 7 && !even) || pb.dilation_h != 1)
    return "it is for kernels of 3x3, 5x5 and 7x7, and with stride 2 of 4x4, not dilated";
  for (const Axis& a : {pb.rows(), pb.columns()})
    for (int64_t tap : {int64_t(0), a.kernel - 1})
      if (const Run inside = a.outputs_inside(tap); inside.first > inside.last || a.out < 4 || a.in < 4)
        return "it needs planes of at least 4 x 4, and every tap inside of them";
  return nullptr;
}

// What depthwise.h takes: planes as lines of equal length.
const char* why_not_lines(const ConvProblem& pb, const Operands& o) {
  if (pb.W != pb.Q) return "it needs as many output as input columns";
  if (o.x.strides.h != pb.W || o.y.strides.h != pb.Q) return "it needs contiguous planes";
  return nullptr;
}

// For one channel a group on the side that is summed over (`inputs`).
const char* why_not_in_place(const ConvProblem& pb, const Operands& o, int64_t inputs) {
  if (!current_engine().in_place.forward) return "it needs the masks of AVX2 or AVX-512";
  if (inputs != 1) return "it is for depthwise layers: one channel a group";
  const bool strided = pb.stride_h == 2 && pb.stride_w == 2 && current_isa() != Isa::avx2 && pb.dilation_w == 1;
  if (!pb.is_unit_stride() && !strided) return "it needs stride 1, or not dilated and on AVX-512 2";
  if (!pb.is_zero_padded()) return "it skips the padding, so it can't read other modes' values there";
  if (o.x.strides.w != 1 || o.y.strides.w != 1) return "it needs contiguous rows";
  if (const char* why = why_not_rows(pb)) {
    if (current_isa() == Isa::avx2 || strided) return why;
    if (const char* why = why_not_lines(pb, o)) return why;
  }
  return why_not_engine(pb, o);
}

}  // namespace

namespace {

// `outputs` results of sums over `steps` elements of what `read` is.
const char* why_not_pixel_rows(const ConvProblem& pb, const Operands& o, int64_t outputs, double steps,
                               const View& read) {
  if (!current_engine().pixel_rows.forward) return "it needs the masks of AVX2 or AVX-512";
  if (o.dtype != DType::float32 && o.dtype != DType::float64) return "it reads float32 and float64 where they are";
  if (outputs != 1) return "it is for one output a group";
  if (!pb.is_zero_padded()) return "it skips the padding, so it can't read other modes' values there";
  if (pb.R > 1 && pb.dilation_h != 1) return "its rows of taps are neighbours";
  if (read.strides.w != 1) return "it needs contiguous rows";
  if (steps > (o.dtype == DType::float32 ? 4096 : 1536)) return "it does not divide its sums into shorter ones";
  return nullptr;
}

}  // namespace

const char* why_not_pixel_rows_forward(const ConvProblem& pb, const Operands& o) {
  if (!pb.is_unit_stride()) return "it needs stride 1";
  return why_not_pixel_rows(pb, o, pb.outputs_per_group(), double(pb.channels_per_group()) * double(pb.R * pb.S), o.x);
}

const char* why_not_pixel_rows_grad_input(const ConvProblem& pb, const Operands& o) {
  const double taps = double((pb.R + pb.stride_h - 1) / pb.stride_h) * double((pb.S + pb.stride_w - 1) / pb.stride_w);
  return why_not_pixel_rows(pb, o, pb.channels_per_group(), double(pb.outputs_per_group()) * taps, o.y);
}

const char* why_not_in_place_forward(const ConvProblem& pb, const Operands& o) {
  return why_not_in_place(pb, o, pb.channels_per_group());
}

const char* why_not_in_place_grad_input(const ConvProblem& pb, const Operands& o) {
  return why_not_in_place(pb, o, pb.outputs_per_group());
}

const char* why_not_in_place_grad_weight(const ConvProblem& pb, const Operands& o) {
  return why_not_in_place_forward(pb, o);
}

}  // namespace cpu
}  // namespace convx
