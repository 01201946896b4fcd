// Gradients of every order and forward-mode derivatives of the three operators: their Autograd key. Everything that
// differentiates comes here, eager calls and every level of torch.func's transforms, and so does what torch.compile and
// torch.export trace. (vmap is a key of its own: bindings_vmap.cpp.)
//
// The primitives are the derivatives of one trilinear form T(x, w, y) (problem.h), each by the operand it lacks. So the
// gradient by an operand is the primitive that lacks this operand, of the two others: one formula for all three and for
// every order, since a backward that is itself recorded comes here again. The tangent needs no formula: a primitive is
// linear in each operand, so it is the primitive of either operand's tangent and the other operand, added.
#include <ATen/TracerMode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/library.h>

#include "bindings.h"

namespace convx {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

namespace {

using OptionalTensor = std::optional<Tensor>;
using WithBias = Tensor(const Tensor&, const Tensor&, const OptionalTensor&,
                        CONVX_GEOMETRY(c10::SymIntArrayRef, c10::SymInt));
using WithoutBias = Tensor(const Tensor&, const Tensor&, CONVX_GEOMETRY(c10::SymIntArrayRef, c10::SymInt));

template <class Signature>
auto find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// The operator, with whatever keys the calling thread leaves.
Tensor dispatch(Primitive primitive, const Tensor& first, const Tensor& second, const OptionalTensor& bias,
                const SymbolicGeometry& g) {
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

// The sum over all but the channels, in an order that doesn't depend on the number of threads.
//
// torch divides a sum among threads by its results. Only a single result it divides by its terms, so a single channel
// is first summed to a fixed number of parts.
Tensor bias_gradient(const Tensor& y) {
  if (y.sym_size(1) != 1) return y.sum({0, 2, 3});
  const int64_t parts = 1024;
  const auto dtype = y.scalar_type();
  Tensor flat = y.reshape({-1});
  if (dtype == at::kHalf || dtype == at::kBFloat16) flat = flat.to(at::kFloat);
  const c10::SymInt each = flat.sym_size(0) / parts;
  Tensor total = flat.slice_symint(0, each * parts).sum();
  if (each > 0) total = flat.slice_symint(0, 0, each * parts).reshape_symint({parts, each}).sum(1).sum().add(total);
  return total.to(dtype).unsqueeze(0);
}

// What a node keeps of its call beside the operands: the geometry, with the operands' sizes instead of the result's.
struct Kept {
  std::vector<c10::SymInt> integers;
  std::string padding_mode;
  bool channels_last;

  Kept(const Tensor& first, const Tensor& second, const SymbolicGeometry& g)
      : integers{g.stride[0],        g.stride[1],        g.padding[0],      g.padding[1],
                 g.dilation[0],      g.dilation[1],      first.sym_size(2), first.sym_size(3),
                 second.sym_size(2), second.sym_size(3), g.groups},
        padding_mode(g.padding_mode),
        channels_last(g.channels_last) {}
  Kept(std::vector<c10::SymInt> integers, std::string padding_mode, bool channels_last)
      : integers(std::move(integers)), padding_mode(std::move(padding_mode)), channels_last(channels_last) {}

  // For a primitive whose result is as large as operand i.
  SymbolicGeometry geometry(int i) const {
    const auto pair = [&](int at) { return c10::SymIntArrayRef(integers).slice(at, 2); };
    return {pair(0), pair(2), pair(4), integers[10], pair(6 + 2 * i), padding_mode, channels_last};
  }
};

// The gradients of a primitive's operands and of the bias; those not wanted stay undefined.
variable_list gradients(Primitive primitive, const Tensor& gradient, const Tensor& first, const Tensor& second,
                        const Kept& kept, const std::vector<bool>& wanted) {
  variable_list results(wanted.size());
  if (!gradient.defined()) return results;
  const Signature mine = signature(primitive);
  Tensor value[3];
  value[mine.result] = gradient, value[mine.first] = first, value[mine.second] = second;
  for (int i : {0, 1}) {
    if (!wanted[i]) continue;
    const Primitive other = primitive_giving(i == 0 ? mine.first : mine.second);
    const Signature its = signature(other);
    results[i] = call(other, value[its.first], value[its.second], std::nullopt, kept.geometry(i));
  }
  if (wanted.size() > 2 && wanted[2]) results[2] = bias_gradient(gradient);
  return results;
}

// A primitive in the graph. Each operand is saved only if the other one requires a gradient.
template <Primitive primitive>
struct Recorded : torch::autograd::Node {
  SavedVariable first, second;
  std::optional<Kept> kept;

  std::vector<bool> wanted() const {
    std::vector<bool> each(num_outputs());
    for (size_t i = 0; i < each.size(); ++i) each[i] = task_should_compute_output(i);
    return each;
  }

  variable_list apply(variable_list&& cotangents) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto each = wanted();
    const bool reads_first = each[1], reads_second = each[0];
    return gradients(primitive, cotangents[0], reads_first ? first.unpack() : Tensor(),
                     reads_second ? second.unpack() : Tensor(), *kept, each);
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    first.reset_data();
    second.reset_data();
  }

  // ---- compiled autograd, which puts backwards into torch.compile's graphs: the same, with everything it keeps given

  static variable_list apply_packed(const variable_list& cotangents, const std::vector<c10::IValue>& arguments) {
    torch::dynamo::autograd::PackedArgs packed(arguments);
    const auto first = packed.unpack<Tensor>(), second = packed.unpack<Tensor>();
    auto integers = packed.unpack<std::vector<c10::SymInt>>();
    auto padding_mode = packed.unpack<std::string>();
    const auto channels_last = packed.unpack<bool>();
    const auto each = packed.unpack<std::vector<bool>>();
    return gradients(primitive, cotangents[0], first, second,
                     Kept(std::move(integers), std::move(padding_mode), channels_last), each);
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& arguments) const override {
    arguments.collect(first, false);
    arguments.collect(second, false);
    arguments.collect(kept->integers);
    arguments.collect(kept->padding_mode);
    arguments.collect(kept->channels_last);
  }

  variable_list apply_with_saved(const variable_list& cotangents,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    saved.before(first);
    saved.before(second);
    saved.before(kept->integers);
    torch::dynamo::autograd::PackedArgs packed;
    packed.pack(first.unpack());
    packed.pack(second.unpack());
    packed.pack(kept->integers);
    packed.pack(kept->padding_mode);
    packed.pack(kept->channels_last);
    packed.pack(wanted());
    const auto arguments = std::move(packed).vec();
    std::vector<at::TypePtr> types;
    for (const c10::IValue& a : arguments)
      types.push_back(a.isTensor() ? at::TypePtr(at::TensorType::get()) : a.type());
    const auto metadata =
        torch::dynamo::autograd::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            torch::dynamo::autograd::get_input_metadata(next_edges()));
    const auto& compiler = torch::dynamo::autograd::getPyCompilerInterface();
    // As "custom" its name is made unique for each call, whose types may differ from the last one's.
    const auto bound = compiler->bind_function(saved.get_py_compiler(), name(), apply_packed, types,
                                               /*is_custom_function*/ true, /*is_traceable*/ true);
    const auto results =
        compiler->call_function(saved.get_py_compiler(), "apply_functional", bound, cotangents, arguments, metadata);
    saved.after(first);
    saved.after(second);
    saved.after(kept->integers);
    return results;
  }
};

}  // namespace

