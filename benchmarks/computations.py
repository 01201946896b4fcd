"""What is timed: the three computations of a layer, by torch and by convx, on the same tensors.

forward, grad_input and grad_weight are the layer's. Those of a transposed layer are the primitives grad_input, forward
and grad_weight, in this order: the layer is the same trilinear form read from its other end.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import convx  # noqa: F401 (registers torch.ops.convx)

from .shapes import Shape

COMPUTATIONS = ("forward", "grad_input", "grad_weight")
TRANSPOSED_PRIMITIVE = {"forward": "grad_input", "grad_input": "forward", "grad_weight": "grad_weight"}
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Operands(NamedTuple):
    """x, w and y of the trilinear form, all three filled: each computation reads two of them."""

    x: Tensor
    w: Tensor
    y: Tensor


def make_operands(shape: Shape, dtype: torch.dtype, device: str) -> Operands:
    """The same values for a shape in every run, contiguous."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device).to(dtype)

    s = shape
    return Operands(random(s.N, s.C, s.H, s.W), random(s.K, s.C // s.G, s.R, s.S), random(s.N, s.K, s.P, s.Q))


def in_layout(operands: Operands, layout: str) -> Operands:
    return Operands(*(t.contiguous(memory_format=LAYOUTS[layout]) for t in operands))


def primitive_of(shape: Shape, computation: str) -> str:
    return TRANSPOSED_PRIMITIVE[computation] if shape.transposed else computation


def convx_call(shape: Shape, computation: str, o: Operands, layout: str) -> Callable[[], Tensor]:
    s, primitive = shape, primitive_of(shape, computation)
    geometry = (s.stride, s.padding, s.dilation, s.G)
    last = ("zeros", layout == "channels_last")
    if primitive == "forward":
        return lambda: torch.ops.convx.forward(o.x, o.w, None, *geometry, (s.P, s.Q), *last)
    if primitive == "grad_input":
        return lambda: torch.ops.convx.grad_input(o.y, o.w, None, *geometry, (s.H, s.W), *last)
    return lambda: torch.ops.convx.grad_weight(o.x, o.y, *geometry, (s.R, s.S), *last)


def torch_call(shape: Shape, computation: str, o: Operands) -> Callable[[], Tensor]:
    s = shape
    came_in, came_out = (o.y, o.x) if s.transposed else (o.x, o.y)
    if computation == "forward":
        if s.transposed:
            return lambda: torch.conv_transpose2d(
                o.y, o.w, None, s.stride, s.padding, s.output_padding, s.G, s.dilation
            )
        return lambda: torch.conv2d(o.x, o.w, None, s.stride, s.padding, s.dilation, s.G)
    index = 0 if computation == "grad_input" else 1
    mask = [index == 0, index == 1, False]
    extra = s.output_padding if s.transposed else (0, 0)
    rest = (None, s.stride, s.padding, s.dilation, s.transposed, extra, s.G, mask)
    return lambda: torch.ops.aten.convolution_backward(came_out, came_in, o.w, *rest)[index]


def torch_backend(shape: Shape, o: Operands) -> str:
    """The implementation that torch picks, as its own (private) question answers; '' where it has none."""
    ask = getattr(torch._C, "_select_conv_backend", None)
    if ask is None:
        return ""
    s = shape
    extra = s.output_padding if s.transposed else (0, 0)
    came_in = o.y if s.transposed else o.x
    name = ask(came_in, o.w, None, s.stride, s.padding, s.dilation, s.transposed, extra, s.G, None).name
    return "MkldnnTranspose" if name == "???" else name  # the one of torch's names that its enum leaves out
