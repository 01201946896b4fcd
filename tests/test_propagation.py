"""Infinities and NaN go where the definition takes them, and nowhere else.

A tap that reads zero padding, or falls between the strides, is skipped and not multiplied by zero: 0 * inf is NaN, and
would leak. Where a tap does read an infinity or NaN, the result has it, a zero times infinity included. The sums here
are such that the order of adding does not matter: anything with a NaN, or with both infinities, is NaN.
"""

from itertools import product

import numpy as np
import pytest
import torch
from choices import call_each
from conftest import DEVICES, EXHAUSTIVE, FLOATING, PRIMITIVES
from exact import judge, numpy_of
from memory import LAYOUTS
from problems import SEVERAL_BLOCKS, UGLY, Problem, with_modes
from sampling import covering

import convx

inf, nan = float("inf"), float("nan")
PROBLEMS = {n: p for n, p in with_modes(UGLY).items() if p.N and p.C}
SPECIAL = {"inf": (inf,), "nan": (nan,), "both-infinities": (inf, -inf), "all": (inf, -inf, nan)}


def special_operands(primitive, problem, dtype, where, values, seed=0):
    """Small integers, zeros among them, with special values at random places of the first or second operand."""
    generator = torch.Generator().manual_seed(seed)
    operands = [torch.randint(-2, 3, s, generator=generator).to(dtype) for s in problem.shapes(primitive)[:2]]
    flat = operands[where].view(-1)
    for value in values:
        flat[torch.randint(flat.numel(), (1,), generator=generator)] = value
    return operands


def difference(actual, expected, what):
    """What differs, or "": NaN equals NaN here, and infinities have signs."""
    values = numpy_of(actual)
    wrong = ~((values == expected) | (np.isnan(values) & np.isnan(expected)))
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{what}: {wrong.sum()} of {wrong.size} elements differ, the first at {at}: "
        f"expected {expected[at]}, got {values[at]}"
    )


ROWS = [(d, p) for d in DEVICES for p in PRIMITIVES]
FACTORS = (ROWS, PROBLEMS, FLOATING, (0, 1), SPECIAL, ("contiguous", "channels_last", "sliced"))


@pytest.mark.parametrize(
    "row, name, dtype, where, values, layout",
    list(product(*FACTORS)) if EXHAUSTIVE else covering(*FACTORS),
    ids=str,
)
def test_special_values_go_where_they_belong(row, name, dtype, where, values, layout):
    (device, primitive), problem = row, PROBLEMS[name]
    operands = special_operands(primitive, problem, dtype, where, SPECIAL[values])
    with np.errstate(invalid="ignore"):
        expected = judge(primitive, *map(numpy_of, operands), None, problem)
    first, second = (LAYOUTS[layout](t.to(device)) for t in operands)
    results = call_each(primitive, first, second, None, problem)
    wrong = [difference(actual, expected, what) for what, actual in results]
    assert not any(wrong), "\n".join(filter(None, wrong))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("special", (inf, nan), ids=str)
