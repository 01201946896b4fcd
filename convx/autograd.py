"""The three primitives as Python calls them, with all their derivatives.

The primitives are the derivatives of one trilinear form T(x, w, y) (csrc/problem.h): ``forward`` = dT/dy,
``grad_input`` = dT/dx, ``grad_weight`` = dT/dw. Each is linear in both of its operands, and its derivative by one of
them is another of the three. csrc/bindings_autograd.cpp says so to torch's dispatcher, once, for gradients of every
order, for forward mode, and for whatever nests or traces them: ``torch.func``, ``torch.compile``, ``torch.export``.
csrc/bindings_vmap.cpp does the same for vmap.

Every primitive is called as ``(first, second, [bias], stride, padding, dilation, groups, size, padding_mode,
channels_last)``, where ``size`` is the spatial size of the result and ``channels_last`` its layout.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from . import _C

_ops = torch.ops.convx


def _register_sharding() -> None:
    if "torch.distributed.tensor" in sys.modules:
        from . import sharding  # noqa: F401


# Run once, as it is, by code that is being traced. What torch.compiler.assume_constant_result sets; calling that would
# import torch's compiler here.
_register_sharding._dynamo_marked_constant = True


def _call(name: str, *args) -> Tensor:
    """The operator; where nothing has to see its name, by the compiled module, which is the shorter way."""
    if torch.compiler.is_compiling():
        _register_sharding()
        return getattr(_ops, name)(*args)
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed and any(isinstance(t, distributed.DTensor) for t in args[:3]):
        _register_sharding()
    return getattr(_C, name)(*args)


def forward(*args) -> Tensor:
    """y[n,k,p,q] = bias[k] + sum over c,r,s of w[k,c,r,s] * x[n,c,h,w], where tap (r,s) of output (p,q) reads (h,w).

    Shapes: input (N, C, H, W), weight (K, C/G, R, S), bias (K,) or None; returns (N, K, P, Q) for size = (P, Q).
    """
    return _call("forward", *args)


def grad_input(*args) -> Tensor:
    """x[n,c,h,w] = bias[c] + sum of w[k,c,r,s] * y[n,k,p,q] over all k and all (p,q) whose tap (r,s) reads (h,w).

    Shapes: grad_output (N, K, P, Q), weight (K, C/G, R, S), bias (C,) or None; returns (N, C, H, W) for size = (H, W).
    """
    return _call("grad_input", *args)


def grad_weight(*args) -> Tensor:
    """w[k,c,r,s] = sum over n,p,q of y[n,k,p,q] * x[n,c,h,w], where tap (r,s) of output (p,q) reads (h,w).

    Shapes: input (N, C, H, W), grad_output (N, K, P, Q); returns (K, C/G, R, S) for size = (R, S).
    """
    return _call("grad_weight", *args)
