"""The gradients of ``conv2d`` as functions of their own, as ``torch.nn.grad`` has them.

Both are primitives (csrc/problem.h), so each is differentiable in turn, any number of times.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import autograd
from .functional import IntOrPair, _channels_last, _complex, pair

__all__ = ["conv2d_input", "conv2d_weight"]


def _shared(stride, padding, dilation, groups):
    return pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation"), groups


def _check_rank(name: str, given: Sequence[int]) -> None:
    if len(given) != 4:
        raise RuntimeError(f"expected {name} of 4 dimensions, but got {name}={list(given)}")


def conv2d_input(
    input_size: Sequence[int],
    weight: Tensor,
    grad_output: Tensor,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """The gradient of :func:`convx.conv2d` by its input, as :func:`torch.nn.grad.conv2d_input`.

    Args:
        input_size: (N, C, H, W), the size of the result.
        weight: (K, C/groups, R, S).
        grad_output: (N, K, P, Q).
        stride, padding, dilation, groups: as in the convolution.

    Raises:
        RuntimeError: sizes, dtypes or devices that don't fit together, and values out of range.
    """
    _check_rank("input_size", input_size)
    _check_rank("grad_output", grad_output.shape)
    n, c, h, w = input_size
    if n != grad_output.shape[0] or c != weight.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.shape)} and grad_output of size "
            f"{list(grad_output.shape)}, expected input_size to be [{grad_output.shape[0]}, "
            f"{weight.shape[1] * groups}, H, W], but got {list(input_size)}"
        )
    args = (*_shared(stride, padding, dilation, groups), (h, w), "zeros", _channels_last(grad_output, weight))
    if weight.dtype.is_complex:
        return _complex(autograd.grad_input, grad_output, weight.conj(), None, *args)
    return autograd.grad_input(grad_output, weight, None, *args)


def conv2d_weight(
    input: Tensor,
    weight_size: Sequence[int],
    grad_output: Tensor,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """The gradient of :func:`convx.conv2d` by its weight, as :func:`torch.nn.grad.conv2d_weight`.

    Args:
        input: (N, C, H, W).
        weight_size: (K, C/groups, R, S), the size of the result.
        grad_output: (N, K, P, Q).
        stride, padding, dilation, groups: as in the convolution.

    Raises:
        RuntimeError: sizes, dtypes or devices that don't fit together, and values out of range.
    """
    _check_rank("weight_size", weight_size)
    _check_rank("grad_output", grad_output.shape)
    _check_rank("input", input.shape)
    k, c, r, s = weight_size
    if k != grad_output.shape[1] or c * groups != input.shape[1]:
        raise RuntimeError(
            f"Given groups={groups}, input of size {list(input.shape)} and grad_output of size "
            f"{list(grad_output.shape)}, expected weight_size to be [{grad_output.shape[1]}, "
            f"{input.shape[1]}/{groups}, R, S], but got {list(weight_size)}"
        )
    args = (*_shared(stride, padding, dilation, groups), (r, s), "zeros", _channels_last(input, input))

    def without_bias(first, second, _, *rest):
        return autograd.grad_weight(first, second, *rest)

    if input.dtype.is_complex:
        return _complex(without_bias, input.conj(), grad_output, None, *args)
    return autograd.grad_weight(input, grad_output, *args)
