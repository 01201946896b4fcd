// Reverse-mode gradients of plain eager calls. Three nodes that name one another, as in convx/autograd.py, whose twins
// they are: those know forward mode and torch.func's transforms too, but are Python, and take longer than a small
// convolution does. Which way a call goes:
//
//   eager                                   here
//   forward mode, torch.func, subclasses    the Functions of convx/autograd.py
//   torch.compile, torch.export             the operators' autograd registration, at the end of convx/autograd.py
//
// The primitives are the derivatives of one trilinear form T(x, w, y) (problem.h), each by the operand it lacks. So the
// gradient by an operand is the primitive that lacks this operand, of the two others: one formula for all three and for
// every order, since a backward that is itself recorded goes through call() again.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings.h"

namespace convx {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

using WithBias = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, c10::SymIntArrayRef,
                        c10::SymIntArrayRef, c10::SymIntArrayRef, c10::SymInt, c10::SymIntArrayRef, c10::string_view,
                        bool);
using WithoutBias = Tensor(const Tensor&, const Tensor&, c10::SymIntArrayRef, c10::SymIntArrayRef, c10::SymIntArrayRef,
                           c10::SymInt, c10::SymIntArrayRef, c10::string_view, bool);

template <class Signature>
auto find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// The operator, with whatever keys the calling thread leaves.
Tensor dispatch(Primitive primitive, const Tensor& first, const Tensor& second, const std::optional<Tensor>& bias,
                const Geometry<c10::SymInt>& g) {
  static const auto forward = find<WithBias>("convx::forward");
  static const auto grad_input = find<WithBias>("convx::grad_input");
  static const auto grad_weight = find<WithoutBias>("convx::grad_weight");
  if (primitive == Primitive::grad_weight)
    return grad_weight.call(first, second, g.stride, g.padding, g.dilation, g.groups, g.result_size, g.padding_mode,
                            g.channels_last);
  return (primitive == Primitive::forward ? forward : grad_input)
      .call(first, second, bias, g.stride, g.padding, g.dilation, g.groups, g.result_size, g.padding_mode,
            g.channels_last);
}

Geometry<c10::SymInt> geometry(const Arguments& a) {
  const auto ints = [](const Pair& pair) { return c10::fromIntArrayRefSlow(pair); };
  return {ints(a.stride),      ints(a.padding), ints(a.dilation), a.groups,
          ints(a.result_size), a.padding_mode,  a.channels_last};
}

Tensor below_autograd(Primitive primitive, const Tensor& first, const Tensor& second, const std::optional<Tensor>& bias,
                      const Arguments& arguments) {
  at::AutoDispatchBelowAutograd guard;
  return dispatch(primitive, first, second, bias, geometry(arguments));
}

// In a backward for several cotangents at once (autograd.grad's is_grads_batched), which torch runs by its older vmap.
bool is_batched(const Tensor& t) { return t.key_set().has(c10::DispatchKey::Batched); }

// What T is linear in. A primitive's result and operands, in the operator's order.
enum Factor { x, w, y };
struct Signature {
  Factor result, first, second;
};
constexpr Signature signature(Primitive primitive) {
  return primitive == Primitive::forward      ? Signature{y, x, w}
         : primitive == Primitive::grad_input ? Signature{x, y, w}
                                              : Signature{w, x, y};
}
constexpr Primitive primitive_giving(Factor f) {
  return f == y ? Primitive::forward : f == x ? Primitive::grad_input : Primitive::grad_weight;
}

// The sum over all but the channels, in an order that doesn't depend on the number of threads: _bias_gradient of
// convx/autograd.py, which says more.
Tensor bias_gradient(const Tensor& y) {
  if (y.size(1) != 1) return y.sum({0, 2, 3});
  const int64_t parts = 1024;
  const auto dtype = y.scalar_type();
  Tensor flat = y.reshape(-1);
  if (dtype == at::kHalf || dtype == at::kBFloat16) flat = flat.to(at::kFloat);
  const int64_t each = flat.size(0) / parts;
  Tensor total = flat.slice(0, parts * each).sum();
  if (each > 0) total = flat.slice(0, 0, parts * each).reshape({parts, each}).sum(1).sum().add(total);
  return total.to(dtype).unsqueeze(0);
}

// convx.autograd's function of that name.
Tensor call_python(Primitive primitive, const Tensor& first, const Tensor& second, const Arguments& a) {
  pybind11::gil_scoped_acquire gil;
  const pybind11::object function = pybind11::module_::import("convx.autograd").attr(name(primitive));
  const auto pair = [](const Pair& p) { return pybind11::make_tuple(p[0], p[1]); };
  pybind11::tuple operands = pybind11::make_tuple(first, second, pybind11::none());
  if (primitive == Primitive::grad_weight) operands = pybind11::make_tuple(first, second);
  return pybind11::cast<Tensor>(function(*operands, pair(a.stride), pair(a.padding), pair(a.dilation), a.groups,
                                         pair(a.result_size), a.padding_mode, a.channels_last));
}

