// Which of the engine's kernels is the right one for a problem that several can do: by its sizes and the instruction
// set, from what was measured (docs/cpu-log.md; `python -m benchmarks.algorithms` measures it again). A sample's bits
// must not depend on the others, so neither must the choice between kernels that add in another order: not by the
// batch.
#include "engine.h"
#include "engine_rows.h"

namespace convx {
namespace cpu {

namespace {

// A convolution's sizes as the kernels see them. grad_input's are those of one phase of the stride.
struct Sizes {
  int64_t outputs, taps, steps, pixels, columns;
  bool pointwise;
};

Sizes forward_sizes(const ConvProblem& pb) {
  return {pb.outputs_per_group(), pb.R * pb.S, pb.channels_per_group() * pb.R * pb.S,
          pb.N * pb.P * pb.Q,     pb.Q,        pb.R * pb.S == 1};
}

Sizes grad_input_sizes(const ConvProblem& pb) {
  Sizes s;
  s.columns = ceil_div(pb.W, pb.stride_w);
  s.outputs = pb.channels_per_group();
  s.taps = ceil_div(pb.R, pb.stride_h) * ceil_div(pb.S, pb.stride_w);
  s.pixels = pb.N * ceil_div(pb.H, pb.stride_h) * s.columns;
  s.pointwise = pb.R <= pb.stride_h && pb.S <= pb.stride_w;
  if (pb.phases_read_the_same()) {  // one product for all phases
    const int64_t patch = pb.Q == 1 ? pb.S : pb.stride_w;
    s.columns = pb.Q;
    s.outputs *= pb.R * patch;
    s.taps = pb.S / patch;
    s.pixels = pb.N * pb.P * pb.Q;
    s.pointwise = s.taps == 1;
  }
  s.steps = pb.outputs_per_group() * s.taps;
  return s;
}

// Across channels, a group's outputs share vectors, and few leave most lanes idle. And a sum of few steps takes less
// time there than turning its results over. (Of how many steps was measured with vectors of 64 and of 32 bytes.)
bool suits_pixels(const Sizes& s) {
  if (s.outputs <= 4) return true;
  if (s.columns < 16) return false;
  const int64_t few_steps = current_isa() == Isa::avx2 ? 40 : 150;
  return s.outputs <= 12 || (s.steps <= few_steps && !s.pointwise);
}

// Results that leave with their channels as neighbours would be turned over: 0.4 to 0.6 times outer_product's speed.
bool leaves_channels_last(const View& results, int64_t outputs) {
  return outputs >= 8 && results.strides.c == 1 && results.strides.w != 1;
}

// Where weights are many and meet few pixels (with 48 and 64 panels took 0.6 to 0.9 of outer_product's time, with 128
// and 196 up to 1.3 times as long), and where a tile would be a copy of the input. (A large filter would have a
// channel's tile packed again for each slab of its taps.)
bool suits_panels(const ConvProblem& pb, const Sizes& s) {
  constexpr int64_t kFewPixels = 100;
  return s.pointwise || (s.pixels <= kFewPixels && s.taps <= 64 && many_weights(pb));
}

}  // namespace

bool many_weights(const ConvProblem& pb) { return pb.K * pb.channels_per_group() * pb.R * pb.S >= 1 << 20; }

// The phases of 3x3 filters at stride 2 have one, two or four taps: `pixels` packs one tile for all of them and stores
// their columns in turns, where others turn over four times as many results as they have products for. It took 0.5 to
// 1.0 of the best other time up to so many products a pixel of y, 1.02 to 1.14 times it with twice as many, and on
// phases of 7 x 7 as many more, but for few channels.
bool phases_suit_pixels(const ConvProblem& pb, const Operands& o) {
  if (pb.stride_w != 2 || pb.S != 3 || pb.R > 3 || pb.stride_h > 2 || pb.phases_read_the_same() ||
      leaves_channels_last(o.x, pb.channels_per_group()))
    return false;
  constexpr int64_t kPlane = 100;
  const int64_t most = current_isa() == Isa::avx2 ? 1 << 14 : 1 << 13;
  const Sizes s = grad_input_sizes(pb);
  return s.outputs * s.steps <= (s.pixels < kPlane * pb.N ? most / 2 : most);
}

namespace {

constexpr double kWorthItsTiles = 1 << 19;  // multiply-adds

// The matrix unit multiplies 16 times as fast as vectors do, but terms cost float32 six products and float16 four, and
// its tiles are 32 channels deep, 32 outputs wide and run over the halo between rows: `used` is the share that counts.
bool suits_amx(DType dtype, int64_t inputs, int64_t outputs, int64_t pixels, int64_t run, double multiply_adds) {
  const auto share = [](int64_t n, int64_t of) { return double(n) / double(ceil_div(n, of) * of); };
  const double used = share(inputs, 32) * share(outputs, 16) * double(pixels) / double(ceil_div(run, 16) * 16);
  const double least = dtype == DType::float32 ? 0.6 : dtype == DType::float16 ? 0.4 : 0.2;
  return inputs >= 16 && outputs >= 8 && multiply_adds >= kWorthItsTiles && used >= least;
}

// Few outputs leave much of a tile empty, and the unit must have much to sum to make up for it: bfloat16 took 0.55 to
// 0.9 times `pixels`' time with 726 products a result and more, 0.75 to 1.1 with 576, 1.7 times with 283.
bool suits_amx_of_few(DType dtype, int64_t inputs, int64_t outputs, double taps, double multiply_adds) {
  constexpr double kProducts = 700;
  return dtype == DType::bfloat16 && inputs >= 32 && outputs < 8 && double(inputs) * taps >= kProducts &&
         multiply_adds >= kWorthItsTiles;
}

// Few inputs, whose lines are filled with a row of taps (amx_taps.h). Copying a line must be paid for by its products
// with all outputs: bfloat16 took the same time as the best other kernel with 576 of them (3 channels, 3x3, 64
// outputs), 0.5 to 0.8 of it from 768 on, 1.2 times with 288. In channels_last it took 0.4 to 0.8 with 288.
bool suits_amx_of_taps(const ConvProblem& pb, const Operands& o, double multiply_adds) {
  const int64_t line = pb.channels_per_group() * pb.S;
  const int64_t fewest = o.x.strides.c == 1 && pb.channels_per_group() > 1 ? 288 : 576;
  return o.dtype == DType::bfloat16 && pb.dilation_w == 1 && 2 * ceil_div(line, 32) <= pb.S &&
         line * pb.outputs_per_group() >= fewest && multiply_adds >= kWorthItsTiles;
}

// The results of a plane of count_h x count_w, and their run over a halo of `span` columns.
bool suits_amx(DType dtype, int64_t inputs, int64_t outputs, int64_t count_h, int64_t count_w, int64_t span,
               bool pointwise, double multiply_adds) {
  if (pointwise) span = 0;
  return suits_amx(dtype, inputs, outputs, count_h * count_w, (count_h - 1) * (count_w + span) + count_w,
                   multiply_adds);
}

// float32 is split into three terms, a pass over each operand that its uses must pay for. 128 multiply-adds take
// vectors 4 cycles and the unit, six for one, 1.5; the rest is about what packing and splitting cost: with up to 72
// uses of each element of the input the unit had 0.6 to 0.75 times the best other speed, with 128 0.9, with 192 1.15
// and from 576 on mostly 1.2 to 1.6. How often a weight is used depends on the batch as well, which must not matter
// here: so only where weights are more than a cache holds and meet few pixels of an image. (With 64 pixels, four images
// broke even.) Pointwise layers are left out: of 23, four gained up to 1.3 times in forward and eight up to 1.5
// times in grad_input, the others took up to twice as long, and no rule was found that tells them apart. So are 3x3
// filters at stride 2, which gained a tenth at most.
bool pays_for_terms(const ConvProblem& pb, DType dtype, int64_t uses_of_input, int64_t pixels) {
  constexpr int64_t kUses = 128;
  const bool few_taps_a_phase = pb.stride_h < pb.R && pb.stride_w < pb.S && pb.stride_h * pb.stride_w > 1 &&
                                pb.R < 2 * pb.stride_h && pb.S < 2 * pb.stride_w;
  return dtype != DType::float32 ||
         (pb.R * pb.S > 1 && !few_taps_a_phase && uses_of_input > kUses && (pixels > kUses || !many_weights(pb)));
}

// Of `uses` by all taps: a phase of the input meets its own taps, and one of the results packs its input anew.
int64_t of_one_phase(const ConvProblem& pb, int64_t uses) {
  return uses / (pb.stride_h < pb.R ? pb.stride_h : pb.R) / (pb.stride_w < pb.S ? pb.stride_w : pb.S);
}

// Not of the batch: what a sample's result is must not depend on the others.
double of_one_image(const ConvProblem& pb) { return pb.multiply_adds() / double(pb.N > 1 ? pb.N : 1); }

}  // namespace

// float32's three terms pay for more than 3x3 taps where tiles are full: then all three primitives took 0.75 to 0.9 of
// the best other time. With 32 channels or 7 x 7 results they took 1.2 to 1.5 times as long.
bool fills_amx_with_taps(const ConvProblem& pb) {
  constexpr int64_t kChannels = 64, kResults = 150;
  return pb.R * pb.S > 9 && pb.stride_h == 1 && pb.stride_w == 1 && pb.channels_per_group() >= kChannels &&
         pb.outputs_per_group() >= kChannels && pb.P * pb.Q >= kResults;
}

bool suits_amx_forward(const ConvProblem& pb, const Operands& o) {
  if (suits_amx_of_few(o.dtype, pb.channels_per_group(), pb.outputs_per_group(), double(pb.R) * double(pb.S),
                       of_one_image(pb)) ||
      suits_amx_of_taps(pb, o, of_one_image(pb)))
    return true;
  return suits_amx(o.dtype, pb.channels_per_group(), pb.outputs_per_group(), pb.P, pb.Q,
                   (pb.S - 1) * pb.dilation_w / pb.stride_w, pb.R * pb.S == 1, of_one_image(pb)) &&
         pays_for_terms(pb, o.dtype, of_one_phase(pb, pb.outputs_per_group() * pb.R * pb.S), pb.P * pb.Q);
}

bool suits_amx_grad_input(const ConvProblem& pb, const Operands& o) {
  const int64_t outputs = pb.channels_per_group(), uses = outputs * pb.R * pb.S;
  const int64_t span = (pb.S - 1) * pb.dilation_w / pb.stride_w;
  if (pb.phases_read_the_same())
    return suits_amx(o.dtype, pb.outputs_per_group(), uses, pb.P, pb.Q, 0, true, of_one_image(pb)) &&
           pays_for_terms(pb, o.dtype, uses, pb.P * pb.Q);
  if (phases_suit_pixels(pb, o)) return false;
  const double taps = double(pb.R) * double(pb.S) / double(pb.stride_h) / double(pb.stride_w);
  if (suits_amx_of_few(o.dtype, pb.outputs_per_group(), outputs, taps, of_one_image(pb))) return true;
  const int64_t rows = ceil_div(pb.H, pb.stride_h), columns = ceil_div(pb.W, pb.stride_w);
  return suits_amx(o.dtype, pb.outputs_per_group(), outputs, rows, columns, span, pb.R * pb.S == 1, of_one_image(pb)) &&
         pays_for_terms(pb, o.dtype, of_one_phase(pb, uses), rows * columns);
}

namespace {

// Few inputs, whose column taps are lanes beside them (PairTile in amx_weight.h): bfloat16 took 0.25 to 0.9 of the best
// other time from five such lanes and 16 outputs on, 1.0 to 1.5 times with three lanes, 1.0 to 3 times with 8 outputs.
bool suits_amx_of_lanes(const ConvProblem& pb, DType dtype) {
  return dtype == DType::bfloat16 && pb.channels_per_group() <= 8 && pb.S > 1 && pb.channels_per_group() * pb.S >= 5 &&
         pb.outputs_per_group() >= 16 && pb.multiply_adds() >= kWorthItsTiles;
}

}  // namespace

// Both operands are split and turned over anew for each block of results: in float32 many taps must meet them.
bool suits_amx_grad_weight(const ConvProblem& pb, const Operands& o) {
  if (suits_amx_of_lanes(pb, o.dtype)) return true;
  return (o.dtype != DType::float32 || fills_amx_with_taps(pb)) &&
         suits_amx(o.dtype, pb.channels_per_group(), pb.outputs_per_group(), pb.P, pb.Q,
                   (pb.S - 1) * pb.dilation_w / pb.stride_w, pb.R * pb.S == 1, pb.multiply_adds());
}

namespace {

// Vectors that multiply pairs of bfloat16 (pairs_product.h), measured on Zen 4 over all of benchmarks/shapes: 0.5 to
// 0.75 of outer_product's time, and of winograd's 0.8 to 1.1 in forward and grad_input. Half a vector of outputs or
// half a line of inputs will do. Rows shorter than 4 leave registers empty, but for planes so small that blocks are of
// several images: 3x3 filters of 512 channels on 3 x 3 took 0.6 of the best other time with 8 images, 0.55 with 32, as
// long with one; on 2 x 2 with 256 channels half of it.
bool suits_pairs(int64_t inputs, int64_t outputs, int64_t rows, int64_t columns, double multiply_adds) {
  constexpr int64_t kShort = 4, kSmall = 49;
  return inputs >= 16 && outputs >= 16 && (columns >= kShort || (columns > 1 && rows * columns <= kSmall)) &&
         multiply_adds >= kWorthItsTiles;
}

// Few inputs fill lines with a row of taps (amx_taps.h): with five and 48 outputs or more 0.7 to 0.9 of the best other
// time, with nine and 32 0.9, with twenty mostly 0.3 to 0.9.
bool suits_pairs_of_taps(const ConvProblem& pb, int64_t inputs, int64_t outputs) {
  const int64_t line = inputs * pb.S;
  return inputs < 16 && pb.S > 1 &&
         ((line >= 5 && outputs >= 48) || (line >= 9 && outputs >= 32) || (line >= 20 && outputs >= 8)) &&
         of_one_image(pb) >= kWorthItsTiles;
}

// Few outputs have column taps beside them (amx_few_outputs.h): 0.73 to 0.83 of `pixels`' time with 3136 to 6272
// products, 1.15 with 1152.
bool suits_pairs_of_few(const ConvProblem& pb, int64_t inputs, int64_t outputs) {
  constexpr int64_t kProducts = 2000;
  return inputs >= 32 && outputs < 16 && inputs * pb.R * pb.S >= kProducts && of_one_image(pb) >= kWorthItsTiles;
}

}  // namespace

bool suits_pairs_forward(const ConvProblem& pb, const Operands&) {
  const int64_t inputs = pb.channels_per_group(), outputs = pb.outputs_per_group();
  return suits_pairs(inputs, outputs, pb.P, pb.Q, of_one_image(pb)) || suits_pairs_of_taps(pb, inputs, outputs) ||
         suits_pairs_of_few(pb, inputs, outputs);
}

// Phases of less than 7 x 7 results took 1.3 to 1.45 times winograd's time, and at stride 1 such planes 1.15 with few
// weights (0.35 to 0.9 with 64 x 64 channels and more). Phases of less than 32 channels on a side took 1.5 times
// `pixels`'; 16 inputs on a large plane 1.35 times winograd's.
bool suits_pairs_grad_input(const ConvProblem& pb, const Operands& o) {
  constexpr int64_t kFewest = 49, kMany = 10000, kPairs = 64 * 64;  // results, and channels times outputs
  const int64_t inputs = pb.outputs_per_group(), outputs = pb.channels_per_group();
  if (phases_suit_pixels(pb, o)) return false;
  const double work = of_one_image(pb);
  if (pb.phases_read_the_same()) return inputs >= 32 && suits_pairs(inputs, outputs * pb.R * pb.S, pb.P, pb.Q, work);
  const int64_t rows = ceil_div(pb.H, pb.stride_h), columns = ceil_div(pb.W, pb.stride_w);
  if (rows * columns < kFewest && (!pb.is_unit_stride() || inputs * outputs < kPairs)) return false;
  if (!pb.is_unit_stride()) return inputs >= 32 && outputs >= 32 && suits_pairs(inputs, outputs, rows, columns, work);
  return (suits_pairs(inputs, outputs, rows, columns, work) && (inputs >= 32 || rows * columns < kMany)) ||
         suits_pairs_of_taps(pb, inputs, outputs) || suits_pairs_of_few(pb, inputs, outputs);
}

// Of few inputs lanes are taps: with 48 to 363 of them 0.6 to 0.9 of the best other time, with 9 to 36 as long or up to
// 1.7 times. With 3 and 9 outputs, 0.66 and 0.75. Of 11 channels and 9 outputs, whose filters have 1008 taps, 0.47.
bool suits_pairs_grad_weight(const ConvProblem& pb, const Operands&) {
  constexpr int64_t kLanes = 48, kManyTaps = 500;
  const int64_t inputs = pb.channels_per_group(), outputs = pb.outputs_per_group();
  const bool few_inputs = inputs <= 8 && pb.S > 1 && inputs * pb.R * pb.S >= kLanes && outputs >= 32,
             few_outputs = inputs >= 32 && outputs >= 3,
             many_taps = inputs >= 8 && outputs >= 8 && pb.R * pb.S >= kManyTaps;
  return suits_pairs(few_inputs || many_taps ? 16 : inputs, few_outputs || many_taps ? 16 : outputs, pb.P, pb.Q,
                     pb.multiply_adds());
}

namespace {

// Pointwise layers of so many pixels on short planes: a tile is copied once, where pixel_panels.h copies panels and
// panels.h copies twice. Of more inputs than kManyInputs either copy takes longer than it gains.
constexpr int64_t kShortPlane = 576, kFewPixels = 600, kManyInputs = 1024;

// Pointwise layers whose planes are lines in memory, as pixel_panels.h has them: 0.73 to 1.0 of the best other time on
// planes of 24 x 24 and more. Short ones are copied: 1.02 to 1.3 times outer_product's time, but 0.85 to 0.93 where a
// fifth of the lanes would have no output and inputs are many. Of few pixels or of many channels too much is spent on
// packing: 0.9 to 1.6. 16-bit results are written from beside: 1.1 to 1.35 times. It adds up as outer_product does, so
// the batch may count; pixels.h, which has fewer outputs, does not.
bool suits_pixel_panels(const ConvProblem& pb, DType dtype, const View& in, const View& out, int64_t inputs,
                        int64_t outputs) {
  constexpr int64_t kFewOutputs = 12, kLanes = 16, kPlane = 64, kInputs = 128;
  if (pb.R * pb.S != 1 || pb.pad_h != 0 || pb.pad_w != 0 || !pb.is_unit_stride() || in.strides.w != 1 ||
      out.strides.w != 1 || (pb.H != 1 && (in.strides.h != pb.W || out.strides.h != pb.W)))
    return false;
  const bool idle_lanes =
      dtype == DType::float32 && inputs >= kInputs && 5 * ceil_div(outputs, kLanes) * kLanes >= 6 * outputs;
  return (dtype == DType::float32 || dtype == DType::float64) && inputs <= kManyInputs && outputs > kFewOutputs &&
         pb.H * pb.W >= (idle_lanes ? kPlane : kShortPlane) && pb.N * pb.H * pb.W >= kFewPixels;
}

}  // namespace

bool suits_pixels_forward(const ConvProblem& pb, const Operands& o) {
  return suits_pixel_panels(pb, o.dtype, o.x, o.y, pb.channels_per_group(), pb.outputs_per_group()) ||
         (suits_pixels(forward_sizes(pb)) && !leaves_channels_last(o.y, pb.outputs_per_group()));
}
bool suits_pixels_grad_input(const ConvProblem& pb, const Operands& o) {
  return phases_suit_pixels(pb, o) ||
         suits_pixel_panels(pb, o.dtype, o.y, o.x, pb.outputs_per_group(), pb.channels_per_group()) ||
         (suits_pixels(grad_input_sizes(pb)) && !leaves_channels_last(o.x, pb.channels_per_group()));
}

namespace {

// Below, the sums of a strip are loaded and stored for few products, or blocks stick out of planes. (Measured in
// float32: 1.1 to 1.8 times as fast as pixels from 9 taps a phase and 28 x 28 on, 0.7 with 5.)
bool suits_pixel_rows(const Sizes& s, double taps, int64_t rows) { return taps >= 8 && rows >= 8 && s.columns >= 16; }

}  // namespace

bool suits_pixel_rows_forward(const ConvProblem& pb, const Operands&) {
  return suits_pixel_rows(forward_sizes(pb), double(pb.R) * pb.S, pb.P);
}
bool suits_pixel_rows_grad_input(const ConvProblem& pb, const Operands&) {
  return suits_pixel_rows(grad_input_sizes(pb), double(pb.R) * pb.S / pb.stride_h / pb.stride_w, pb.H / pb.stride_h);
}

namespace {

// Of short planes that are lines in memory panels took 1.0 to 1.1 times outer_product's time.
bool suits_tile(const Sizes& s, const View& in, int64_t inputs, int64_t plane) {
  return s.pointwise && in.strides.w == 1 && plane < kShortPlane && s.pixels >= kFewPixels && inputs <= kManyInputs;
}

}  // namespace

// With a stride a pointwise layer's input is packed as a tile all the same, and then dealt out: of 350 pixels and more
// that took 1.03 to 1.4 times as long.
bool suits_panels_forward(const ConvProblem& pb, const Operands& o) {
  constexpr int64_t kManyPixels = 350;
  const Sizes s = forward_sizes(pb);
  const bool picks = s.pointwise && (pb.stride_h > 1 || pb.stride_w > 1);
  return suits_panels(pb, s) && !(picks && s.pixels > kManyPixels) &&
         !suits_tile(s, o.x, pb.channels_per_group(), pb.P * pb.Q);
}
bool suits_panels_grad_input(const ConvProblem& pb, const Operands& o) {
  const Sizes s = grad_input_sizes(pb);
  return suits_panels(pb, s) && !(pb.is_unit_stride() && suits_tile(s, o.y, pb.outputs_per_group(), pb.P * pb.Q));
}

// Half a vector of groups or more, of few channels each: below, outer_product.h fills its vectors better.
bool many_groups(const ConvProblem& pb, const Operands&) {
  return pb.G >= 8 && pb.outputs_per_group() * pb.channels_per_group() <= 8;
}

namespace {

// Whether it is one of depthwise_rows.h's kernels.
bool has_rows(const ConvProblem& pb) {
  return pb.R == pb.S && (pb.R == 3 || pb.R == 5 || pb.R == 7) && pb.dilation_h == 1;
}

bool is_16_bit(DType dtype) { return dtype == DType::float16 || dtype == DType::bfloat16; }

// Of a plane, for depthwise_rows.h to be faster than depthwise_channels.h. Short rows leave AVX-512's vectors of
// float32 half empty, which 3x3 makes up for from 12 x 12 on by not turning anything over. 16-bit types are converted
// into a plane beside and back.
int64_t fewest_results_in_rows(const ConvProblem& pb, const Operands& o) {
  const bool copies = is_16_bit(o.dtype);
  if (current_isa() == Isa::avx2) return copies ? (pb.R == 7 ? 4000 : 190) : pb.R == 7 ? 400 : 140;
  if (o.dtype == DType::float64) return pb.R == 3 ? 49 : 150;
  return pb.R == 3 ? 140 : pb.R == 5 ? 500 : copies ? 1500 : 900;
}

// depthwise_small.h's planes, on AVX-512: 0.3 to 0.65 of depthwise_channels.h's time.
bool has_small_planes(const ConvProblem& pb, const Operands& o) {
  return current_isa() != Isa::avx2 && has_rows(pb) && pb.dilation_w == 1 && pb.pad_h == pb.R / 2 && pb.P == pb.H &&
         is_small_plane(pb.H, pb.Q > pb.W ? pb.Q : pb.W, pb.R, o.dtype == DType::float64 ? 8 : 16);
}

// In place a multiply-add costs twice what it costs across channels, but nothing is turned over: measured, nine taps
// gain nothing on planes of 14 x 14, and 25 lose everywhere, unless there are blocks of rows for them. Without those,
// 16-bit types lose too: turned over, they are converted on the way.
bool better_in_rows(const ConvProblem& pb, const Operands& o) {
  if (!many_groups(pb, o)) return pb.outputs_per_group() * pb.channels_per_group() <= 4;  // not a first layer
  if (!has_rows(pb)) return !is_16_bit(o.dtype) && pb.R * pb.S <= 9 && pb.H * pb.W >= 784;
  return pb.P * pb.Q >= fewest_results_in_rows(pb, o);
}

// depthwise_strided.h, which takes two loads and a shuffle for an input, where nothing is turned over: measured with 32
// to 576 groups, 1.1 to 1.6 times depthwise_channels.h's speed from 14 x 14 results on, 0.7 to 0.9 of it on 7 x 7 and 9
// x 9 and with 7x7 taps. 16-bit types are converted apart: 1.0 to 1.1, of grad_input, which reads a fourth, 1.1 to 1.3.
// Of one to four groups 1.2 to 3.9 times pixels.h's. (grad_input converts whole planes, which must not become large.)
bool better_strided(const ConvProblem& pb, const Operands& o, bool grad_input) {
  constexpr int64_t kResults = 150, kMany = 1000, kConverted = 4096, kLargePlane = 1 << 18;
  if (is_16_bit(o.dtype) && grad_input && pb.H * pb.W > kLargePlane) return false;
  if (!many_groups(pb, o)) return pb.outputs_per_group() * pb.channels_per_group() <= 4;
  const int64_t results = pb.P * pb.Q;
  if (pb.R == 7) return !grad_input && !is_16_bit(o.dtype) && results >= kMany;
  return results >= (is_16_bit(o.dtype) && !grad_input && pb.R != 4 ? kConverted : kResults);
}

bool better_in_place(const ConvProblem& pb, const Operands& o) {
  return (many_groups(pb, o) && has_small_planes(pb, o)) || better_in_rows(pb, o);
}

}  // namespace

bool better_in_place_forward(const ConvProblem& pb, const Operands& o) {
  return pb.is_unit_stride() ? better_in_place(pb, o) : better_strided(pb, o, false);
}
bool better_in_place_grad_input(const ConvProblem& pb, const Operands& o) {
  return pb.is_unit_stride() ? better_in_place(pb, o) : better_strided(pb, o, true);
}

// For the gradient of the weight both sides are turned over and nothing is turned back, which is cheaper: rows in place
// are worth their half empty vectors, and on AVX2 more passes for want of registers, on larger planes only.
bool better_in_place_grad_weight(const ConvProblem& pb, const Operands& o) {
  if (!pb.is_unit_stride()) return better_strided(pb, o, false);
  if (many_groups(pb, o) && has_small_planes(pb, o)) return true;
  if (!better_in_rows(pb, o)) return false;
  if (!many_groups(pb, o)) return true;
  if (!has_rows(pb)) return pb.W > 256;
  const int64_t results = pb.P * pb.Q;
  if (current_isa() == Isa::avx2) return !is_16_bit(o.dtype) && results >= (pb.R == 3 ? 250 : pb.R == 5 ? 784 : 3000);
  if (is_16_bit(o.dtype) && pb.R == 3) return results >= 20000;
  return results >= (o.dtype == DType::float64 ? 250 : 1500);
}

bool small_groups(const ConvProblem& pb, const Operands&) {
  return pb.outputs_per_group() * pb.channels_per_group() <= 8 || pb.channels_per_group() * pb.R * pb.S <= 9;
}

}  // namespace cpu
}  // namespace convx
