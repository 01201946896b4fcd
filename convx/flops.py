"""Multiply-adds for ``torch.utils.flop_counter.FlopCounterMode``, which then counts convx's layers as torch's.

By torch's own formula, so that both agree whatever the version: two operations for each multiply-add, taps in the
padding counted. It has G times too many for the weight gradient of a layer in G groups, torch's layer and ours alike.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import conv_flop_count, flop_registry, register_flop_formula

_ops = torch.ops.convx


def _forward(x, w, *_, out_shape, **__) -> int:
    return conv_flop_count(x, w, out_shape)


def _grad_input(y, w, *_, out_shape, **__) -> int:
    return conv_flop_count(y, w, out_shape, transposed=True)


def _grad_weight(x, y, *_, out_shape, **__) -> int:
    """As torch has it, the convolution of x by y with batch and channels exchanged."""
    x, y, w = ([size[1], size[0], *size[2:]] for size in (x, y, out_shape))
    return conv_flop_count(x, y, w)


for _op, _formula in ((_ops.forward, _forward), (_ops.grad_input, _grad_input), (_ops.grad_weight, _grad_weight)):
    if _op not in flop_registry:  # else the module is loaded anew
        register_flop_formula(_op)(_formula)
