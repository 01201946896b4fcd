"""The CUDA row depthwise_small on the emulator. It takes few geometries, so it has problems of its own here.

Exact integers in every layout, dtype and order of threads, infinities and NaN, rounding errors by the rule of
test_accuracy.py, bits that depend on nothing but the operands, and what it refuses.
"""

from dataclasses import replace
from itertools import product

import pytest
import torch
from emulated import FLOATING, SAME, check_errors, check_every_barrier_is_needed, check_exact, check_special_values
from emulator import library as emulator
from exact import assert_exact, draw_integers
from memory import BIASES, LAYOUTS
from problems import Problem
from sampling import covering
from test_accuracy import draw as draw_reals
from test_propagation import SPECIAL

pytestmark = pytest.mark.usefixtures("default_emulator")
NAME = "depthwise_small"


def depthwise(N, C, H, W, kernel, padding, stride=1, **sizes):
    return Problem(N, C, H, W, C, kernel, kernel, (stride, stride), padding, G=C, **sizes)


STRIDE_1 = {
    # Whole chunks of columns, of every dtype; several tiles of rows and columns, and the last ones cut.
    "chunks": depthwise(2, 3, 17, 32, 3, (1, 1)),
    "chunks-5x5": depthwise(1, 3, 9, 40, 5, (2, 2)),
    "chunks-7x7": depthwise(2, 2, 15, 24, 7, (3, 3)),
    "chunks-one": depthwise(1, 2, 7, 8, 3, (1, 1)),
    "chunks-4": depthwise(1, 2, 8, 12, 5, (2, 2)),
    # Rows that are not aligned, and chunks that other paddings leave unaligned.
    "odd": depthwise(2, 3, 9, 13, 3, (1, 1)),
    "odd-5x5": depthwise(1, 5, 8, 11, 5, (2, 2)),
    "odd-7x7": depthwise(2, 3, 14, 14, 7, (3, 3)),
    "no-padding": depthwise(1, 3, 11, 16, 3, (0, 0)),
    "padding-2": depthwise(1, 3, 6, 24, 3, (2, 1)),
    "padding-large": depthwise(1, 2, 4, 5, 5, (7, 6)),
    "kernel-beyond-input": depthwise(2, 3, 4, 3, 7, (3, 4)),
    "rows-of-one": depthwise(2, 4, 9, 1, 3, (1, 1)),
    "one-pixel": depthwise(3, 4, 1, 1, 3, (1, 1)),
    "asymmetric": depthwise(1, 4, 8, 16, 3, (1, 1), P=9, Q=15),
    # Channels in whole chunks, several tiles, and not.
    "32-channels": depthwise(2, 32, 8, 9, 3, (1, 1)),
    "20-channels-5x5": depthwise(1, 20, 15, 10, 5, (2, 2)),
    "24-channels-7x7": depthwise(1, 24, 8, 15, 7, (3, 3)),
    "17-channels": depthwise(1, 17, 7, 6, 3, (1, 1)),
    "one-channel": depthwise(2, 1, 10, 18, 3, (1, 1)),
}
STRIDE_2 = {
    "stride-2": depthwise(2, 3, 17, 32, 3, (1, 1), 2),
    "stride-2-5x5": depthwise(1, 3, 18, 64, 5, (2, 2), 2),
    "stride-2-odd": depthwise(1, 5, 13, 15, 3, (1, 1), 2),
    "stride-2-32-channels": depthwise(1, 32, 9, 12, 3, (1, 1), 2),
    "stride-2-16-channels-5x5": depthwise(1, 16, 16, 17, 5, (2, 2), 2),
    "stride-2-even-padding": depthwise(1, 4, 16, 48, 3, (0, 0), 2),
    "stride-2-4x4": depthwise(2, 3, 17, 32, 4, (1, 1), 2),
    "stride-2-4x4-odd": depthwise(1, 5, 13, 15, 4, (1, 2), 2),
    "stride-2-16-channels-4x4": depthwise(1, 16, 10, 11, 4, (1, 1), 2),
}
# Of a stride grad_input takes whole chunks only, padded by half the kernel: of columns, or of channels. Planes with a
# row and a column that no tap reaches, with fewer rows than a tile and more, and with the last chunk's columns cut.
TRANSPOSED = {
    "chunks": depthwise(2, 3, 19, 32, 3, (1, 1), 2),
    "chunks-4x4": depthwise(2, 3, 18, 48, 4, (1, 1), 2),
    "chunks-5x5": depthwise(1, 3, 17, 40, 5, (2, 2), 2),
    "chunks-one": depthwise(2, 2, 2, 8, 3, (1, 1), 2),
    "chunks-one-4x4": depthwise(1, 2, 3, 8, 4, (1, 1), 2),
    "chunks-unreached": depthwise(1, 2, 12, 16, 3, (1, 1), 2, P=5, Q=4),
    "chunks-beyond": depthwise(1, 2, 9, 16, 5, (2, 2), 2, P=7, Q=12),
    "8-channels": depthwise(2, 8, 9, 13, 3, (1, 1), 2),
    "8-channels-even": depthwise(1, 8, 12, 10, 3, (1, 1), 2, P=6, Q=5),
    "20-channels-4x4": depthwise(2, 20, 14, 7, 4, (1, 1), 2),
    "4-channels-5x5": depthwise(1, 4, 11, 18, 5, (2, 2), 2),
    "4-channels-one-pixel": depthwise(3, 4, 1, 1, 5, (2, 2), 2),
}
PROBLEMS = STRIDE_1 | STRIDE_2
GATHERS = [("forward", n) for n in PROBLEMS] + [("grad_input", n) for n in STRIDE_1]
TRANSPOSED_CASES = [(n, s) for n in TRANSPOSED for s in SAME if n.startswith("chunks") == (s == "contiguous")]
CASES = GATHERS + [("grad_weight", n) for n in PROBLEMS]
PRIMITIVES = ("forward", "grad_input", "grad_weight")