// A primitive as a node of the graph. Each operand is saved only if the other one requires a gradient.
template <class Node, Primitive primitive>
struct Recorded : torch::autograd::Function<Node> {
  static Tensor forward(AutogradContext* ctx, const Tensor& first, const Tensor& second,
                        const std::optional<Tensor>& bias, const Arguments& a) {
    Tensor result = below_autograd(primitive, first, second, bias, a);  // checks what the rest relies on
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({second.requires_grad() ? first : Tensor(), first.requires_grad() ? second : Tensor()});
    ctx->saved_data["integers"] = std::vector<int64_t>{
        a.stride[0],     a.stride[1],      a.padding[0],  a.padding[1],  a.dilation[0],  a.dilation[1], a.groups,
        a.channels_last, bias.has_value(), first.size(2), first.size(3), second.size(2), second.size(3)};
    ctx->saved_data["padding_mode"] = a.padding_mode;
    return result;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    variable_list results(4);  // by first, second, bias, and undefined for the arguments
    if (!gradients[0].defined()) return results;
    const variable_list saved = ctx->get_saved_variables();
    const auto v = ctx->saved_data["integers"].toIntVector();
    const bool has_bias = v[8];
    Arguments arguments{{v[0], v[1]}, {v[2], v[3]}, {v[4], v[5]}, v[6], {}, "", bool(v[7])};
    arguments.padding_mode = ctx->saved_data["padding_mode"].toStringRef();

    constexpr Signature mine = signature(primitive);
    Tensor value[3];
    value[mine.result] = gradients[0], value[mine.first] = saved[0], value[mine.second] = saved[1];
    const auto gradient_by = [&](Factor f, Pair size) {
      const Primitive other = primitive_giving(f);
      const Signature its = signature(other);
      arguments.result_size = size;
      const Tensor &first = value[its.first], &second = value[its.second];
      return in_forward_mode_or_transform() ? call_python(other, first, second, arguments)
                                            : call(other, first, second, std::nullopt, arguments);
    };
    if (ctx->needs_input_grad(0)) results[0] = gradient_by(mine.first, {v[9], v[10]});
    if (ctx->needs_input_grad(1)) results[1] = gradient_by(mine.second, {v[11], v[12]});
    if (has_bias && ctx->needs_input_grad(2)) results[2] = bias_gradient(gradients[0]);
    return results;
  }
};

}  // namespace

// Named, because anomaly mode and the profiler print these names.
struct Forward : Recorded<Forward, Primitive::forward> {};
struct GradInput : Recorded<GradInput, Primitive::grad_input> {};
struct GradWeight : Recorded<GradWeight, Primitive::grad_weight> {};

Tensor call(Primitive primitive, const Tensor& first, const Tensor& second, const std::optional<Tensor>& bias,
            const Arguments& arguments) {
  // The batch is taken apart first, and what is recorded are the calls inside.
  if (is_batched(first) || is_batched(second)) return dispatch(primitive, first, second, bias, geometry(arguments));
  if (!at::GradMode::is_enabled() ||
      !(first.requires_grad() || second.requires_grad() || (bias && bias->requires_grad())))
    return below_autograd(primitive, first, second, bias, arguments);
  switch (primitive) {
    case Primitive::forward: return Forward::apply(first, second, bias, arguments);
    case Primitive::grad_input: return GradInput::apply(first, second, bias, arguments);
    case Primitive::grad_weight: return GradWeight::apply(first, second, bias, arguments);
  }
  return {};
}

Tensor call(Primitive primitive, const Tensor& first, const Tensor& second, const std::optional<Tensor>& bias,
            const Geometry<c10::SymInt>& g) {
  const auto pair = [](c10::SymIntArrayRef list) -> std::optional<Pair> {
    if (list.size() != 2 || list[0].is_heap_allocated() || list[1].is_heap_allocated()) return std::nullopt;
    return Pair{list[0].as_int_unchecked(), list[1].as_int_unchecked()};
  };
  const auto stride = pair(g.stride), padding = pair(g.padding), dilation = pair(g.dilation),
             size = pair(g.result_size);
  if (stride && padding && dilation && size && !g.groups.is_heap_allocated())
    return call(primitive, first, second, bias,
                {*stride, *padding, *dilation, g.groups.as_int_unchecked(), *size, std::string(g.padding_mode),
                 g.channels_last});
  return dispatch(primitive, first, second, bias, g);  // symbolic, or the checks will say what is wrong
}

bool in_forward_mode_or_transform() {
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  return included.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         included.has(c10::DispatchKey::FuncTorchDynamicLayerBackMode) ||
         torch::autograd::ForwardADLevel::try_get_by_idx(0);
}

namespace {

// The Python type of a node, which torch else shows as CppFunction whatever it is.
template <class Node>
void name_node(const char* name) {
  static PyTypeObject type = {};
  torch::autograd::registerCppFunction(typeid(torch::autograd::CppNode<Node>),
                                       torch::autograd::_initFunctionPyTypeObject(type, name, nullptr, nullptr));
}

}  // namespace

void name_nodes() {
  name_node<Forward>("ForwardBackward");
  name_node<GradInput>("GradInputBackward");
  name_node<GradWeight>("GradWeightBackward");
}

}  // namespace convx
