"""Rows of every width on the CPU: their copies into a tile (pack_tile.h) and their stores (pixel_store.h).

Copies are of at most sixteen vectors a row, with masks for the padding and for every other column. Stores leave out
what a line of pixels has between two rows, unless rows are whole vectors, which go to the result from the registers.
"""

from dataclasses import replace

import pytest
import torch
from choices import call, forced, instruction_sets
from exact import assert_exact, draw_integers
from problems import Problem

WIDTHS = (*range(1, 20), 23, 24, 31, 32, 33, 40, 47, 48, 49, 64, 96, 112, 129, 258, 300)
# (R, S), stride, padding, dilation
FILTERS = {
    "3x3": ((3, 3), (1, 1), (1, 1), (1, 1)),
    "3x3-stride-2": ((3, 3), (2, 2), (1, 1), (1, 1)),
    "7x7-stride-2": ((7, 7), (2, 2), (3, 3), (1, 1)),
    "1x4-stride-1x2": ((1, 4), (1, 2), (0, 3), (1, 1)),
    "5x2-dilated": ((5, 2), (1, 1), (2, 4), (1, 3)),
}


def _problem(width: int, filters: str, outputs: int) -> Problem:
    (R, S), stride, padding, dilation = FILTERS[filters]
    return Problem(2, 3, 9, width, outputs, R, S, stride, padding, dilation)


@pytest.mark.parametrize("algorithm", ("pixels", "outer_product"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("filters", FILTERS)
def test_every_width(filters, dtype, algorithm):
    for isa in instruction_sets(algorithm):
        for width in WIDTHS:
            for outputs in (4, 9, 31) if algorithm == "pixels" else (17,):
                problem = _problem(width, filters, outputs)
                for primitive in ("forward", "grad_input"):
                    first, second, bias, expected = draw_integers(
                        primitive, problem, dtype, "cpu", ("contiguous",) * 2, "contiguous"
                    )
                    with forced(primitive, algorithm, isa):
                        actual = call(primitive, first, second, bias, problem)
                    assert_exact(actual, expected, f"{primitive} on {isa}: {problem}")


@pytest.mark.parametrize("isa", instruction_sets("amx"))
@pytest.mark.parametrize("filters", FILTERS)
def test_every_width_on_the_matrix_unit(filters, isa):
    for width in WIDTHS:
        problem = replace(_problem(width, filters, 20), C=18)
        first, second, bias, expected = draw_integers(
            "forward", problem, torch.bfloat16, "cpu", ("contiguous",) * 2, "contiguous"
        )
        with forced("forward", "amx", isa):
            assert_exact(call("forward", first, second, bias, problem), expected, f"{isa}: {problem}")


@pytest.mark.parametrize("mode", ("reflect", "circular"))
def test_other_padding(mode):
    for width in (16, 20, 64):
        problem = Problem(2, 5, 9, width, 20, 3, 3, padding=(1, 1), mode=mode)
        first, second, bias, expected = draw_integers(
            "forward", problem, torch.float32, "cpu", ("contiguous",) * 2, "contiguous"
        )
        for algorithm in ("pixels", "outer_product"):
            with forced("forward", algorithm):
                assert_exact(call("forward", first, second, bias, problem), expected, f"{algorithm}: {problem}")


@pytest.mark.parametrize("isa", instruction_sets("pixels"))
def test_sums_that_wait_for_more_channels(isa):
    """Of many channels a tile has some; rows are stored with the last of them, and long sums are made of long sums."""
    for width in (32, 37, 112):
        for channels in (70, 600):
            problem = Problem(1, channels, 40, width, 11, 5, 5, padding=(2, 2))
            first, second, bias, expected = draw_integers(
                "forward", problem, torch.float32, "cpu", ("contiguous",) * 2, "contiguous"
            )
            with forced("forward", "pixels", isa):
                assert_exact(call("forward", first, second, bias, problem), expected, f"{isa}: {problem}")
