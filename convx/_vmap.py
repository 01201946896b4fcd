"""vmap for the three primitives: a batch of B convolutions is one convolution of another shape.

Each primitive has two operands, so there are three cases. If one operand is shared, the other's B folds into an axis
that the primitive leaves free: the batch N, the output channels K or the input channels C. If both differ, B folds into
the groups, since groups are what "independent convolutions side by side" means. Either way it is one call of the
kernel; nothing is looped over and no operand is repeated. Per-sample weight gradients are the case "both" of
``grad_weight``.

B must be folded inside each group (as G, B, C/G): channels of one group have to stay together.
"""

from __future__ import annotations

from torch import Tensor


def _front(tensor: Tensor, dim: int | None) -> Tensor:
    return tensor if dim is None else tensor.movedim(dim, 0)


def _into_batch(t: Tensor) -> Tensor:
    """(B, N, ...) to (B*N, ...)."""
    return t.flatten(0, 1)


def _into_channels(t: Tensor, groups: int = 1) -> Tensor:
    """(B, N, G*c, ...) to (N, G*B*c, ...)."""
    b, n, channels = t.shape[:3]
    t = t.reshape(b, n, groups, channels // groups, *t.shape[3:])
    return t.permute(1, 2, 0, 3, 4, 5).flatten(1, 3)


def _out_of_channels(t: Tensor, batch: int, groups: int = 1) -> Tensor:
    """(N, G*B*c, ...) to (B, N, G*c, ...)."""
    n, channels = t.shape[:2]
    t = t.reshape(n, groups, batch, channels // (groups * batch), *t.shape[2:])
    return t.permute(2, 0, 1, 3, 4, 5).flatten(2, 3)


def _into_outputs(w: Tensor, groups: int = 1) -> Tensor:
    """A weight (B, G*k, c, R, S) to (G*B*k, c, R, S)."""
    return w.unflatten(1, (groups, w.shape[1] // groups)).transpose(0, 1).flatten(0, 2)


def _out_of_outputs(w: Tensor, batch: int, groups: int = 1) -> Tensor:
    """A weight (G*B*k, c, R, S) to (B, G*k, c, R, S)."""
    k, *rest = w.shape
    w = w.reshape(groups, batch, k // (groups * batch), *rest)
    return w.transpose(0, 1).flatten(1, 2)


def _into_inputs(w: Tensor) -> Tensor:
    """A weight (B, K, c, R, S) to (K, B*c, R, S)."""
    return w.transpose(0, 1).flatten(1, 2)


def _out_of_inputs(w: Tensor, batch: int) -> Tensor:
    """A weight (K, B*c, R, S) to (B, K, c, R, S)."""
    return w.unflatten(1, (batch, w.shape[1] // batch)).transpose(0, 1)


def _with_groups(args: tuple, groups: int) -> tuple:
    return (*args[:3], groups, *args[4:])


def _with_bias(op, batch: int, in_dims: tuple, args: tuple, map_operands):
    """Splits the arguments; a bias of its own for each of the B (or one beside folded channels) is added at the end."""
    first, second, bias, *geometry = args
    first, second = _front(first, in_dims[0]), _front(second, in_dims[1])
    batched = in_dims[0] is not None, in_dims[1] is not None

    def call(a, b, groups=geometry[3], bias=None):
        return op(a, b, bias, *_with_groups(geometry, groups))

    if batched == (True, False) and in_dims[2] is None:  # every result has the same channels: the kernel adds it
        out = call(_into_batch(first), second, bias=bias)
        return out.unflatten(0, (batch, first.shape[1])), 0
    if batched == (True, False):
        out = call(_into_batch(first), second).unflatten(0, (batch, first.shape[1]))
    elif batched == (False, False):  # only the bias is batched
        out = call(first, second)[None]
    else:
        out = map_operands(call, batch, batched, first, second, geometry[3])
    if bias is not None:
        bias = _front(bias, in_dims[2])
        out = out + (bias[:, None, :, None, None] if in_dims[2] is not None else bias[:, None, None])
    return out, 0


def forward(op, batch: int, in_dims: tuple, args: tuple):
    def map_operands(call, batch, batched, x, w, groups):
        if not batched[0]:
            return _out_of_channels(call(x, _into_outputs(w, groups)), batch, groups)
        return _out_of_channels(call(_into_channels(x), w.flatten(0, 1), groups * batch), batch)

    return _with_bias(op, batch, in_dims, args, map_operands)


def grad_input(op, batch: int, in_dims: tuple, args: tuple):
    def map_operands(call, batch, batched, y, w, groups):
        if not batched[0]:
            return _out_of_channels(call(y, _into_inputs(w)), batch, groups)
        return _out_of_channels(call(_into_channels(y), w.flatten(0, 1), groups * batch), batch)

    return _with_bias(op, batch, in_dims, args, map_operands)


def grad_weight(op, batch: int, in_dims: tuple, args: tuple):
    x, y, *geometry = args
    x, y = _front(x, in_dims[0]), _front(y, in_dims[1])
    groups = geometry[3]
    if in_dims[1] is None:
        return _out_of_inputs(op(_into_channels(x, groups), y, *geometry), batch), 0
    if in_dims[0] is None:
        return _out_of_outputs(op(x, _into_channels(y, groups), *geometry), batch, groups), 0
    grad = op(_into_channels(x), _into_channels(y), *_with_groups(geometry, groups * batch))
    return grad.unflatten(0, (batch, grad.shape[0] // batch)), 0