// Named, because anomaly mode and the profiler print these names.
struct Forward : Recorded<Primitive::forward> {
  std::string name() const override { return "convx::ForwardBackward"; }
};
struct GradInput : Recorded<Primitive::grad_input> {
  std::string name() const override { return "convx::GradInputBackward"; }
};
struct GradWeight : Recorded<Primitive::grad_weight> {
  std::string name() const override { return "convx::GradWeightBackward"; }
};

namespace {

Tensor below_autograd(Primitive primitive, const Tensor& first, const Tensor& second, const OptionalTensor& bias,
                      const SymbolicGeometry& g) {
  at::AutoDispatchBelowAutograd guard;
  return dispatch(primitive, first, second, bias, g);
}

// torch 2.13 counts a node's references in the node, older ones beside it.
using NodePointer = decltype(torch::autograd::Edge::function);
template <class Node>
auto make_node() {
  if constexpr (std::is_same_v<NodePointer, std::shared_ptr<torch::autograd::Node>>)
    return std::shared_ptr<Node>(new Node, [](Node* node) { deleteNode(node); });
  else
    return c10::make_intrusive<Node>();
}

template <class Node>
Tensor recorded(Primitive primitive, const Tensor& first, const Tensor& second, const OptionalTensor& bias,
                const SymbolicGeometry& g) {
  const Tensor result = below_autograd(primitive, first, second, bias, g);  // checks what the rest relies on
  const auto node = make_node<Node>();
  node->add_next_edge(torch::autograd::impl::gradient_edge(first));
  node->add_next_edge(torch::autograd::impl::gradient_edge(second));
  if (bias) node->add_next_edge(torch::autograd::impl::gradient_edge(*bias));
  node->kept.emplace(first, second, g);
  if (second.requires_grad()) node->first = SavedVariable(first, false);
  if (first.requires_grad()) node->second = SavedVariable(second, false);
  torch::autograd::set_history(result, node);
  return result;
}

Tensor primal(const Tensor& t) { return t._fw_grad(0).defined() ? t._fw_primal(0) : t; }

Tensor tangent(Primitive primitive, const Tensor& first, const Tensor& second, const OptionalTensor& bias,
               const Tensor& result, const SymbolicGeometry& g) {
  Tensor sum;
  const auto add = [&](const Tensor& term) { sum = sum.defined() ? sum.add(term) : term; };
  if (const Tensor t = first._fw_grad(0); t.defined()) add(call(primitive, t, primal(second), std::nullopt, g));
  if (const Tensor t = second._fw_grad(0); t.defined()) add(call(primitive, primal(first), t, std::nullopt, g));
  if (!bias) return sum;
  if (const Tensor t = bias->_fw_grad(0); t.defined())
    add(t.unsqueeze(1).unsqueeze(2).expand_symint(result.sym_sizes()));
  return sum;
}

// The Autograd key: of one level, where transforms are nested.
Tensor differentiable(Primitive primitive, const Tensor& first, const Tensor& second, const OptionalTensor& bias,
                      const SymbolicGeometry& g) {
  const bool records = at::GradMode::is_enabled() &&
                       (first.requires_grad() || second.requires_grad() || (bias && bias->requires_grad()));
  const Tensor result = [&] {
    if (!records) return below_autograd(primitive, first, second, bias, g);
    switch (primitive) {
      case Primitive::forward: return recorded<Forward>(primitive, first, second, bias, g);
      case Primitive::grad_input: return recorded<GradInput>(primitive, first, second, bias, g);
      case Primitive::grad_weight: break;
    }
    return recorded<GradWeight>(primitive, first, second, bias, g);
  }();
  if (const Tensor t = tangent(primitive, first, second, bias, result, g); t.defined())
    result._set_fw_grad(t, 0, /*is_inplace_op*/ false);
  return result;
}

Tensor autograd_forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        CONVX_GEOMETRY(c10::SymIntArrayRef, c10::SymInt)) {
  return differentiable(Primitive::forward, input, weight, bias, CONVX_PACK);
}
Tensor autograd_grad_input(const Tensor& grad_output, const Tensor& weight, const OptionalTensor& bias,
                           CONVX_GEOMETRY(c10::SymIntArrayRef, c10::SymInt)) {
  return differentiable(Primitive::grad_input, grad_output, weight, bias, CONVX_PACK);
}
Tensor autograd_grad_weight(const Tensor& input, const Tensor& grad_output,
                            CONVX_GEOMETRY(c10::SymIntArrayRef, c10::SymInt)) {
  return differentiable(Primitive::grad_weight, input, grad_output, std::nullopt, CONVX_PACK);
}

