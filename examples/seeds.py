"""The worked examples of two small notebooks about Conv2d and ConvTranspose2d: every output that they print.

Both notebooks fill images and kernels with ones, so that each output counts how many taps reach it, and both change a
layer's attributes after building it, to plain ints. The demo prints these cases and the tests check them, value for
value and on any set of layer classes: `case.compute(convx)` or `case.compute(torch.nn)`, beside `case.expected()`.
"""

import ast
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Case(NamedTuple):
    """One output cell of a notebook."""

    notebook: str
    cell: int
    input: Callable[[], Tensor]
    printed: str  # what the notebook shows, without its grad_fn: "tensor(...)" or "torch.Size(...)"
    layer: str = ""  # the class: a convolution of `layers`, or else torch.nn's; "" shows the input itself
    arguments: tuple[tuple[str, Any], ...] = ()  # of the constructor
    changed: tuple[tuple[str, int], ...] = ()  # attributes set on the layer afterwards, plain ints as in the notebook
    show: str = "output"  # or "weight"
    constant_weight: bool = True  # filled with ones; otherwise left random, and only the shape is shown

    @property
    def name(self) -> str:
        return f"{self.notebook}-in{self.cell}"

    def make(self, layers: Any) -> nn.Module:
        """The layer, its weight filled and its attributes changed as in the notebook."""
        module = getattr(layers if self.layer.startswith("Conv") else nn, self.layer)(**dict(self.arguments))
        if self.constant_weight and hasattr(module, "weight"):
            nn.init.constant_(module.weight.data, 1)
        for attribute, value in self.changed:
            setattr(module, attribute, value)
        return module

    def compute(self, layers: Any) -> Tensor | torch.Size:
        """What the cell shows, computed with the Conv2d and ConvTranspose2d of `layers`."""
        if not self.layer:
            result = self.input()
        elif self.show == "weight":
            result = self.make(layers).weight.data
        else:
            result = self.make(layers)(self.input())
        return result.shape if self.printed.startswith("torch.Size") else result

    def expected(self) -> Tensor | torch.Size:
        """What the notebook shows, read back from its text."""
        kind, _, rest = self.printed.partition("(")
        numbers = ast.literal_eval(rest.rstrip(")"))
        return torch.Size(numbers) if kind == "torch.Size" else torch.tensor(numbers)

    def call(self) -> str:
        """The Python that makes the layer, for people to read."""
        text = f"{self.layer}({', '.join(f'{k}={v}' for k, v in self.arguments)})"
        return text + "".join(f"; .{k} = {v}" for k, v in self.changed)


def conv(kernel_size: int, stride: int, padding: int, **rest: Any) -> tuple[tuple[str, Any], ...]:
    one = {"in_channels": 1, "out_channels": 1, "kernel_size": kernel_size, "stride": stride, "padding": padding}
    return tuple({**one, **rest, "bias": False}.items())


def size(*dims: int) -> str:
    return f"torch.Size({list(dims)})"


def zero_pad(width: int) -> tuple[tuple[str, Any], ...]:
    return (("padding", (width,) * 4),)


ONES_4x4 = """tensor([[[[1., 1., 1., 1.],
          [1., 1., 1., 1.],
          [1., 1., 1., 1.],
          [1., 1., 1., 1.]]]])"""
ONES_3x3 = """tensor([[[[1., 1., 1.],
          [1., 1., 1.],
          [1., 1., 1.]]]])"""
ONES_2x2 = """tensor([[[[1., 1.],
          [1., 1.]]]])"""
# Conv2d with padding 2 and ConvTranspose2d with padding 0 are the same sum when the kernel is 3x3 and symmetric.
FULL_3x3 = """tensor([[[[1., 2., 3., 3., 2., 1.],
          [2., 4., 6., 6., 4., 2.],
          [3., 6., 9., 9., 6., 3.],
          [3., 6., 9., 9., 6., 3.],
          [2., 4., 6., 6., 4., 2.],
          [1., 2., 3., 3., 2., 1.]]]])"""
