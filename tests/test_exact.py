"""Every algorithm of every device, on operands that nothing has to round: equal to the reference, tolerance zero.

The cross product of algorithm, dtype, problem, padding mode, memory layout of each operand, bias and result layout;
all of it with CONVX_TEST_EXHAUSTIVE=1, else a sample that covers every pair.
"""

from itertools import product

import numpy as np
import pytest
import torch
from choices import call_each
from conftest import DEVICES, DTYPES, EXHAUSTIVE, PRIMITIVES
from exact import assert_exact, draw_integers, judge, numpy_of
from memory import BIASES, LAYOUTS, poisoned_results, storage_bytes
from problems import SEVERAL_BLOCKS, UGLY, Problem, with_modes
from sampling import covering

ROWS = [(d, p, dtype) for d in DEVICES for p in PRIMITIVES for dtype in DTYPES[d]]
PROBLEMS = with_modes(UGLY | SEVERAL_BLOCKS)
VARIATIONS = list(product(LAYOUTS, LAYOUTS, BIASES, (False, True)))
ORDINARY = ("contiguous", "contiguous", "contiguous", False)  # of every problem: some kernels take nothing else


def _cases() -> list:
    """(device, primitive, dtype, problem, its variations), one test each; a test runs all algorithms."""
    if EXHAUSTIVE:
        cases = dict.fromkeys(product(ROWS, PROBLEMS), VARIATIONS)
    else:
        cases = {}
        for row, name, *variation in covering(ROWS, PROBLEMS, LAYOUTS, LAYOUTS, BIASES, (False, True)):
            cases.setdefault((row, name), [ORDINARY]).append(variation)
    return [
        pytest.param(*row, PROBLEMS[name], variations, id="-".join((*row[:2], str(row[2])[6:], name)))
        for (row, name), variations in cases.items()
    ]


@pytest.mark.parametrize("device, primitive, dtype, problem, variations", _cases())
def test_every_algorithm(device, primitive, dtype, problem, variations):
    for layout_1, layout_2, bias, channels_last in variations:
        first, second, b, expected = draw_integers(primitive, problem, dtype, device, (layout_1, layout_2), bias)
        operands = [t for t in (first, second, b) if t is not None]
        before = [storage_bytes(t) for t in operands]
        for what, actual in call_each(primitive, first, second, b, problem, channels_last):
            what = f"{what}, {layout_1} and {layout_2}, bias {bias}, channels_last={channels_last}"
            assert actual.dtype == dtype and actual.device == first.device, what
            wanted = torch.channels_last if channels_last else torch.contiguous_format
            assert actual.is_contiguous(memory_format=wanted), what
            assert_exact(actual, expected, what)
        assert [storage_bytes(t) for t in operands] == before, f"{problem}: an operand was written to"


def test_poison_reaches_memory_made_in_cpp(device):
    """new_empty calls at::empty in C++, as the operators do."""
    with poisoned_results():
        assert torch.zeros(1, device=device).new_empty(1000).isnan().all()
        integers = torch.zeros(1, dtype=torch.int64, device=device).new_empty(1000)
        assert (integers == torch.iinfo(torch.int64).max).all()


@pytest.mark.parametrize("device, primitive", [row[:2] for row in ROWS if row[2] == torch.int64])
def test_int64_wraps(device, primitive):
    """Integers of all sizes: products and sums are taken modulo 2^64, as torch's and numpy's are."""
    problem = UGLY["everything"]
    generator = torch.Generator().manual_seed(0)
    shape_1, shape_2, shape_out = problem.shapes(primitive)
    first, second, bias = (
        torch.randint(-(2**63), 2**63 - 1, shape, generator=generator) for shape in (shape_1, shape_2, shape_out[1:2])
    )
    with np.errstate(over="ignore"):
        operands = (first.numpy(), second.numpy(), None if primitive == "grad_weight" else bias.numpy())
        expected = judge(primitive, *operands, problem)
    for what, actual in call_each(primitive, first.to(device), second.to(device), bias.to(device), problem):
        assert_exact(actual, expected, what)


# One product a result.
ONE_PRODUCT = {
    "forward": Problem(1, 1, 256, 256, 1, 1, 1),
    "grad_input": Problem(1, 1, 256, 256, 1, 1, 1),
    "grad_weight": Problem(1, 2**16, 1, 1, 1, 1, 1),
}


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("factor", (1.0, -0.33, 3.1e-5, 1.7e5))
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_every_16_bit_value(device, primitive, factor, dtype):
    """All 65536 values times a factor: exact in float32, then rounded once; torch's own rounding is the judge."""
    problem = ONE_PRODUCT[primitive]
    values = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).to(device)
    scale = torch.tensor(factor, dtype=dtype, device=device)
    expected = (values.float() * scale.float()).to(dtype)
    number = ~expected.isnan()
    shape = problem.shapes(primitive)[0]
    for what, actual in call_each(primitive, values.view(shape), scale.view(1, 1, 1, 1), None, problem):
        actual = actual.flatten()
        assert torch.equal(~actual.isnan(), number), what
        assert torch.equal(actual[number], expected[number]), what


def test_the_judge_agrees_with_hand_computed_values():
    """One image, one kernel, all three primitives by hand, so that the judge itself has a witness."""
    problem = Problem(1, 1, 3, 3, 1, 2, 2, stride=(2, 1), padding=(1, 0))
    x = np.arange(1.0, 10).reshape(1, 1, 3, 3)
    w = np.array([[[[1.0, 2], [3, 4]]]])
    y = np.array([[[[1.0, 10], [100, 1000]]]])
    # output row 0 reads the padding row and row 0; output row 1 reads rows 1 and 2
    assert judge("forward", x, w, None, problem).tolist() == [
        [[[3 * 1 + 4 * 2, 3 * 2 + 4 * 3], [4 + 10 + 21 + 32, 5 + 12 + 24 + 36]]]
    ]
    assert judge("grad_input", y, w, None, problem).tolist() == [
        [[[3, 4 + 30, 40], [100, 200 + 1000, 2000], [300, 400 + 3000, 4000]]]
    ]
    assert judge("grad_weight", x, y, None, problem).tolist() == [
        [[[400 + 5000, 500 + 6000], [1 + 20 + 700 + 8000, 2 + 30 + 800 + 9000]]]
    ]
    assert numpy_of(torch.tensor([2**53 + 1]))[0] == 2**53 + 1  # int64 is not judged through float64
