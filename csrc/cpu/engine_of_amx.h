// The body of engine_amx.cpp, engine_amx_twin.cpp and engine_avx512_bf16.cpp: the three primitives on the matrix unit,
// or on vectors that multiply as it does, and what is not for them.
#pragma once
#include "amx_few_outputs.h"
#include "amx_taps.h"
#include "amx_weight.h"
#include "magnitudes.h"
#ifdef CONVX_BF16_PAIRS
#include "pairs_panels.h"
#endif
#include "plans.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {
namespace {

// Where the kernel that this thread runs next puts what it sees of the problem's operands, or null. (A kernel is called
// by plans.h, once for each phase of a stride; the first that can looks.)
thread_local OperandMagnitudes* unseen = nullptr;

// Runs kernels that look at operands on their way.
template <class Run>
auto with_unseen(OperandMagnitudes& operands, Run&& run) {
  struct Unseen {
    explicit Unseen(OperandMagnitudes* operands) { unseen = operands; }
    ~Unseen() { unseen = nullptr; }
  };
  const Unseen set(&operands);
  return run();
}

struct AcrossTiles {
  static constexpr bool merges_phases = true;
  template <class In>
  static bool convolve(Convolution<float, In>& cv) {
    if constexpr (kMultiplies<In>) {
#ifdef CONVX_BF16_PAIRS
      if (suits_pair_panels(cv)) return convolve_pair_panels(cv);
#endif
      const int64_t images = cv.N;
      join_images(cv);
      if (suits_lines_of_taps(cv)) return convolve_taps(cv);
      if (suits_lanes_of_outputs(cv)) return convolve_lanes_of_outputs(cv);
      OperandMagnitudes* const seen = cv.N == images ? unseen : nullptr;
      unseen = nullptr;
      return convolve_tiles(cv, seen);
    }
    return false;
  }
  template <class In>
  static bool weight_gradient(WeightGradient<float, In>& wg) {
    wg.flatten();
    join_images(wg);
    OperandMagnitudes* const seen = unseen;
    unseen = nullptr;
    return weight_gradient_tiles(wg, seen);
  }
};

// Calls f with a value of the storage type, if it is one that is multiplied here.
template <class F>
void with_storage_type(DType dtype, F&& f) {
  const auto with = [&](auto in) {
    if constexpr (kMultiplies<decltype(in)>) f(in);
  };
  switch (dtype) {
    case DType::float32: return with(float{});
    case DType::float16: return with(Half{});
    case DType::bfloat16: return with(BFloat16{});
    default: return;
  }
}

template <class In>
void magnitudes(Magnitudes* images, const View& v, int64_t N, int64_t channels, int64_t height, int64_t width) {
  const Strides& s = v.strides;
  magnitudes_of_images(images, static_cast<const In*>(v.data), N, s.n,
                       Walks({1, 0}, {channels, s.c}, {height, s.h}, {width, s.w}));
}

template <class In>
Magnitudes magnitudes_of_all(const View& v, int64_t N, int64_t channels, int64_t height, int64_t width) {
  const Strides& s = v.strides;
  Magnitudes all;
  magnitudes_of_images(&all, static_cast<const In*>(v.data), 1, 0,
                       Walks({N, s.n}, {channels, s.c}, {height, s.h}, {width, s.w}));
  return all;
}

// forward or grad_input, image by image if some can't be split: an image's result must not depend on the others.
template <class In, class Run>
void run_images(const ConvProblem& pb, const Operands& o, bool is_forward, Run&& run, Elsewhere elsewhere) {
  const auto whole = [&](const ConvProblem& p, const Operands& part) {
    if (!run(p, part)) elsewhere(p, part);
  };
  constexpr int terms = kTerms<In>;
  const bool folds = !is_forward && !pb.is_zero_padded();  // in float32, whatever the type
  const auto can = [&](const Magnitudes& image, const Magnitudes& weight) {
    return folds ? can_multiply<3>(image, weight) : can_multiply<terms>(image, weight);
  };
  // Numbers that are their own terms may be multiplied first and looked at on the way.
  const bool at_once = terms == 1 && !folds;
  OperandMagnitudes operands(pb.N);
  if (at_once) with_unseen(operands, [&] { whole(pb, o); });
  if (!operands.other_seen) operands.other = magnitudes_of_all<In>(o.w, pb.K, pb.channels_per_group(), pb.R, pb.S);
  const Magnitudes& w = operands.other;
  if (!w.finite()) return elsewhere(pb, o);
  Buffer<Magnitudes>& images = operands.images;
  if (!operands.images_seen) {
    if (is_forward)
      magnitudes<In>(images.data(), o.x, pb.N, pb.C, pb.H, pb.W);
    else
      magnitudes<In>(images.data(), o.y, pb.N, pb.K, pb.P, pb.Q);
  }
  bool all = true;
  for (int64_t n = 0; n < pb.N; ++n) all = all && can(images[n], w);
  if (all) {
    if (!at_once) whole(pb, o);
    return;
  }
  ConvProblem one = pb;
  one.N = 1;
  for (int64_t n = 0; n < pb.N; ++n) {
    Operands part = o;
    part.x.data = static_cast<In*>(o.x.data) + n * o.x.strides.n;
    part.y.data = static_cast<In*>(o.y.data) + n * o.y.strides.n;
    if (!can(images[n], w))
      elsewhere(one, part);
    else if (!at_once)
      whole(one, part);
  }
}

void forward_tiles(const ConvProblem& pb, const Operands& o, Elsewhere elsewhere) {
  with_storage_type(o.dtype, [&](auto in) {
    using In = decltype(in);
    run_images<In>(pb, o, true, forward<AcrossTiles, float, In>, elsewhere);
  });
}

void grad_input_tiles(const ConvProblem& pb, const Operands& o, Elsewhere elsewhere) {
  with_storage_type(o.dtype, [&](auto in) {
    using In = decltype(in);
    run_images<In>(pb, o, false, grad_input<AcrossTiles, float, In>, elsewhere);
  });
}

bool grad_weight_tiles(const ConvProblem& pb, const Operands& o) {
  bool done = false;
  with_storage_type(o.dtype, [&](auto in) {
    using In = decltype(in);
    constexpr int terms = kTerms<In>;
    OperandMagnitudes operands(1);
    Magnitudes &x = operands.images[0], &y = operands.other;
    if (terms == 1 && !with_unseen(operands, [&] { return grad_weight<AcrossTiles, float, In>(pb, o); })) return;
    if (!operands.images_seen) x = magnitudes_of_all<In>(o.x, pb.N, pb.C, pb.H, pb.W);
    if (!operands.other_seen) y = magnitudes_of_all<In>(o.y, pb.N, pb.K, pb.P, pb.Q);
    const bool can = x.finite() && y.finite() && can_multiply<terms>(x, y);
    done = can && (terms == 1 || grad_weight<AcrossTiles, float, In>(pb, o));
  });
  return done;
}

}  // namespace

extern const MatrixEngine engine;
const MatrixEngine engine = {forward_tiles, grad_input_tiles, grad_weight_tiles};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
