// float32 by tensorcore_terms.cuh: which problems it can do, and how it is launched.
#include "rows.h"
#include "split_terms.cuh"
#include "tensorcore_copied_launch.cuh"
#include "tensorcore_terms.cuh"
#include "types.h"

namespace convx {
namespace cuda {
namespace tensorcore {
namespace {

const char* why_not_terms(const ConvProblem& pb, const Operands& o) {
  if (const char* reason = why_not_split(pb, o)) return reason;
  if (!current_device().has_wgmma) return "it needs a GPU of compute capability 9.0 and kernels built for 9.0a";
  return nullptr;
}

const char* why_not_convolve(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  const char* const reason = why_not_terms(pb, o);
  return reason ? reason : why_not_copies(pb, is_grad_input);
}

// N x (groups of channels) x H x W as terms in the workspace; `group` is the stride between groups.
Packed<BFloat16> terms_of(const void* data, const Strides& s, int64_t group, int64_t N, int64_t G, int64_t C, int64_t H,
                          int64_t W, bool is_weight, int terms, const Operands& o) {
  const int64_t channels = ceil_div(C, kCopiedDepth) * kCopiedDepth;
  auto* const to = static_cast<BFloat16*>(o.workspace->allocate(N * G * H * W * terms * channels * sizeof(BFloat16)));
  const auto* const from = static_cast<const float*>(data);
  const Packing<float> numbers = is_weight
                                     ? weight_packing(from, s, group, N, G, C, H, W, channels)
                                     : Packing<float>{from, s.n, group, s.c, s.h, s.w, N, G, C, H, W, channels, true};
  const auto whole = [](int64_t stride, int64_t count) { return count == 1 || stride % 4 == 0; };
  const bool in_lines = s.c == 1 && C % 4 == 0 && reinterpret_cast<uintptr_t>(data) % kChunk == 0 && whole(s.n, N) &&
                        whole(group, G) && whole(s.h, H) && whole(s.w, W);
  const Splitting p = {numbers, to, terms};
  if (in_lines)
    launch("split_lines", split_lines, one_thread_each(N * G * H * W * channels / 4), o.stream, p);
  else
    launch("split_terms", split_terms, pack_grid(numbers), o.stream, p);
  const int64_t pixel = terms * channels, line = is_weight ? pixel : G * pixel;
  return {to, H * W * line, is_weight ? N * H * W * pixel : pixel, W * line, line, int(channels)};
}

// The operand itself, as convolution_of() wants it; `channels` of its terms.
Packed<float> in_place(const View& v, int64_t group, int channels) {
  const Strides& s = v.strides;
  return {static_cast<const float*>(v.data), s.n, group, s.h, s.w, channels};
}

// Columns of 128, or of 64 where that leaves fewer multiprocessors without work; a stage of half the columns takes more
// than half the time.
template <int kTerms>
void launch_best(const Convolution<float>& cv, const Packed<BFloat16>& image, const Packed<BFloat16>& weight,
                 const Operands& o) {
  if (0.6 * turns_of(cv, 64) < turns_of(cv, 128))
    launch_copied<Terms, CopiedShape<kTerms, 64>, false>(cv, image, weight, o);
  else
    launch_copied<Terms, CopiedShape<kTerms, 128>, false>(cv, image, weight, o);
}

void run(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const int64_t inputs = is_grad_input ? Kg : Cg, outputs = is_grad_input ? Cg : Kg;
  const View& from = is_grad_input ? o.y : o.x;
  const Strides &w = o.w.strides, turned = {w.c, w.n, w.h, w.w}, seen = is_grad_input ? turned : w;
  const int terms = o.allow_tf32 ? 2 : 3;
  const Packed<BFloat16> image = terms_of(from.data, from.strides, inputs * from.strides.c, pb.N, pb.G, inputs,
                                          is_grad_input ? pb.P : pb.H, is_grad_input ? pb.Q : pb.W, false, terms, o);
  const Packed<BFloat16> weight = terms_of(o.w.data, seen, Kg * w.n, outputs, pb.G, inputs, pb.R, pb.S, true, terms, o);
  View weights = o.w;
  weights.strides = seen;
  Convolution<float> cv =
      convolution_of<float>(pb, o, is_grad_input, in_place(from, inputs * from.strides.c, image.channels),
                            in_place(weights, Kg * w.n, weight.channels));
  cv.input_c = from.strides.c, cv.weight_c = int(seen.c);
  terms == 2 ? launch_best<2>(cv, image, weight, o) : launch_best<3>(cv, image, weight, o);
}

template <int kTerms>
void run_weight(const ConvProblem& pb, const Operands& o) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const Packed<BFloat16> x =
      terms_of(o.x.data, o.x.strides, Cg * o.x.strides.c, pb.N, pb.G, Cg, pb.H, pb.W, false, kTerms, o);
  const Packed<BFloat16> y =
      terms_of(o.y.data, o.y.strides, Kg * o.y.strides.c, pb.N, pb.G, Kg, pb.P, pb.Q, false, kTerms, o);
  auto wg = weight_gradient_of<float, float>(pb, o, in_place(o.x, Cg * o.x.strides.c, x.channels),
                                             in_place(o.y, Kg * o.y.strides.c, y.channels));
  wg.x_c = o.x.strides.c, wg.y_c = o.y.strides.c;
  constexpr double kStage = kTerms == 3 ? 6 * 0.36 : 3 * 0.36;  // of 128 columns
  if (Cg > 64)
    launch_weight_copied<Terms, CopiedShape<kTerms, 128>>(wg, x, y, kStage, pb, o);
  else
    launch_weight_copied<Terms, CopiedShape<kTerms, 64>>(wg, x, y, kStage / 2, pb, o);
}

}  // namespace

const char* forward_why_not_terms(const ConvProblem& pb, const Operands& o) { return why_not_convolve(pb, o, false); }
const char* grad_input_why_not_terms(const ConvProblem& pb, const Operands& o) { return why_not_convolve(pb, o, true); }
const char* grad_weight_why_not_terms(const ConvProblem& pb, const Operands& o) {
  const char* const reason = why_not_terms(pb, o);
  return reason ? reason : why_not_weight_copies(pb);
}
void forward_terms(const ConvProblem& pb, const Operands& o) { run(pb, o, false); }
void grad_input_terms(const ConvProblem& pb, const Operands& o) { run(pb, o, true); }
void grad_weight_terms(const ConvProblem& pb, const Operands& o) {
  o.allow_tf32 ? run_weight<2>(pb, o) : run_weight<3>(pb, o);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
