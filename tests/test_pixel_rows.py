"""Layers of one output a group through the rows that take them in place: exact, on every instruction set.

Rows are cut into vectors, of which masks cut off what a tap would read beyond the row, planes into strips and blocks of
rows that may stick out, channels into chunks, and tall kernels into parts; a stride makes phases, of which those of
alternating columns are interleaved.
"""

import pytest
import torch
from choices import call_each
from conftest import INSTRUCTION_SETS
from exact import assert_exact, draw_integers
from problems import Problem

WIDTHS = [*range(1, 19), 23, 24, 25, 33, 64]
DTYPES = (torch.float32, torch.float64)


def problems(width):
    """Of forward; the gradient of the input has one output where these have one channel."""
    for kernel, padding in ((1, 0), (2, 1), (3, 1), (3, 2), (5, 2), (7, 3), (11, 5)):
        for height in (1, 5, 12):
            if min(width, height) + 2 * padding >= kernel:
                yield Problem(2, 3, height, width, 1, kernel, kernel, padding=(padding, padding))
    yield Problem(1, 4, 9, width, 2, 3, 2, padding=(1, 4), dilation=(1, 3), G=2)
    yield Problem(1, 140, 6, width, 1, 3, 3, padding=(1, 1))  # several channels to a chunk
    yield Problem(1, 1, 70, width, 1, 3, 3, padding=(1, 1))  # several strips


def phases(width):
    for stride, kernel, padding in (((2, 2), 3, 1), ((2, 2), 4, 1), ((1, 2), 5, 2), ((2, 1), 5, 2), ((3, 4), 9, 4)):
        yield Problem(2, 1, 13, width + 4, 3, kernel, kernel, stride=stride, padding=(padding, padding))
    yield Problem(1, 2, 20, width + 8, 6, 9, 9, stride=(2, 2), padding=(4, 4), G=2)
    yield Problem(1, 1, 12, width + 4, 80, 5, 5, stride=(2, 2), padding=(2, 2))


def turned(p):
    return Problem(p.N, p.K, p.H, p.W, p.C, p.R, p.S, padding=p.padding, dilation=p.dilation, G=p.G)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("primitive", ("forward", "grad_input"))
def test_every_width(primitive, width, dtype):
    ran = set()
    cases = problems(width) if primitive == "forward" else (*map(turned, problems(width)), *phases(width))
    for problem in cases:
        first, second, bias, expected = draw_integers(primitive, problem, dtype, bias="contiguous")
        for what, actual in call_each(primitive, first, second, bias, problem):
            assert_exact(actual, expected, what)
            ran.add(what.partition(":")[0])
    assert "pixel_rows on avx2" in ran or "avx2" not in INSTRUCTION_SETS
