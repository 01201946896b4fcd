"""``conv2d`` and ``conv_transpose2d`` with the arguments of ``torch.nn.functional``'s.

This file turns a call as torch's users write it (ints or pairs, ``padding='same'``, unbatched input, autocast, complex
or small integer dtypes) into one call of a primitive. Plain calls, which are nearly all, are taken at the first line by
csrc/bindings_call.cpp, which does the same faster and leaves to this file whatever is unusual or wrong. What is wrong
with shapes and dtypes is said by the operators' own checks (csrc/bindings_checks.cpp), so that every way into a kernel
is guarded by the same lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from . import _C, autograd, portable

IntOrPair = int | Sequence[int]

# Sizes beyond this can't be multiplied by anything in 64 bits, and Python's integers would not even fit the call.
_LARGEST = 2**62


def pair(value: IntOrPair, name: str, caller: str = "conv2d") -> tuple[int, int]:
    """An int or a sequence of one or two ints as a pair.

    Raises TypeError for what is no int, RuntimeError for a wrong length or a value beyond 64-bit sizes.
    """
    if type(value) is int:
        both = (value, value)
    elif isinstance(value, torch.SymInt):
        return (value, value)
    elif isinstance(value, (tuple, list, torch.Size)):
        if len(value) not in (1, 2):
            raise RuntimeError(
                f"expected {name} to be a single integer value or a list of 2 values to match the convolution "
                f"dimensions, but got {name}={list(value)}"
            )
        both = (value[0], value[-1])
        if type(both[0]) is not int or type(both[1]) is not int:
            if any(isinstance(v, torch.SymInt) for v in both):
                return both
            both = tuple(_as_index(v, name, caller) for v in both)
    else:
        v = _as_index(value, name, caller)
        both = (v, v)
    if max(both) > _LARGEST or min(both) < -_LARGEST:
        raise RuntimeError(f"Given {name}={both}, expected {name} to be at most {_LARGEST}")
    return both


def _as_index(value, name: str, caller: str) -> int:
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{caller}(): argument '{name}' must be tuple of ints, not {type(value).__name__}") from None


def _groups(value, caller: str) -> int:
    if type(value) is int or isinstance(value, torch.SymInt):
        return value
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{caller}(): argument 'groups' must be int, not {type(value).__name__}") from None


def _crop(input: Tensor, padding: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Negative padding cuts the input off, in the padding modes other than zeros (there torch refuses it)."""
    for axis, p in zip((-2, -1), padding, strict=True):
        if p < 0:
            size = input.shape[axis]
            input = input.narrow(axis, min(-p, size), max(size + 2 * p, 0))
    return input, (max(padding[0], 0), max(padding[1], 0))


def _check_operands(caller: str, input, weight, bias) -> None:
    for position, (name, t) in enumerate((("input", input), ("weight", weight), ("bias", bias)), 1):
        if not isinstance(t, Tensor) and not (t is None and name == "bias"):
            raise TypeError(
                f"{caller}(): argument '{name}' (position {position}) must be Tensor, not {type(t).__name__}"
            )
        if t is not None and t.layout is not torch.strided:
            raise RuntimeError(f"{caller}: expected {name} to be a dense (strided) tensor, but got layout {t.layout}")
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to {caller}, but got input of size: {list(input.shape)}"
        )
    if weight.dim() != 4:
        raise RuntimeError(
            f"Expected {weight.dim()}-dimensional input for {weight.dim()}-dimensional weight {list(weight.shape)}, "
            f"but got {input.dim()}-dimensional input of size {list(input.shape)} instead. "
            f"Expected 4-dimensional weight for {caller}"
        )


def _check_not_empty(input: Tensor) -> None:
    n, c, h, w = input.shape
    if (h == 0 or w == 0) and n != 0 and c != 0:
        raise RuntimeError(
            f"Only zero batch or zero channel inputs are supported, but got input shape: {list(input.shape)}"
        )


def _check_size(name: str, size: tuple[int, int]) -> None:
    # One by one: which of the two is larger would be a guard on symbolic sizes.
    if any(n > _LARGEST or n < -_LARGEST for n in size):
        raise RuntimeError(f"the {name} would be {size[0]} x {size[1]}, which overflows 64-bit sizes")


def _autocast(*tensors):
    """Casts as torch's autocast would: floating-point tensors, except float64, to the device's autocast dtype."""
    device = tensors[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t.to(dtype)
        if t is not None and t.is_floating_point() and t.dtype != torch.float64 and t.device.type == device
        else t
        for t in tensors
    )


def _prepared(caller: str, input, weight, bias):
    """The operands, if they are tensors of ranks that fit, as autocast wants them."""
    _check_operands(caller, input, weight, bias)
    return _autocast(input, weight, bias)


