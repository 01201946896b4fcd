"""The tensor-core kernels beyond what test_cuda_emulated.py asks of every CUDA kernel: tiles of every shape, splits of
the weight gradient, how exact float32 is in three parts, and what becomes of numbers that it can't take apart.

On the emulator, whose matrix products cut sums off as the hardware does (emulator/mma.cpp).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from emulated import check_every_barrier_is_needed, judged
from emulator import library as emulator
from exact import assert_exact, draw_integers, judge, numpy_of
from problems import Problem
from reference import PRIMITIVES

pytestmark = pytest.mark.usefixtures("default_emulator")
inf, nan = float("inf"), float("nan")
KINDS = {
    "fp16": ("tensorcore", torch.float16),
    "bf16": ("tensorcore", torch.bfloat16),
    "tf32": ("tensorcore", torch.float32),
    "split": ("tensorcore_split", torch.float32),
    "fp64": ("tensorcore", torch.float64),
    "wgmma-fp16": ("tensorcore_wgmma", torch.float16),
    "wgmma-bf16": ("tensorcore_wgmma", torch.bfloat16),
    "copied-fp16": ("tensorcore_copied", torch.float16),
    "copied-bf16": ("tensorcore_copied", torch.bfloat16),
    "copied-tf32": ("tensorcore_copied", torch.float32),
    "terms": ("tensorcore_terms", torch.float32),
}
# The copy engine's kernels leave some problems to others: padding modes, groups whose channels are no whole stages, and
# weight gradients in TF32.
LIMITED = ("copied-fp16", "copied-bf16", "copied-tf32", "terms")
ROUNDED = ("tf32", "copied-tf32")


def skip_if_refused(primitive, kind, problem):
    is_left = problem.G > 1 or problem.mode != "zeros" or (kind == "copied-tf32" and primitive == "grad_weight")
    if kind in LIMITED and is_left:
        algorithm, dtype = KINDS[kind]
        reason = emulator.refusal(primitive, algorithm, problem, dtype)
        if reason:
            pytest.skip(reason)


# With few multiprocessors a few large tiles are enough to fill them.
TILES = {
    "128x128": Problem(1, 12, 9, 15, 130, 3, 1, padding=(1, 0)),
    "128x128-turned": Problem(1, 130, 9, 15, 12, 1, 3, padding=(0, 1)),
    "128x64": Problem(3, 20, 7, 9, 24, 2, 3, (1, 2), (1, 1), (2, 1), G=2),
    "phases": Problem(2, 18, 13, 12, 10, 3, 4, (2, 3), (1, 2)),
    "256x128": Problem(2, 60, 9, 15, 70, 3, 3, padding=(1, 0)),
    "256x128-turned": Problem(2, 70, 9, 15, 60, 3, 3, padding=(0, 1)),
    "128x256": Problem(1, 12, 9, 15, 260, 3, 1, padding=(1, 0)),
    "128x256-turned": Problem(1, 260, 9, 15, 12, 1, 3, padding=(0, 1)),
    "weights-128x128": Problem(1, 66, 5, 7, 70, 2, 1, stride=(1, 2)),
    "chunks": Problem(1, 32, 8, 8, 32, 3, 3, padding=(1, 1)),  # stored and read in place, if channels are together
    "pixels": Problem(2, 3, 8, 8, 11, 3, 3, padding=(1, 1)),  # stored in vectors of pixels, if those are
    "planes": Problem(2, 38, 6, 4, 70, 1, 1, G=2),  # 1x1: whole chunks of pixels are read, if those are together
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_every_shape_of_tile(primitive, name, kind):
    algorithm, dtype = KINDS[kind]
    skip_if_refused(primitive, kind, TILES[name])
    last = len(name) % 2 == 0
    emulator.pretend_device(multiprocessors=1)
    for layout in (("contiguous", "channels_last"), ("channels_last", "contiguous"))[last], ("channels_last",) * 2:
        operands = draw_integers(primitive, TILES[name], dtype, "cpu", layout, "contiguous")
        actual = emulator.call(primitive, algorithm, *operands[:3], TILES[name], layout[0] == "channels_last")
        assert_exact(actual, operands[3], (TILES[name], kind, layout))


def test_every_shape_of_tile_is_launched():
    """So that the test above proves something."""
    emulator.pretend_device(multiprocessors=1)
    emulator.launched(forget=True)
    emulator.configure(dry=True)
    for algorithm, dtype in KINDS.values():
        for primitive in PRIMITIVES:
            for problem in TILES.values():
                if "copied" in algorithm or "terms" in algorithm:  # kernels of their own
                    continue
                operands = draw_integers(primitive, problem, dtype)
                emulator.call(primitive, algorithm, *operands[:3], problem)
    launches = " ".join(launched.symbol for launched in emulator.launched())
    assert "PixelsLoader" in launches and "ChannelsLoader" in launches
    for kernel, rows, columns in (("convolve", 128, 128), ("convolve", 128, 64), ("weight_gradient", 128, 128)):
        for arithmetic in ("DirectINS_4HalfE", "DirectINS_8BFloat16E", "4Tf32", "5Split", "6Double"):
            assert any(kernel in s and arithmetic in s and f"Li{rows}ELi{columns}E" in s for s in launches.split()), (
                kernel,
                arithmetic,
                rows,
                columns,
            )
    for dtype in ("4Half", "8BFloat16"):
        assert any(f"DirectINS_{dtype}E" in s and "Li256ELi128E" in s for s in launches.split()), dtype
    for columns in (64, 128, 256):
        for dtype in ("4Half", "8BFloat16"):
            assert any(f"WarpgroupINS_{dtype}E" in s and f"ShapeILi{columns}E" in s for s in launches.split()), columns
    for kernel in ("convolve", "weight_gradient"):
        assert any(kernel in s and "Warpgroup" in s for s in launches.split()), kernel


def split_pixels(kind):
    """Stages of the copy engine are longer."""
    return Problem(24 if kind in LIMITED else 3, 5, 12, 10, 7, 2, 1, padding=(1, 0))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "copied-tf32"])
def test_weight_gradient_split_over_pixels(kind):
    """Several blocks to a tile, and their sums added: exact, whatever number of multiprocessors says how many."""
    algorithm, dtype = KINDS[kind]
    problem = split_pixels(kind)
    x, y, _, expected = draw_integers("grad_weight", problem, dtype)
    most = set()
    for multiprocessors in (1, 4, 132):
        emulator.pretend_device(multiprocessors=multiprocessors)
        emulator.launched(forget=True)
        assert_exact(emulator.call("grad_weight", algorithm, x, y, None, problem), expected, kind)
        most.add(max(row.most_blocks for row in emulator.launched() if "weight_gradient" in row.symbol))
    assert len(most) > 1 and max(most) > 2, "the pixels were never split"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("primitive", ("forward", "grad_input"))
def test_a_sample_has_the_same_bits_in_every_batch(primitive, kind):
    """Also one of large numbers, which float32 in three parts leaves to another way of summing, beside others."""
    algorithm, dtype = KINDS[kind]
    problem = Problem(3, 10, 6, 7, 12, 3, 3, padding=(1, 1))
    single = Problem(1, 10, 6, 7, 12, 3, 3, padding=(1, 1))
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(s, generator=generator).to(dtype) for s in problem.shapes(primitive)[:2])
    if dtype == torch.float32:
        first[1] *= 1e30
    together = emulator.call(primitive, algorithm, first, second, None, problem)
    emulator.pretend_device(multiprocessors=1)  # and in tiles of another shape
    for n in range(3):
        alone = emulator.call(primitive, algorithm, first[n : n + 1], second, None, single)
        assert torch.equal(alone[0], together[n]), n
    assert together.isfinite().all()


# 1x1 layers are products of matrices, which can be summed one fused multiply-add after the other here.
DEEP = {
    "forward": Problem(1, 300, 5, 6, 20, 1, 1),
    "grad_input": Problem(1, 20, 5, 6, 300, 1, 1),
    "grad_weight": Problem(2, 10, 12, 13, 12, 1, 1),
}
VALUES = {
    "normal": lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64),
    "positive": lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64),
}


def factors(primitive, first, second):
    """(A, B) in float64 with A @ B the result of a 1x1 layer as a matrix, and a function that makes it one."""
    a, b = first.double().numpy(), second.double().numpy()
    if primitive == "grad_weight":
        a, b = a.transpose(1, 0, 2, 3).reshape(a.shape[1], -1), b.transpose(1, 0, 2, 3).reshape(b.shape[1], -1)
        return b, a.T, lambda result: result[:, :, 0, 0]
    w = b[:, :, 0, 0] if primitive == "forward" else b[:, :, 0, 0].T
    return w, a[0].reshape(a.shape[1], -1), lambda result: result[0].reshape(result.shape[1], -1)


def chain(a, b):
    """The sums of fused multiply-adds in float32, one after the other."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        total = (total.astype(np.float64) + np.outer(a[:, k], b[k])).astype(np.float32)
    return total


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_float32_in_three_parts_is_no_worse_than_fused_multiply_adds(primitive, values):
    generator = torch.Generator().manual_seed(0)
    problem = DEEP[primitive]
    first, second = (VALUES[values](s, generator).float() for s in problem.shapes(primitive)[:2])
    a, b, as_matrix = factors(primitive, first, second)
    result = as_matrix(emulator.call(primitive, "tensorcore_split", first, second, None, problem).double().numpy())
    ours, theirs = np.linalg.norm(result - a @ b), np.linalg.norm(chain(a, b) - a @ b)
    assert 0 < ours <= theirs, ours / theirs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_errors_are_within_what_the_instructions_do(primitive, kind):
    """Each group of at least four products is cut off once, by a unit in the last place of the sum so far at most; the
    operands of TF32 are rounded before, and 16-bit results after. float64 is rounded with each product."""
    algorithm, dtype = KINDS[kind]
    problem = DEEP[primitive]
    skip_if_refused(primitive, kind, problem)
    generator = torch.Generator().manual_seed(0)
    first, second = (VALUES["normal"](s, generator).to(dtype) for s in problem.shapes(primitive)[:2])
    if kind in ROUNDED:
        first, second = (((t.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32) for t in (first, second))
    a, b, as_matrix = factors(primitive, first, second)
    actual = emulator.call(primitive, algorithm, first, second, None, problem)
    result, exact = as_matrix(actual.double().numpy()), a.astype(np.longdouble) @ b.astype(np.longdouble)
    steps, unit = (a.shape[1] / 4, 2.0**-23) if dtype != torch.float64 else (a.shape[1], 2.0**-53)
    allowed = steps * unit * (np.abs(a) @ np.abs(b))
    if dtype.itemsize == 2:
        allowed += np.abs(exact).astype(np.float64) * torch.finfo(dtype).eps / 2 * 1.001
    error = np.abs(result - exact)
    assert (error <= allowed).all() and error.max() > 0, (error / allowed).max()


@pytest.mark.parametrize("algorithm", ("tensorcore_split", "tensorcore_terms"))
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_float32_of_all_sizes(primitive, algorithm):
    """From subnormal numbers to the largest, in one sum or apart: each product to 22 bits and more."""
    problem = Problem(1, 11, 4, 5, 9, 1, 1)
    generator = torch.Generator().manual_seed(4)
    shape_1, shape_2, _ = problem.shapes(primitive)
    for low, high in ((-149, -100), (-149, 0), (-60, 60), (60, 127)):
        first, second = (torch.randn(s, generator=generator, dtype=torch.float64) for s in (shape_1, shape_2))
        exponents = torch.randint(low, high, shape_1, generator=generator).double()
        first = (first * 2.0**exponents).float().clamp(-3e38, 3e38)
        second = (second * 2.0 ** -exponents.mean().round().clamp(-60, 60)).float()
        a, b, as_matrix = factors(primitive, first, second)
        result = as_matrix(emulator.call(primitive, algorithm, first, second, None, problem).double().numpy())
        allowed = (np.abs(a) @ np.abs(b)) * 2.0**-22 + 2.0**-149
        assert np.isfinite(result).all() and np.count_nonzero(result), (low, high)
        assert (np.abs(result - a @ b) <= allowed).all(), (low, high)


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_two_terms_where_tf32_is_allowed(primitive):
    """Sixteen significant bits, where TF32 has eleven."""
    problem = Problem(2, 40, 6, 7, 70, 3, 3, padding=(1, 1))
    generator = torch.Generator().manual_seed(5)
    shape_1, shape_2, shape_out = problem.shapes(primitive)
    first, second = (torch.randn(s, generator=generator) for s in (shape_1, shape_2))
    errors = []
    for tf32 in (False, True):
        result = torch.empty(shape_out)
        emulator.run_into(result, primitive, "tensorcore_terms", first, second, None, problem, tf32=tf32)
        exact = judge(primitive, first.double().numpy(), second.double().numpy(), None, problem)
        errors.append(np.linalg.norm(result.double().numpy() - exact) / np.linalg.norm(exact))
    assert errors[0] < 2.0**-22 and 2.0**-22 < errors[1] < 2.0**-15, errors


PROPAGATION = {
    "padding": Problem(2, 9, 5, 6, 10, 3, 3, padding=(1, 1)),
    "stride": Problem(1, 4, 7, 8, 6, 3, 2, (2, 1), (1, 0), (2, 1), G=2),
    "reflect": Problem(1, 8, 5, 6, 8, 3, 3, padding=(1, 2), mode="reflect"),
    "pointwise": Problem(2, 8, 4, 4, 8, 1, 1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", (0, 1))
@pytest.mark.parametrize("name", PROPAGATION)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_infinities_and_nan_go_where_they_belong(primitive, name, where, kind):
    algorithm, dtype = KINDS[kind]
    problem = PROPAGATION[name]
    skip_if_refused(primitive, kind, problem)
    generator = torch.Generator().manual_seed(2)
    operands = [torch.randint(-2, 3, s, generator=generator).to(dtype) for s in problem.shapes(primitive)[:2]]
    flat = operands[where].view(-1)
    for value in (inf, -inf, nan):
        flat[torch.randint(flat.numel(), (1,), generator=generator)] = value
    expected = judged(primitive, (*operands, None), problem)
    actual = numpy_of(emulator.call(primitive, algorithm, *operands, None, problem))
    assert np.isnan(expected).any() and np.isfinite(expected).any()
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_overflow_and_subnormal_results(primitive, kind):
    algorithm, dtype = KINDS[kind]
    problem = Problem(1, 4, 3, 3, 4, 1, 1)
    skip_if_refused(primitive, kind, problem)
    first, second = (torch.zeros(s, dtype=dtype) for s in problem.shapes(primitive)[:2])
    info = torch.finfo(dtype)
    first.fill_(info.max), second.fill_(-1)
    assert (emulator.call(primitive, algorithm, first, second, None, problem) == -inf).all()
    first.zero_(), second.fill_(0.25)
    if primitive == "grad_weight":
        first[0, :, 0, :2] = info.tiny
    else:
        first[:, :2] = info.tiny
    assert (emulator.call(primitive, algorithm, first, second, None, problem) == info.tiny / 2).all()


# Sizes at which a choice by all of the work would differ from one by an image's.
CHOICE = {
    "a-little-work": Problem(8, 32, 7, 8, 32, 3, 3, padding=(1, 1)),
    "groups": Problem(8, 32, 8, 8, 32, 3, 3, padding=(1, 1), G=4),
    "first-layer": Problem(9, 3, 20, 20, 16, 5, 5, padding=(2, 2)),
    "last-layer": Problem(9, 16, 20, 20, 3, 5, 5, padding=(2, 2)),
    "patches": Problem(9, 32, 16, 16, 64, 2, 2, (2, 2)),
}


@pytest.mark.parametrize("dtype", (torch.float16, torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("name", CHOICE)
@pytest.mark.parametrize("primitive", ("forward", "grad_input"))
def test_a_sample_alone_gets_the_same_kernel(primitive, name, dtype):
    problem = CHOICE[name]
    generator = torch.Generator().manual_seed(6)
    first, second = (torch.randn(s, generator=generator).to(dtype) for s in problem.shapes(primitive)[:2])
    together = emulator.call(primitive, "", first, second, None, problem)
    alone = emulator.call(primitive, "", first[:1], second, None, replace(problem, N=1))
    assert torch.equal(alone[0], together[0])


def test_which_gpus_and_types_they_are_for():
    problem = Problem(2, 128, 28, 28, 128, 3, 3, padding=(1, 1))
    emulator.configure(dry=True)

    def kernels(dtype, tf32=False):
        operands = (torch.ones(s, dtype=dtype) for s in problem.shapes("forward"))
        first, second, result = operands
        emulator.launched(forget=True)
        emulator.run_into(result, "forward", "", first, second, None, problem, tf32=tf32)
        return " ".join(row.symbol for row in emulator.launched())

    for dtype in (torch.float16, torch.bfloat16):
        assert "convolve_copied" in kernels(dtype)
    assert "OneTermIfE" in kernels(torch.float32, tf32=True)
    assert "CopiedShapeILi3E" in kernels(torch.float32)
    emulator.pretend_device(capability=80)
    assert "DirectINS_4HalfE" in kernels(torch.float16) and "DirectINS_8BFloat16E" in kernels(torch.bfloat16)
    assert "Tf32" in kernels(torch.float32, tf32=True) and "Split" in kernels(torch.float32)
    assert "Double" in kernels(torch.float64)
    emulator.pretend_device(capability=75)
    assert "tensorcore" not in kernels(torch.float16)
    with pytest.raises(RuntimeError, match=r"needs a GPU of compute capability 8\.0"):
        first, second, result = (torch.ones(s, dtype=torch.float16) for s in problem.shapes("forward"))
        emulator.run_into(result, "forward", "tensorcore", first, second, None, problem)


NEEDED = {  # what the loop has of barriers, waits and fences
    ("forward", "tensorcore"): 3,
    ("grad_weight", "tensorcore"): 3,
    ("forward", "tensorcore_wgmma"): 5,
    ("grad_weight", "tensorcore_wgmma"): 5,
}


@pytest.mark.parametrize("primitive, algorithm", NEEDED)
def test_every_barrier_and_wait_is_needed(primitive, algorithm):
    """Blocks with several tiles each, and 14 stages: around the ring of four or six buffers, and not to its end, so
    that the next tile begins where this one's last stage is. The emulator sees a read before its copy is waited for,
    and one that no barrier keeps from a write."""
    problem = Problem(6, 48, 7, 8, 20, 3, 3, padding=(1, 1))
    first, second, bias, expected = draw_integers(primitive, problem, torch.float16)
    check_every_barrier_is_needed(
        lambda: assert_exact(emulator.call(primitive, algorithm, first, second, bias, problem), expected, problem),
        NEEDED[primitive, algorithm],
        "without a barrier|nobody has written|anybody waited|several warps|without a fence|still at work",
        files=("tensorcore_pipeline", "tensorcore_warpgroup"),
        max_blocks=2,
    )
