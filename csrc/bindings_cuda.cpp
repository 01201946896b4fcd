// The CUDA key of the three operators: make the operands' device current, take its current stream, and go the way that
// the CPU goes (bindings.cpp: run()), which returns early when there is nothing to compute.
#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "bindings.h"

namespace convx {
namespace {

// From torch's caching allocator, which gives memory back in the order of the stream: it may be freed as soon as all
// kernels that use it are launched.
struct TorchWorkspace : Workspace {
  at::TensorOptions options;
  std::vector<Tensor> taken;
  explicit TorchWorkspace(const Tensor& like) : options(like.options().dtype(at::kByte)) {}
  void* allocate(size_t bytes) override {
    taken.push_back(at::empty({int64_t(bytes)}, options));
    return taken.back().mutable_data_ptr();
  }
};

Tensor run_on_cuda(Primitive primitive, const Tensor& first, const Tensor& second, const std::optional<Tensor>& bias,
                   const Geometry<int64_t>& geometry) {
  // A generic guard, because with mixed devices `first` may be on the CPU: the checks in run() say so better.
  const c10::DeviceGuard guard(first.device());
  TorchWorkspace workspace(first);
  // allowTF32CuDNN: torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.conv.fp32_precision.
  return run(primitive, first, second, bias, geometry, cuda::algorithms(primitive),
             {c10::cuda::getCurrentCUDAStream().stream(), &workspace,
              at::globalContext().allowTF32CuDNN(at::Float32Op::CONV)});
}

Tensor cuda_forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                    CONVX_GEOMETRY(at::IntArrayRef, int64_t)) {
  return run_on_cuda(Primitive::forward, input, weight, bias, CONVX_PACK);
}
Tensor cuda_grad_input(const Tensor& grad_output, const Tensor& weight, const std::optional<Tensor>& bias,
                       CONVX_GEOMETRY(at::IntArrayRef, int64_t)) {
  return run_on_cuda(Primitive::grad_input, grad_output, weight, bias, CONVX_PACK);
}
Tensor cuda_grad_weight(const Tensor& input, const Tensor& grad_output, CONVX_GEOMETRY(at::IntArrayRef, int64_t)) {
  return run_on_cuda(Primitive::grad_weight, input, grad_output, std::nullopt, CONVX_PACK);
}

}  // namespace
}  // namespace convx

TORCH_LIBRARY_IMPL(convx, CUDA, m) {
  m.impl("forward", convx::cuda_forward);
  m.impl("grad_input", convx::cuda_grad_input);
  m.impl("grad_weight", convx::cuda_grad_weight);
}