def _channels_last(input: Tensor, weight: Tensor) -> bool:
    """Whether torch would return channels_last: if either operand is laid out so."""
    if torch.compiler.is_compiling():
        return _is_channels_last(input) or _is_channels_last(weight)
    return _C.prefers_channels_last(input, weight)


def _is_channels_last(t: Tensor) -> bool:
    """Tensor::suggest_memory_format by sizes and strides, for Dynamo, which does not trace that."""
    least = 0
    for dim in (1, 3, 2, 0):
        size, stride = t.shape[dim], t.stride(dim)
        # Last comes the batch. If its stride is to be the channels', both layouts are one: contiguous.
        if size == 0 or stride == 0 or stride < least or (dim == 0 and least == t.stride(1)):
            return False
        least = stride * size if size > 1 else stride
    return True


def _whole_layer(name: str):
    """What to call where torch.export or torch.jit.trace makes a graph, which is to hold whole layers; else None."""
    if not (torch.compiler.is_exporting() or torch.jit.is_tracing()):
        return None
    return getattr(portable if torch.onnx.is_in_onnx_export() else torch.ops.convx, name)


def _complex(primitive, first: Tensor, second: Tensor, bias: Tensor | None, *args) -> Tensor:
    """A bilinear primitive on complex operands, from four real ones: (a + ib)(c + id) = (ac - bd) + i(ad + bc)."""
    if first.dtype != second.dtype or (bias is not None and bias.dtype != first.dtype):
        other = second if first.dtype != second.dtype else bias
        raise RuntimeError(
            f"Input type ({first.dtype}) and {'weight' if other is second else 'bias'} type ({other.dtype}) "
            "should be the same"
        )
    a, b = torch.view_as_real(first.resolve_conj()).unbind(-1)
    c, d = torch.view_as_real(second.resolve_conj()).unbind(-1)
    bias = (None, None) if bias is None else torch.view_as_real(bias.resolve_conj()).unbind(-1)
    real = primitive(a, c, bias[0], *args) - primitive(b, d, None, *args)
    imaginary = primitive(a, d, bias[1], *args) + primitive(b, c, None, *args)
    return torch.complex(real, imaginary)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """2-d convolution (cross-correlation), as :func:`torch.nn.functional.conv2d`.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (K, C/groups, R, S).
        bias: (K,) or None.
        stride, dilation: a positive int or a pair.
        padding: an int, a pair, ``'valid'`` or ``'same'`` (stride 1; an odd total pads one more at the end).
        groups: divides C and K.
        padding_mode: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``; no padded copy is made.

    Returns:
        (N, K, P, Q) or (K, P, Q), with P = (H + 2*padding - dilation*(R - 1) - 1) // stride + 1 (relation 6 of
        Dumoulin & Visin, arXiv:1603.07285); channels_last if input or weight is.

    Raises:
        RuntimeError: sizes, dtypes or devices that don't fit together, and values out of range.
        TypeError: an argument of the wrong type.
        ValueError: an unknown padding_mode.
        NotImplementedError: a dtype without a kernel.
    """
    if not torch.compiler.is_compiling():
        out = _C.conv2d(input, weight, bias, stride, padding, dilation, groups, padding_mode)
        if out is not None:
            return out
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            conv2d,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            padding,
            dilation,
            groups,
            padding_mode=padding_mode,
        )
    input, weight, bias = _prepared("conv2d", input, weight, bias)
    call = _whole_layer("conv2d")
    if call is None:
        return _conv2d(input, weight, bias, stride, padding, dilation, groups, padding_mode=padding_mode)
    # Pairs: the Dynamo of torch 2.11 has no ints for them in an operator's call.
    stride, dilation = pair(stride, "stride"), pair(dilation, "dilation")
    padding = padding if isinstance(padding, str) else pair(padding, "padding")
    return call(input, weight, bias, stride, padding, dilation, groups, padding_mode=padding_mode)


def _conv2d(input, weight, bias, stride, padding, dilation, groups, *, padding_mode):
    """conv2d of operands that are prepared."""
    if input.dim() == 3:
        batched = _conv2d(
            input.unsqueeze(0), weight, bias, stride, padding, dilation, groups, padding_mode=padding_mode
        )
        return batched.squeeze(0)
    _check_not_empty(input)
    dtype = input.dtype
    if dtype in _SMALL_INTEGERS and weight.dtype == dtype and (bias is None or bias.dtype == dtype):
        # exact: both wrap modulo a power of two, and the smaller one divides the larger
        wide = (t if t is None else t.long() for t in (input, weight, bias))
        return _conv2d(*wide, stride, padding, dilation, groups, padding_mode=padding_mode).to(dtype)

    stride, dilation, groups = pair(stride, "stride"), pair(dilation, "dilation"), _groups(groups, "conv2d")
    if padding_mode != "zeros" and not isinstance(padding, str):
        input, padding = _crop(input, pair(padding, "padding"))
    (h, w), (r, s) = input.shape[2:], weight.shape[2:]
    span_h, span_w = dilation[0] * (r - 1), dilation[1] * (s - 1)
    if isinstance(padding, str):
        padding, total = _named_padding(padding, stride, (span_h, span_w))
    else:
        padding = pair(padding, "padding")
        total = 2 * padding[0], 2 * padding[1]
    size = (
        (h + total[0] - span_h - 1) // (stride[0] or 1) + 1,  # a stride of 0 is refused below, by the operator
        (w + total[1] - span_w - 1) // (stride[1] or 1) + 1,
    )
    _check_size("output size", size)
    args = (
        stride,
        padding,
        dilation,
        groups,
        size,
        padding_mode,
        _channels_last(input, weight),
    )
    if dtype.is_complex:
        return _complex(autograd.forward, input, weight, bias, *args)
    return autograd.forward(input, weight, bias, *args)