// In a backward for several cotangents at once (autograd.grad's is_grads_batched), which torch runs by its older vmap.
bool is_batched(const Tensor& t) { return t.key_set().has(c10::DispatchKey::Batched); }

}  // namespace

bool in_transform() {
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  return included.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         included.has(c10::DispatchKey::FuncTorchDynamicLayerBackMode);
}

Tensor call(Primitive primitive, const Tensor& first, const Tensor& second, const OptionalTensor& bias,
            const SymbolicGeometry& g) {
  if (in_transform() || is_batched(first) || is_batched(second) || at::tracer::impl::is_dispatch_enabled())
    return dispatch(primitive, first, second, bias, g);
  return differentiable(primitive, first, second, bias, g);  // where the dispatcher would lead
}

namespace {

// The Python type of a node, which torch else shows as CppFunction whatever it is.
template <class Node>
void name_node(const char* name) {
  static PyTypeObject type = {};
  torch::autograd::registerCppFunction(typeid(Node),
                                       torch::autograd::_initFunctionPyTypeObject(type, name, nullptr, nullptr));
}

}  // namespace

void name_nodes() {
  name_node<Forward>("ForwardBackward");
  name_node<GradInput>("GradInputBackward");
  name_node<GradWeight>("GradWeightBackward");
}

}  // namespace convx

TORCH_LIBRARY_IMPL(convx, Autograd, m) {
  m.impl("forward", convx::autograd_forward);
  m.impl("grad_input", convx::autograd_grad_input);
  m.impl("grad_weight", convx::autograd_grad_weight);
}
