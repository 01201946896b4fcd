"""The CUDA rows for few channels, depthwise and few_channels, on the emulator, beyond what every row is asked.

Problems of more than one tile, several passes over the source's channels and every way of loading it; infinities and
NaN in all of their loops; and rounding errors by the rule of test_accuracy.py.
"""

from itertools import product

import pytest
import torch
from emulated import FLOATING, SAME, check_errors, check_every_barrier_is_needed, check_special_values
from emulator import library as emulator
from exact import assert_exact, draw_integers
from problems import UGLY, Problem, with_modes
from sampling import covering
from test_accuracy import draw as draw_reals
from test_propagation import SPECIAL

pytestmark = pytest.mark.usefixtures("default_emulator")
ROWS = tuple(product(("forward", "grad_input", "grad_weight"), ("depthwise", "few_channels")))

LARGE = {
    # Several tiles of rows and columns, aligned rows (16-byte loads) and not, windows that end in the middle.
    "tiles": Problem(1, 3, 71, 72, 3, 3, 3, padding=(1, 1), G=3),
    "tiles-unaligned": Problem(1, 2, 37, 131, 2, 5, 5, padding=(2, 2), G=2),
    "tiles-stride": Problem(1, 8, 37, 40, 8, 3, 3, (2, 2), (1, 1), G=8),
    "7x7": Problem(2, 2, 40, 33, 2, 7, 7, padding=(3, 3), G=2),
    "31x31": Problem(1, 2, 24, 32, 2, 31, 31, padding=(15, 15), G=2),
    "13x13-channels": Problem(1, 16, 14, 16, 16, 13, 13, padding=(6, 6), G=16),
    "kernel-40": Problem(1, 1, 48, 44, 1, 40, 3, padding=(3, 1)),
    # More groups than a block takes, a multiple of the lanes and not.
    "64-channels": Problem(2, 64, 9, 8, 64, 3, 3, padding=(1, 1), G=64),
    "41-channels": Problem(1, 41, 7, 19, 41, 3, 3, padding=(1, 1), G=41),
    "48-channels-5x5-stride": Problem(1, 48, 11, 12, 48, 5, 5, (2, 2), (2, 2), G=48),
    "small-planes": Problem(3, 72, 4, 4, 72, 3, 3, padding=(1, 1), G=72),
    # Channel multipliers, either way.
    "multiplier": Problem(1, 16, 9, 10, 48, 3, 3, padding=(1, 1), G=16),
    "merging": Problem(1, 48, 9, 10, 16, 3, 3, padding=(1, 1), G=16),
    # Dilation and stride that share a divisor or none; taps in residues.
    "dilated": Problem(1, 8, 29, 40, 8, 3, 3, padding=(6, 6), dilation=(6, 6), G=8),
    "stride-6-dilation-4": Problem(1, 8, 40, 37, 8, 4, 3, (6, 4), (5, 3), (4, 6), G=8),
    "stride-2-dilation-3": Problem(1, 8, 40, 37, 8, 5, 4, (2, 3), (5, 3), (3, 2), G=8),
    # Small groups, first and last layers; source channels in several passes.
    "groups-of-4": Problem(1, 32, 15, 16, 32, 3, 3, padding=(1, 1), G=8),
    "groups-of-8-stride": Problem(1, 16, 18, 17, 32, 3, 3, (2, 2), (1, 1), G=2),
    "groups-of-32": Problem(1, 64, 6, 7, 64, 3, 3, padding=(1, 1), G=2),
    "first-layer": Problem(1, 3, 37, 40, 72, 7, 7, (2, 2), (3, 3)),
    "last-layer": Problem(1, 80, 19, 24, 3, 5, 5, padding=(2, 2)),
    "many-to-one": Problem(1, 260, 9, 12, 1, 3, 3, padding=(1, 1)),
    "super-resolution": Problem(1, 1, 27, 26, 24, 9, 9, (2, 2), (4, 4)),
    "patch-embedding": Problem(1, 3, 32, 48, 40, 16, 16, stride=(16, 16)),
    # kernel = stride.
    "patches": Problem(2, 5, 34, 36, 24, 2, 2, stride=(2, 2)),
    "patches-groups": Problem(1, 8, 12, 20, 32, 3, 4, stride=(3, 4), G=2),
}
LOADED = ("contiguous", "channels_last", "cropped", "channel_slice", "sliced")


def _exact_cases():
    factors = (ROWS, LARGE, FLOATING, LOADED, SAME, (False, True), emulator.ORDERS)
    return [
        pytest.param(*row, id="-".join(str(v).replace("torch.", "") for v in (*row[0], *row[1:])))
        for row in covering(*factors)
    ]


