"""The blocks of panels: all results are one line of pixels, cut where images, rows or neither end.

Rows longer than a block are cut, and an item packs its own part of a row alone: packing whole rows for each part took
time and memory that grew with the square of a plane in channels_last, where a pointwise layer's planes are single rows.
Where the kernel covers the input, the images are the pixels.
"""

import sys
from dataclasses import replace

import pytest
import torch
from choices import call, forced, instruction_sets
from exact import assert_exact, draw_integers
from problems import Problem

from benchmarks import memory

CASES = {
    "images-together": Problem(7, 9, 5, 6, 40, 3, 3, padding=(1, 1)),
    "rows-of-an-image": Problem(2, 5, 40, 37, 33, 3, 3, padding=(1, 1)),
    "parts-of-rows": Problem(2, 5, 3, 1201, 33, 3, 3, padding=(1, 1)),
    "parts-of-rows-reflect": Problem(1, 5, 3, 777, 9, 3, 5, padding=(1, 2), mode="reflect"),
    "parts-of-rows-circular": Problem(1, 5, 3, 777, 9, 3, 5, padding=(1, 2), mode="circular"),
    "parts-of-strided-rows": Problem(2, 5, 5, 1501, 20, 1, 1, stride=(2, 2)),
    "parts-of-dilated-rows": Problem(1, 5, 5, 1100, 20, 2, 3, dilation=(2, 3)),
    "parts-of-planes": Problem(2, 130, 37, 41, 20, 1, 1),  # pointwise: a plane is one row
    "parts-of-planes-groups": Problem(2, 34, 40, 41, 70, 1, 1, G=2),
    "images-are-pixels": Problem(9, 20, 3, 5, 33, 3, 5),
    "one-image-is-a-pixel": Problem(1, 7, 4, 4, 70, 4, 4),
    "many-images-are-pixels": Problem(1100, 6, 1, 1, 9, 1, 1),
    "long-images-are-pixels": Problem(30, 700, 3, 3, 5, 3, 3),
    "planes-of-one-pixel-groups": Problem(5, 12, 1, 1, 9, 1, 1, G=3),
}


@pytest.mark.parametrize("isa", instruction_sets("panels"))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("primitive", ("forward", "grad_input"))
@pytest.mark.parametrize("case", CASES)
def test_every_blocking(case, primitive, dtype, layout, isa):
    problem = CASES[case]
    first, second, bias, expected = draw_integers(primitive, problem, dtype, "cpu", (layout, layout), "contiguous")
    for algorithm in ("panels", ""):
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)  # conftest.py sets it back
            with forced(primitive, algorithm, isa):
                actual = call(primitive, first, second, bias, problem, layout == "channels_last")
            assert_exact(actual, expected, f"{algorithm}, {threads} threads on {isa}: {problem}")


@pytest.mark.parametrize("isa", instruction_sets("panels"))
@pytest.mark.parametrize("case", ("images-are-pixels", "long-images-are-pixels"))
def test_an_image_has_the_same_bits_alone(case, isa):
    problem = CASES[case]
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(s, generator=generator) for s in problem.shapes("forward")[:2])
    with forced("forward", "", isa):
        every = call("forward", x, w, None, problem)
        alone = torch.cat([call("forward", one[None], w, None, replace(problem, N=1)) for one in x])
    assert torch.equal(every, alone)


def large_plane():
    x = torch.randn(1, 64, 512, 512).contiguous(memory_format=torch.channels_last)
    w = torch.randn(64, 64, 1, 1)
    return lambda: torch.ops.convx.forward(x, w, None, (1, 1), (0, 0), (1, 1), 1, (512, 512), "zeros", True)


@pytest.mark.skipif(sys.platform != "linux", reason="measured from Linux's counts")
def test_memory_does_not_grow_with_the_plane():
    peak = memory.peak_in_a_process(2, large_plane)
    if peak is None:
        pytest.skip("this kernel does not tell")
    assert peak <= memory.BOUND
