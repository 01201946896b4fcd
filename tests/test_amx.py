"""float32 and float16 on the matrix unit by splitting (csrc/cpu/amx_terms.h): what splitting must not lose.

Run on AMX where it is, and on the unit's twin in C++ on every machine with AVX2. The exact, accuracy, propagation
and determinism tests run this row like all others; here are the numbers that only splitting could get wrong.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from choices import call, forced, instruction_sets
from conftest import INSTRUCTION_SETS
from problems import Problem

import convx

ISAS = instruction_sets("amx")
if not ISAS:
    pytest.skip("needs AVX2, for AMX's twin at least", allow_module_level=True)
# What takes over where the unit is not for a problem.
WIDE = "avx512" if "avx512" in INSTRUCTION_SETS else "avx512_twin"

PROBLEM = Problem(3, 40, 9, 11, 36, 3, 3, (1, 1), (1, 1))
PRIMITIVES = ("forward", "grad_input", "grad_weight")
isas = pytest.mark.parametrize("isa", ISAS)
primitives = pytest.mark.parametrize("primitive", PRIMITIVES)


def draw(primitive, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator).to(dtype) for s in PROBLEM.shapes(primitive)[:2]]


def run(primitive, isa, first, second, algorithm="amx"):
    with forced(primitive, algorithm, isa):
        return call(primitive, first, second, None, PROBLEM)


def reference(primitive, first, second):
    return run(primitive, None, first.double(), second.double(), "reference")


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@isas
@primitives
@pytest.mark.parametrize("exponent", [-100, -60, 0, 60], ids=lambda e: f"2^{e}")
def test_error_is_no_larger_than_a_chain_of_multiply_adds(primitive, isa, exponent):
    """In norm, against float64, beside torch's own float32 on the same operands."""
    first, second = draw(primitive)
    first = first * 2.0**exponent
    expected = reference(primitive, first, second)
    torchs = {
        "forward": lambda: torch.nn.functional.conv2d(first, second, padding=1),
        "grad_input": lambda: torch.nn.functional.conv_transpose2d(first, second, padding=1),
        "grad_weight": lambda: torch.nn.grad.conv2d_weight(first, [36, 40, 3, 3], second, padding=1),
    }[primitive]()
    assert relative_error(run(primitive, isa, first, second), expected) <= 1.05 * relative_error(torchs, expected)


@isas
@primitives
@pytest.mark.parametrize("scale", [1e-37, 3e-41], ids=["near 1e-37", "subnormal"])
def test_small_numbers_are_as_accurate_as_without_the_unit(primitive, isa, scale):
    """Their low terms are below what the unit takes, so they are run elsewhere: bit for bit."""
    first, second = draw(primitive)
    first = first * scale
    assert torch.equal(run(primitive, isa, first, second), run(primitive, WIDE, first, second, "outer_product"))


@isas
@primitives
def test_small_products_of_ordinary_numbers(primitive, isa):
    """Neither operand is small, their products are."""
    first, second = (t * 2.0**-60 for t in draw(primitive))
    assert torch.equal(run(primitive, isa, first, second), run(primitive, WIDE, first, second, "outer_product"))


@isas
@pytest.mark.parametrize("primitive", PRIMITIVES[:2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_largest_numbers_do_not_overflow(primitive, isa, dtype):
    """One product for each sum: largest times one is largest, though it is the sum of three terms."""
    first, second = (torch.zeros_like(t) for t in draw(primitive, dtype))
    first.fill_(torch.finfo(dtype).max)
    for i in range(36):
        second[i, i, 1, 1] = -1.0
    actual = run(primitive, isa, first, second)
    assert (actual[:, :36] == -torch.finfo(dtype).max).all()


@isas
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan], ids=str)
def test_infinities_and_nan_go_where_they_should(isa, dtype, value):
    first, second = draw("forward", dtype)
    first[1, 7, 4, 5] = value
    second[:, 7] = second[:, 7].abs() + 1
    expected = torch.nn.functional.conv2d(first.double(), second.double(), padding=1)
    actual = run("forward", isa, first, second)
    reached = torch.zeros(expected.shape, dtype=torch.bool)
    reached[1, :, 3:6, 4:7] = True
    assert torch.equal(torch.isfinite(actual), ~reached)
    assert torch.equal(actual[reached].isnan(), expected[reached].isnan())
    assert torch.equal(actual[reached].nan_to_num().sign(), expected[reached].nan_to_num().sign())


