"""The passes over memory beside the tensor-core kernels' products, on the emulator: packing, windows, blocks of results
and the sums of splits, with vectors where memory is aligned and without, in one part and in several.
"""

import numpy as np
import pytest
import torch
from emulated import FLOATING, SAME, judged
from emulator import library as emulator
from exact import assert_exact, draw_integers, numpy_of
from problems import Problem
from sampling import covering

pytestmark = pytest.mark.usefixtures("default_emulator")
LAYOUTS = (*SAME, "cropped", "sliced")


PROBLEMS = {
    "row_windows": {
        "first-layer": Problem(2, 3, 9, 48, 8, 7, 7, (2, 2), (3, 3)),
        "unaligned": Problem(1, 3, 7, 37, 8, 3, 5, (1, 1), (1, 2), (1, 2)),
        "reflect": Problem(1, 2, 6, 40, 8, 3, 3, padding=(1, 2), mode="reflect"),
        "circular": Problem(1, 4, 6, 33, 8, 3, 3, (1, 2), (1, 1), mode="circular"),
        "padding-beyond": Problem(1, 1, 5, 3, 8, 2, 3, (1, 2), (1, 7), (1, 3)),
        "parts": Problem(1, 4, 3, 2100, 8, 1, 3, (1, 3), (0, 1)),  # a row is longer than shared memory
        "long-windows": Problem(1, 4, 3, 3300, 8, 1, 2, dilation=(1, 3200)),  # a window is
        "rounds": Problem(1, 130, 2, 11, 8, 1, 9, padding=(0, 4)),  # more chunks than threads
    },
    "output_blocks": {
        "last-layer": Problem(2, 16, 9, 48, 3, 3, 3, padding=(1, 1)),
        "unaligned": Problem(1, 16, 7, 37, 3, 3, 5, padding=(1, 2)),
        "one-output": Problem(1, 16, 6, 40, 1, 5, 5, padding=(2, 2)),
        "parts": Problem(1, 8, 3, 1610, 4, 3, 3, padding=(1, 1)),
        "transposed": Problem(1, 3, 18, 40, 16, 4, 4, (2, 2), (1, 1)),
        "large-blocks": Problem(1, 3, 52, 55, 8, 3, 3, (50, 50)),  # larger than shared memory
        "patches": Problem(2, 16, 12, 18, 64, 2, 2, (2, 2)),  # the product stores them itself, in channels_last
        "uneven-patches": Problem(1, 40, 6, 20, 64, 3, 2, (3, 2)),
        "odd-patches": Problem(1, 12, 6, 20, 64, 3, 2, (3, 2)),  # no whole chunks of channels
    },
}
PRIMITIVES = {"row_windows": ("forward", "grad_weight"), "output_blocks": ("forward", "grad_input")}
CASES = [(p, a, name) for a in PROBLEMS for name in PROBLEMS[a] for p in PRIMITIVES[a]]


def suits(primitive, algorithm, name, dtype):
    return not emulator.refusal(primitive, algorithm, PROBLEMS[algorithm][name], dtype)


@pytest.mark.parametrize(
    "case, dtype, layout, channels_last, order", covering(CASES, FLOATING, LAYOUTS, (False, True), emulator.ORDERS)
)
def test_windows_and_blocks(case, dtype, layout, channels_last, order):
    primitive, algorithm, name = case
    problem = PROBLEMS[algorithm][name]
    if not suits(primitive, algorithm, name, dtype):
        pytest.skip("not for this row")
    operands = draw_integers(primitive, problem, dtype, "cpu", (layout, "contiguous"), "contiguous")
    emulator.configure(order)
    emulator.pretend_device(multiprocessors=1)
    actual = emulator.call(primitive, algorithm, *operands[:3], problem, channels_last)
    assert_exact(actual, operands[3], (name, layout, channels_last))


