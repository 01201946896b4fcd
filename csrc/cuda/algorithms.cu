// The GPU's algorithms, best first, and the launches of their kernels. A new kernel is a new file and a row here.
#include "../algorithm.h"
#include "reference.cuh"
#include "scatter.cuh"
#include "scatter_atomic.cuh"

#include <stdexcept>

namespace convx {
namespace cuda {
namespace {

// with_type for the types that have CUDA kernels.
template <class F>
void with_floating_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32: return f(float{});
    case DType::float64: return f(double{});
    case DType::float16: return f(Half{});
    case DType::bfloat16: return f(BFloat16{});
    case DType::int64: break;
  }
  throw std::runtime_error(std::string("convx has no CUDA kernel for ") + name(dtype));
}

const char* floating_only(const ConvProblem&, const Operands& o) {
  return o.dtype == DType::int64 ? "int64 is for the CPU only" : nullptr;
}

const char* with_full_rate_atomics(const ConvProblem&, const Operands& o) {
  return o.dtype == DType::float32 || o.dtype == DType::float64 ? nullptr
                                                                : "it sums in place, in float32 or float64 only";
}

void run_forward_reference(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    launch("forward_reference", forward_reference<T>, one_thread_each(pb.N * pb.K * pb.P * pb.Q), o.stream, pb,
           Tensors<T>{o});
  });
}

void run_grad_input_reference(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    launch("grad_input_reference", grad_input_reference<T>, one_thread_each(pb.N * pb.C * pb.H * pb.W), o.stream, pb,
           Tensors<T>{o});
  });
}

void run_grad_weight_reference(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    launch("grad_weight_reference", grad_weight_reference<T>,
           one_thread_each(pb.K * pb.channels_per_group() * pb.R * pb.S), o.stream, pb, Tensors<T>{o});
  });
}

void run_grad_input_scatter(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto type) {
    using T = decltype(type);
    launch("grad_input_scatter", grad_input_scatter<T>, scatter_grid(pb, sizeof(typename Accumulator<T>::type)),
           o.stream, pb, Tensors<T>{o});
  });
}

template <class T>
void launch_scatter_atomic(const ConvProblem& pb, const Operands& o) {
  launch("fill_with_bias", fill_with_bias<T>, one_thread_each(pb.N * pb.C * pb.H * pb.W), o.stream, pb, Tensors<T>{o});
  launch("grad_input_scatter_atomic", grad_input_scatter_atomic<T>, one_thread_each(pb.N * pb.K * pb.P * pb.Q),
         o.stream, pb, Tensors<T>{o});
}

void run_grad_input_scatter_atomic(const ConvProblem& pb, const Operands& o) {
  o.dtype == DType::float64 ? launch_scatter_atomic<double>(pb, o) : launch_scatter_atomic<float>(pb, o);
}

}  // namespace

const AlgorithmList& algorithms(Primitive primitive) {
  static const AlgorithmList forward = {
      {"reference", "the definition, a thread to an output", floating_only, always, run_forward_reference},
  };
  static const AlgorithmList grad_input = {
      {"scatter", "each y stamps the kernel onto x, a tile to a block", floating_only, only_when_forced,
       run_grad_input_scatter},
      {"scatter_atomic", "each y stamps the kernel onto x, with atomics", with_full_rate_atomics, only_when_forced,
       run_grad_input_scatter_atomic, /*deterministic=*/false},
      {"reference", "the definition in gather form, a thread to an input", floating_only, always,
       run_grad_input_reference},
  };
  static const AlgorithmList grad_weight = {
      {"reference", "the definition, a thread to a weight", floating_only, always, run_grad_weight_reference},
  };
  switch (primitive) {
    case Primitive::forward: return forward;
    case Primitive::grad_input: return grad_input;
    case Primitive::grad_weight: break;
  }
  return grad_weight;
}

}  // namespace cuda
}  // namespace convx
