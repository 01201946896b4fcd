"""Gradients of every order, forward mode and vmap for the three primitives.

The primitives are the derivatives of one trilinear form T(x, w, y) (csrc/problem.h): ``forward`` = dT/dy,
``grad_input`` = dT/dx, ``grad_weight`` = dT/dw. Each is linear in both of its operands, and its derivative by one of
them is another of the three. So the three Functions below name one another and nothing else: a gradient of any order
is again one of these calls, and ConvTranspose2d, which is ``grad_input``, needs no formula of its own.

The formulas are written once here and used twice: by the Functions, which run where forward mode, a transform of
``torch.func`` or a tensor subclass is about, and by the operators' autograd registration, which ``torch.compile`` and
``torch.export`` trace. Other eager code doesn't come here: csrc/bindings_autograd.cpp has the same three nodes in C++.

Every primitive is called as ``(first, second, [bias], stride, padding, dilation, groups, size, padding_mode,
channels_last)``, where ``size`` is the spatial size of the result and ``channels_last`` its layout.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

from . import _C, _vmap


class Geometry(NamedTuple):
    """What the three primitives share; see csrc/problem.h."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    padding_mode: str
    channels_last: bool

    def args(self, size):
        """The arguments behind the operands, for a result of this spatial size."""
        return (*self[:4], size, *self[4:])


def _geometry(args) -> Geometry:
    """The inverse of Geometry.args."""
    stride, padding, dilation, groups, _, padding_mode, channels_last = args
    return Geometry(stride, padding, dilation, groups, padding_mode, channels_last)


def _spatial(tensor: Tensor) -> tuple[int, int]:
    return tuple(tensor.shape[-2:])


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    """Saves each operand only if the gradient of the other one is wanted, and their sizes always."""
    first, second = inputs[:2]
    ctx.set_materialize_grads(False)
    ctx.geometry = _geometry(inputs[-7:])
    ctx.sizes = _spatial(first), _spatial(second)
    ctx.size, ctx.channels = inputs[-3], output.shape[1]
    needs_first, needs_second = ctx.needs_input_grad[:2]
    ctx.save_for_backward(first if needs_second else None, second if needs_first else None)
    if _in_forward_mode():
        ctx.save_for_forward(first, second)


def _wanted(ctx: Any, i: int) -> bool:
    """Whether the gradient of tensor input i is wanted: it requires one, and this backward was asked for it
    (``torch.autograd.grad(y, w)`` need not compute x's)."""
    return ctx.needs_input_grad[i] and _C.should_compute(i)


def _bias_gradient(y: Tensor) -> Tensor:
    """The sum of y over all but its channels, in an order that doesn't depend on the number of threads.

    torch divides a sum among threads by its results. Only a single result it divides by its terms, so a single
    channel is first summed to a fixed number of parts. csrc/bindings_autograd.cpp adds in the same order.
    """
    if y.shape[1] != 1:
        return y.sum((0, 2, 3))
    parts = 1024
    flat = y.reshape(-1)
    flat = flat.float() if y.dtype in (torch.float16, torch.bfloat16) else flat
    each = flat.shape[0] // parts
    total = flat[: parts * each].reshape(parts, each).sum(1).sum() + flat[parts * each :].sum()
    return total.to(y.dtype)[None]


def _in_forward_mode() -> bool:
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


# ---- the formulas, for any implementation `p` of the three primitives ----


def _forward_backward(p, ctx, y):
    if y is None:
        return (None,) * 10
    x, w = ctx.saved_tensors
    g, (x_size, w_size) = ctx.geometry, ctx.sizes
    grad_x = p.grad_input(y, w, None, *g.args(x_size)) if _wanted(ctx, 0) else None
    grad_w = p.grad_weight(x, y, *g.args(w_size)) if _wanted(ctx, 1) else None
    grad_bias = _bias_gradient(y) if _wanted(ctx, 2) else None
    return grad_x, grad_w, grad_bias, *(None,) * 7


def _grad_input_backward(p, ctx, x):
    if x is None:
        return (None,) * 10
    y, w = ctx.saved_tensors
    g, (y_size, w_size) = ctx.geometry, ctx.sizes
    grad_y = p.forward(x, w, None, *g.args(y_size)) if _wanted(ctx, 0) else None
    grad_w = p.grad_weight(x, y, *g.args(w_size)) if _wanted(ctx, 1) else None
    grad_bias = _bias_gradient(x) if _wanted(ctx, 2) else None
    return grad_y, grad_w, grad_bias, *(None,) * 7


def _grad_weight_backward(p, ctx, w):
    if w is None:
        return (None,) * 9
    x, y = ctx.saved_tensors
    g, (x_size, y_size) = ctx.geometry, ctx.sizes
    grad_x = p.grad_input(y, w, None, *g.args(x_size)) if _wanted(ctx, 0) else None
    grad_y = p.forward(x, w, None, *g.args(y_size)) if _wanted(ctx, 1) else None
    return grad_x, grad_y, *(None,) * 7


def _bias_tangent(tangent: Tensor | None, ctx, batch: int) -> Tensor | None:
    return None if tangent is None else tangent[:, None, None].expand(batch, -1, *ctx.size)