@pytest.mark.parametrize("row, name, dtype, layout_1, layout_2, channels_last, order", _exact_cases())
def test_tiles_and_passes(row, name, dtype, layout_1, layout_2, channels_last, order):
    (primitive, algorithm), problem = row, LARGE[name]
    if name == "31x31" and dtype == torch.float16:
        dtype = torch.bfloat16  # its sums leave float16
    first, second, bias, expected = draw_integers(primitive, problem, dtype, "cpu", (layout_1, layout_2), "contiguous")
    emulator.configure(order)
    actual = emulator.call(primitive, algorithm, first, second, bias, problem, channels_last)
    assert_exact(actual, expected, problem)


PROPAGATION = {n: p for n, p in with_modes(UGLY).items() if p.N and p.C} | {
    n: LARGE[n] for n in ("tiles", "64-channels", "multiplier", "groups-of-4", "patches", "stride-6-dilation-4")
}


@pytest.mark.parametrize(
    "row, name, dtype, where, values, layout",
    covering(ROWS, PROPAGATION, FLOATING, (0, 1), SPECIAL, SAME),
    ids=str,
)
def test_special_values_go_where_they_belong(row, name, dtype, where, values, layout):
    (primitive, algorithm), problem = row, PROPAGATION[name]
    last = layout == "channels_last"
    check_special_values(primitive, algorithm, problem, dtype, where, values, layout, last)


ACCURACY = {
    "depthwise": Problem(2, 12, 15, 14, 12, 3, 3, padding=(1, 1), G=12),
    "depthwise-13x13": Problem(1, 6, 17, 17, 6, 13, 13, padding=(6, 6), G=6),
    "multiplied": Problem(1, 8, 13, 12, 16, 3, 3, (2, 2), (1, 1), G=8),
    "grouped": Problem(1, 16, 12, 12, 16, 3, 3, padding=(1, 1), G=4),
    "first-layer": Problem(1, 3, 33, 33, 16, 7, 7, (2, 2), (3, 3)),
    "last-layer": Problem(1, 64, 12, 12, 3, 3, 3, padding=(1, 1)),
    "many-pixels": Problem(1, 2, 96, 96, 4, 3, 3, padding=(1, 1), G=2),
    "patches": Problem(1, 12, 16, 16, 24, 2, 2, stride=(2, 2)),
}


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("shape", ACCURACY)
@pytest.mark.parametrize("primitive, algorithm", ROWS)
def test_error_at_most_twice_torchs(primitive, algorithm, shape, dtype):
    check_errors(primitive, algorithm, ACCURACY[shape], dtype)


@pytest.mark.parametrize("layout", SAME)
@pytest.mark.parametrize("algorithm", ("depthwise", "few_channels"))
@pytest.mark.parametrize("primitive", ("forward", "grad_input"))
def test_same_bits_in_any_batch(primitive, algorithm, layout):
    """The second image of three, and by itself; on a GPU so large that tiles shrink, and on a small one."""
    for name in ("multiplier", "41-channels", "groups-of-8-stride", "last-layer", "first-layer", "patches-groups"):
        problem = LARGE[name]
        three = Problem(**{**vars(problem), "N": 3})
        operands, _ = draw_reals(primitive, three, torch.float32, "cpu")
        last = layout == "channels_last"
        if last:
            operands[0] = operands[0].contiguous(memory_format=torch.channels_last)
        together = emulator.call(primitive, algorithm, *operands, three, last)
        alone = operands[0][1:2]
        emulator.pretend_device(multiprocessors=500)
        try:
            by_itself = emulator.call(primitive, algorithm, alone, *operands[1:], problem, last)
        finally:
            emulator.pretend_device()
        assert torch.equal(together[1:2], by_itself), name


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("primitive, algorithm", ROWS)
def test_every_barrier_is_needed(primitive, algorithm, order):
    """One block goes through all tiles; without any one of its barriers there is a race."""
    problem = {
        "depthwise": Problem(2, 12, 20, 20, 12, 3, 3, padding=(1, 1), G=12),
        "few_channels": Problem(2, 40, 20, 20, 6, 3, 3, padding=(1, 1)),
    }[algorithm]
    operands, _ = draw_reals(primitive, problem, torch.float32, "cpu")
    check_every_barrier_is_needed(
        lambda: emulator.call(primitive, algorithm, *operands, problem),
        4 if primitive == "grad_weight" else 3,
        "without a barrier|which nobody has written",
        (order,),
        max_blocks=1,
    )


def test_what_networks_have_is_chosen():
    """The rows are the automatic choice for the layers they are for: the same bits as when forced. few_channels is for
    GPUs without tensor cores, which others use for the same layers."""
    chosen = {
        "depthwise": ("31x31", "13x13-channels", "multiplier"),
        "few_channels": ("groups-of-4",),
    }
    for primitive, (algorithm, names) in product(("forward", "grad_input", "grad_weight"), chosen.items()):
        emulator.pretend_device(capability=75)
        for name in names:
            operands, _ = draw_reals(primitive, LARGE[name], torch.float32, "cpu")
            forced = emulator.call(primitive, algorithm, *operands, LARGE[name])
            assert torch.equal(forced, emulator.call(primitive, "", *operands, LARGE[name])), (primitive, name)
