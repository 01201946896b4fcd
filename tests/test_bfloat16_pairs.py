"""bfloat16 on vectors that multiply pairs (csrc/cpu/pairs_product.h): what they cut otherwise than the unit does.

Blocks of pixels that end with rows or are of several images, rows and columns of taps in the padding that are left out,
weights whose pairs are words in memory, and numbers that such vectors take for zero. The exact, accuracy, propagation
and determinism tests run this row like all others.
"""

import pytest
import torch
from choices import call, forced, instruction_sets
from conftest import INSTRUCTION_SETS
from exact import assert_exact, draw_integers
from problems import Problem

import convx

NAME, ISA = "bfloat16_pairs", "avx512_bf16"
PRIMITIVES = ("forward", "grad_input", "grad_weight")
needs_pairs = pytest.mark.skipif(not instruction_sets(NAME), reason="needs AVX-512 with products of bfloat16")

PROBLEMS = {
    # Rows of one block, of several of like size, of several pieces, and shorter than a block.
    "rows-of-7": Problem(2, 32, 7, 7, 32, 3, 3, padding=(1, 1)),
    "rows-of-17": Problem(1, 40, 5, 17, 20, 1, 7, padding=(0, 3)),
    "rows-of-75": Problem(1, 33, 4, 75, 48, 3, 3, padding=(1, 1)),
    **{f"rows-of-{n}": Problem(1, 34, 3, n, 36, 3, 3, padding=(1, 1)) for n in range(8, 16)},
    "rows-of-1": Problem(2, 32, 9, 1, 32, 3, 1, padding=(1, 0)),
    "rows-of-2": Problem(1, 70, 6, 2, 33, 2, 2, padding=(1, 1)),
    # Rows of taps in the padding, of all results even; not with other padding modes.
    "padding-large": Problem(1, 32, 4, 8, 32, 5, 5, padding=(6, 2)),
    "padding-strided": Problem(1, 32, 9, 8, 32, 4, 3, (3, 2), (3, 1)),
    "padding-dilated": Problem(1, 32, 8, 8, 32, 3, 3, padding=(4, 4), dilation=(4, 4)),
    "padding-circular": Problem(1, 32, 8, 9, 32, 3, 3, padding=(1, 1), mode="circular"),
    # Of small planes, several images to a block, the last of them fewer; or to an item only.
    "across-4-images": Problem(4, 32, 4, 4, 40, 3, 3, padding=(1, 1)),
    "across-13-images": Problem(13, 40, 4, 5, 20, 3, 3, padding=(1, 1)),
    **{f"across-{n}-images": Problem(n, 33, 4, 4, 20, 3, 3, padding=(1, 1)) for n in (10, 12, 14, 15, 29)},
    "across-images-strided": Problem(9, 33, 9, 7, 40, 5, 5, (2, 2), (2, 2)),
    "across-images-circular": Problem(8, 32, 4, 4, 32, 3, 3, padding=(1, 1), mode="circular"),
    "across-images-groups": Problem(6, 96, 3, 6, 72, 5, 3, padding=(2, 1), G=3),
    "images-to-an-item": Problem(3, 32, 6, 7, 40, 3, 3, padding=(1, 0)),
    # Weights of one tap, of many and of few inputs, and phases that have one tap of several.
    "pointwise": Problem(2, 70, 6, 6, 45, 1, 1),
    "pointwise-across-images": Problem(5, 33, 7, 7, 20, 1, 1),
    "pointwise-one-image": Problem(1, 2, 3, 3, 1, 1, 1),
    "pointwise-groups": Problem(2, 64, 8, 9, 96, 1, 1, G=2),
    "pointwise-strided": Problem(1, 48, 9, 9, 100, 1, 1, (2, 2)),
    "phases-of-one-tap": Problem(1, 40, 12, 12, 36, 2, 3, (2, 2), (0, 1)),
    "groups": Problem(2, 96, 7, 9, 72, 3, 3, padding=(1, 1), G=3),
    "taps-as-channels": Problem(1, 3, 20, 22, 64, 7, 7, (2, 2), (3, 3)),
    "taps-of-1-channel": Problem(2, 1, 8, 75, 32, 3, 5, (1, 2), (1, 2)),
    "taps-of-3-channels": Problem(1, 3, 6, 70, 20, 3, 3, padding=(1, 1)),
    "taps-of-4-channels": Problem(1, 4, 7, 37, 20, 3, 7, padding=(1, 3)),
    "taps-of-5-channels": Problem(1, 5, 7, 37, 20, 3, 5, padding=(1, 2)),
    "taps-of-16-channels": Problem(2, 16, 10, 41, 36, 2, 2, (2, 2)),
    # Filters turned over as words: of an odd number of channels, of more taps than a vector has words.
    "filters-of-odd-channels": Problem(1, 37, 9, 8, 45, 3, 3, padding=(1, 1)),
    "filters-of-even-taps": Problem(2, 35, 8, 8, 33, 2, 4, padding=(1, 1)),
    "filters-of-20-taps": Problem(1, 33, 9, 9, 50, 4, 5, padding=(1, 2)),
    "filters-in-groups": Problem(1, 74, 7, 7, 90, 3, 3, padding=(1, 1), G=2),
    # Lines that are not full: of one pair, of the last channels of several lines, of a row of taps.
    "few-channels": Problem(1, 2, 9, 12, 20, 3, 3, padding=(1, 1)),
    "channels-of-a-line-and-more": Problem(1, 49, 6, 12, 20, 3, 3, padding=(1, 1)),
    "taps-of-a-line-and-more": Problem(1, 3, 24, 25, 40, 11, 11, (2, 2)),
}