class Forward(Function):
    """y[n,k,p,q] = bias[k] + sum over c,r,s of w[k,c,r,s] * x[n,c,h,w], where tap (r,s) of output (p,q) reads (h,w).

    Shapes: input (N, C, H, W), weight (K, C/G, R, S), bias (K,) or None; returns (N, K, P, Q) for size = (P, Q).
    """

    @staticmethod
    def forward(*args):
        return _C.forward(*args)

    setup_context = staticmethod(_setup)

    @staticmethod
    def backward(ctx, grad):
        return _forward_backward(_eager, ctx, grad)

    @staticmethod
    def jvp(ctx, x_tangent, w_tangent, bias_tangent, *_):
        x, w = ctx.saved_tensors
        args = ctx.geometry.args(ctx.size)
        out = None if x_tangent is None else Forward.apply(x_tangent, w, None, *args)
        out = _add(out, None if w_tangent is None else Forward.apply(x, w_tangent, None, *args))
        return _add(out, _bias_tangent(bias_tangent, ctx, x.shape[0]))

    @staticmethod
    def vmap(info, in_dims, *args):
        return _vmap.forward(_eager.forward, info.batch_size, in_dims, args)


class GradInput(Function):
    """x[n,c,h,w] = bias[c] + sum of w[k,c,r,s] * y[n,k,p,q] over all k and all (p,q) whose tap (r,s) reads (h,w).

    Shapes: grad_output (N, K, P, Q), weight (K, C/G, R, S), bias (C,) or None; returns (N, C, H, W) for size = (H, W).
    """

    @staticmethod
    def forward(*args):
        return _C.grad_input(*args)

    setup_context = staticmethod(_setup)

    @staticmethod
    def backward(ctx, grad):
        return _grad_input_backward(_eager, ctx, grad)

    @staticmethod
    def jvp(ctx, y_tangent, w_tangent, bias_tangent, *_):
        y, w = ctx.saved_tensors
        args = ctx.geometry.args(ctx.size)
        out = None if y_tangent is None else GradInput.apply(y_tangent, w, None, *args)
        out = _add(out, None if w_tangent is None else GradInput.apply(y, w_tangent, None, *args))
        return _add(out, _bias_tangent(bias_tangent, ctx, y.shape[0]))

    @staticmethod
    def vmap(info, in_dims, *args):
        return _vmap.grad_input(_eager.grad_input, info.batch_size, in_dims, args)


class GradWeight(Function):
    """w[k,c,r,s] = sum over n,p,q of y[n,k,p,q] * x[n,c,h,w], where tap (r,s) of output (p,q) reads (h,w).

    Shapes: input (N, C, H, W), grad_output (N, K, P, Q); returns (K, C/G, R, S) for size = (R, S).
    """

    @staticmethod
    def forward(*args):
        return _C.grad_weight(*args)

    setup_context = staticmethod(_setup)

    @staticmethod
    def backward(ctx, grad):
        return _grad_weight_backward(_eager, ctx, grad)

    @staticmethod
    def jvp(ctx, x_tangent, y_tangent, *_):
        x, y = ctx.saved_tensors
        args = ctx.geometry.args(ctx.size)
        out = None if x_tangent is None else GradWeight.apply(x_tangent, y, *args)
        return _add(out, None if y_tangent is None else GradWeight.apply(x, y_tangent, *args))

    @staticmethod
    def vmap(info, in_dims, *args):
        return _vmap.grad_weight(_eager.grad_weight, info.batch_size, in_dims, args)


class _eager:
    forward = Forward.apply
    grad_input = GradInput.apply
    grad_weight = GradWeight.apply


_ops = torch.ops.convx

for _name, _backward in (
    ("forward", _forward_backward),
    ("grad_input", _grad_input_backward),
    ("grad_weight", _grad_weight_backward),
):
    torch.library.register_autograd(
        f"convx::{_name}",
        lambda ctx, grad, _backward=_backward: _backward(_ops, ctx, grad),
        setup_context=lambda ctx, inputs, output: _setup(ctx, inputs, output),
    )
    torch.library.register_vmap(
        f"convx::{_name}",
        lambda info, in_dims, *args, _name=_name: getattr(_vmap, _name)(
            getattr(_ops, _name), info.batch_size, in_dims, args
        ),
    )


_PLAIN = (Tensor, torch.nn.Parameter)


@torch.compiler.assume_constant_result
def _meet_dtensors() -> None:
    """Imports the sharding rules if DTensors are about: a subclass came by, or code that may have some is traced."""
    if "torch.distributed.tensor" in sys.modules:
        from . import sharding  # noqa: F401


def _call(name: str, function: type[Function], *args) -> Tensor:
    if torch.compiler.is_compiling():
        _meet_dtensors()
        return getattr(_ops, name)(*args)
    if _in_forward_mode():
        return function.apply(*args)
    if not all(type(t) in _PLAIN for t in args[:3] if isinstance(t, Tensor)):
        _meet_dtensors()
        return function.apply(*args)
    return getattr(_C, name)(*args)  # csrc/bindings_autograd.cpp records it, if there is something to record


def forward(*args) -> Tensor:
    """The primitive ``forward`` with all its derivatives; see :class:`Forward` for shapes."""
    return _call("forward", Forward, *args)


def grad_input(*args) -> Tensor:
    """The primitive ``grad_input`` with all its derivatives; see :class:`GradInput` for shapes."""
    return _call("grad_input", GradInput, *args)


def grad_weight(*args) -> Tensor:
    """The primitive ``grad_weight`` with all its derivatives; see :class:`GradWeight` for shapes."""
    return _call("grad_weight", GradWeight, *args)