@isas
@primitives
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_infinities_in_the_gradient_of_the_weight(primitive, isa, dtype):
    """Either operand: zeros of the halo, of missing channels and of padding must not meet it."""
    for which in (0, 1):
        operands = draw(primitive, dtype)
        operands[which][0, 0, 0, 0] = math.inf
        expected = run(primitive, None, *operands, "reference")
        actual = run(primitive, isa, *operands)
        assert torch.equal(actual.isfinite(), expected.isfinite())


@isas
@pytest.mark.parametrize("primitive", PRIMITIVES[:2])
@pytest.mark.parametrize("value", [1e-38, math.inf], ids=str)
def test_an_image_that_is_run_elsewhere_leaves_the_others_as_they_were(primitive, isa, value):
    first, second = draw(primitive)
    before = run(primitive, isa, first, second)
    first[1, 3, 2, 2] = value
    after = run(primitive, isa, first, second)
    for n in (0, 2):
        assert torch.equal(after[n], before[n])
        assert torch.equal(after[n], run(primitive, isa, first[n : n + 1], second)[0])
    assert torch.equal(after[1], run(primitive, isa, first[1:2], second)[0])


LAYOUTS = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "every other column": lambda t: torch.stack((t, t), -1).flatten(-2)[..., ::2],
    "part of the columns": lambda t: torch.nn.functional.pad(t, (3, 2))[..., 3:-2],
    "part of the channels": lambda t: torch.cat((t, t), 1)[:, : t.shape[1]],
    "rows before columns": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
}


@isas
@primitives
@pytest.mark.parametrize("layout", LAYOUTS)
def test_small_numbers_are_found_wherever_they_lie(primitive, isa, layout):
    """One in the first or the last place of an operand, or between: seen by the bits of outer_product."""
    problem = Problem(2, 40, 9, 11, 36, 1, 1)
    generator = torch.Generator().manual_seed(1)
    whole = [torch.randn(s, generator=generator) for s in problem.shapes(primitive)[:2]]
    for which, at in itertools.product((0, 1), (0, 1 / 3, 1)):
        operands = [t.clone() for t in whole]
        flat = operands[which].flatten()
        flat[int(at * (len(flat) - 1))] = 1e-38
        operands[which] = LAYOUTS[layout](flat.view(operands[which].shape))
        image = slice(None) if which or primitive == "grad_weight" else slice(at == 1, 1 + (at == 1))
        results = []
        for forced_isa, name in ((isa, "amx"), (WIDE, "outer_product")):
            with forced(primitive, name, forced_isa):
                results.append(call(primitive, *operands, None, problem)[image])
        assert torch.equal(*results), (which, at)


@isas
@pytest.mark.parametrize("primitive", PRIMITIVES[:2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(7, 7), (1, 5), (20, 31)], ids=str)
def test_images_in_one_row_are_as_they_are_alone(primitive, isa, dtype, size):
    """Pointwise layers in channels_last run on from image to image."""
    problem = Problem(5, 64, *size, 80, 1, 1)
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.randn(s, generator=generator).to(dtype) for s in problem.shapes(primitive)[:2])
    last = first.contiguous(memory_format=torch.channels_last)
    with forced(primitive, "amx", isa):
        planes = call(primitive, first, second, None, problem)
        pixels = call(primitive, last, second, None, problem, channels_last=True)
        alone = [call(primitive, last[n : n + 1], second, None, replace(problem, N=1)) for n in range(5)]
    assert torch.equal(planes, pixels)
    assert torch.equal(pixels, torch.cat(alone))


@isas
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_integers_of_many_bits_are_exact(isa, bits):
    """Products of `bits` and 20 - bits significant bits need several terms of either side."""
    generator = torch.Generator().manual_seed(bits)
    shapes = PROBLEM.shapes("forward")[:2]
    first = torch.zeros(shapes[0])
    at = torch.randint(40, (3, 9, 11), generator=generator)  # one channel of each pixel, so that sums stay exact
    values = torch.randint(2**bits, (3, 9, 11), generator=generator).float()
    first.scatter_(1, at[:, None], values[:, None])
    second = torch.randint(-(2 ** (20 - bits)), 2 ** (20 - bits), shapes[1], generator=generator).float()
    expected = reference("forward", first, second)
    assert expected.count_nonzero() > expected.numel() // 2
    assert torch.equal(run("forward", isa, first, second).double(), expected)


