"""Real-valued operands: convx's error is at most twice torch's own, for the same dtype, shape and values.

The judge is the reference in float64 (in extended precision for float64 itself), not torch, and no tolerance is picked
by hand. Both the largest error and the norm of all errors count. Where torch is so wrong itself that its error says
nothing (beyond 64 ulp of the largest output), a bound of 8 ulp stands alone.
"""

import numpy as np
import pytest
import torch
from choices import call_each
from conftest import FLOATING, PRIMITIVES
from exact import judge
from problems import UGLY, Problem

# Many results each, so that the largest error is one of many and not the luck of a few roundings.
SHAPES = {
    "3x3": Problem(2, 24, 14, 14, 24, 3, 3, padding=(1, 1)),
    "3x3-deep": Problem(2, 128, 7, 7, 32, 3, 3, padding=(1, 1)),
    "3x3-large-image": Problem(1, 4, 56, 56, 8, 3, 3, padding=(1, 1)),
    "3x3-stride": Problem(4, 16, 15, 15, 32, 3, 3, (2, 2), (1, 1)),
    "1x1": Problem(2, 64, 9, 10, 64, 1, 1),
    "1x1-deep": Problem(1, 512, 6, 6, 32, 1, 1),
    "1x1-very-deep": Problem(1, 5000, 4, 4, 8, 1, 1),
    "patches": Problem(2, 24, 16, 16, 32, 2, 2, stride=(2, 2)),
    "many-pixels": Problem(2, 3, 90, 90, 4, 3, 3, padding=(1, 1)),
    "first-layer": Problem(2, 3, 33, 33, 16, 7, 7, (2, 2), (3, 3)),
    "last-layer": Problem(2, 16, 24, 24, 3, 3, 3, padding=(1, 1)),
    "dilated": Problem(2, 12, 17, 15, 16, 3, 3, padding=(2, 2), dilation=(2, 2)),
    "grouped": Problem(2, 32, 12, 12, 32, 3, 3, padding=(1, 1), G=4),
    "depthwise": Problem(4, 32, 15, 14, 32, 3, 3, padding=(1, 1), G=32),
    "depthwise-large": Problem(2, 12, 17, 17, 12, 13, 13, padding=(6, 6), G=12),
    "depthwise-all-meet": Problem(4, 20, 7, 6, 20, 13, 13, padding=(6, 6), G=20),
    "generator": Problem(2, 16, 16, 16, 24, 4, 4, (2, 2), (1, 1)),
    "batch": Problem(32, 8, 6, 6, 8, 3, 3, padding=(1, 1)),
    "uneven": Problem(3, 19, 13, 11, 21, 3, 2, (2, 1), (1, 0), (2, 1)),
}


@pytest.fixture(autouse=True)
def plain_float32(monkeypatch):
    """float32 means float32 on both sides: no TensorFloat-32 on a GPU."""
    if torch.cuda.is_available():
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def draw(primitive, problem, dtype, device):
    """(first, second, bias or None) with normal values, rounded to the dtype; and the exact result for those."""
    generator = torch.Generator().manual_seed(0)
    shape_1, shape_2, shape_out = problem.shapes(primitive)
    shapes = (shape_1, shape_2, shape_out[1:2])
    operands = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    if primitive == "grad_weight":
        operands[2] = None
    wide = np.float64
    if dtype == torch.float64:
        wide = np.longdouble
        if np.finfo(wide).eps >= np.finfo(np.float64).eps:
            pytest.skip("no longer type than float64 on this platform to judge it by")
    exact = judge(primitive, *(t if t is None else t.double().numpy().astype(wide) for t in operands), problem)
    return [t if t is None else t.to(device) for t in operands], exact


def torchs_result(primitive, first, second, bias, problem):
    """What torch makes of it, by the kernel that it picks itself."""
    stride, padding, dilation, groups = problem.geometry
    if primitive == "forward":
        return torch.conv2d(first, second, bias, stride, padding, dilation, groups)
    if primitive == "grad_input":
        extra = problem.output_padding
        return torch.conv_transpose2d(first, second, bias, stride, padding, extra, groups, dilation)
    weight = first.new_zeros(problem.w_shape)
    return torch.ops.aten.convolution_backward(
        second, first, weight, None, stride, padding, dilation, False, [0, 0], groups, [False, True, False]
    )[1]


def errors(actual, exact):
    """(largest error, norm of the errors); infinite where there is a NaN or an infinity."""
    difference = np.abs(actual.double().cpu().numpy().astype(exact.dtype) - exact)
    difference[~np.isfinite(difference)] = np.inf
    return float(difference.max()), float(np.sqrt((difference**2).sum()))


ROUNDS_EACH_ADDITION = "scatter_atomic on cuda"  # its header says what that costs; it is never chosen


def ulp_of_largest(exact, dtype):
    _, exponent = np.frexp(float(np.abs(exact).max()))
    return torch.finfo(dtype).eps * 2.0 ** (exponent - 1)


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_error_at_most_twice_torchs(device, primitive, shape, dtype):
    problem = SHAPES[shape]
    operands, exact = draw(primitive, problem, dtype, device)
    ulp = ulp_of_largest(exact, dtype)
    torchs = errors(torchs_result(primitive, *operands, problem), exact)
    failures = []
    for what, actual in call_each(primitive, *operands, problem):
        if what.startswith(ROUNDS_EACH_ADDITION):
            continue
        ours = errors(actual, exact)
        if torchs[0] > 64 * ulp:
            if ours[0] > 8 * ulp:
                failures.append(f"largest error {ours[0] / ulp:.3g} ulp (torch fails here), {what}")
            continue
        for kind, our, their in zip(("largest error", "norm of errors"), ours, torchs, strict=True):
            if our > 2 * their:
                failures.append(f"{kind} {our / their:.2f} times torch's, {ours[0] / ulp:.2f} ulp, {what}")
    assert not failures, "\n".join(failures)


WIDTH_1 = {
    "3x3": Problem(4, 16, 15, 3, 32, 3, 3, (2, 2), (1, 0)),
    "7x7": Problem(2, 3, 21, 4, 16, 7, 7, (2, 2), (3, 2)),
    "1x1": Problem(4, 32, 9, 2, 32, 1, 1, (2, 2)),
    "wide-stride": Problem(2, 16, 7, 5, 16, 3, 3, (1, 3), (1, 0)),
    "grouped": Problem(2, 32, 9, 4, 32, 3, 3, (2, 2), (1, 0), G=2),
    "depthwise": Problem(2, 32, 9, 4, 32, 3, 3, (2, 2), (1, 0), G=32),
    "ugly": UGLY["output-width-1"],
}


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=("bfloat16", "float16"))
@pytest.mark.parametrize("shape", WIDTH_1)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_right_where_torchs_16_bit_convolutions_fail(device, primitive, shape, dtype):
    """Output width 1 with a horizontal stride of 2 or more: torch 2.13's bf16 and fp16 convolutions return garbage
    there on CPUs with AMX (pytorch #169688, #163347; oneDNN PR 5494). convx is right, whatever torch does."""
    problem = WIDTH_1[shape]
    assert problem.Q == 1 and problem.stride[1] >= 2
    operands, exact = draw(primitive, problem, dtype, device)
    for what, actual in call_each(primitive, *operands, problem):
        error = errors(actual, exact)[0] / ulp_of_largest(exact, dtype)
        assert error <= 8, f"{error:.3g} ulp, {what}"