PADDED_6x6 = """tensor([[[[0., 0., 0., 0., 0., 0.],
          [0., 1., 1., 1., 1., 0.],
          [0., 1., 1., 1., 1., 0.],
          [0., 1., 1., 1., 1., 0.],
          [0., 1., 1., 1., 1., 0.],
          [0., 0., 0., 0., 0., 0.]]]])"""


def first_notebook() -> list[Case]:
    name = "conv_and_transposed_conv"

    def x() -> Tensor:
        return torch.ones((4, 4)).view(-1, 1, 4, 4)

    def tx() -> Tensor:
        return torch.ones((1, 2, 1, 1))

    def upscaled() -> Tensor:
        return F.interpolate(F.leaky_relu(tx()), scale_factor=2)

    def show(cell: int, printed: str, layer: str, arguments: tuple, changed: dict[str, int] | None = None, **rest):
        return Case(name, cell, x, printed, layer, arguments, tuple((changed or {}).items()), **rest)

    def conv2d(cell: int, printed: str, **changed: int) -> Case:
        return show(cell, printed, "Conv2d", conv(3, 1, 1), changed)

    def pad(cell: int, width: int, printed: str) -> Case:
        return show(cell, printed, "ZeroPad2d", zero_pad(width))

    def transposed(cell: int, kernel: int, padding: int, printed: str, changed=None, **rest) -> Case:
        arguments = conv(kernel, 1, padding, output_padding=0)
        return show(cell, printed, "ConvTranspose2d", arguments, changed, **rest)

    cropped = {"output_padding": 0, "padding": 2, "stride": 1}
    strided = {"output_padding": 0, "padding": 2, "stride": 2}
    return [
        Case(
            name,
            2,
            lambda: torch.ones((4, 4)),
            """tensor([[1., 1., 1., 1.],
        [1., 1., 1., 1.],
        [1., 1., 1., 1.],
        [1., 1., 1., 1.]])""",
        ),
        Case(name, 3, x, ONES_4x4),
        Case(name, 4, x, size(1, 1, 4, 4)),
        # Conv2d
        show(6, ONES_3x3, "Conv2d", conv(3, 1, 1), show="weight"),
        conv2d(
            7,
            """tensor([[[[4., 6., 6., 4.],
          [6., 9., 9., 6.],
          [6., 9., 9., 6.],
          [4., 6., 6., 4.]]]])""",
        ),
        conv2d(8, size(1, 1, 4, 4)),
        conv2d(10, FULL_3x3, kernel_size=3, padding=2),
        conv2d(11, size(1, 1, 6, 6), kernel_size=3, padding=2),
        # ConvTranspose2d beside the zero padding of the input that would give the same sum as a Conv2d
        transposed(12, 2, 0, ONES_2x2, show="weight"),
        pad(13, 1, PADDED_6x6),
        transposed(
            14,
            2,
            0,
            """tensor([[[[1., 2., 2., 2., 1.],
          [2., 4., 4., 4., 2.],
          [2., 4., 4., 4., 2.],
          [2., 4., 4., 4., 2.],
          [1., 2., 2., 2., 1.]]]])""",
        ),
        transposed(15, 2, 0, size(1, 1, 5, 5)),
        transposed(16, 2, 1, ONES_2x2, show="weight"),
        pad(17, 0, ONES_4x4),
        transposed(
            18,
            2,
            1,
            """tensor([[[[4., 4., 4.],
          [4., 4., 4.],
          [4., 4., 4.]]]])""",
        ),
        transposed(19, 2, 1, size(1, 1, 3, 3)),
        transposed(20, 3, 0, ONES_3x3, show="weight"),
        pad(
            21,
            2,
            """tensor([[[[0., 0., 0., 0., 0., 0., 0., 0.],
          [0., 0., 0., 0., 0., 0., 0., 0.],
          [0., 0., 1., 1., 1., 1., 0., 0.],
          [0., 0., 1., 1., 1., 1., 0., 0.],
          [0., 0., 1., 1., 1., 1., 0., 0.],
          [0., 0., 1., 1., 1., 1., 0., 0.],
          [0., 0., 0., 0., 0., 0., 0., 0.],
          [0., 0., 0., 0., 0., 0., 0., 0.]]]])""",
        ),
        transposed(22, 3, 0, FULL_3x3),
        transposed(23, 3, 0, size(1, 1, 6, 6)),
        pad(24, 0, ONES_4x4),
        transposed(
            25,
            3,
            0,
            """tensor([[[[9., 9.],
          [9., 9.]]]])""",
            cropped,
        ),
        transposed(26, 3, 0, size(1, 1, 2, 2), cropped),
        pad(27, 1, PADDED_6x6),
        transposed(
            28,
            3,
            0,
            """tensor([[[[4., 2., 4., 2., 4.],
          [2., 1., 2., 1., 2.],
          [4., 2., 4., 2., 4.],
          [2., 1., 2., 1., 2.],
          [4., 2., 4., 2., 4.]]]])""",
            strided,
        ),
        transposed(29, 3, 0, size(1, 1, 5, 5), strided),
        # several channels
        Case(
            name,
            77,
            tx,
            """tensor([[[[1.]],

         [[1.]]]])""",
        ),
        Case(name, 78, tx, size(1, 2, 1, 1)),
        Case(name, 89, upscaled, size(1, 2, 2, 2)),
        Case(
            name,
            90,
            upscaled,
            size(1, 4, 8, 8),
            "ConvTranspose2d",
            conv(7, 1, 0, in_channels=2, out_channels=4),
            constant_weight=False,
        ),
    ]


