// vmap for the three operators: a batch of B convolutions is one convolution of another shape.
//
// Each primitive has two operands, so there are three cases. If one operand is shared, the other's B folds into an axis
// that the primitive leaves free: the batch N, the output channels K or the input channels C. If both differ, B folds
// into the groups, since groups are what "independent convolutions side by side" means. Either way it is one call of
// the kernel; nothing is looped over and no operand is repeated. Per-sample weight gradients are the case "both" of
// grad_weight. (In Python a rule took half a millisecond a call, more than the sums of small layers.)
//
// B must be folded inside each group (as G, B, C/G): channels of one group have to stay together.
#include <ATen/functorch/DynamicLayer.h>
#include <ATen/functorch/PlumbingHelper.h>
#include <torch/library.h>

#include "bindings.h"

namespace convx {
namespace {

using c10::SymInt;
using OptionalTensor = std::optional<Tensor>;

// (B, N, ...) to (B*N, ...).
Tensor into_batch(const Tensor& t) { return t.flatten(0, 1); }

// (B, N, G*c, ...) to (N, G*B*c, ...).
Tensor into_channels(const Tensor& t, const SymInt& groups = 1) {
  return t.unflatten_symint(2, {groups, t.sym_size(2) / groups}).permute({1, 2, 0, 3, 4, 5}).flatten(1, 3);
}

// (N, G*B*c, ...) to (B, N, G*c, ...).
Tensor out_of_channels(const Tensor& t, const SymInt& batch, const SymInt& groups = 1) {
  return t.unflatten_symint(1, {groups, batch, t.sym_size(1) / (groups * batch)})
      .permute({2, 0, 1, 3, 4, 5})
      .flatten(2, 3);
}

// A weight (B, G*k, c, R, S) to (G*B*k, c, R, S).
Tensor into_outputs(const Tensor& w, const SymInt& groups) {
  return w.unflatten_symint(1, {groups, w.sym_size(1) / groups}).transpose(0, 1).flatten(0, 2);
}

// A weight (G*B*k, c, R, S) to (B, G*k, c, R, S).
Tensor out_of_outputs(const Tensor& w, const SymInt& batch, const SymInt& groups) {
  return w.unflatten_symint(0, {groups, batch, w.sym_size(0) / (groups * batch)}).transpose(0, 1).flatten(1, 2);
}

// A weight (B, K, c, R, S) to (K, B*c, R, S).
Tensor into_inputs(const Tensor& w) { return w.transpose(0, 1).flatten(1, 2); }

// A weight (K, B*c, R, S) to (B, K, c, R, S).
Tensor out_of_inputs(const Tensor& w, const SymInt& batch) {
  return w.unflatten_symint(1, {batch, w.sym_size(1) / batch}).transpose(0, 1);
}

// A tensor as one level of vmap sees it, B in front if it has one.
struct Operand {
  Tensor value;
  bool batched;

