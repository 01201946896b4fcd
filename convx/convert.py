"""Swapping a model's convolutions for convx's and back.

A layer is converted by changing its class, in place: parameters, buffers, hooks and whatever else hangs on the object
stay the very same objects, and so does every reference to it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from . import modules
from .algorithms import algorithms
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


class Layer(NamedTuple):
    """A 2-d convolution of a model, as :func:`layers` finds it."""

    name: str  # as in named_modules(); "" is the model itself
    kind: str  # the name of its class
    on_convx: bool
    left_because: str  # why convert leaves it alone; "" if it does not


def convert(model: Model, *, quiet: bool = False) -> Model:
    """Makes every ``nn.Conv2d`` and ``nn.ConvTranspose2d`` of a model run on convx, in place.

    Subclasses that keep torch's ``forward`` are converted too and stay instances of their class. What computes
    something of its own is left alone, since that is not ours to replace: subclasses with a ``forward`` of their own,
    quantized layers, layers compiled by ``torch.jit``. So are layers on devices that convx has no kernels for.

    Args:
        model: any module; may itself be a convolution.
        quiet: don't say how many layers were converted, and which were left alone and why (on stderr).

    Returns:
        The same model. :func:`count` tells its convx layers afterwards, :func:`layers` what became of each.
    """
    converted, left = 0, []
    for name, module in _convolutions(model):
        if reason := _reason_to_leave(module):
            left.append(f"\n  left alone: {name or '(the model itself)'} ({reason})")
        else:
            converted += _change_class(module, _converted_class)
    if not quiet:
        print(f"convx: converted {converted} of {converted + len(left)} layers{''.join(left)}", file=sys.stderr)
    return model


def revert(model: Model, *, quiet: bool = False) -> Model:
    """Undoes :func:`convert`, in place: every layer of convx's becomes torch's again. Returns the same model."""
    reverted = 0
    for _, module in _convolutions(model):
        if isinstance(module, _OURS) and not _is_replaced(module):
            reverted += _change_class(module, _reverted_class)
    if not quiet:
        print(f"convx: reverted {reverted} layers", file=sys.stderr)
    return model


def count(model: nn.Module) -> int:
    """How many distinct layers of a model run on convx."""
    return sum(layer.on_convx for layer in layers(model))


def layers(model: nn.Module) -> list[Layer]:
    """The 2-d convolutions of a model, each once: their names, classes, whether they run on convx, and if
    :func:`convert` leaves them alone, why."""
    return [
        Layer(name, _kind(module), isinstance(module, _OURS), _reason_to_leave(module))
        for name, module in _convolutions(model)
    ]


def _convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():  # a shared module comes once
        if isinstance(module, _TORCHS) or _is_scripted(module) or _is_quantized(module):
            yield name, module


def _is_scripted(module: nn.Module) -> bool:
    names = {cls.__name__ for cls in _TORCHS}
    return isinstance(module, torch.jit.ScriptModule) and getattr(module, "original_name", None) in names


def _is_quantized(module: nn.Module) -> bool:
    """A model has such layers only if somebody imported them; quantization-aware ones are subclasses of torch's."""
    quantized = sys.modules.get("torch.ao.nn.quantized")
    return quantized is not None and isinstance(module, (quantized.Conv2d, quantized.ConvTranspose2d))


def _is_replaced(module: nn.Module) -> bool:
    """Whether somebody put another forward on the object, as libraries do that move weights or log calls."""
    return bool({"forward", "_conv_forward"} & vars(module).keys())


def _kind(module: nn.Module) -> str:
    return module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__qualname__


def _has_kernels(device: str) -> bool:
    return device in ("cpu", "meta") or (device == "cuda" and bool(algorithms("forward", "cuda")))


def _reason_to_leave(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return f"{_kind(module)} compiled by torch.jit"
    if _is_quantized(module):
        return f"{_kind(module)} is quantized"
    if _is_replaced(module):
        return "its forward was replaced on the object"
    if isinstance(module, _OURS):
        return ""
    cls = type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
    if _converted_class(cls) is None:
        lazy = issubclass(cls, (nn.LazyConv2d, nn.LazyConvTranspose2d))
        return f"{cls.__qualname__} {'is still lazy' if lazy else 'has a forward of its own'}"
    device = next((p.device.type for p in module.parameters()), "cpu")
    return "" if _has_kernels(device) else f"on {device}, for which convx has no kernels"


def _change_class(module: nn.Module, new_class: Callable[[type], type | None]) -> bool:
    """Gives a module the class that new_class maps its class to; returns whether that is another one."""
    old = type(module)
    new = _parametrized(old, new_class) if parametrize.is_parametrized(module) else new_class(old)
    if new is old:
        return False
    module.__class__ = new
    _restore_torch_attributes(module)
    return True


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


def _parametrized(cls: type, new_class: Callable[[type], type | None]) -> type:
    """The class of a parametrized module, whose only base must be the class of the plain one (torch removes
    parametrizations by falling back to it): the same properties on top of the swapped base."""
    base = new_class(cls.__bases__[0])
    if base is cls.__bases__[0]:
        return cls
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
