"""The `direct` CUDA kernels in the emulator: what only larger problems reach, and the accuracy of their sums.

test_cuda_emulated.py has every ugly problem; those fit into one tile. Here are several tiles along every dimension,
sums of several chunks, depths that are split among blocks, and the loads and stores of several elements at once.
"""

from dataclasses import replace

import pytest
import torch
from emulated import FLOATING, SAME, check_errors, check_every_barrier_is_needed, judged
from emulator import library as emulator
from exact import assert_exact, draw_integers, numpy_of
from memory import LAYOUTS
from problems import UGLY, Problem, with_modes
from sampling import covering
from test_accuracy import SHAPES
from test_propagation import SPECIAL, difference, special_operands

pytestmark = pytest.mark.usefixtures("default_emulator")
PRIMITIVES = emulator.PRIMITIVES

# The emulator's GPU has 4 multiprocessors, tiles are 128 x 128 (float32), 64 x 64 or narrower, chunks are 256 deep.
LARGE = {
    "large-tiles": Problem(2, 3, 13, 14, 260, 2, 2),  # 312 pixels by 260 outputs: tiles of 128 x 128, and tails
    "large-tiles-of-inputs": Problem(1, 260, 17, 18, 3, 2, 2),  # the same for grad_input
    "large-tiles-of-weights": Problem(1, 32, 5, 7, 260, 3, 3, padding=(1, 1)),  # 288 by 260 weights
    "narrow-tiles": Problem(2, 5, 20, 21, 36, 2, 2),  # 760 by 36
    "chunks": Problem(3, 36, 7, 7, 68, 3, 3, padding=(1, 1)),  # depth 324: a chunk and a bit, eleven sums
    "split-sums": Problem(1, 40, 5, 7, 36, 3, 3, padding=(1, 1)),  # a single tile, so that sums go to blocks
    "split-groups": Problem(1, 72, 4, 5, 72, 2, 3, padding=(1, 1), G=2),
    "phases": Problem(2, 66, 11, 13, 20, 3, 2, stride=(2, 3), padding=(1, 0)),  # phases of several tiles
    "phases-split": Problem(1, 12, 9, 8, 60, 3, 3, stride=(2, 1), padding=(1, 1)),  # of unequal depths
    "phases-dilation": Problem(2, 20, 11, 15, 12, 3, 3, (4, 3), (2, 1), (2, 3)),
    "phases-without-taps": Problem(2, 12, 13, 11, 12, 2, 1, stride=(5, 3), padding=(1, 0)),
    "pixels-split": Problem(3, 9, 20, 19, 10, 3, 3, padding=(1, 1)),  # 1140 pixels: splits of several sums
    "pointwise-planes": Problem(3, 12, 6, 10, 20, 1, 1),  # four pixels at a time
    "groups-of-12": Problem(2, 36, 8, 7, 36, 3, 3, (1, 2), (1, 1), G=3),
}
MODES = {
    "chunks-reflect": replace(LARGE["chunks"], mode="reflect"),
    "groups-circular": replace(LARGE["groups-of-12"], mode="circular"),
}
PROBLEMS = LARGE | MODES
CASES = covering(PRIMITIVES, FLOATING, PROBLEMS, SAME, ("none", "contiguous"), (False, True))


@pytest.mark.parametrize("primitive, dtype, name, layout, bias, channels_last", CASES, ids=str)
def test_large_problems(primitive, dtype, name, layout, bias, channels_last):
    problem = PROBLEMS[name]
    first, second, b, expected = draw_integers(primitive, problem, dtype, "cpu", (layout, layout), bias)
    actual = emulator.call(primitive, "direct", first, second, b, problem, channels_last)
    assert_exact(actual, expected, problem)