_SMALL_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)


def _named_padding(padding: str, stride: tuple[int, int], span: tuple[int, int]):
    """padding='valid' or 'same' as (padding before, padding before and after together)."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        raise RuntimeError(f"Invalid padding string: '{padding}', expected 'valid' or 'same'")
    if stride != (1, 1):
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    return (span[0] // 2, span[1] // 2), span


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
) -> Tensor:
    """Transposed 2-d convolution, as :func:`torch.nn.functional.conv_transpose2d`: the primitive ``grad_input``.

    In the alphabet of csrc/problem.h the layer's input is y and its output is x, so K counts the channels that come in.

    Args:
        input: (N, K, P, Q) or (K, P, Q).
        weight: (K, C/groups, R, S).
        bias: (C,) or None.
        stride, dilation: a positive int or a pair.
        padding: how much is cut off each side of the output; an int or a pair.
        output_padding: how much is added to one side of the output; smaller than stride or dilation.
        groups: divides K and C.

    Returns:
        (N, C, H, W) or (C, H, W), with H = (P - 1)*stride - 2*padding + dilation*(R - 1) + output_padding + 1
        (relation 14 of Dumoulin & Visin, arXiv:1603.07285); channels_last if input or weight is.

    Raises:
        RuntimeError: sizes, dtypes or devices that don't fit together, and values out of range.
        TypeError: an argument of the wrong type.
        NotImplementedError: a dtype without a kernel.
    """
    if not torch.compiler.is_compiling():
        out = _C.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
        if out is not None:
            return out
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            conv_transpose2d,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            padding,
            output_padding,
            groups,
            dilation,
        )
    input, weight, bias = _prepared("conv_transpose2d", input, weight, bias)
    call = _whole_layer("conv_transpose2d")
    if call is None:
        return _conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    caller = "conv_transpose2d"
    stride, dilation = pair(stride, "stride", caller), pair(dilation, "dilation", caller)
    padding, output_padding = pair(padding, "padding", caller), pair(output_padding, "output_padding", caller)
    return call(input, weight, bias, stride, padding, output_padding, groups, dilation)


def _conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation):
    """conv_transpose2d of operands that are prepared."""
    if input.dim() == 3:
        batched = _conv_transpose2d(input.unsqueeze(0), weight, bias, stride, padding, output_padding, groups, dilation)
        return batched.squeeze(0)
    _check_not_empty(input)
    caller = "conv_transpose2d"
    groups = _groups(groups, caller)
    stride, dilation = pair(stride, "stride", caller), pair(dilation, "dilation", caller)
    padding, extra = pair(padding, "padding", caller), pair(output_padding, "output_padding", caller)
    _check_output_padding(extra, stride, dilation)
    (p, q), (r, s) = input.shape[2:], weight.shape[2:]
    size = (
        (p - 1) * stride[0] - 2 * padding[0] + dilation[0] * (r - 1) + extra[0] + 1,
        (q - 1) * stride[1] - 2 * padding[1] + dilation[1] * (s - 1) + extra[1] + 1,
    )
    _check_size("output size", size)
    if size[0] < 1 or size[1] < 1:
        raise RuntimeError(
            f"Given input size per channel: ({p} x {q}). Calculated output size per channel: ({size[0]} x {size[1]}). "
            "Output size is too small"
        )
    args = (
        stride,
        padding,
        dilation,
        groups,
        size,
        "zeros",
        _channels_last(input, weight),
    )
    if input.dtype.is_complex:
        return _complex(autograd.grad_input, input, weight, bias, *args)
    return autograd.grad_input(input, weight, bias, *args)


def _check_output_padding(extra, stride, dilation) -> None:
    if extra[0] < 0 or extra[1] < 0:
        raise RuntimeError(f"negative output_padding is not supported, got output_padding={extra}")
    # A stride or dilation below 1 is refused by the operator, with its own message.
    if any(e and e >= s and e >= d and s > 0 and d > 0 for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise RuntimeError(
            "output padding must be smaller than either stride or dilation, but got "
            f"output_padding={extra} stride={stride} dilation={dilation}"
        )