def test_it_is_chosen_where_it_is_for():
    """On its own instruction set, for a layer that fills its tiles; and not for one that doesn't, nor for float64."""
    big, thin = Problem(2, 64, 28, 28, 64, 5, 5, (1, 1), (1, 1)), Problem(2, 3, 28, 28, 64, 5, 5, (1, 1), (1, 1))
    cases = ((big, torch.float32, True), (thin, torch.float32, False), (big, torch.double, False))
    for isa, (problem, dtype, chosen) in itertools.product(ISAS, cases):
        first, second = (torch.randn(s, dtype=dtype) for s in problem.shapes("forward")[:2])
        automatic = convx.conv2d(first, second, padding=1)
        convx._C.force_cpu_isa(isa)
        try:
            with_unit = convx.conv2d(first, second, padding=1)
        finally:
            convx._C.force_cpu_isa(WIDE)
        without = convx.conv2d(first, second, padding=1)
        convx._C.force_cpu_isa("")
        assert torch.equal(with_unit, without) != chosen, (isa, problem, dtype)
        if WIDE == "avx512":
            assert torch.equal(automatic, with_unit if ISAS[-1] == "amx" else without)


DENSE = Problem(2, 64, 28, 28, 64, 3, 3, (1, 1), (1, 1))
DILATED = Problem(2, 64, 28, 28, 64, 3, 3, (1, 1), (2, 2), (2, 2))
# Each element of the input meets 128 products, or a little more.
FEW_USES = Problem(2, 64, 28, 28, 128, 2, 2, (2, 2))
MORE_USES = Problem(2, 64, 28, 28, 144, 2, 2, (2, 2))
POINTWISE = Problem(2, 64, 28, 28, 256, 1, 1)
# A million weights that meet 100 pixels of an image.
MANY_WEIGHTS = Problem(1, 160, 10, 10, 160, 7, 7, (1, 1), (3, 3))
FEWER_WEIGHTS = Problem(1, 128, 10, 10, 128, 7, 7, (1, 1), (3, 3))
LARGER = Problem(1, 64, 14, 14, 64, 5, 5, (1, 1), (2, 2))
LARGER_OF_FEWER = Problem(1, 64, 14, 14, 48, 5, 5, (1, 1), (2, 2))


@isas
@pytest.mark.parametrize(
    "problem, dtype, chosen",
    [
        (DENSE, torch.float32, ("winograd", "winograd", "winograd")),
        (DENSE, torch.float16, ("amx", "amx", "amx")),
        (DENSE, torch.bfloat16, ("amx", "amx", "amx")),
        (DILATED, torch.float32, ("winograd", "winograd", "outer_product")),
        (FEW_USES, torch.float32, ("outer_product", "amx", "outer_product")),  # grad_input's outputs are four times 64
        (FEW_USES, torch.float16, ("amx", "amx", "amx")),
        (MORE_USES, torch.float32, ("amx", "amx", "outer_product")),
        (POINTWISE, torch.float32, ("outer_product", "outer_product", "outer_product")),
        (POINTWISE, torch.bfloat16, ("amx", "amx", "amx")),
        (MANY_WEIGHTS, torch.float32, ("outer_product", "outer_product", "outer_product")),
        (FEWER_WEIGHTS, torch.float32, ("amx", "amx", "outer_product")),
        (LARGER, torch.float32, ("amx", "amx", "amx")),
        (LARGER_OF_FEWER, torch.float32, ("winograd", "winograd", "winograd")),
    ],
    ids=str,
)
def test_what_is_chosen_instead(isa, problem, dtype, chosen):
    """Seen by the bits: each of the three rounds otherwise. (Panels add up as outer_product does.)"""
    for primitive, expected in zip(PRIMITIVES, chosen, strict=True):
        generator = torch.Generator().manual_seed(0)
        first, second = (torch.randn(s, generator=generator).to(dtype) for s in problem.shapes(primitive)[:2])
        equal = set()
        with forced(primitive, "", isa):
            free = call(primitive, first, second, None, problem)
        for name in ("amx", "winograd", "outer_product"):
            try:
                with forced(primitive, name, isa):
                    if torch.equal(free, call(primitive, first, second, None, problem)):
                        equal.add(name)
            except RuntimeError as refused:
                assert "it is for kernels of" in str(refused)
        assert equal == {expected}, primitive


@pytest.mark.skipif("amx" not in ISAS, reason="needs AMX")
@primitives
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_twin_computes_what_the_unit_computes(primitive, dtype):
    """Bit for bit, numbers included that the unit takes for zero."""
    first, second = draw(primitive, dtype)
    first[0] *= 2.0**-120
    assert torch.equal(run(primitive, "amx", first, second), run(primitive, "amx_twin", first, second))


def test_without_the_unit_it_says_so():
    first, second = draw("forward")
    with pytest.raises(RuntimeError, match=r"'amx' was forced but can't do .*: it needs AMX"):
        run("forward", WIDE, first, second)
    assert "amx" in [row.name for row in convx.algorithms(device="cpu")["forward"]]
