// From a problem to a launch of window_gather.cuh: which tensor plays which role, for the rows `depthwise` and
// `few_channels`, which differ in how many results a thread owns.
#pragma once
#include "fold_padding.cuh"
#include "types.h"
#include "window_plan.h"

namespace convx {
namespace cuda {

// The plan of forward or grad_input of a problem, zero-padded if it is grad_input; no blocks if there is none.
inline GatherPlan gather_plan(Primitive primitive, const ConvProblem& pb, const Operands& o, int results_per_thread,
                              int window, bool patches = false) {
  GatherPlanner planner;
  GatherPlan& plan = planner.plan;
  const bool forward = primitive == Primitive::forward;
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  plan.items = 0;
  if (!fits_32_bits(pb.rows()) || !fits_32_bits(pb.columns()) || pb.C >= kLargestAxis || pb.K >= kLargestAxis ||
      Cg * pb.R * pb.S >= kLargestAxis)
    return plan;
  plan.rows = pb.rows(), plan.columns = pb.columns();
  plan.transposed = !forward && !patches;
  plan.stride_h = plan.transposed ? int(pb.stride_h) : 1, plan.stride_w = plan.transposed ? int(pb.stride_w) : 1;
  plan.G = int(pb.G), plan.sources = int(forward ? Cg : Kg), plan.results = int(forward ? Kg : Cg);
  if (patches) {
    plan.patches = true;
    plan.results = int(Cg * pb.R * pb.S);
    plan.patch_rows = Divider(pb.R), plan.patch_columns = Divider(pb.S);
    plan.rows = {pb.P, 1, pb.P, 1, 0, 1, PaddingMode::zeros};  // pointwise, from y to patches of x
    plan.columns = {pb.Q, 1, pb.Q, 1, 0, 1, PaddingMode::zeros};
  }
  planner.rows = largest_phase(plan.rows, plan.transposed);
  planner.columns = largest_phase(plan.columns, plan.transposed);
  const View& source = forward ? o.x : o.y;
  const size_t element = o.dtype == DType::float64 ? 8 : o.dtype == DType::float32 ? 4 : 2;
  planner.source = {reinterpret_cast<uint64_t>(source.data),
                    element,
                    pb.N,
                    forward ? pb.C : pb.K,
                    forward ? pb.H : pb.P,
                    forward ? pb.W : pb.Q,
                    source.strides};
  planner.results_per_thread = results_per_thread, planner.window = window;
  planner.accumulator = o.dtype == DType::float64 ? 8 : 4;
  const bool channels_fastest = results_per_thread == 1 && pb.G >= 8 && planner.source.channels_last();
  if (!planner.choose(channels_fastest, current_device())) plan.items = 0;
  return plan;
}

inline const char* gather_why_not(Primitive primitive, const ConvProblem& pb, const Operands& o, int results_per_thread,
                                  int window) {
  if (const char* reason = floating_only(pb, o)) return reason;
  const bool folds = primitive == Primitive::grad_input && !pb.is_zero_padded();
  const ConvProblem problem = folds ? padded_problem(pb) : pb;
  return gather_plan(primitive, problem, o, results_per_thread, window).items
             ? nullptr
             : "its smallest tile is beyond shared memory or 32-bit offsets";
}

template <class T>
GatherTensors<T> gather_tensors(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  const bool forward = primitive == Primitive::forward;
  const View &source = forward ? o.x : o.y, &result = forward ? o.y : o.x;
  const Strides& w = o.w.strides;
  GatherTensors<T> t{};
  t.source = static_cast<const T*>(source.data), t.source_strides = source.strides;
  t.result = static_cast<T*>(result.data), t.result_strides = result.strides;
  t.weight = static_cast<const T*>(o.w.data);
  t.bias = static_cast<const T*>(o.bias), t.bias_stride = o.bias_stride;
  t.weight_group = pb.outputs_per_group() * w.n;
  t.weight_result = forward ? w.n : w.c, t.weight_source = forward ? w.c : w.n;
  t.weight_r = w.h, t.weight_s = w.w;
  return t;
}

template <class T, int kResults, int kWindow>
void launch_gather(const char* name, const GatherPlan& plan, const GatherTensors<T>& tensors, void* stream) {
  launch(name, window_gather<T, kResults, kWindow>, Grid{plan.items, dim3(unsigned(plan.threads)), plan.shared_bytes},
         stream, plan, tensors);
}

template <int kResults, int kWindow>
void gather_forward(const ConvProblem& pb, const Operands& o) {
  const GatherPlan plan = gather_plan(Primitive::forward, pb, o, kResults, kWindow);
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    launch_gather<T, kResults, kWindow>("window_gather", plan, gather_tensors<T>(Primitive::forward, pb, o), o.stream);
  });
}

template <int kResults, int kWindow>
void gather_grad_input(const ConvProblem& pb, const Operands& o) {
  const ConvProblem problem = pb.is_zero_padded() ? pb : padded_problem(pb);
  const GatherPlan plan = gather_plan(Primitive::grad_input, problem, o, kResults, kWindow);
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    using Acc = typename Compute<T>::type;
    GatherTensors<T> t = gather_tensors<T>(Primitive::grad_input, pb, o);
    if (pb.is_zero_padded()) return launch_gather<T, kResults, kWindow>("window_gather", plan, t, o.stream);
    const int64_t plane = problem.H * problem.W;
    const bool channels_last = t.result_strides.c == 1 && t.result_strides.w != 1;
    const Strides strides =
        channels_last ? Strides{plane * pb.C, 1, problem.W * pb.C, pb.C} : Strides{plane * pb.C, plane, problem.W, 1};
    Acc* const padded = static_cast<Acc*>(o.workspace->allocate(size_t(pb.N * pb.C * plane) * sizeof(Acc)));
    t.result = reinterpret_cast<T*>(padded), t.result_strides = strides;
    t.bias = nullptr, t.wide_result = true;
    launch_gather<T, kResults, kWindow>("window_gather", plan, t, o.stream);
    launch("fold_padding", fold_padding<T, Acc>, one_thread_each(pb.N * pb.C * pb.H * pb.W), o.stream, pb,
           Tensors<T>{o}, static_cast<const Acc*>(padded), strides, problem.H, problem.W);
  });
}

// Whether every x is reached by one y and one tap: kernel = stride.
inline bool is_patches(const ConvProblem& pb) {
  const auto tiles = [](const Axis& a) {
    return a.kernel == a.stride && a.dilation == 1 && a.pad == 0 && a.in == a.out * a.stride;
  };
  return pb.R * pb.S > 1 && tiles(pb.rows()) && tiles(pb.columns());
}

// grad_input where it is patches: one product, whose results are scattered on storing.
template <int kResults, int kWindow>
void gather_patches(const ConvProblem& pb, const Operands& o, const GatherPlan& plan) {
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    launch_gather<T, kResults, kWindow>("window_gather", plan, gather_tensors<T>(Primitive::grad_input, pb, o),
                                        o.stream);
  });
}

}  // namespace cuda
}  // namespace convx