@pytest.mark.parametrize(
    "case, dtype, layout_1, layout_2, bias, channels_last, order, max_blocks",
    covering(CASES, FLOATING, LAYOUTS, LAYOUTS, BIASES, (False, True), emulator.ORDERS, (emulator.ALL_BLOCKS, 2)),
    ids=str,
)
def test_exact(case, dtype, layout_1, layout_2, bias, channels_last, order, max_blocks):
    primitive, name = case
    emulator.configure(order, max_blocks=max_blocks)
    check_exact(primitive, NAME, PROBLEMS[name], dtype, (layout_1, layout_2), bias, channels_last)


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("layout", SAME)
@pytest.mark.parametrize("primitive, name", CASES)
def test_exact_in_the_layouts_it_is_made_for(primitive, name, layout, dtype):
    layouts = (layout, layout if primitive == "grad_weight" else "contiguous")
    first, second, b, expected = draw_integers(primitive, PROBLEMS[name], dtype, "cpu", layouts, "contiguous")
    actual = emulator.call(primitive, NAME, first, second, b, PROBLEMS[name], layout == "channels_last")
    assert_exact(actual, expected, PROBLEMS[name])


@pytest.mark.parametrize(
    "case, dtype, where, values, layout", covering(CASES, FLOATING, (0, 1), SPECIAL, SAME), ids=str
)
def test_special_values_go_where_they_belong(case, dtype, where, values, layout):
    primitive, name = case
    last = layout == "channels_last"
    check_special_values(primitive, NAME, PROBLEMS[name], dtype, where, values, layout, last)


@pytest.mark.parametrize(
    "case, dtype, layout_2, bias, order, max_blocks",
    covering(TRANSPOSED_CASES, FLOATING, LAYOUTS, BIASES, emulator.ORDERS, (emulator.ALL_BLOCKS, 2)),
    ids=str,
)
def test_exact_transposed(case, dtype, layout_2, bias, order, max_blocks):
    name, layout = case
    emulator.configure(order, max_blocks=max_blocks)
    check_exact("grad_input", NAME, TRANSPOSED[name], dtype, (layout, layout_2), bias, layout == "channels_last")


