"""Rows of every width through the kernels that cut results into register tiles: exact, on every instruction set.

How a row is cut depends on its width and on the registers: nearly equal pieces, pieces so narrow that they take several
rows, rows longer than what sums are kept for, planes that leave as one line. The tests of geometry have a few widths;
here are all up to two tiles and some beyond, with one to five rows, and outputs that leave a vector partly empty.
"""

import pytest
import torch
from choices import forced, instruction_sets
from exact import assert_exact, draw_integers
from problems import Problem

import convx

WIDTHS = [*range(1, 32), 97, 128, 131, 300]
ROWS = ("outer_product", "panels", "pixels")


def cases(width):
    for height in (1, 2, 3, 5):
        # one vector of outputs and two, 3 x 3 and pointwise; a stride, whose phases are rows of other widths
        yield Problem(2, 3, height, width, 7, 3, 3, padding=(1, 1))
        yield Problem(1, 5, height, width, 19, 1, 1)
        yield Problem(1, 2, height, 2 * width, 35, 2, 3, (1, 2), (1, 1))


@pytest.mark.parametrize("isa", instruction_sets("outer_product"))
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("primitive", ("forward", "grad_input", "grad_weight"))
def test_every_width(primitive, width, isa):
    names = {row.name for row in convx.algorithms(primitive, "cpu")} & set(ROWS)
    for problem in cases(width):
        first, second, bias, expected = draw_integers(
            primitive, problem, torch.float32, "cpu", ("contiguous", "contiguous"), "contiguous"
        )
        operands = (first, second) if primitive == "grad_weight" else (first, second, bias)
        for name in sorted(names):
            with forced(primitive, name, isa):
                actual = getattr(torch.ops.convx, primitive)(*operands, *problem.args(primitive))
            assert_exact(actual, expected, f"{name} on {isa}: {primitive} of {problem}")


# The phases of a stride have a row or a column more or less than one another, and some have no tap. Results are cut
# into several blocks of rows or columns here; in one case the second phase has nothing of the last block.
STRIDED = {
    "odd-sizes": Problem(2, 20, 83, 75, 64, 3, 3, (2, 2), (1, 1)),
    "even-sizes": Problem(1, 33, 82, 74, 70, 4, 3, (2, 2), (1, 1)),
    "phases-without-taps": Problem(1, 17, 83, 76, 70, 1, 2, (3, 3)),
    "two-strides-and-groups": Problem(1, 40, 61, 150, 128, 3, 5, (1, 4), (1, 2), G=2),
    "dilated": Problem(1, 16, 90, 75, 64, 3, 3, (2, 2), (2, 1), (3, 2)),
    "long-rows": Problem(1, 5, 3, 2051, 300, 1, 3, (1, 2), (0, 1)),
    "a-last-block-of-one-column": Problem(1, 3, 1, 451, 3400, 1, 3, (1, 2), (0, 1)),
}
WITH_PATCHES = ("odd-sizes", "even-sizes", "two-strides-and-groups")  # in some phases, `winograd`'s


@pytest.mark.parametrize("isa", instruction_sets("outer_product"))
@pytest.mark.parametrize(
    "case, algorithm",
    [(case, "outer_product") for case in STRIDED] + [(case, "winograd") for case in WITH_PATCHES],
)
def test_blocks_of_all_phases(case, algorithm, isa):
    problem = STRIDED[case]
    first, second, bias, expected = draw_integers(
        "grad_input", problem, torch.float32, "cpu", ("contiguous", "contiguous"), "contiguous"
    )
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)  # conftest.py sets it back
        with forced("grad_input", algorithm, isa):
            actual = torch.ops.convx.grad_input(first, second, bias, *problem.args("grad_input"))
        assert_exact(actual, expected, f"{algorithm} with {threads} threads on {isa}: {problem}")
