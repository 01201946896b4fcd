"""The layers: subclasses of torch's, so that constructor, parameters, ``state_dict`` and ``repr`` are torch's own code.

Only the call to the convolution is replaced. Attributes may be changed after construction, plain ints included
(``layer.padding = 2``), because they are read at each call.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from .functional import conv2d, conv_transpose2d, pair

_PAIRS = ("kernel_size", "stride", "padding", "dilation", "output_padding")


def _normalised(module: nn.Module) -> dict:
    """The module's attributes with ints where torch expects pairs made pairs."""
    return {
        name: pair(value, name) if name in _PAIRS and not isinstance(value, str) else value
        for name, value in module.__dict__.items()
    }


def _extra_repr(module: nn.Module, torch_class: type[nn.Module]) -> str:
    """torch's own extra_repr, which takes the length of what may have become an int."""
    return torch_class.extra_repr(SimpleNamespace(**_normalised(module), bias=module.bias))


class Conv2d(nn.Conv2d):
    """:class:`torch.nn.Conv2d` on convx's kernels: the same arguments, shapes, parameters and errors.

    Shape: (N, C, H, W) or (C, H, W) to (N, K, P, Q) or (K, P, Q); see :func:`convx.conv2d`.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv2d(
            input,
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,
        )

    def extra_repr(self) -> str:
        return _extra_repr(self, nn.Conv2d)


class ConvTranspose2d(nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` on convx's kernels: the same arguments, shapes, parameters and errors.

    Shape: (N, K, P, Q) or (K, P, Q) to (N, C, H, W) or (C, H, W); see :func:`convx.conv_transpose2d`.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Applies the layer; ``output_size`` picks one of the sizes that the stride leaves open.

        Raises:
            ValueError: an output_size out of range, or a padding_mode other than 'zeros'.
        """
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose2d")
        if torch.jit.is_scripting():  # which knows no ints in the place of pairs, nor pair()
            output_padding = self._output_padding(
                input, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation
            )
        elif output_size is None:
            output_padding = self.output_padding
        else:
            output_padding = self._output_padding(
                input,
                output_size,
                pair(self.stride, "stride"),
                pair(self.padding, "padding"),
                pair(self.kernel_size, "kernel_size"),
                2,
                pair(self.dilation, "dilation"),
            )
        return conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
        )

    def extra_repr(self) -> str:
        return _extra_repr(self, nn.ConvTranspose2d)


class LazyConv2d(nn.LazyConv2d, Conv2d):
    """:class:`torch.nn.LazyConv2d`: takes ``in_channels`` from its first input."""

    cls_to_become = Conv2d


class LazyConvTranspose2d(nn.LazyConvTranspose2d, ConvTranspose2d):
    """:class:`torch.nn.LazyConvTranspose2d`: takes ``in_channels`` from its first input."""

    cls_to_become = ConvTranspose2d
