"""Depthwise planes of every width and height through the rows that take them: exact, on every instruction set.

In place a plane is cut into blocks of rows and vectors that overlap at its ends, and masks cut off what a tap would
read beyond a row. Which of the vectors need one depends on width, padding, stride and dilation; here are all widths up
to two vectors and some beyond, results narrower and wider than the input, and more results than fit (asymmetric
padding).
"""

import pytest
import torch
from choices import call_each
from conftest import INSTRUCTION_SETS
from exact import assert_exact, draw_integers
from problems import Problem

WIDTHS = [*range(1, 20), 23, 24, 25, 31, 33, 64]
DTYPES = (torch.float32, torch.float64, torch.float16)


def cases(width):
    for kernel, padding in ((3, 0), (3, 1), (3, 2), (5, 1), (5, 2), (5, 4), (7, 2), (7, 3), (7, 6)):
        for height in (4, 6, 7, 8, 9, 14, 17):
            if min(width, height) + 2 * padding < kernel:
                continue
            yield Problem(2, 3, height, width, 3, kernel, kernel, padding=(padding, padding), G=3)
    for kernel, padding in ((3, 0), (3, 1), (4, 1), (4, 2), (5, 2), (7, 0), (7, 3)):
        for height in (8, 11, 16, 19):
            if min(width, height) + 2 * padding >= kernel:
                yield Problem(2, 3, height, width, 3, kernel, kernel, stride=(2, 2), padding=(padding, padding), G=3)
    if width > 3:
        yield Problem(1, 2, 7, width, 4, 3, 3, padding=(1, 2), dilation=(1, 2), G=2)
        yield Problem(1, 2, 5, width, 2, 3, 3, padding=(1, 1), G=2, P=6, Q=width + 1)
        yield Problem(1, 2, 9, width, 6, 3, 3, stride=(2, 2), padding=(1, 1), G=2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("primitive", ("forward", "grad_input", "grad_weight"))
def test_every_width(primitive, width, dtype):
    ran = set()
    for problem in cases(width):
        check(primitive, problem, dtype, ran)
    for isa in ("avx2", "avx512"):
        assert f"depthwise on {isa}" in ran or isa not in INSTRUCTION_SETS or width < 4


TALL = (
    Problem(1, 2, 301, 70, 2, 3, 3, padding=(1, 1), G=2),
    Problem(1, 2, 150, 40, 2, 5, 5, padding=(0, 1), G=2),
    Problem(1, 1, 9, 1500, 1, 7, 7, padding=(3, 3)),
)
CONVERTED = (  # 16-bit planes in strips
    Problem(1, 1, 200, 301, 1, 3, 3, padding=(1, 1)),
    Problem(1, 2, 211, 300, 4, 7, 7, padding=(3, 2), G=2),
    Problem(1, 1, 400, 301, 1, 5, 5, stride=(2, 2), padding=(2, 2)),
)
FETCHED = (
    Problem(3, 40, 100, 97, 40, 3, 3, padding=(1, 1), G=40),  # a part at a time
    Problem(16, 100, 29, 30, 100, 5, 5, padding=(2, 0), G=100),  # plane by plane
    Problem(33, 530, 9, 8, 530, 3, 3, padding=(1, 1), G=530),  # across channels, the last vector of them not full
    Problem(2, 33, 131, 130, 33, 3, 3, stride=(2, 2), padding=(1, 1), G=33),  # the same in strips
)


@pytest.mark.parametrize("problem", TALL + FETCHED, ids=str)
@pytest.mark.parametrize("primitive", ("forward", "grad_input", "grad_weight"))
def test_large_planes_and_layers(primitive, problem):
    ran = set()
    check(primitive, problem, torch.float32, ran)
    unit = problem.stride == (1, 1)
    for isa, needed in (("avx2", "depthwise" if unit else "depthwise_channels"), ("avx512", "depthwise")):
        assert isa not in INSTRUCTION_SETS or f"{needed} on {isa}" in ran


@pytest.mark.parametrize("problem", CONVERTED, ids=str)
@pytest.mark.parametrize("primitive", ("forward", "grad_input", "grad_weight"))
def test_large_planes_of_16_bits(primitive, problem):
    ran = set()
    check(primitive, problem, torch.float16, ran)
    sums_outputs = primitive == "grad_input" and problem.K > problem.C
    assert "avx512" not in INSTRUCTION_SETS or sums_outputs or "depthwise on avx512" in ran


def check(primitive, problem, dtype, ran):
    first, second, bias, expected = draw_integers(primitive, problem, dtype, bias="contiguous")
    for what, actual in call_each(primitive, first, second, bias, problem):
        assert_exact(actual, expected, what)
        ran.add(what.partition(":")[0])