  Operand(const Tensor& t, int64_t level) {
    auto [unwrapped, dim] = at::functorch::unwrapTensorAtLevel(t, level);
    batched = dim.has_value();
    value = batched ? unwrapped.movedim(*dim, 0) : unwrapped;
  }
};

SymbolicGeometry with_groups(SymbolicGeometry g, SymInt groups) {
  g.groups = std::move(groups);
  return g;
}

// (B, N, ...) of forward or grad_input, which are alike but for which of the weight's channels meet the first operand.
Tensor batch_of_images(Primitive primitive, const Operand& first, const Operand& w, const SymInt& batch,
                       const OptionalTensor& bias, const SymbolicGeometry& g) {
  if (!w.batched)
    return call(primitive, into_batch(first.value), w.value, bias, g)
        .unflatten_symint(0, {batch, first.value.sym_size(1)});
  if (first.batched)
    return out_of_channels(call(primitive, into_channels(first.value), w.value.flatten(0, 1), std::nullopt,
                                with_groups(g, g.groups * batch)),
                           batch);
  if (primitive == Primitive::forward)
    return out_of_channels(call(primitive, first.value, into_outputs(w.value, g.groups), std::nullopt, g), batch,
                           g.groups);
  return out_of_channels(call(primitive, first.value, into_inputs(w.value), std::nullopt, g), batch, g.groups);
}

Tensor batch_of_weights(const Operand& x, const Operand& y, const SymInt& batch, const SymbolicGeometry& g) {
  if (!y.batched)
    return out_of_inputs(call(Primitive::grad_weight, into_channels(x.value, g.groups), y.value, std::nullopt, g),
                         batch);
  if (!x.batched)
    return out_of_outputs(call(Primitive::grad_weight, x.value, into_channels(y.value, g.groups), std::nullopt, g),
                          batch, g.groups);
  const Tensor all = call(Primitive::grad_weight, into_channels(x.value), into_channels(y.value), std::nullopt,
                          with_groups(g, g.groups * batch));
  return all.unflatten_symint(0, {batch, all.sym_size(0) / batch});
}

// The FuncTorchBatched key: of one level, where vmaps are nested.
Tensor batched(Primitive primitive, const Tensor& first, const Tensor& second, const OptionalTensor& bias,
               const SymbolicGeometry& g) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::FuncTorchBatched);
  const auto layer = at::functorch::maybeCurrentDynamicLayer();
  TORCH_CHECK(layer, "convx ", name(primitive), ": expected to be inside of vmap, but a tensor of it is used outside");
  const int64_t level = layer->layerId();
  const Operand a(first, level), b(second, level);
  OptionalTensor own_bias = bias;
  std::optional<Operand> batched_bias;
  if (bias) {
    batched_bias.emplace(*bias, level);
    own_bias = batched_bias->value;
    if (!batched_bias->batched) batched_bias.reset();
  }
  if (!a.batched && !b.batched && !batched_bias) return call(primitive, a.value, b.value, own_bias, g);

  const SymInt batch = (a.batched ? a : b.batched ? b : *batched_bias).value.sym_size(0);
  Tensor result;
  if (primitive == Primitive::grad_weight) {
    result = batch_of_weights(a, b, batch, g);
  } else {
    // The kernel adds a bias that all B share, if they have their channels to themselves.
    const bool fused = own_bias && !batched_bias && !b.batched;
    if (a.batched || b.batched)
      result = batch_of_images(primitive, a, b, batch, fused ? own_bias : std::nullopt, g);
    else
      result = call(primitive, a.value, b.value, std::nullopt, g).unsqueeze(0);
    if (own_bias && !fused) {
      const Tensor each = own_bias->unsqueeze(-1).unsqueeze(-1);
      result = result.add(batched_bias ? each.unsqueeze(1) : each);
    }
  }
  return at::functorch::makeBatched(std::move(result), 0, level);
}

Tensor batched_forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                       CONVX_GEOMETRY(c10::SymIntArrayRef, SymInt)) {
  return batched(Primitive::forward, input, weight, bias, CONVX_PACK);
}
Tensor batched_grad_input(const Tensor& grad_output, const Tensor& weight, const OptionalTensor& bias,
                          CONVX_GEOMETRY(c10::SymIntArrayRef, SymInt)) {
  return batched(Primitive::grad_input, grad_output, weight, bias, CONVX_PACK);
}
Tensor batched_grad_weight(const Tensor& input, const Tensor& grad_output,
                           CONVX_GEOMETRY(c10::SymIntArrayRef, SymInt)) {
  return batched(Primitive::grad_weight, input, grad_output, std::nullopt, CONVX_PACK);
}

}  // namespace
}  // namespace convx

TORCH_LIBRARY_IMPL(convx, FuncTorchBatched, m) {
  m.impl("forward", convx::batched_forward);
  m.impl("grad_input", convx::batched_grad_input);
  m.impl("grad_weight", convx::batched_grad_weight);
}
