"""The blocking of weight gradients: exact for problems that make it do each of the things that it can.

Pixels come in strips of a few hundred: several images, rows of one, or pieces of a row. Strips pass in groups, tiles of
channels in blocks, outputs in blocks; x is packed or read in place; with few outputs x and y change places. Small
problems are one strip of one block, so the tests of geometry meet little of this.
"""

import pytest
import torch
from choices import call, forced, instruction_sets
from exact import assert_exact, draw_integers
from problems import Problem

CASES = {
    "pieces-of-rows": Problem(2, 5, 2, 1200, 20, 1, 3, padding=(0, 1)),
    "pieces-of-strided-rows": Problem(1, 3, 3, 1501, 9, 2, 2, stride=(1, 2), dilation=(1, 3)),
    "pieces-in-place": Problem(2, 17, 37, 41, 20, 1, 1),
    "images-in-place": Problem(9, 17, 7, 9, 20, 1, 1),
    "in-place-groups": Problem(2, 34, 20, 21, 12, 1, 1, G=2),
    "pages-apart": Problem(1, 16, 32, 64, 20, 1, 1),  # planes of 8 and 16 KiB are packed, not read in place
    "many-outputs": Problem(3, 12, 14, 15, 300, 1, 1),
    "many-passes": Problem(11, 70, 20, 20, 40, 1, 1),
    "many-passes-of-taps": Problem(4, 40, 30, 31, 33, 3, 3, padding=(1, 1)),
    "many-channels": Problem(2, 400, 12, 12, 24, 3, 3, padding=(1, 1)),
    "strided-pointwise": Problem(5, 40, 29, 31, 24, 1, 1, stride=(2, 3)),
    "across-taps": Problem(2, 3, 40, 41, 40, 3, 5, padding=(1, 2)),
    "exchanged": Problem(2, 40, 20, 21, 3, 3, 5, padding=(1, 2)),
    "exchanged-dilated": Problem(1, 33, 18, 23, 2, 3, 2, padding=(0, 1), dilation=(2, 3)),
    "exchanged-one-output": Problem(3, 64, 9, 11, 1, 7, 7, padding=(3, 3)),
    "exchanged-unread": Problem(1, 40, 2, 3, 3, 5, 5, padding=(2, 2)),  # taps that only read padding
    "few-outputs-circular": Problem(2, 40, 9, 8, 3, 3, 3, padding=(1, 1), mode="circular"),
    "few-outputs-strided": Problem(2, 40, 19, 18, 3, 3, 3, stride=(2, 2), padding=(1, 1)),
}


@pytest.mark.parametrize("isa", instruction_sets("outer_product"))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("case", CASES)
def test_every_blocking(case, dtype, layout, isa):
    problem = CASES[case]
    x, y, _, expected = draw_integers("grad_weight", problem, dtype, "cpu", (layout, layout))
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)  # conftest.py sets it back
        with forced("grad_weight", "outer_product", isa):
            actual = call("grad_weight", x, y, None, problem)
        assert_exact(actual, expected, f"{threads} threads on {isa}: {problem}")
