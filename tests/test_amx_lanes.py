"""Column taps as lanes of the matrix unit, in bfloat16: beside few input channels in weight gradients (PairTile in
amx_weight.h), beside few outputs in forward and grad_input (amx_few_outputs.h).

Lanes are pointers into packed planes, by phases of the stride; a result is the sum of lanes that lie columns apart.
"""

import pytest
import torch
from choices import call, forced, instruction_sets
from exact import assert_exact, draw_integers
from problems import Problem

FEW_INPUTS = {
    "3x3": Problem(2, 3, 30, 33, 20, 3, 3, padding=(1, 1)),
    "7x7-stride-2": Problem(2, 3, 40, 41, 64, 7, 7, (2, 2), (3, 3)),
    "one-channel": Problem(1, 1, 20, 50, 17, 5, 5, padding=(2, 2)),
    "more-lanes-than-a-tile": Problem(2, 3, 60, 61, 40, 11, 11, (4, 4), (2, 2)),
    "three-tiles": Problem(1, 1, 3, 90, 33, 1, 70),
    "dilated": Problem(3, 5, 23, 24, 33, 2, 3, (1, 2), (0, 1), (2, 3)),
    "eight-channels": Problem(2, 8, 17, 19, 9, 4, 4, (3, 2), (1, 2)),
    "wide": Problem(1, 4, 9, 300, 40, 3, 3, padding=(1, 1)),
    "small-planes": Problem(9, 3, 6, 5, 16, 3, 3, padding=(1, 1)),
    "groups": Problem(2, 6, 15, 17, 18, 3, 3, padding=(1, 1), G=2),
    "circular": Problem(2, 3, 15, 17, 18, 3, 3, padding=(1, 1), mode="circular"),
    "unread-taps": Problem(2, 3, 2, 3, 18, 5, 5, padding=(2, 2), dilation=(2, 2)),
}
FEW_OUTPUTS = {  # K of forward; C of grad_input is as few below
    "7x7": Problem(2, 64, 40, 41, 3, 7, 7, padding=(3, 3)),
    "four": Problem(1, 40, 20, 50, 4, 3, 3, padding=(1, 1)),
    "one": Problem(2, 33, 20, 37, 1, 9, 9, padding=(4, 4)),
    "dilated": Problem(2, 33, 20, 21, 5, 5, 4, padding=(2, 0), dilation=(1, 2)),
    "rows": Problem(3, 32, 7, 9, 7, 3, 3, padding=(1, 1), dilation=(2, 1)),
    "many-channels": Problem(1, 300, 9, 70, 2, 2, 5, padding=(0, 2)),
    "one-row": Problem(1, 48, 1, 700, 3, 1, 7, padding=(0, 3)),
    "too-wide-for-its-tile": Problem(1, 300, 5, 900, 2, 5, 3, padding=(2, 1)),
    "groups": Problem(2, 66, 15, 17, 4, 3, 3, padding=(1, 1), G=2),
    "reflect": Problem(2, 40, 15, 17, 3, 3, 3, padding=(1, 1), mode="reflect"),
}
PHASES = {
    "7x7-stride-2": Problem(2, 3, 40, 41, 64, 7, 7, (2, 2), (3, 3)),
    "3x3-stride-2": Problem(2, 3, 45, 50, 64, 3, 3, (2, 2), (1, 1)),
    "11x11-stride-4": Problem(1, 3, 60, 61, 96, 11, 11, (4, 4), (2, 2), (2, 2)),
    "stride-1": Problem(2, 4, 30, 33, 40, 3, 3, padding=(1, 1)),
    "one-channel": Problem(2, 1, 30, 33, 40, 5, 5, (1, 2), (1, 1)),
    "stride-1x3": Problem(2, 2, 30, 33, 40, 2, 7, (1, 3), (1, 1)),
}
ROWS = [
    (primitive, case, problem)
    for primitive, cases in (("grad_weight", FEW_INPUTS), ("forward", FEW_OUTPUTS), ("grad_input", PHASES))
    for case, problem in cases.items()
]


@pytest.mark.parametrize("name, isa", [(n, i) for n in ("amx", "bfloat16_pairs") for i in instruction_sets(n)])
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("row", ROWS, ids=lambda r: "-".join(r[:2]))
def test_exact(row, layout, name, isa):
    primitive, _, problem = row
    first, second, bias, expected = draw_integers(
        primitive, problem, torch.bfloat16, "cpu", (layout, layout), "contiguous"
    )
    for threads in (1, 3):
        torch.set_num_threads(threads)  # conftest.py sets it back
        with forced(primitive, name, isa):
            actual = call(primitive, first, second, bias, problem, layout == "channels_last")
        assert_exact(actual, expected, f"{threads} threads on {isa}: {problem}")