@pytest.mark.parametrize("dtype", FLOATING[:3], ids=str)
@pytest.mark.parametrize("primitive", PRIMITIVES[:2])
@pytest.mark.parametrize("name", ("split-sums", "split-groups", "phases-split"))
def test_same_bits_in_a_batch(name, primitive, dtype):
    """One sample is too few tiles, and its depth is split among blocks; in a batch of five it isn't."""
    p = LARGE[name]
    one = Problem(1, p.C, p.H, p.W, p.K, p.R, p.S, p.stride, p.padding, p.dilation, p.G)
    many = Problem(5, p.C, p.H, p.W, p.K, p.R, p.S, p.stride, p.padding, p.dilation, p.G)
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.randn(s, generator=generator).to(dtype) for s in many.shapes(primitive)[:2])
    second[0, 0, 0, 0] = float("inf")  # so that some sums are mended
    alone = emulator.call(primitive, "direct", first[4:5], second, None, one)
    batch = emulator.call(primitive, "direct", first, second, None, many)[4:5]
    finite = alone.isfinite()
    assert 0.2 < finite.double().mean() < 1
    assert torch.equal(alone[finite], batch[finite]) and torch.equal(finite, batch.isfinite())


# Those with padding, gaps, groups, and sums that are split; test_propagation.py has all where there is a GPU.
SPECIAL_PROBLEMS = {
    name: PROBLEMS[name] if name in PROBLEMS else with_modes(UGLY)[name]
    for name in [
        "plain",
        "everything",
        "stride-beyond-kernel",
        "padding-large",
        "padding-large-stride",
        "dilation-padding",
        "groups",
        "kernel-beyond-input",
        "patches-uneven",
        "output-padding-dilation",
        "generator",
        "same-even",
        "reach-beyond",
        "split-groups",
        "everything-circular",
        "padding-replicate",
        "phases-split",
    ]
}
SPECIAL_CASES = covering(PRIMITIVES, SPECIAL_PROBLEMS, FLOATING, (0, 1), ("inf", "all"))


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_special_values_go_where_they_belong(primitive):
    wrong = []
    for i, (case, name, dtype, where, values) in enumerate(SPECIAL_CASES):
        if case != primitive:
            continue
        problem = SPECIAL_PROBLEMS[name]
        operands = special_operands(primitive, problem, dtype, where, SPECIAL[values])
        expected = judged(primitive, (*operands, None), problem)
        layout = (*SAME, "sliced")[i % 3]
        first, second = (LAYOUTS[layout](t) for t in operands)
        actual = emulator.call(primitive, "direct", first, second, None, problem)
        what = f"{name} {dtype} {values} in operand {where}, {layout}"
        wrong.append(difference(actual, numpy_of(torch.from_numpy(expected).to(dtype)), what))
    assert wrong and not any(wrong), "\n".join(filter(None, wrong))


# Of test_accuracy.py, what has long sums and is no work for others (depthwise): up to 16,200 terms.
ACCURACY = [(p, s) for s in ("3x3", "first-layer", "generator", "grouped", "3x3-stride") for p in PRIMITIVES]
ACCURACY += [("forward", "1x1-very-deep"), ("grad_weight", "many-pixels"), ("grad_input", "3x3-deep")]


@pytest.mark.parametrize("primitive, shape", ACCURACY)
def test_error_at_most_twice_torchs(primitive, shape):
    for dtype in (torch.float32, torch.float64):
        check_errors(primitive, "direct", SHAPES[shape], dtype)


def test_every_barrier_is_needed():
    """Without any one of its barriers and waits, a tile has a race, or threads that part, in whatever order."""
    problem = Problem(2, 20, 9, 11, 40, 1, 1)
    first, second, _, expected = draw_integers("forward", problem, torch.float32)
    check_every_barrier_is_needed(
        lambda: assert_exact(emulator.call("forward", "direct", first, second, None, problem), expected, problem),
        7,  # six barriers, and a wait for copies
        "without a barrier|nobody has|no operand|divergent|waited",
        emulator.ORDERS,
        max_blocks=1,
    )