def second_notebook() -> list[Case]:
    def img() -> Tensor:
        return torch.ones(1, 1, 3, 3)

    def transposed(cell: int, stride: int, padding: int, output_padding: int, printed: str, show="output") -> Case:
        arguments = conv(3, stride, padding, output_padding=output_padding)
        return Case("transposed_conv", cell, img, printed, "ConvTranspose2d", arguments, show=show)

    return [
        Case("transposed_conv", 2, img, ONES_3x3),
        transposed(3, 1, 0, 0, ONES_3x3, show="weight"),
        transposed(
            4,
            1,
            0,
            0,
            """tensor([[[[1., 2., 3., 2., 1.],
          [2., 4., 6., 4., 2.],
          [3., 6., 9., 6., 3.],
          [2., 4., 6., 4., 2.],
          [1., 2., 3., 2., 1.]]]])""",
        ),
        transposed(
            5,
            2,
            0,
            0,
            """tensor([[[[1., 1., 2., 1., 2., 1., 1.],
          [1., 1., 2., 1., 2., 1., 1.],
          [2., 2., 4., 2., 4., 2., 2.],
          [1., 1., 2., 1., 2., 1., 1.],
          [2., 2., 4., 2., 4., 2., 2.],
          [1., 1., 2., 1., 2., 1., 1.],
          [1., 1., 2., 1., 2., 1., 1.]]]])""",
        ),
        transposed(
            6,
            2,
            1,
            0,
            """tensor([[[[1., 2., 1., 2., 1.],
          [2., 4., 2., 4., 2.],
          [1., 2., 1., 2., 1.],
          [2., 4., 2., 4., 2.],
          [1., 2., 1., 2., 1.]]]])""",
        ),
        transposed(
            7,
            2,
            0,
            1,
            """tensor([[[[1., 1., 2., 1., 2., 1., 1., 0.],
          [1., 1., 2., 1., 2., 1., 1., 0.],
          [2., 2., 4., 2., 4., 2., 2., 0.],
          [1., 1., 2., 1., 2., 1., 1., 0.],
          [2., 2., 4., 2., 4., 2., 2., 0.],
          [1., 1., 2., 1., 2., 1., 1., 0.],
          [1., 1., 2., 1., 2., 1., 1., 0.],
          [0., 0., 0., 0., 0., 0., 0., 0.]]]])""",
        ),
        transposed(
            8,
            2,
            1,
            1,
            """tensor([[[[1., 2., 1., 2., 1., 1.],
          [2., 4., 2., 4., 2., 2.],
          [1., 2., 1., 2., 1., 1.],
          [2., 4., 2., 4., 2., 2.],
          [1., 2., 1., 2., 1., 1.],
          [1., 2., 1., 2., 1., 1.]]]])""",
        ),
    ]


CASES = first_notebook() + second_notebook()
