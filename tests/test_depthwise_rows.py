"""Depthwise planes of every width and height through the rows that take them: exact, on every instruction set.

In place a plane is cut into blocks of rows and vectors that overlap at its ends, and masks cut off what a tap would
read beyond a row. Which of the vectors need one depends on width, padding and dilation; here are all widths up to two
vectors and some beyond, results narrower and wider than the input, and more results than fit (asymmetric padding).
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
        for height in (4, 6, 9):
            if min(width, height) + 2 * padding < kernel:
                continue
            yield Problem(2, 3, height, width, 3, kernel, kernel, padding=(padding, padding), G=3)
    if width > 3:
        yield Problem(1, 2, 7, width, 4, 3, 3, padding=(1, 2), dilation=(1, 2), G=2)
        yield Problem(1, 2, 5, width, 2, 3, 3, padding=(1, 1), G=2, P=6, Q=width + 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("primitive", ("forward", "grad_input"))
def test_every_width(primitive, width, dtype):
    ran = set()
    for problem in cases(width):
        first, second, bias, expected = draw_integers(primitive, problem, dtype, bias="contiguous")
        for what, actual in call_each(primitive, first, second, bias, problem):
            assert_exact(actual, expected, what)
            ran.add(what.partition(":")[0])
    assert "depthwise on avx2" in ran or "avx2" not in INSTRUCTION_SETS or width < 4
