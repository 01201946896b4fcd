"""The benchmark's own foundations: its shapes are what torch makes of them, and its check tells right from wrong."""

import itertools
from dataclasses import replace

import pytest
import torch

import convx
from benchmarks import check
from benchmarks.computations import COMPUTATIONS, Operands, convx_call, make_operands, torch_call
from benchmarks.shapes import CLASSES, load
from benchmarks.timing import interleaved

SHAPES = [replace(s, N=min(s.N, 2)) for s in load()]
# The layer of each class that is least work.
LEAST = [min((s for s in SHAPES if s.class_name == c), key=lambda s: s.gflop) for c in CLASSES]


def test_every_class_has_shapes():
    assert {s.class_name for s in SHAPES} == set(CLASSES)
    assert len({s.name for s in SHAPES}) == len(SHAPES) == 167


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"expected a class, one of .*, but got 'sparse'"):
        list(load(classes=["sparse"]))
    with pytest.raises(ValueError, match=r"expected a shape, one of .*, but got 'resnet'"):
        list(load(names=["resnet"]))


@pytest.mark.parametrize("s", SHAPES, ids=lambda s: f"{s.set}-{s.name}")
def test_sizes_are_torchs(s):
    """Of all three computations, shapes only."""
    x, w, y = (
        torch.empty(size, device="meta")
        for size in ((s.N, s.C, s.H, s.W), (s.K, s.C // s.G, s.R, s.S), (s.N, s.K, s.P, s.Q))
    )
    results = (x, y, w) if s.transposed else (y, x, w)
    for computation, result in zip(COMPUTATIONS, results, strict=True):
        assert torch_call(s, computation, Operands(x, w, y))().shape == result.shape


@pytest.mark.parametrize("computation", COMPUTATIONS)
@pytest.mark.parametrize("shape", LEAST, ids=lambda s: s.class_name)
def test_check_tells_right_from_wrong(shape, computation):
    # float32, where the reference kernels, which sum in float64, are as exact as any
    unit, operands = torch.finfo(torch.float32).eps, make_operands(shape, torch.float32, "cpu")
    with convx.algorithm("reference"):
        ours = convx_call(shape, computation, operands, "contiguous")()
    theirs = torch_call(shape, computation, operands)()
    error, torch_error, right = check.errors(shape, computation, operands, ours, theirs)
    assert right and error <= unit and torch_error <= 64 * unit
    for wrong in (ours.flip(-1).flip(-2).flip(1), ours * (1 + 200 * unit), torch.zeros_like(ours), ours / 0):
        assert not check.errors(shape, computation, operands, wrong, theirs)[2]


@pytest.mark.parametrize("computation", COMPUTATIONS)
@pytest.mark.parametrize("shape", LEAST, ids=lambda s: s.class_name)
def test_check_judges_in_float64(shape, computation):
    operands = make_operands(shape, torch.float64, "cpu")
    result = torch_call(shape, computation, operands)()
    assert check.errors(shape, computation, operands, result, result)[1] <= 64 * torch.finfo(torch.float64).eps


def test_turns_are_in_another_order_each_round():
    """Each side as often as the others, and behind each of them."""
    turns = []
    calls = {name: lambda name=name: turns.append(name) for name in "abc"}
    timings = interleaved(calls, "cpu", 0, (20, 20))
    assert [t.rounds for t in timings.values()] == [20] * 3
    rounds = [turns[i : i + 3] for i in range(6, len(turns), 3)]  # the first call and the one for warmth come before
    assert len(rounds) == 20 and all(sorted(r) == ["a", "b", "c"] for r in rounds)
    followed = {pair for r in rounds for pair in itertools.pairwise(r)}
    assert followed == set(itertools.permutations("abc", 2))
