"""Which algorithms there are, and forcing one.

Each device keeps an ordered list for each primitive, best first, the reference last (csrc/algorithm.h). The first that
can do the problem and is right for it runs. Forcing is for the entire process, since autograd may run a backward on
another thread than the one that asked.
"""

from __future__ import annotations

import os
from contextlib import ContextDecorator
from typing import NamedTuple

from . import _C

PRIMITIVES = ("forward", "grad_input", "grad_weight")


class Algorithm(NamedTuple):
    """A row of a device's list."""

    name: str
    summary: str
    deterministic: bool


def algorithms(primitive: str | None = None, device: str = "cpu") -> list[Algorithm] | dict[str, list[Algorithm]]:
    """The algorithms of a device in the order of choice: a list for one primitive, or a dict of all three.

    Args:
        primitive: ``'forward'``, ``'grad_input'``, ``'grad_weight'`` or None for all.
        device: ``'cpu'`` or ``'cuda'``; the latter has none in a build without CUDA.

    Raises:
        ValueError: an unknown primitive or device.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"expected device to be 'cpu' or 'cuda', but got {device!r}")
    if primitive is None:
        return {p: algorithms(p, device) for p in PRIMITIVES}
    return [Algorithm(*row) for row in _C.algorithms(device, primitive)]


def _known(primitive: str) -> list[str]:
    """The names that some device has for a primitive, each once, in order."""
    return list(dict.fromkeys(a.name for device in ("cpu", "cuda") for a in algorithms(primitive, device)))


def _is_known(name: str, primitive: str) -> bool:
    """Whether it, or what it leaves out, is a row of some device. The reference can't be left out: it is the last."""
    return name.removeprefix("-") in _known(primitive) and name != "-reference"


def _choices(name: str | None, by_primitive: dict[str, str]) -> dict[str, str]:
    """What to force for each primitive; raises ValueError for names that nothing answers to."""
    chosen: dict[str, str] = {}
    if name is not None:
        chosen = {p: name for p in PRIMITIVES if _is_known(name, p)}
        if not chosen:
            every = sorted({n for p in PRIMITIVES for n in _known(p)})
            raise ValueError(f"expected an algorithm, one of {', '.join(every)}, but got {name!r}")
    for primitive, wanted in by_primitive.items():
        if primitive not in PRIMITIVES:
            raise ValueError(f"expected a primitive, one of {', '.join(PRIMITIVES)}, but got {primitive!r}")
        if not _is_known(wanted, primitive):
            raise ValueError(
                f"expected an algorithm for {primitive}, one of {', '.join(_known(primitive))}, but got {wanted!r}"
            )
        chosen[primitive] = wanted
    return chosen


class algorithm(ContextDecorator):
    """Forces an algorithm in a ``with`` block (or a decorated function), as in ``with convx.algorithm("scatter"):``.

    A name alone holds for every primitive that has it; the others keep choosing. ``algorithm(grad_input="scatter")``
    forces one primitive only. A forced algorithm that can't do a problem raises RuntimeError with the reason.

    A minus before the name leaves that algorithm out of the choice and forces none: ``convx.algorithm("-winograd")``
    for 3x3 layers by the definition's own sums. Any but the reference can be left out.

    Raises:
        ValueError: a name that no primitive has, or that the given primitive lacks.
    """

    def __init__(self, name: str | None = None, **by_primitive: str):
        self._chosen = _choices(name, by_primitive)
        self._before: list[dict[str, str]] = []

    def __enter__(self) -> algorithm:
        self._before.append({p: _C.forced_algorithm(p) for p in self._chosen})
        for primitive, name in self._chosen.items():
            _C.force_algorithm(primitive, name)
        return self

    def __exit__(self, *_) -> None:
        for primitive, name in self._before.pop().items():
            _C.force_algorithm(primitive, name)


def _force_from_environment() -> None:
    """CONVX_ALGORITHM=scatter or -winograd, or for each primitive: grad_input:scatter,forward:reference."""
    text = os.environ.get("CONVX_ALGORITHM", "").strip()
    if not text:
        return
    name, by_primitive = None, {}
    for part in text.split(","):
        primitive, colon, wanted = part.strip().partition(":")
        if colon:
            by_primitive[primitive] = wanted
        else:
            name = primitive
    try:
        chosen = _choices(name, by_primitive)
    except ValueError as error:
        raise ValueError(f"CONVX_ALGORITHM={text}: {error}") from None
    for primitive, wanted in chosen.items():
        _C.force_algorithm(primitive, wanted)


_force_from_environment()
