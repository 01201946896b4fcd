"""Operands whose convolution needs no rounding before the last one, so that the tolerance is zero.

Small integers: if the sum of the absolute values of all products stays within the integers that the accumulator
represents, then so does every partial sum, in whatever order a kernel adds. What is left is the one rounding of a sum
to a 16-bit result, which has one right answer too.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import reference
import torch
from memory import BIASES, FEWER_VALUES, LAYOUTS
from problems import Problem

# Sums up to this are exact: in float32 for the 16-bit types, and float16 has no larger results. int64 as far as float64
# judges; larger ones have a test of their own.
LIMIT = {
    torch.float64: 2**53,
    torch.int64: 2**53,
    torch.float32: 2**24,
    torch.float16: 65504,
    torch.bfloat16: 2**24,
}
_LARGEST = {torch.float64: 1000, torch.int64: 1000, torch.float32: 50, torch.float16: 5, torch.bfloat16: 3}


def numpy_of(tensor: torch.Tensor | None) -> np.ndarray | None:
    """As float64 or int64, exactly."""
    if tensor is None:
        return None
    wide = tensor.detach().cpu()
    return (wide.double() if wide.is_floating_point() else wide.long()).numpy()


def judge(primitive: str, first, second, bias, problem: Problem) -> np.ndarray:
    """The reference's result for numpy operands."""
    operands = (first, second) if primitive == "grad_weight" else (first, second, bias)
    return reference.PRIMITIVES[primitive](*operands, *problem.args(primitive))


@cache
def terms(primitive: str, problem: Problem) -> np.ndarray:
    """How many products each element of the result sums."""
    first, second, _ = problem.shapes(primitive)
    return judge(primitive, np.ones(first, np.int64), np.ones(second, np.int64), None, problem)


def mostly_positive(shape, largest: int, generator: torch.Generator) -> torch.Tensor:
    """Integers, none zero and three in four positive: sums of random signs would too often be zero."""
    values = torch.randint(1, largest + 1, shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.25, -values, values)


@lru_cache(maxsize=64)
def _integers(primitive: str, problem: Problem, dtype: torch.dtype, kept_1: str, kept_2: str, seed: int, largest: int):
    """(first, second, bias, result without bias) on the CPU, the operands with the values that two layouts keep.

    A test that expects mostly zeros, which a kernel that does nothing gives as well, is refused; those that the
    geometry dictates, where no tap reaches, are not counted.
    """
    generator = torch.Generator().manual_seed(seed)
    shape_1, shape_2, shape_out = problem.shapes(primitive)
    reached = terms(primitive, problem) > 0

    def draw(shape):
        return mostly_positive(shape, largest, generator).to(dtype)

    bias, share = draw((shape_out[1],)), 0.0
    for _ in range(10):  # few values may well cancel, or be large by chance
        first, second = LAYOUTS[kept_1](draw(shape_1)), LAYOUTS[kept_2](draw(shape_2))
        operands = numpy_of(first), numpy_of(second)
        absolute = judge(primitive, *map(np.abs, operands), None, problem)
        if absolute.max(initial=0) + _LARGEST[dtype] > LIMIT[dtype]:  # partial sums could be rounded
            largest = max(1, largest - 1)
            continue
        expected = judge(primitive, *operands, None, problem)
        share = np.count_nonzero(expected[reached]) / max(1, np.count_nonzero(reached))
        if share >= 0.5 or not reached.any():
            return first, second, bias, expected
    raise AssertionError(f"only {share:.0%} of what is expected is not zero: {problem} would prove little")


def draw_integers(
    primitive: str,
    problem: Problem,
    dtype: torch.dtype,
    device: str = "cpu",
    layouts: tuple[str, str] = ("contiguous", "contiguous"),
    bias: str = "none",
    seed: int = 0,
    largest: int | None = None,
):
    """(first, second, bias or None) with integers that need no rounding on the way, and the exact result.

    `largest`: of the operands, for an algorithm whose sums are larger than the result.
    """
    kept = (name if name in FEWER_VALUES else "contiguous" for name in layouts)
    first, second, b, expected = _integers(primitive, problem, dtype, *kept, seed, largest or _LARGEST[dtype])
    first, second = (LAYOUTS[n](t.to(device)) for n, t in zip(layouts, (first, second), strict=True))
    if primitive == "grad_weight" or BIASES[bias] is None:
        return first, second, None, expected
    b = BIASES[bias](b.to(device))
    return first, second, b, expected + numpy_of(b)[:, None, None]


def assert_exact(actual: torch.Tensor, expected: np.ndarray, what: object) -> None:
    """Every element equal to the exact one, rounded once, with zero tolerance; one that nobody wrote is NaN."""
    assert tuple(actual.shape) == expected.shape, f"{what}: expected shape {expected.shape}, got {actual.shape}"
    values, wanted = numpy_of(actual), numpy_of(torch.from_numpy(expected).to(actual.dtype))
    wrong = ~(values == wanted)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: {wrong.sum()} of {wrong.size} elements differ, the first at {at}: "
            f"expected {wanted[at]}, got {values[at]}"
        )
