// The three operators as torch sees them: schemas, the path from tensors to a kernel, and the CPU and Meta keys. The
// CUDA key is in bindings_cuda.cpp; gradients are in bindings_autograd.cpp, vmap in bindings_vmap.cpp.
#include "bindings.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <mutex>

#include "cpu/pages.h"

namespace convx {
namespace {

DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat: return DType::float32;
    case at::kDouble: return DType::float64;
    case at::kHalf: return DType::float16;
    case at::kBFloat16: return DType::bfloat16;
    default: return DType::int64;  // check() let nothing else through
  }
}

PaddingMode mode_of(c10::string_view text) {
  for (PaddingMode m : {PaddingMode::reflect, PaddingMode::replicate, PaddingMode::circular})
    if (text == name(m)) return m;
  return PaddingMode::zeros;
}

View view_of(const Tensor& t) {
  return {const_cast<void*>(t.const_data_ptr()), {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}};
}

at::MemoryFormat format(bool channels_last) {
  return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

ConvProblem problem_of(const Tensor& x, const Tensor& w, const Tensor& y, const Geometry<int64_t>& g) {
  ConvProblem pb;
  pb.N = x.size(0), pb.C = x.size(1), pb.H = x.size(2), pb.W = x.size(3);
  pb.K = w.size(0), pb.R = w.size(2), pb.S = w.size(3);
  pb.P = y.size(2), pb.Q = y.size(3), pb.G = g.groups;
  pb.stride_h = g.stride[0], pb.stride_w = g.stride[1];
  pb.pad_h = g.padding[0], pb.pad_w = g.padding[1];
  pb.dilation_h = g.dilation[0], pb.dilation_w = g.dilation[1];
  pb.padding_mode = mode_of(g.padding_mode);
  return pb;
}

struct Forced {
  std::atomic<bool> ever = false;  // nearly always false, and then no call has to wait for another's
  std::mutex mutex;
  std::string names[3];
};
Forced& forced() {
  static Forced f;
  return f;
}

Tensor meta(Primitive p, const Tensor& first, const Tensor& second, const std::optional<Tensor>& bias,
            const Geometry<c10::SymInt>& g) {
  return at::empty_symint(check(p, first, second, bias, g), first.options(), format(g.channels_last));
}

Tensor cpu_forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                   CONVX_GEOMETRY(at::IntArrayRef, int64_t)) {
  return run(Primitive::forward, input, weight, bias, CONVX_PACK, cpu::algorithms(Primitive::forward));
}
Tensor cpu_grad_input(const Tensor& grad_output, const Tensor& weight, const std::optional<Tensor>& bias,
                      CONVX_GEOMETRY(at::IntArrayRef, int64_t)) {
  return run(Primitive::grad_input, grad_output, weight, bias, CONVX_PACK, cpu::algorithms(Primitive::grad_input));
}
Tensor cpu_grad_weight(const Tensor& input, const Tensor& grad_output, CONVX_GEOMETRY(at::IntArrayRef, int64_t)) {
  return run(Primitive::grad_weight, input, grad_output, std::nullopt, CONVX_PACK,
             cpu::algorithms(Primitive::grad_weight));
}

Tensor meta_forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                    CONVX_GEOMETRY(c10::SymIntArrayRef, c10::SymInt)) {
  return meta(Primitive::forward, input, weight, bias, CONVX_PACK);
}
Tensor meta_grad_input(const Tensor& grad_output, const Tensor& weight, const std::optional<Tensor>& bias,
                       CONVX_GEOMETRY(c10::SymIntArrayRef, c10::SymInt)) {
  return meta(Primitive::grad_input, grad_output, weight, bias, CONVX_PACK);
}
Tensor meta_grad_weight(const Tensor& input, const Tensor& grad_output,
                        CONVX_GEOMETRY(c10::SymIntArrayRef, c10::SymInt)) {
  return meta(Primitive::grad_weight, input, grad_output, std::nullopt, CONVX_PACK);
}

}  // namespace

std::string forced_algorithm(Primitive p) {
  if (!forced().ever) return {};
  std::lock_guard<std::mutex> lock(forced().mutex);
  return forced().names[int(p)];
}

void force_algorithm(Primitive p, const std::string& name) {
  std::lock_guard<std::mutex> lock(forced().mutex);
  forced().names[int(p)] = name;
  forced().ever = true;
}

Tensor run(Primitive primitive, const Tensor& first, const Tensor& second, const std::optional<Tensor>& bias,
           const Geometry<int64_t>& g, const AlgorithmList& list, const OnDevice& device) {
  const std::vector<int64_t> sizes = check(primitive, first, second, bias, g);
  const Tensor result = at::empty(sizes, first.options(), format(g.channels_last));
  if (result.numel() == 0) return result;
  if (result.is_cpu()) cpu::prefer_huge_pages(result.mutable_data_ptr(), result.nbytes());

  const Tensor& x = primitive == Primitive::grad_input ? result : first;
  const Tensor& w = primitive == Primitive::grad_weight ? result : second;
  const Tensor& y = primitive == Primitive::forward ? result : primitive == Primitive::grad_input ? first : second;
  const ConvProblem problem = problem_of(x, w, y, g);
  Operands operands;
  operands.dtype = dtype_of(result);
  operands.x = view_of(x), operands.w = view_of(w), operands.y = view_of(y);
  if (bias) operands.bias = bias->const_data_ptr(), operands.bias_stride = bias->stride(0);
  operands.stream = device.stream, operands.workspace = device.workspace, operands.allow_tf32 = device.allow_tf32;

  const Algorithm& algorithm = select(list, primitive, problem, operands, forced_algorithm(primitive));
  if (!algorithm.deterministic)
    at::globalContext().alertNotDeterministic(c10::str("convx ", name(primitive), " '", algorithm.name, "'"));
  algorithm.run(problem, operands);
  return result;
}

}  // namespace convx

TORCH_LIBRARY(convx, m) {
  m.set_python_module("convx");
  const std::string geometry =
      "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups, SymInt[2] {}, "
      "str padding_mode=\"zeros\", bool channels_last=False) -> Tensor";
  const auto with = [&](std::string operands, const char* size) {
    std::string g = geometry;
    return operands + g.replace(g.find("{}"), 2, size);
  };
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(with("forward(Tensor input, Tensor weight, Tensor? bias, ", "output_size").c_str(), tags);
  m.def(with("grad_input(Tensor grad_output, Tensor weight, Tensor? bias, ", "input_size").c_str(), tags);
  m.def(with("grad_weight(Tensor input, Tensor grad_output, ", "kernel_size").c_str(), tags);
}

TORCH_LIBRARY_IMPL(convx, CPU, m) {
  m.impl("forward", convx::cpu_forward);
  m.impl("grad_input", convx::cpu_grad_input);
  m.impl("grad_weight", convx::cpu_grad_weight);
}

TORCH_LIBRARY_IMPL(convx, Meta, m) {
  m.impl("forward", convx::meta_forward);
  m.impl("grad_input", convx::meta_grad_input);
  m.impl("grad_weight", convx::meta_grad_weight);
}
