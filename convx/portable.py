"""The layers in torch's own operators, for graphs that leave torch: ONNX, and whatever else knows no convx.

Nothing is computed with these: they are what a graph says, so that its reader finds the operators that it knows.
``torch.onnx.export`` gets them of itself, a program that torch.export made by ``decompositions()``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, padding_mode="zeros"):
    """convx.conv2d as torch.nn.Conv2d is composed: torch's convolution, behind torch's pad for the padding modes."""
    if padding_mode == "zeros":
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if padding == "valid":
        return torch.conv2d(input, weight, bias, stride, 0, dilation, groups)
    if padding == "same":
        steps = (dilation, dilation) if isinstance(dilation, int) else dilation
        total = [step * (size - 1) for step, size in zip(steps, weight.shape[2:], strict=True)]
        before = [t // 2 for t in total]
        after = [t - b for t, b in zip(total, before, strict=True)]
    else:
        before = after = (padding, padding) if isinstance(padding, int) else tuple(padding)
    input = functional.pad(input, [before[1], after[1], before[0], after[0]], mode=padding_mode)
    return torch.conv2d(input, weight, bias, stride, 0, dilation, groups)


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """convx.conv_transpose2d, which is torch's."""
    return torch.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)


def decompositions() -> dict[torch._ops.OpOverload, Callable]:
    """convx's layers in an exported program as torch's: ``program.run_decompositions(convx.decompositions())``.

    For handing a program made by ``torch.export`` to a tool that knows torch's operators alone.
    """
    ops = torch.ops.convx
    return {
        ops.conv2d.default: conv2d,
        ops.conv2d.padding: conv2d,
        ops.conv_transpose2d.default: conv_transpose2d,
    }
