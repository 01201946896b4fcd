// 16-bit numbers, and float32 as TF32, by tensorcore_copied.cuh: which problems it can do, and how it is launched.
#include "rows.h"
#include "tensorcore_copied_launch.cuh"
#include "types.h"

namespace convx {
namespace cuda {
namespace tensorcore {
namespace {

template <class T, int kColumns>
using ShapeOf = CopiedShape<1, kColumns, kColumns <= 128, int(sizeof(T))>;

const char* why_not_copied(const ConvProblem& pb, const Operands& o, bool is_grad_input) {
  if (const char* reason = o.dtype == DType::float32 ? why_not(pb, o) : why_not_wgmma(pb, o)) return reason;
  if (!current_device().has_wgmma) return "it needs a GPU of compute capability 9.0 and kernels built for 9.0a";
  if (const char* reason = why_not_copies(pb, is_grad_input)) return reason;
  const int64_t inputs = is_grad_input ? pb.outputs_per_group() : pb.channels_per_group();
  const int64_t depth = o.dtype == DType::float32 ? ShapeOf<float, 64>::kDepth : kCopiedDepth;
  if (pb.G > 1 && inputs % depth != 0)
    return "it copies 128 bytes of channels at a time, which have to be of one group";
  return nullptr;
}

// As many columns as take the least time. A narrow tile's stage takes longer than its share, as the pixels are copied
// and read for fewer columns.
template <class T, bool kTurned>
void launch_best(const Convolution<T>& cv, const Packed<T>& image, const Packed<T>& weight, const Operands& o) {
  const double wide = turns_of(cv, 256), middle = 0.55 * turns_of(cv, 128), narrow = 0.35 * turns_of(cv, 64);
  if (narrow < middle && narrow < wide)
    launch_copied<OneTerm<T>, ShapeOf<T, 64>, kTurned>(cv, image, weight, o);
  else if (middle < wide)
    launch_copied<OneTerm<T>, ShapeOf<T, 128>, kTurned>(cv, image, weight, o);
  else
    launch_copied<OneTerm<T>, ShapeOf<T, 256>, kTurned>(cv, image, weight, o);
}

template <class T>
void run_copied(const ConvProblem& pb, const Operands& o, bool is_grad_input, const ColumnBlocks& blocks = {}) {
  constexpr int64_t kElements = kChunk / sizeof(T);
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const int64_t inputs = is_grad_input ? Kg : Cg, outputs = is_grad_input ? Cg : Kg;
  const View& from = is_grad_input ? o.y : o.x;
  const Packed<T> image =
      channels_together<T>(from.data, from.strides, inputs * from.strides.c, pb.N, pb.G, inputs,
                           is_grad_input ? pb.P : pb.H, is_grad_input ? pb.Q : pb.W, false, o, true);
  // The weight is [output][tap][input]. For grad_input that is the other way round, which wgmma can read as well of
  // 16-bit numbers, if chunks are whole: then nothing is packed.
  const Strides &w = o.w.strides, turned = {w.c, w.n, w.h, w.w};
  const auto whole = [&](int64_t stride, int64_t count) {
    return count == 1 || (stride != 0 && stride % kElements == 0);
  };
  const bool in_place = sizeof(T) == 2 && is_grad_input && w.c == 1 && whole(Cg, 1) && whole(w.n, pb.K) &&
                        whole(w.h, pb.R) && whole(w.w, pb.S) && reinterpret_cast<uintptr_t>(o.w.data) % kChunk == 0;
  const Packed<T> weight = in_place
                               ? Packed<T>{static_cast<const T*>(o.w.data), w.n, Kg * w.n, w.h, w.w, image.channels}
                               : channels_together<T>(o.w.data, is_grad_input ? turned : w, Kg * w.n, outputs, pb.G,
                                                      inputs, pb.R, pb.S, true, o, true);
  Convolution<T> cv = convolution_of<T>(pb, o, is_grad_input, image, weight);
  cv.blocks = blocks;
  if constexpr (sizeof(T) == 2)
    if (in_place) {
      cv.weight_c = int(w.n), cv.weight_output = 1;
      return launch_best<T, true>(cv, image, weight, o);
    }
  launch_best<T, false>(cv, image, weight, o);
}

template <class T>
void run_weight_copied(const ConvProblem& pb, const Operands& o) {
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const Packed<T> x =
      channels_together<T>(o.x.data, o.x.strides, Cg * o.x.strides.c, pb.N, pb.G, Cg, pb.H, pb.W, false, o, true);
  const Packed<T> y =
      channels_together<T>(o.y.data, o.y.strides, Kg * o.y.strides.c, pb.N, pb.G, Kg, pb.P, pb.Q, false, o, true);
  const auto wg = weight_gradient_of<T, float>(pb, o, x, y);
  if (Cg > 128)
    launch_weight_copied<OneTerm<T>, CopiedShape<1, 256>>(wg, x, y, 0.55, pb, o);
  else if (Cg > 64)
    launch_weight_copied<OneTerm<T>, CopiedShape<1, 128, false>>(wg, x, y, 0.36, pb, o);
  else
    launch_weight_copied<OneTerm<T>, CopiedShape<1, 64, false>>(wg, x, y, 0.25, pb, o);
}

void run(const ConvProblem& pb, const Operands& o, bool is_grad_input, const ColumnBlocks& blocks = {}) {
  switch (o.dtype) {
    case DType::float16: return run_copied<Half>(pb, o, is_grad_input, blocks);
    case DType::bfloat16: return run_copied<BFloat16>(pb, o, is_grad_input, blocks);
    default: return run_copied<float>(pb, o, is_grad_input, blocks);
  }
}

}  // namespace

const char* forward_why_not_copied(const ConvProblem& pb, const Operands& o) { return why_not_copied(pb, o, false); }
const char* grad_input_why_not_copied(const ConvProblem& pb, const Operands& o) { return why_not_copied(pb, o, true); }
const char* grad_weight_why_not_copied(const ConvProblem& pb, const Operands& o) {
  const char* const reason = why_not_wgmma(pb, o);
  return reason ? reason : why_not_weight_copies(pb);
}
void forward_copied(const ConvProblem& pb, const Operands& o) { run(pb, o, false); }
void forward_copied_in_blocks(const ConvProblem& pb, const Operands& o, const ColumnBlocks& blocks) {
  run(pb, o, false, blocks);
}
void grad_input_copied(const ConvProblem& pb, const Operands& o) { run(pb, o, true); }
void grad_weight_copied(const ConvProblem& pb, const Operands& o) {
  o.dtype == DType::float16 ? run_weight_copied<Half>(pb, o) : run_weight_copied<BFloat16>(pb, o);
}

}  // namespace tensorcore
}  // namespace cuda
}  // namespace convx