@needs_pairs
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("primitive", PRIMITIVES)
@pytest.mark.parametrize("case", PROBLEMS)
def test_exact(case, primitive, layout):
    problem = PROBLEMS[case]
    if primitive == "grad_input" and problem.mode != "zeros":
        pytest.skip("it refuses them")
    first, second, bias, expected = draw_integers(
        primitive, problem, torch.bfloat16, "cpu", (layout, layout), "contiguous"
    )
    for threads in (1, 3):
        torch.set_num_threads(threads)  # conftest.py sets it back
        with forced(primitive, NAME, ISA):
            actual = call(primitive, first, second, bias, problem, layout == "channels_last")
        assert_exact(actual, expected, f"{threads} threads: {problem}")


@needs_pairs
@pytest.mark.parametrize("primitive", PRIMITIVES)
@pytest.mark.parametrize("where", (0, 1))
def test_numbers_that_vectors_of_pairs_take_for_zero(primitive, where):
    """An operand with numbers below 2^-126 is somebody else's, or one image of several."""
    problem = Problem(3, 32, 8, 9, 32, 3, 3, padding=(1, 1))
    operands = list(draw_integers(primitive, problem, torch.bfloat16)[:2])
    one_image = primitive != "grad_weight" and where == 0
    small = operands[where][1:2] if one_image else operands[where]
    small *= 2.0**-130
    with forced(primitive, NAME, ISA):
        actual = call(primitive, *operands, None, problem)
    with forced(primitive, "reference"):
        expected = call(primitive, *(t.double() for t in operands), None, problem)
    assert torch.equal(actual, expected.to(torch.bfloat16))
    assert (actual[1:2] if one_image else actual).count_nonzero() > 0


@needs_pairs
@pytest.mark.parametrize("place", (0.0, 0.3, 0.6, 1.0))
@pytest.mark.parametrize("where", (0, 1))
@pytest.mark.parametrize("primitive", PRIMITIVES)
@pytest.mark.parametrize(
    "problem",
    [
        Problem(2, 140, 40, 40, 70, 3, 3, padding=(1, 1), G=2),
        Problem(2, 3, 40, 44, 64, 7, 7, (2, 2), (3, 3)),
        Problem(9, 70, 5, 7, 70, 1, 1),
        Problem(3, 40, 14, 14, 70, 3, 3, (2, 2), (1, 1)),
    ],
    ids=str,
)
def test_a_single_number_that_vectors_of_pairs_take_for_zero(problem, primitive, where, place):
    """Wherever it is, it is seen before or as its operand is packed, and what it contributes is not lost."""
    operands = [torch.ones(shape, dtype=torch.bfloat16) for shape in problem.shapes(primitive)[:2]]
    operands[where].zero_().view(-1)[int(place * (operands[where].numel() - 1))] = 3 * 2.0**-130
    with forced(primitive, NAME, ISA):
        actual = call(primitive, *operands, None, problem)
    with forced(primitive, "reference"):
        expected = call(primitive, *(t.double() for t in operands), None, problem)
    assert torch.equal(actual, expected.to(torch.bfloat16)) and actual.count_nonzero() > 0


