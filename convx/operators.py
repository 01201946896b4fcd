"""The layers as operators: ``torch.ops.convx.conv2d`` and ``.conv_transpose2d``, arguments as in torch.nn.functional.

For graphs that are kept: torch.export's and torch.jit's hold a layer as one of these, with its padding rather than with
the sizes of the example that made the graph (convx/portable.py puts torch's in their place). Whoever computes or
compiles such a graph sees the primitives they are composed of. Eager calls and torch.compile don't come here.
"""

from __future__ import annotations

import torch
from torch.jit import _builtins

from . import functional

_GEOMETRY = 'SymInt[2] dilation=1, SymInt groups=1, *, str padding_mode="zeros") -> Tensor'
_SCHEMAS = (
    "conv2d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, SymInt[2] padding=0, " + _GEOMETRY,
    'conv2d.padding(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, str padding="valid", '
    + _GEOMETRY,
    "conv_transpose2d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, SymInt[2] padding=0, "
    "SymInt[2] output_padding=0, SymInt groups=1, SymInt[2] dilation=1) -> Tensor",
)


def _conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, padding_mode="zeros"):
    operands = functional._prepared("conv2d", input, weight, bias)
    return functional._conv2d(*operands, stride, padding, dilation, groups, padding_mode=padding_mode)


def _conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    operands = functional._prepared("conv_transpose2d", input, weight, bias)
    return functional._conv_transpose2d(*operands, stride, padding, output_padding, groups, dilation)


_library = torch.library.Library("convx", "FRAGMENT")
for _schema in _SCHEMAS:
    _name = _schema.partition("(")[0]
    _library.define(_schema, tags=torch.Tag.pt2_compliant_tag)
    _library.impl(_name, _conv_transpose2d if "transpose" in _name else _conv2d, "CompositeImplicitAutograd")

# torch.jit.script compiles calls of the functions to calls of these.
_builtins._register_builtin(functional.conv2d, "convx::conv2d")
_builtins._register_builtin(functional.conv_transpose2d, "convx::conv_transpose2d")
