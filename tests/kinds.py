"""The kinds of layers that each tool is tested with, convx's and torch's, and a network of all of them.

Parameters and inputs are small integers, so that results are exact, and equal whoever computed or compiled them.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from twins import fill, integers

# Arguments of the layers' constructors.
ARGUMENTS = {
    "conv": ("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0)}),
    "depthwise": ("Conv2d", (4, 4, 3), {"padding": 1, "groups": 4}),
    "transposed": ("ConvTranspose2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "output_padding": (1, 0)}),
    "transposed-depthwise": ("ConvTranspose2d", (4, 4, 3), {"stride": 2, "groups": 4}),
}
KINDS = pytest.mark.parametrize("kind", ARGUMENTS)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


def layer(kind: str, library: ModuleType, device: str = "cpu", **kwargs) -> nn.Module:
    """One of a kind, of convx or torch.nn, for inputs of four channels."""
    name, args, others = ARGUMENTS[kind]
    return fill(getattr(library, name)(*args, **others, **kwargs)).to(device)


class Network(nn.Module):
    """All kinds one after the other, with the other padding modes and padding='same' of an even kernel, a ReLU between.

    From four channels to four.
    """

    def __init__(self, library: ModuleType):
        super().__init__()
        self.first = library.Conv2d(4, 6, (4, 3), padding="same")
        self.reflect = library.Conv2d(6, 4, 3, padding=1, groups=2, padding_mode="reflect")
        self.depthwise = library.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, padding_mode="replicate")
        self.circular = library.Conv2d(4, 4, (2, 3), padding="same", bias=False, padding_mode="circular")
        self.up = library.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)
        self.last = library.ConvTranspose2d(6, 4, 3, groups=2, dilation=2)
        for i, parameter in enumerate(self.parameters()):
            parameter.data = integers(*parameter.shape, seed=i).clamp(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.reflect(self.first(x).relu()))
        return self.last(self.up(self.circular(x).relu()))


def images(batch: int, height: int = 8, width: int = 6, layout=torch.contiguous_format, device: str = "cpu") -> Tensor:
    return integers(batch, 4, height, width, seed=batch).clamp(-2, 2).to(device).contiguous(memory_format=layout)


def value_and_gradients(function, module: nn.Module, x: Tensor) -> list[Tensor]:
    """The function's value at x, and the gradients of its inner product with small integers by x and the parameters."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = function(x)
    cotangent = integers(*out.shape, seed=3).to(out)
    return [out, *torch.autograd.grad(out, [x, *module.parameters()], cotangent)]


def assert_same(got, expected) -> None:
    """The same numbers, dtypes and strides; and not just zeros."""
    for a, b in zip(got, expected, strict=True):
        assert b.any() and a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
