"""Sharding rules: a convolution of DTensors is one convolution on every device, of the shards that are there.

The trilinear form T(x, w, y) of csrc/problem.h says which dimensions may be cut across devices. A letter that two of
the three tensors have is cut in both; a primitive whose result lacks it gives each device a part of a sum. G is cut
like C and K together, into whole groups. Nothing else is cut: H and W would need their neighbours' edges.

DTensor is told this for each operator, through its public registrations, and then chooses by what must be sent around.
It runs an operator with the arguments as they were, but a device that has half of the groups must be told so. So each
primitive has a twin that is given the outputs per group instead, which stay the same, and a call with DTensors becomes
the twin's.

Importing ``torch.distributed.tensor`` takes longer than all of convx, so this file is imported with the first DTensor
that comes by (autograd.py). Code that hands DTensors to ``torch.ops.convx`` itself imports it before.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

# The dimensions of x, w and y that a letter is.
_LETTERS = {"N": {"x": 0, "y": 0}, "C": {"x": 1, "w": 1}, "K": {"w": 0, "y": 1}}
_GROUPS = {"x": 1, "w": 0, "y": 1}  # the dimensions made of groups


class _Tensors(NamedTuple):
    """Which of x, w and y a primitive takes and gives."""

    first: str
    second: str
    result: str

    def outputs(self, second: Tensor) -> int:
        """K, which every second operand has."""
        return second.shape[_LETTERS["K"][self.second]]

    def contracted(self) -> str:
        """The channels that a device's part of a sum is over."""
        return "C" if self.result == "y" else "K"


_TENSORS = {
    "forward": _Tensors("x", "w", "y"),
    "grad_input": _Tensors("y", "w", "x"),
    "grad_weight": _Tensors("x", "y", "w"),
}


def _cuts(tensors: _Tensors, first, second, groups: int) -> list[dict[str, int]]:
    """The dimensions of x, w and y that may be cut, for each letter that may, so that no device is left without work
    that a kernel takes: some channels, and whole groups."""
    mesh, cuts = first.mesh, [_LETTERS["N"]]
    if groups > 1:
        if groups % mesh.size() == 0:
            cuts.append(_GROUPS)
        return cuts
    for letter in "CK":
        where = _LETTERS[letter]
        smallest = first.shape[where[tensors.first]] if tensors.first in where else second.shape[where[tensors.second]]
        for devices in mesh.shape:  # shards are of one size, rounded up, and the last has what is left
            smallest -= -(-smallest // devices) * (devices - 1)
        if smallest > 0:
            cuts.append(where)
    return cuts


def _placements(tensors: _Tensors, cuts: list[dict[str, int]], has_bias: bool):
    """For one dimension of a mesh: pairs of what the result is and what the operands, bias included, then are."""
    whole, part = Replicate(), Partial()
    accepted: list[tuple[Placement, Placement, Placement, Placement]] = [(whole, whole, whole, whole)]
    for where in cuts:
        a, b = (Shard(where[t]) if t in where else whole for t in (tensors.first, tensors.second))
        if tensors.result in where:
            dim = where[tensors.result]
            accepted.append((Shard(dim), a, b, Shard(0) if dim == 1 else whole))
        elif not has_bias:
            accepted.append((part, a, b, whole))
    if not has_bias:  # linear in both operands, so a part of a sum gives a part of the result
        accepted += [(part, part, whole, whole), (part, whole, part, whole)]
    return [([result], [a, b, *([bias] if has_bias else [])]) for result, a, b, bias in accepted]


def _gives_parts(tensors: _Tensors, first: Tensor, second: Tensor) -> bool:
    """Whether an operand is cut along the channels that are summed over, or is itself a part of a sum."""
    where = _LETTERS[tensors.contracted()]
    return any(
        p.is_partial() or p.is_shard(where[name])
        for tensor, name in ((first, tensors.first), (second, tensors.second))
        for p in getattr(tensor, "placements", ())
    )


def _all_arguments(func, args: tuple, kwargs: dict | None) -> list:
    """An operator's arguments in its order, defaults included."""
    given = {a.name: a.default_value for a in func._schema.arguments}
    given.update(zip(given, args, strict=False))
    given.update(kwargs or {})
    return list(given.values())


def _register(primitive: str, tensors: _Tensors) -> None:
    op = getattr(torch.ops.convx, primitive).default
    has_bias = primitive != "grad_weight"
    name = f"_{primitive}_of_shards"
    schema = re.sub("=[^,)]+", "", str(op._schema).partition("(")[2])  # without defaults: the twin is given all
    schema = schema.replace("SymInt groups", "SymInt? outputs_per_group")  # None: one group, whose outputs may be cut
    _library.define(f"{name}({schema}", tags=(torch.Tag.pt2_compliant_tag,))
    twin_groups = -4  # where that argument is, counted from the end

    def groups_of(second, outputs_per_group) -> int:
        return 1 if outputs_per_group is None else tensors.outputs(second) // outputs_per_group

    def of_shards(*args):
        arguments = list(args)
        arguments[twin_groups] = groups_of(args[1], args[twin_groups])
        return op(*arguments)

    _library.impl(name, of_shards, "CompositeExplicitAutograd")
    twin = getattr(torch.ops.convx, name).default

    @register_sharding(twin)
    def placements(first, second, *rest):
        biased = has_bias and rest[0] is not None
        cuts = _cuts(tensors, first, second, groups_of(second, rest[twin_groups]))
        others = [None] * (len(rest) - biased)
        return [(result, operands + others) for result, operands in _placements(tensors, cuts, biased)]

    @torch.library.register_torch_dispatch(f"convx::{primitive}", DTensor)
    def call_twin(cls, func, types, args, kwargs):
        arguments = _all_arguments(func, args, kwargs)
        first, second, bias = arguments[0], arguments[1], arguments[2] if has_bias else None
        groups = arguments[twin_groups]
        arguments[twin_groups] = None if groups == 1 else tensors.outputs(second) // groups
        if bias is None or groups != 1 or not _gives_parts(tensors, first, second):
            return twin(*arguments)
        arguments[2] = None  # else it would be added to each part of the sum
        return twin(*arguments) + bias[:, None, None]


_library = torch.library.Library("convx", "FRAGMENT")
for _primitive, _tensors in _TENSORS.items():
    _register(_primitive, _tensors)