@pytest.mark.parametrize("case, dtype, where, values", covering(TRANSPOSED_CASES, FLOATING, (0, 1), SPECIAL), ids=str)
def test_special_values_go_where_they_belong_transposed(case, dtype, where, values):
    name, layout = case
    last = layout == "channels_last"
    check_special_values("grad_input", NAME, TRANSPOSED[name], dtype, where, values, layout, last)


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("size", (3, 4, 5))
def test_same_bits_in_any_batch_layout_and_order_transposed(size, dtype):
    problem = depthwise(3, 8, 38, 40, size, ((size - 1) // 2,) * 2, 2, P=19, Q=20)
    (first, second, bias), _ = draw_reals("grad_input", problem, dtype, "cpu")
    expected = emulator.call("grad_input", NAME, first, second, bias, problem)
    for layout, multiprocessors, order in product(SAME, (1, 10**6), ("descending", "shuffled")):
        emulator.pretend_device(multiprocessors=multiprocessors)
        emulator.configure(order)
        alone = LAYOUTS[layout](first[1:2])
        last = layout == "channels_last"
        actual = emulator.call("grad_input", NAME, alone, second, bias, replace(problem, N=1), last)
        assert torch.equal(actual.contiguous(), expected[1:2].contiguous()), (layout, multiprocessors, order)


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: str(d)[6:])
def test_error_at_most_twice_torchs_transposed(dtype):
    check_errors("grad_input", NAME, depthwise(1, 8, 16, 16, 5, (2, 2), 2, P=8, Q=8), dtype)


def test_transposed_is_chosen():
    for (name, layout), dtype in product(TRANSPOSED_CASES, FLOATING):
        operands = draw_reals("grad_input", TRANSPOSED[name], dtype, "cpu")[0]
        operands[0] = LAYOUTS[layout](operands[0])
        emulator.launched(forget=True)
        emulator.call("grad_input", "", *operands, TRANSPOSED[name], layout == "channels_last")
        chosen = {row.symbol for row in emulator.launched(forget=True)}
        assert all("small_transposed" in symbol for symbol in chosen), (name, layout, dtype, chosen)


@pytest.mark.parametrize(
    "problem, layout, why",
    [
        (depthwise(1, 4, 9, 16, 3, (0, 1), 2), "channels_last", "half the kernel"),
        (depthwise(1, 3, 9, 16, 3, (1, 1), 2), "channels_last", "whole chunks"),
        (depthwise(1, 4, 9, 15, 3, (1, 1), 2), "contiguous", "whole chunks"),
    ],
)
def test_what_it_refuses_transposed(problem, layout, why):
    operands, _ = draw_reals("grad_input", problem, torch.float32, "cpu")
    operands[0] = LAYOUTS[layout](operands[0])
    with pytest.raises(RuntimeError, match=why):
        emulator.call("grad_input", NAME, *operands, problem, layout == "channels_last")


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("name", ("32-channels", "20-channels-5x5", "chunks-7x7"))
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_error_at_most_twice_torchs(primitive, name, dtype):
    check_errors(primitive, NAME, PROBLEMS[name], dtype)


@pytest.mark.parametrize("case, dtype", covering(GATHERS, FLOATING)[:: len(FLOATING)], ids=str)
def test_same_bits_in_any_batch_layout_and_order(case, dtype):
    """The second image of three by itself, with a tile to a thread and with several, in both layouts."""
    primitive, name = case
    three = replace(PROBLEMS[name], N=3)
    (first, second, bias), _ = draw_reals(primitive, three, dtype, "cpu")
    expected = emulator.call(primitive, NAME, first, second, bias, three)
    for layout, multiprocessors, order in product(SAME, (1, 10**6), ("descending", "shuffled")):
        emulator.pretend_device(multiprocessors=multiprocessors)
        emulator.configure(order)
        alone = LAYOUTS[layout](first[1:2])
        actual = emulator.call(primitive, NAME, alone, second, bias, replace(three, N=1), layout == "channels_last")
        assert torch.equal(actual.contiguous(), expected[1:2].contiguous()), (layout, multiprocessors, order)


@pytest.mark.parametrize("layout", SAME)
@pytest.mark.parametrize("name", ("chunks", "32-channels", "20-channels-5x5", "odd-7x7"))
def test_weights_have_the_same_bits_in_every_order(name, layout):
    operands, _ = draw_reals("grad_weight", PROBLEMS[name], torch.float32, "cpu")
    operands[:2] = [LAYOUTS[layout](t) for t in operands[:2]]
    results = []
    for order, max_blocks in product(emulator.ORDERS, (emulator.ALL_BLOCKS, 1)):
        emulator.configure(order, max_blocks=max_blocks)
        results.append(emulator.call("grad_weight", NAME, *operands, PROBLEMS[name]))
    assert all(torch.equal(r, results[0]) for r in results)


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_every_barrier_is_needed(order):
    """One block goes through all channels; without any one of its barriers there is a race."""
    problem = depthwise(2, 80, 20, 20, 3, (1, 1))
    operands, _ = draw_reals("grad_weight", problem, torch.float32, "cpu")
    operands[:2] = [LAYOUTS["channels_last"](t) for t in operands[:2]]
    check_every_barrier_is_needed(
        lambda: emulator.call("grad_weight", NAME, *operands, problem),
        4,
        "without a barrier|which nobody has written",
        (order,),
        max_blocks=1,
    )


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_several_tiles_to_a_thread(primitive):
    """A plane of so many tiles that threads take several, as they do in large batches."""
    problem = depthwise(1, 8, 150, 160, 3, (1, 1))
    emulator.pretend_device(multiprocessors=1)
    for layout in SAME:
        layouts = (layout, layout if primitive == "grad_weight" else "contiguous")
        first, second, b, expected = draw_integers(primitive, problem, torch.float32, "cpu", layouts, "contiguous")
        actual = emulator.call(primitive, NAME, first, second, b, problem, layout == "channels_last")
        assert_exact(actual, expected, problem)


@pytest.mark.parametrize("primitive", ("forward", "grad_input"))
def test_addresses_beyond_32_bits(primitive):
    """Images more than 2^31 elements apart in memory; only the pages that are touched take any."""
    problem = depthwise(2, 2, 6, 8, 3, (1, 1))
    first, second, bias, expected = draw_integers(primitive, problem, torch.float32, bias="contiguous")
    far = 2**31 + 8
    try:
        memory = [torch.empty(far + 4096) for _ in range(2)]
    except RuntimeError:
        pytest.skip("no 16 GiB of address space to be had")
    source, result = (m.as_strided((2, 2, 6, 8), (far, 48, 8, 1)) for m in memory)
    source.copy_(first)
    emulator.run_into(result.fill_(float("nan")), primitive, NAME, source, second, bias, problem)
    assert_exact(result, expected, problem)


REFUSED = {
    "one input and one output channel": Problem(1, 2, 5, 5, 4, 3, 3, G=2),
    "3x3, 4x4, 5x5 and 7x7": Problem(1, 2, 5, 5, 2, 3, 5, G=2),
    "no dilation": Problem(1, 2, 9, 9, 2, 3, 3, dilation=(1, 2), G=2),
    "padding is zeros": Problem(1, 2, 5, 5, 2, 3, 3, padding=(1, 1), G=2, mode="reflect"),
    "strides are 1": Problem(1, 2, 9, 9, 2, 3, 3, (1, 2), G=2),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_what_it_refuses(primitive, why):
    operands, _ = draw_reals(primitive, REFUSED[why], torch.float32, "cpu")
    with pytest.raises(RuntimeError, match=why):
        emulator.call(primitive, NAME, *operands, REFUSED[why])


def test_it_is_chosen():
    """Automatically where its loads lie together, in both layouts."""
    for (primitive, name), layout in product(CASES, SAME):
        problem, operands = PROBLEMS[name], draw_reals(primitive, PROBLEMS[name], torch.float32, "cpu")[0]
        if problem.C % 4 if layout == "channels_last" else not name.startswith("chunks"):
            continue
        read = 2 if primitive == "grad_weight" else 1
        operands[:read] = [LAYOUTS[layout](t) for t in operands[:read]]
        emulator.launched(forget=True)
        emulator.call(primitive, "", *operands, problem, layout == "channels_last")
        chosen = {row.symbol for row in emulator.launched(forget=True)}
        assert all("small_" in symbol for symbol in chosen), (primitive, name, layout, chosen)


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_narrow_planes_in_single_elements_are_left_to_others(primitive):
    problem = depthwise(1, 3, 14, 14, 3, (1, 1))
    operands, _ = draw_reals(primitive, problem, torch.float16, "cpu")
    emulator.launched(forget=True)
    emulator.call(primitive, "", *operands, problem)
    assert not any("small_" in row.symbol for row in emulator.launched(forget=True))
