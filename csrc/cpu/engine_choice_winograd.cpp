// Which problems are Winograd's by default: those whose products become so many fewer that it pays for the transforms.
// Measured, as all of engine_choice.cpp; benchmarks/algorithms.py shows what is left on the table.
#include "engine_rows.h"

namespace convx {
namespace cpu {

namespace {

constexpr int64_t kFewest = 16;  // pixels of both planes: few taps reach smaller ones, and patches are mostly edge

// Products along an axis for `count` results of so many neighbouring taps, in runs of at most `most`, each for a patch
// of so many inputs, 4 or 6 (PatchPhases in winograd_tile.h).
double products_of_runs(int64_t taps, int64_t count, int64_t most, int64_t inputs = 4) {
  const int64_t runs = ceil_div(taps, most), whole = taps - runs * (most - 1);
  return double((inputs == 4 ? 3 : 6) * runs + (whole > 0 ? whole : 0)) * double(ceil_div(count, inputs + 1 - most));
}

// 3x3 filters at stride 1, not dilated, are F(4x4, 3x3).
bool is_three(const Axis& a) { return a.kernel == 3 && a.stride == 1 && a.dilation == 1; }
bool is_f43(const ConvProblem& pb) { return is_three(pb.rows()) && is_three(pb.columns()); }

// Three taps by patches of four results, and one of two at the edge.
double products_of_three(int64_t count) {
  const int64_t rest = count % 4;
  return double(count / 4 * 7 + (rest == 0 ? 0 : rest <= 2 ? 4 : 7));
}

// The input's remainders modulo the stride have taps of their own, and share the results' patches.
double products(const Axis& a, int64_t count, int64_t most) {
  if (is_three(a) && most == 3) return products_of_three(count);
  double sum = 0;
  for (int64_t r = 0; r < a.stride && r < a.kernel; ++r)
    sum += products_of_runs(ceil_div(a.kernel - r, a.stride), count, most);
  return sum;
}

// The results' remainders modulo the stride, each a convolution of its own; one of a single tap is not Winograd's.
double products_of_remainders(const Axis& a, int64_t count) {
  if (is_three(a)) return products_of_three(count);
  double sum = 0;
  for (int64_t r = 0; r < a.stride && r < a.kernel; ++r) {
    const int64_t taps = ceil_div(a.kernel - r, a.stride);
    const double two = products_of_runs(taps, count, 2), three = products_of_runs(taps, count, 3);
    sum += taps == 1 ? double(count) : two < three ? two : three;
  }
  return sum;
}

// Both sides' transforms must meet enough of the other side, and the products become fewer by a factor that pays for
// them. 3x3 filters take 2.9 times fewer, but for patches that are edge: 1.86 with results of 5 x 5. (Measured with
// patches of 2 x 2 results, 1.56 times fewer there, which gained a tenth to a third. Nothing here depends on the batch,
// as a sample's result must not.)
bool suits_winograd(const ConvProblem& pb, int64_t rows, int64_t columns, double products, double fewer = 1.45) {
  constexpr int64_t kChannels = 16;
  return pb.channels_per_group() >= kChannels && pb.outputs_per_group() >= kChannels && rows * columns >= kFewest &&
         double(pb.R * pb.S) * double(rows * columns) >= fewer * products;
}

// A filter of one row or column: F(4, 3) or F(3, 4), of 6 inputs.
double products_of_line(const Axis& a, int64_t count) {
  const bool ends_short = (count - 1) % 4 < 2;
  const double three = products_of_runs(a.kernel, count, 3, 6) - (ends_short ? 3 * double(ceil_div(a.kernel, 3)) : 0),
               four = products_of_runs(a.kernel, count, 4, 6);
  return three < four ? three : four;
}

// Measured with 3, 5 and 7 taps on planes of 8 x 8, 17 x 17 and 35 x 35. From 64 x 64 channels on, forward and
// grad_input of 5 and 7 took 0.75 to 0.95 of the time, with 16 or 32 about as long. Of 3 vectors along pixels
// (pixel_panels.h), which transform nothing, are as fast, but for many channels: from 256 x 256 on 0.8 to 0.95. Weight
// gradients took 0.7 to 0.95 from 32 x 32 on. One image of 17 x 17 with 192 channels took 1.15 times as long, four 0.8.
// The matrix unit was not measured beside it; pairs of bfloat16 are faster.
bool line_suits_winograd(const ConvProblem& pb, bool others_suit, int64_t rows, int64_t columns, int64_t fewest_pairs) {
  const Axis r = pb.rows(), c = pb.columns();
  return !others_suit && pb.is_unit_stride() && pb.channels_per_group() * pb.outputs_per_group() >= fewest_pairs &&
         suits_winograd(
             pb, rows, columns,
             pb.R == 1 ? double(rows) * products_of_line(c, columns) : double(columns) * products_of_line(r, rows));
}

int64_t fewest_pairs_of_line(const ConvProblem& pb) { return pb.R * pb.S == 3 ? 256 * 256 : 64 * 64; }

// Transformed, filters of three runs along an axis are more than a cache holds too often: 7x7 took 0.85 to 1.2 times
// outer_product's time.
bool few_runs(const ConvProblem& pb) { return is_line(pb) || (pb.R <= 6 * pb.stride_h && pb.S <= 6 * pb.stride_w); }

// Each remainder of a dilation transforms the weights again.
bool few_remainders(const ConvProblem& pb) { return pb.dilation_h <= 2 && pb.dilation_w <= 2; }

// Pairs of bfloat16 on vectors: twice the products of float32, against 2.9 times fewer and transforms, of 3x3 filters
// at stride 1. Those gained 1.05 to 1.25 on planes of 1000 results and more with 32 channels and more, a tenth down to
// 28 x 28 if transformed weights met enough channels (0.89 to 1.0 with 96 x 128 and 128 x 128), and on 14 x 14 with
// 512 x 512 only: 0.95 to 1.15 with 256 x 256.
bool better_by_pairs(const ConvProblem& pb, const char* why_not, bool suits, int64_t inputs, int64_t results) {
  constexpr int64_t kLarge = 1000, kMedium = 750, kSmall = 196, kInputs = 32, kWeights = 128 * 128, kMany = 512 * 512;
  const int64_t weights = pb.channels_per_group() * pb.outputs_per_group();
  const bool transforms_pay = results >= kLarge    ? inputs >= kInputs
                              : results >= kMedium ? weights >= kWeights
                                                   : results >= kSmall && weights >= kMany;
  return !why_not && suits && !(is_f43(pb) && transforms_pay);
}

// float32's six products on the unit take 1.2 times as long as winograd (1.6 where others use the unit too), unless
// that has to transform larger filters run by run. 16-bit types have four products or one.
bool better_on_amx(const ConvProblem& pb, const Operands& o, const char* why_not, bool suits) {
  return (o.dtype != DType::float32 || fills_amx_with_taps(pb)) && !why_not && suits;
}

}  // namespace

bool suits_winograd_forward(const ConvProblem& pb, const Operands& o) {
  if (better_on_amx(pb, o, why_not_amx_forward(pb, o), suits_amx_forward(pb, o)) ||
      better_by_pairs(pb, why_not_pairs_forward(pb, o), suits_pairs_forward(pb, o), pb.channels_per_group(),
                      pb.P * pb.Q) ||
      !few_remainders(pb) || !few_runs(pb))
    return false;
  const Axis r = pb.rows(), c = pb.columns();
  const int64_t rows = ceil_div(pb.P, pb.dilation_h), columns = ceil_div(pb.Q, pb.dilation_w);
  if (is_line(pb))
    return line_suits_winograd(pb, !why_not_amx_forward(pb, o) && suits_amx_forward(pb, o), rows, columns,
                               fewest_pairs_of_line(pb));
  const auto fewest = [](const Axis& a, int64_t count) {
    const double two = products(a, count, 2), three = products(a, count, 3);
    return two < three ? two : three;
  };
  // Of few channels, the packing of a strided tile takes outer_product longer than products do: with 16 x 32 to 64 x
  // 128 it took 1.0 to 1.75 times as long on planes of 14 x 14 and 28 x 28, on smaller ones 0.55 to 0.8, with 128 x 128
  // 0.75. In float64, whose products take twice as long, 0.65 to 1.1.
  constexpr int64_t kPairs = 1 << 13, kPlane = 140;
  const bool packs = o.dtype != DType::float64 && (pb.stride_h > 1 || pb.stride_w > 1) && !many_weights(pb) &&
                     rows * columns >= kPlane && pb.channels_per_group() * pb.outputs_per_group() <= kPairs;
  return suits_winograd(pb, rows, columns, fewest(r, rows) * fewest(c, columns), packs ? 1.0 : 1.45);
}

bool suits_winograd_grad_input(const ConvProblem& pb, const Operands& o) {
  if (better_on_amx(pb, o, why_not_amx_grad_input(pb, o), suits_amx_grad_input(pb, o)) ||
      better_by_pairs(pb, why_not_pairs_grad_input(pb, o), suits_pairs_grad_input(pb, o), pb.outputs_per_group(),
                      pb.H * pb.W) ||
      phases_suit_pixels(pb, o) || !few_remainders(pb) || !few_runs(pb) || pb.P * pb.Q < kFewest)
    return false;
  const int64_t rows = ceil_div(pb.H, pb.stride_h * pb.dilation_h),
                columns = ceil_div(pb.W, pb.stride_w * pb.dilation_w);
  if (is_line(pb))
    return line_suits_winograd(pb, !why_not_amx_grad_input(pb, o) && suits_amx_grad_input(pb, o), rows, columns,
                               fewest_pairs_of_line(pb));
  // Remainders of different numbers of taps don't share patches, nor the packing of their weights. If some have one tap
  // only, the products hardly become fewer.
  constexpr int64_t kManyResults = 600, kFewPixels = 64;
  const bool alike = pb.R % pb.stride_h == 0 && pb.S % pb.stride_w == 0;
  const bool two_each = pb.R >= 2 * pb.stride_h && pb.S >= 2 * pb.stride_w;
  return (alike || rows * columns >= kManyResults ||
          (two_each ? pb.P * pb.Q > kFewPixels || !many_weights(pb)
                    : current_isa() == Isa::avx2 || o.dtype == DType::float32)) &&
         suits_winograd(pb, rows, columns,
                        products_of_remainders(pb.rows(), rows) * products_of_remainders(pb.columns(), columns));
}

// The gradient is transformed back, which the products of enough pixels must pay for: of one plane of 8 x 8 it took
// 0.65 to 0.9 of outer_product's time with 64 x 64 channels, 0.95 to 1.1 with 16 x 16; of two or three of 7 x 7 0.8
// to 1.05. And both operands are transformed to meet the other's channels: 16 with 16 took 0.65 of its time. 3x3
// filters at stride 2, which save a third of the products, took 1.1 times as long. Pairs of bfloat16 took 0.65 to 0.85
// of its time but for 3x3 filters at stride 1, where it took 0.8 to 0.97 of theirs, and 1.05 times that on 7 x 7.
bool suits_winograd_grad_weight(const ConvProblem& pb, const Operands& o) {
  constexpr int64_t kPixels = 160, kFewPixels = 64, kPairs = 256, kManyPairs = 2048, kPlane = 64;
  const int64_t pairs = pb.channels_per_group() * pb.outputs_per_group();
  if (better_on_amx(pb, o, why_not_amx_grad_weight(pb, o), suits_amx_grad_weight(pb, o)) ||
      (!(is_f43(pb) && pb.P * pb.Q >= kPlane) && !why_not_pairs_grad_weight(pb, o) && suits_pairs_grad_weight(pb, o)) ||
      !few_runs(pb) || pb.R % pb.stride_h != 0 || pb.S % pb.stride_w != 0 ||
      pb.N * pb.P * pb.Q < (pairs >= kManyPairs ? kFewPixels : kPixels) || pairs < kPairs)
    return false;
  if (is_line(pb))
    return line_suits_winograd(pb,
                               (!why_not_amx_grad_weight(pb, o) && suits_amx_grad_weight(pb, o)) ||
                                   (!why_not_pairs_grad_weight(pb, o) && suits_pairs_grad_weight(pb, o)),
                               pb.P, pb.Q, 32 * 32);
  const auto of_both = [&](int64_t most) {
    return products(pb.rows(), pb.P, most) * products(pb.columns(), pb.Q, most);
  };
  const double two = of_both(2), three = of_both(3);
  return suits_winograd(pb, pb.P, pb.Q, two < three ? two : three);
}

}  // namespace cpu
}  // namespace convx