@needs_pairs
@pytest.mark.parametrize("images", (1, 3))  # one block, which packs its weights itself, or several
@pytest.mark.parametrize("value", (float("inf"), float("nan")), ids=str)
@pytest.mark.parametrize("primitive", ("forward", "grad_input"))
def test_weights_that_are_not_finite(primitive, value, images):
    """They go elsewhere: a zero of the padding times an infinity would be a NaN where nothing is read."""
    problem = Problem(images, 40, 9, 8, 40, 3, 3, padding=(1, 1))
    first, weight = draw_integers(primitive, problem, torch.bfloat16)[:2]
    weight[33, 37, 0, 2] = value
    with forced(primitive, NAME, ISA):
        actual = call(primitive, first, weight, None, problem)
    with forced(primitive, "reference"):
        expected = call(primitive, first.double(), weight.double(), None, problem)
    assert torch.equal(actual.isfinite(), expected.isfinite()) and not actual.isfinite().all()
    torch.testing.assert_close(actual, expected.to(torch.bfloat16), rtol=0, atol=0, equal_nan=True)


@needs_pairs
@pytest.mark.parametrize(
    "problem, chosen",
    [
        (Problem(1, 64, 28, 28, 64, 3, 3, padding=(1, 1)), (NAME, NAME, "winograd")),
        (Problem(1, 128, 28, 28, 128, 3, 3, padding=(1, 1)), ("winograd", "winograd", "winograd")),
        (Problem(1, 32, 40, 40, 32, 3, 3, padding=(1, 1)), ("winograd", "winograd", "winograd")),
        (Problem(1, 16, 40, 40, 32, 3, 3, padding=(1, 1)), (NAME, "winograd", "winograd")),
        (Problem(1, 512, 28, 28, 64, 1, 1), (NAME, NAME, NAME)),
        (Problem(1, 64, 28, 28, 64, 5, 5, padding=(2, 2)), (NAME, NAME, NAME)),
        (Problem(9, 256, 3, 3, 256, 3, 3, padding=(1, 1)), (NAME, NAME, NAME)),
        (Problem(1, 256, 40, 3, 256, 3, 3, padding=(1, 1)), ("winograd", "winograd", "winograd")),
        (Problem(1, 256, 14, 14, 256, 3, 3, padding=(1, 1)), (NAME, NAME, "winograd")),
        (Problem(1, 512, 14, 14, 512, 3, 3, padding=(1, 1)), ("winograd", "winograd", "winograd")),
        (Problem(2, 64, 32, 32, 64, 4, 4, (2, 2), (1, 1)), (NAME, NAME, NAME)),
        (Problem(4, 64, 7, 7, 64, 5, 5, padding=(2, 2)), (NAME, NAME, NAME)),
        (Problem(1, 32, 40, 40, 9, 3, 3, padding=(1, 1)), ("outer_product", NAME, NAME)),
        (Problem(1, 3, 40, 40, 64, 7, 7, (2, 2), (3, 3)), (NAME, "outer_product", NAME)),
        (Problem(1, 11, 20, 111, 9, 12, 84), (NAME, NAME, NAME)),
    ],
    ids=str,
)
def test_what_is_chosen(problem, chosen):
    """Seen by the bits: each rounds otherwise. (Panels add up as outer_product does.)"""
    for primitive, expected in zip(PRIMITIVES, chosen, strict=True):
        generator = torch.Generator().manual_seed(0)
        # of many binary digits, so that sums round
        first, second = (torch.randn(s, generator=generator).to(torch.bfloat16) for s in problem.shapes(primitive)[:2])
        equal = set()
        with forced(primitive, "", ISA):
            free = call(primitive, first, second, None, problem)
        for name in (NAME, "winograd", "outer_product"):
            try:
                with forced(primitive, name, ISA):
                    if torch.equal(free, call(primitive, first, second, None, problem)):
                        equal.add(name)
            except RuntimeError as refused:
                assert "it is for kernels of" in str(refused)
        assert equal == {expected}, primitive


@needs_pairs
def test_other_types_are_refused():
    problem = Problem(1, 32, 8, 8, 32, 3, 3)
    for dtype in (torch.float32, torch.float16, torch.float64):
        first, second, _, _ = draw_integers("forward", problem, dtype)
        with forced("forward", NAME, ISA), pytest.raises(RuntimeError, match="it is for bfloat16"):
            call("forward", first, second, None, problem)


def test_without_such_vectors_it_says_so():
    problem = Problem(1, 32, 8, 8, 32, 3, 3)
    first, second, _, _ = draw_integers("forward", problem, torch.bfloat16)
    with (
        forced("forward", NAME, INSTRUCTION_SETS[0]),
        pytest.raises(RuntimeError, match="it needs AVX-512 with products"),
    ):
        call("forward", first, second, None, problem)
    assert NAME in [row.name for row in convx.algorithms(device="cpu")["forward"]]
