"""Swapping a model's convolutions for convx's and back.

A layer is converted by changing its class, in place: parameters, buffers, hooks and whatever else hangs on the object
stay the very same objects, and so does every reference to it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

from . import modules
from .functional import pair

Model = TypeVar("Model", bound=nn.Module)

_CONVX_CLASS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: modules.Conv2d,
    nn.ConvTranspose2d: modules.ConvTranspose2d,
    nn.LazyConv2d: modules.LazyConv2d,
    nn.LazyConvTranspose2d: modules.LazyConvTranspose2d,
}
_TORCH_CLASS = {ours: torchs for torchs, ours in _CONVX_CLASS.items()}
_OURS = (modules.Conv2d, modules.ConvTranspose2d)
_TORCHS = (nn.Conv2d, nn.ConvTranspose2d)


def convert(model: Model, *, quiet: bool = False) -> Model:
    """Makes every ``nn.Conv2d`` and ``nn.ConvTranspose2d`` of a model run on convx, in place.

    Subclasses that keep torch's ``forward`` are converted too and stay instances of their class. Subclasses with a
    ``forward`` of their own are left alone, since what it computes is not ours to say; they are named.

    Args:
        model: any module; may itself be a convolution.
        quiet: don't say how many layers were converted (one line on stderr).

    Returns:
        The same model. :func:`count` tells its convx layers afterwards.
    """
    converted, left = _swap(model, _converted_class)
    if not quiet:
        names = "".join(f"\n  left alone: {name} ({kind} has a forward of its own)" for name, kind in left)
        print(f"convx: converted {converted} of {converted + len(left)} layers{names}", file=sys.stderr)
    return model


def revert(model: Model, *, quiet: bool = False) -> Model:
    """Undoes :func:`convert`, in place: every layer of convx's becomes torch's again. Returns the same model."""
    reverted, _ = _swap(model, _reverted_class)
    if not quiet:
        print(f"convx: reverted {reverted} layers", file=sys.stderr)
    return model


def count(model: nn.Module) -> int:
    """How many distinct layers of a model run on convx."""
    return sum(isinstance(m, _OURS) for m in model.modules())


def _swap(model: nn.Module, new_class: Callable[[type], type | None]) -> tuple[int, list[tuple[str, str]]]:
    """Gives every module the class that new_class maps its class to (None: leave alone and name it)."""
    swapped, left = 0, []
    for name, module in model.named_modules():  # a shared module comes once
        if not isinstance(module, _TORCHS):
            continue
        old = type(module)
        if {"forward", "_conv_forward"} & vars(module).keys():  # somebody replaced them on the object
            left.append((name or "(the model itself)", old.__qualname__))
            continue
        new = _parametrized(old, new_class) if parametrize.is_parametrized(module) else new_class(old)
        if new is None:
            left.append((name or "(the model itself)", old.__qualname__))
        elif new is not old:
            module.__class__ = new
            _restore_torch_attributes(module)
            swapped += 1
    return swapped, left


def _restore_torch_attributes(module: nn.Module) -> None:
    """Leaves the attributes as torch's own code expects them, whatever was assigned since construction."""
    if isinstance(module, _OURS):
        return
    for name in ("kernel_size", "stride", "padding", "dilation", "output_padding"):
        value = getattr(module, name)
        if not isinstance(value, str):
            setattr(module, name, pair(value, name))
    if isinstance(module.padding, tuple):  # what torch passes to F.pad: last dimension first
        module._reversed_padding_repeated_twice = [p for p in reversed(module.padding) for _ in range(2)]


def _parametrized(cls: type, new_class: Callable[[type], type | None]) -> type | None:
    """The class of a parametrized module, whose only base must be the class of the plain one (torch removes
    parametrizations by falling back to it): the same properties on top of the swapped base."""
    base = new_class(cls.__bases__[0])
    if base is None or base is cls.__bases__[0]:
        return base and cls
    members = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    return type(f"Parametrized{base.__name__}", (base,), members)


def _converted_class(cls: type[nn.Module]) -> type[nn.Module] | None:
    if issubclass(cls, _OURS):
        return cls
    return _CONVX_CLASS.get(cls) or _converted_subclass(cls)


def _reverted_class(cls: type[nn.Module]) -> type[nn.Module]:
    return _TORCH_CLASS.get(cls) or vars(cls).get("_converted_from") or cls


@functools.cache
def _converted_subclass(cls: type[nn.Module]) -> type[nn.Module] | None:
    """A subclass of a user's class on convx, or None if the user's class computes something of its own.

    In the order of bases the user's class comes first and torch's last, so all that the user wrote still holds, and
    what is left to torch's class is found in convx's before it.
    """
    for torchs, ours in _CONVX_CLASS.items():
        kept = all(getattr(cls, m, None) is getattr(torchs, m, None) for m in ("forward", "_conv_forward"))
        lazy = issubclass(cls, (nn.LazyConv2d, nn.LazyConvTranspose2d))
        if issubclass(cls, torchs) and kept and not lazy:
            return type(cls.__name__, (_Converted, cls, ours), {"_converted_from": cls, "__module__": cls.__module__})
    return None


class _Converted:
    """Lets objects of classes made above be pickled and copied: they are stored by the user's class."""

    def __reduce_ex__(self, protocol):
        return _rebuild, (self._converted_from,), self.__getstate__()


def _rebuild(cls: type[nn.Module]) -> nn.Module:
    new = _converted_subclass(cls)
    return new.__new__(new)