@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("algorithm", PROBLEMS)
def test_infinities_beside_skipped_taps(algorithm, dtype, channels_last):
    """Results in the middle of a vector that are NaN only by a zero where there is no tap."""
    problem = PROBLEMS[algorithm]["unaligned"]
    first, second, bias, _ = draw_integers("forward", problem, dtype, bias="contiguous")
    first, second = first.clone(), second.clone()
    first[0, 0, 2, 3::7], second[1, 0, 0, 0], second[2, 0, 2, 2] = float("inf"), float("nan"), float("-inf")
    expected = numpy_of(torch.from_numpy(judged("forward", (first, second, bias), problem)).to(dtype))
    actual = numpy_of(emulator.call("forward", algorithm, first, second, bias, problem, channels_last))
    assert np.isfinite(expected).any() and np.isnan(expected).any()
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32), ids=str)
def test_patches_are_stored_by_the_product(dtype, channels_last):
    problem = PROBLEMS["output_blocks"]["patches"]
    first, second, bias, _ = draw_integers("grad_input", problem, dtype, bias="contiguous")
    first = first.clone()
    first[1, 3, 2, 4], first[0, 0, 0, 0] = float("inf"), float("nan")
    expected = numpy_of(torch.from_numpy(judged("grad_input", (first, second, bias), problem)).to(dtype))
    emulator.launched(forget=True)
    actual = emulator.call("grad_input", "output_blocks", first, second, bias, problem, channels_last)
    np.testing.assert_array_equal(numpy_of(actual), expected)
    scatters = any("scatter_blocks" in row.symbol for row in emulator.launched())
    assert scatters == (dtype == torch.float32 or not channels_last)


PACKED = {
    "planes": Problem(1, 70, 9, 16, 72, 1, 3, padding=(0, 1)),  # more than a tile of positions and of channels
    "odd-planes": Problem(2, 20, 7, 11, 12, 3, 3, padding=(1, 1)),
    "groups": Problem(2, 18, 8, 10, 12, 3, 1, padding=(1, 0), G=2),
}
PACKING = (("tensorcore", torch.float32), ("tensorcore", torch.float64), ("tensorcore", torch.float16))


@pytest.mark.parametrize("layout", (*LAYOUTS, "channel_slice"))
@pytest.mark.parametrize("algorithm, dtype", PACKING)
@pytest.mark.parametrize("name", PACKED)
def test_packing(name, algorithm, dtype, layout):
    first, second, bias, expected = draw_integers("forward", PACKED[name], dtype, "cpu", (layout, "contiguous"))
    emulator.configure(max_blocks=3)
    assert_exact(emulator.call("forward", algorithm, first, second, bias, PACKED[name]), expected, layout)


SPLIT = {
    "chunks": Problem(8, 72, 12, 16, 136, 2, 1, padding=(1, 0)),  # eight neighbouring inputs are stored at once
    "pairs": Problem(8, 10, 12, 16, 12, 1, 2),
    "odd": Problem(8, 7, 12, 16, 12, 2, 2),
    "wide": Problem(8, 136, 12, 16, 24, 1, 1),
    "groups": Problem(12, 128, 8, 16, 24, 1, 1, G=2),
}


@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("name", SPLIT)
def test_copied_weight_gradient_with_and_without_splits(name, dtype, channels_last):
    """A GPU of few multiprocessors doesn't split the pixels, and nothing is added; one of many does."""
    if reason := emulator.refusal("grad_weight", "tensorcore_copied", SPLIT[name], dtype):
        pytest.skip(reason)
    x, y, _, expected = draw_integers("grad_weight", SPLIT[name], dtype)
    kernels = {}
    for multiprocessors in (1, 500):
        emulator.pretend_device(multiprocessors=multiprocessors)
        emulator.launched(forget=True)
        actual = emulator.call("grad_weight", "tensorcore_copied", x, y, None, SPLIT[name], channels_last)
        assert_exact(actual, expected, (name, multiprocessors))
        kernels[multiprocessors] = " ".join(row.symbol for row in emulator.launched())
    assert "add_splits" not in kernels[1] and "add_splits" in kernels[500]