def test_padding_does_not_leak(device, special, dtype):
    """A 3x3 kernel whose corner is special: the first row and column of outputs read padding there, and stay finite."""
    w = torch.ones(1, 1, 3, 3, dtype=dtype, device=device)
    w[0, 0, 0, 0] = special
    x = torch.ones(1, 1, 4, 4, dtype=dtype, device=device)
    out = convx.conv2d(x, w, padding=1)[0, 0]
    assert out[0].tolist() == [4, 6, 6, 4] and out[:, 0].tolist() == [4, 6, 6, 4]
    assert not out[1:, 1:].isfinite().any()


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("special", (inf, nan), ids=str)
def test_stride_gaps_do_not_leak(device, special, dtype):
    """Stamps of a 1x1 kernel, two apart: nothing reaches between them, nor the rows that output_padding adds."""
    y = torch.ones(1, 1, 3, 3, dtype=dtype, device=device)
    w = torch.full((1, 1, 1, 1), special, dtype=dtype, device=device)
    bias = torch.full((1,), 5, dtype=dtype, device=device)
    out = convx.conv_transpose2d(y, w, bias, stride=2, output_padding=1)[0, 0]
    assert out.shape == (6, 6)
    assert not out[::2, ::2].isfinite().any()
    assert (out[1::2] == 5).all() and (out[:, 1::2] == 5).all()


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("special", (inf, nan), ids=str)
def test_weight_gradient_does_not_leak(device, special, dtype):
    """A special cotangent at the first output: its taps in the padding get nothing of it."""
    x = torch.ones(1, 1, 4, 4, dtype=dtype, device=device)
    w = torch.ones(1, 1, 3, 3, dtype=dtype, device=device, requires_grad=True)
    cotangent = torch.ones(1, 1, 4, 4, dtype=dtype, device=device)
    cotangent[0, 0, 0, 0] = special
    convx.conv2d(x, w, padding=1).backward(cotangent)
    grad = w.grad[0, 0]
    assert grad[0].tolist() == [9, 12, 9] and grad[:, 0].tolist() == [9, 12, 9]
    assert not grad[1:, 1:].isfinite().any()


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_propagates_as_in_torch(device, dtype):
    """Where there is no padding and no gap, torch leaks nothing either: the same result, place by place. (A transposed
    layer's edges meet only some taps. In 16 bits on AMX, and on a GPU, torch multiplies the others by zero, and leaks.)
    """
    for problem in (UGLY["pointwise"], UGLY["many-outputs"], UGLY["kernel-of-input"]):
        for where in (0, 1):
            x, w = special_operands("forward", problem, dtype, where, (inf, -inf, nan))
            x, w = x.to(device), w.to(device)
            ours, torchs = convx.conv2d(x, w), torch.conv2d(x, w)
            assert difference(ours, numpy_of(torchs), f"conv2d of {problem}") == ""
            if (dtype.itemsize == 2 or device == "cuda") and (problem.R, problem.S) != (1, 1):
                continue
            y, v = special_operands("grad_input", problem, dtype, where, (inf, -inf, nan))
            y, v = y.to(device), v.to(device)
            ours, torchs = convx.conv_transpose2d(y, v), torch.conv_transpose2d(y, v)
            assert difference(ours, numpy_of(torchs), f"conv_transpose2d of {problem}") == ""


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_overflow_gives_infinity(device, primitive, dtype):
    """Sums beyond the largest number of the dtype are infinite, not clamped and not NaN."""
    problem = UGLY["plain"]
    largest = torch.finfo(dtype).max
    shapes = problem.shapes(primitive)
    first = torch.full(shapes[0], largest, dtype=dtype, device=device)
    second = torch.full(shapes[1], -1, dtype=dtype, device=device)
    for what, actual in call_each(primitive, first, second, None, problem):
        assert (actual == -inf).all(), what


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_float16_sums_do_not_overflow_on_the_way(device, primitive):
    """16-bit types are added in float32: 60000 + 60000 - 60000 - 58976 is 1024, and float16 ends at 65504."""
    problem = UGLY["pointwise"]
    first, second = (torch.ones(s, dtype=torch.float16, device=device) for s in problem.shapes(primitive)[:2])
    values = torch.tensor([60000.0, 60000.0, -60000.0, -58976.0], dtype=torch.float16, device=device)
    if primitive == "grad_weight":
        first.zero_()
        first[0, :, 0, :4] = values
    else:
        first.zero_()
        first[:, :4] = values[:, None, None]
    for what, actual in call_each(primitive, first, second, None, problem):
        assert (actual == 1024).all(), what


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_subnormal_results_are_not_flushed(device, primitive, dtype):
    """The smallest normal number times a quarter, twice: half of it, which only a subnormal can hold."""
    problem = UGLY["pointwise"]
    tiny = torch.finfo(dtype).tiny
    first, second = (torch.zeros(s, dtype=dtype, device=device) for s in problem.shapes(primitive)[:2])
    second.fill_(0.25)
    if primitive == "grad_weight":
        first[0, :, 0, :2] = tiny
    else:
        first[:, :2] = tiny
    for what, actual in call_each(primitive, first, second, None, problem):
        # An atomic addition of float32 in a GPU's memory flushes subnormal numbers (PTX manual, "atom").
        flushes = what.startswith("scatter_atomic on cuda") and dtype == torch.float32
        assert (actual == (0 if flushes else tiny / 2)).all(), what


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("values", [(inf,), (inf, -inf)], ids=("inf", "both-infinities"))
@pytest.mark.parametrize("problem", [SEVERAL_BLOCKS["depthwise-strips"], Problem(1, 3, 70, 67, 4, 3, 3)], ids=str)
def test_infinities_in_sums_that_keep_what_they_round_off(problem, values, dtype):
    operands = special_operands("grad_weight", problem, dtype, 0, values)
    expected = judge("grad_weight", *(t.double().numpy() for t in operands), None, problem)
    differences = [difference(y, expected, what) for what, y in call_each("grad_weight", *operands, None, problem)]
    assert not any(differences), "\n".join(filter(None, differences))
