"""Whether a result is right, before its time counts: some of its elements, each from the definition in float64.

A wrong kernel can be very fast. How precise a right one is, is the tests' question; here an error may be twice torch's
own at the same elements, or 8 units in the last place of the largest output, whichever is more; of TF32's last place
where float32 may be rounded to that.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from .computations import Operands, primitive_of
from .shapes import Shape

SAMPLES = {"cpu": 128, "cuda": 32}  # a GPU computes one no faster than a CPU, and its time is dear


def _taps(position: int, kernel: int, stride: int, padding: int, dilation: int, size: int) -> list[tuple[int, int]]:
    """(tap, input position) of every tap of the output at `position` that falls inside the input."""
    taps = ((r, position * stride - padding + r * dilation) for r in range(kernel))
    return [(r, i) for r, i in taps if 0 <= i < size]


def _readers(position: int, kernel: int, stride: int, padding: int, dilation: int, size: int) -> list[tuple[int, int]]:
    """(tap, output position) of every output that reads the input at `position`."""
    taps = ((r, divmod(position + padding - r * dilation, stride)) for r in range(kernel))
    return [(r, p) for r, (p, rest) in taps if rest == 0 and 0 <= p < size]


def _at(t: Tensor, rows: Iterable[int], columns: Iterable[int]) -> Tensor:
    """t[..., rows, columns], every pair of them, in float64."""
    rows, columns = (torch.tensor(i, device=t.device) for i in (rows, columns))
    return t[..., rows[:, None], columns].double()


def _window(taps_h, taps_w, t: Tensor, filters: Tensor) -> float:
    """Sum of t[:, h, w] * filters[:, r, s] over all channels and pairs of taps."""
    if not taps_h or not taps_w:
        return 0.0
    (r, h), (s, w) = zip(*taps_h, strict=True), zip(*taps_w, strict=True)
    return float((_at(t, h, w) * _at(filters, r, s)).sum())


def element(shape: Shape, primitive: str, o: Operands, index: tuple[int, int, int, int]) -> float:
    """One element of a primitive's result, as csrc/problem.h defines it."""
    a, b, i, j = index
    Cg, Kg = shape.C // shape.G, shape.K // shape.G
    axes = list(zip((shape.R, shape.S), shape.stride, shape.padding, shape.dilation, strict=True))
    if primitive == "forward":
        group = b // Kg
        taps = [_taps(p, *axis, size) for p, axis, size in zip((i, j), axes, (shape.H, shape.W), strict=True)]
        return _window(*taps, o.x[a, group * Cg : (group + 1) * Cg], o.w[b])
    if primitive == "grad_input":
        group = b // Cg
        taps = [_readers(h, *axis, size) for h, axis, size in zip((i, j), axes, (shape.P, shape.Q), strict=True)]
        mine = slice(group * Kg, (group + 1) * Kg)
        return _window(*taps, o.y[a, mine], o.w[mine, b - group * Cg])
    channel = a // Kg * Cg + b
    spans = []
    for tap, size, count, (_, stride, padding, dilation) in zip(
        (i, j), (shape.H, shape.W), (shape.P, shape.Q), axes, strict=True
    ):
        reads = ((p, p * stride - padding + tap * dilation) for p in range(count))
        spans.append([(p, h) for p, h in reads if 0 <= h < size])
    if not spans[0] or not spans[1]:
        return 0.0
    (p, h), (q, w) = zip(*spans[0], strict=True), zip(*spans[1], strict=True)
    return float((_at(o.y[:, a], p, q) * _at(o.x[:, channel], h, w)).sum())


TF32_UNIT = 2.0**-10


def is_right(error: float, torch_error: float, unit: float) -> bool:
    bound = 8 * unit
    if torch_error <= 64 * unit:  # beyond that torch itself is wrong here, and no measure
        bound = max(bound, 2 * torch_error)
    return error <= bound


def errors(
    shape: Shape, computation: str, operands: Operands, ours: Tensor, theirs: Tensor, tf32: bool = False
) -> tuple[float, float, bool]:
    """The largest sampled error of convx and of torch, relative to the largest output, and whether convx is right."""
    if ours.shape != theirs.shape:
        raise RuntimeError(f"expected a result of torch's shape {tuple(theirs.shape)}, but got {tuple(ours.shape)}")
    generator = torch.Generator().manual_seed(1)
    indices = torch.stack([torch.randint(n, (SAMPLES[ours.device.type],), generator=generator) for n in ours.shape], 1)
    primitive = primitive_of(shape, computation)
    values = [element(shape, primitive, operands, tuple(i)) for i in indices.tolist()]
    expected = torch.tensor(values, dtype=torch.float64)
    # The smaller of both sides' largest outputs, so that garbage on one side can't hide itself as its own scale.
    scale = min(float(t.abs().nan_to_num(nan=torch.inf).max()) for t in (ours, theirs))
    scale = scale if 0 < scale < torch.inf else float(expected.abs().max())
    at = tuple(indices.to(ours.device).unbind(1))
    error, torch_error = (float((t[at].double().cpu() - expected).abs().max()) / scale for t in (ours, theirs))
    unit = TF32_UNIT if tf32 and ours.dtype == torch.float32 else torch.finfo(ours.dtype).eps
    return error, torch_error, is_right(error, torch_error, unit) and bool(ours.isfinite().all())
