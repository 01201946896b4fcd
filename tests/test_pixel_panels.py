"""Pointwise layers by `pixels` (pixel_panels.h): all images' pixels are one line, cut into blocks and vectors.

A vector may end with a plane, within one, or hold pixels of several images; results are written in place or beside.
Pixels are read where they are if planes are long, but for those where a plane ends, or are copied.
Forced, `pixels` runs it for every contiguous pointwise layer of stride 1 with some outputs.
"""

from dataclasses import replace

import pytest
import torch
from choices import call, forced, instruction_sets
from exact import assert_exact, draw_integers
from problems import Problem

CASES = {
    "whole-vectors": Problem(2, 20, 8, 8, 30, 1, 1),
    "vectors-across-images": Problem(9, 17, 7, 7, 33, 1, 1),
    "vectors-of-many-images": Problem(40, 16, 1, 3, 16, 1, 1),
    "blocks-within-a-plane": Problem(2, 130, 37, 41, 20, 1, 1),
    "blocks-across-images": Problem(5, 300, 13, 11, 29, 1, 1),
    "a-single-vector-at-the-end": Problem(1, 12, 1, 41, 14, 1, 1),
    "one-pixel": Problem(1, 70, 1, 1, 40, 1, 1),
    "many-chains": Problem(2, 1000, 3, 5, 40, 1, 1),
    "one-block-a-vector": Problem(2, 3000, 5, 9, 15, 1, 1),
    "groups": Problem(3, 60, 9, 10, 45, 1, 1, G=3),
    "read-in-place-but-for-the-ends": Problem(3, 50, 23, 25, 40, 1, 1),
    "read-in-place-in-groups": Problem(2, 60, 24, 26, 45, 1, 1, G=3),
    "planes-a-power-of-two-apart": Problem(2, 140, 32, 32, 20, 1, 1),
}


@pytest.mark.parametrize("isa", instruction_sets("pixels"))
@pytest.mark.parametrize(
    "dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=lambda d: str(d)[6:]
)
@pytest.mark.parametrize("primitive", ("forward", "grad_input"))
@pytest.mark.parametrize("case", CASES)
def test_every_blocking(case, primitive, dtype, isa):
    problem = CASES[case]
    first, second, bias, expected = draw_integers(primitive, problem, dtype, "cpu", ("contiguous",) * 2, "contiguous")
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)  # conftest.py sets it back
        with forced(primitive, "pixels", isa):
            actual = call(primitive, first, second, bias, problem)
        assert_exact(actual, expected, f"{threads} threads on {isa}: {problem}")


@pytest.mark.parametrize("isa", instruction_sets("pixels"))
@pytest.mark.parametrize("primitive", ("forward", "grad_input"))
@pytest.mark.parametrize("case", CASES)
def test_the_bits_of_outer_product(case, primitive, isa):
    """Which of the two runs by default depends on the batch, on which a sample's result must not depend."""
    problem = CASES[case]  # up to 8192 inputs: longer sums are made of long ones, each kernel its own way
    problem = replace(problem, C=min(3 * problem.C, 3000), K=min(3 * problem.K, 3000))
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(s, generator=generator) for s in problem.shapes(primitive)[:2])
    results = []
    for algorithm in ("pixels", "outer_product", "panels"):
        with forced(primitive, algorithm, isa):
            results.append(call(primitive, first, second, None, problem))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("isa", instruction_sets("pixels"))
@pytest.mark.parametrize("primitive", ("forward", "grad_input"))
@pytest.mark.parametrize("outputs", (5, 8, 12, 13, 24, 40))
@pytest.mark.parametrize("size", (10, 24))
def test_an_image_has_the_same_bits_alone(size, outputs, primitive, isa):
    """By default: from 13 outputs on it is `pixels` for many images of 24 x 24, or of 10 x 10 if lanes would be idle,
    else `outer_product`, and `panels` for one's pixels."""
    problem = Problem(20, 700, size, size, outputs, 1, 1)
    if primitive == "grad_input":
        problem = replace(problem, C=outputs, K=700)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(s, generator=generator) for s in problem.shapes(primitive)[:2])
    with forced(primitive, "", isa):
        every = call(primitive, first, second, None, problem)
        alone = [call(primitive, one[None], second, None, replace(problem, N=1)) for one in first]
    assert torch.equal(every, torch.cat(alone))
