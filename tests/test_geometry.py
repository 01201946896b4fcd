"""The public functions on every ugly geometry and on random ones: result and all three gradients, tolerance zero.

The kernels are tested one by one in test_exact.py; here is what a user calls, with what convx chooses by itself,
through autograd: conv2d, conv2d with padding='same', conv_transpose2d, and convx.grad.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import DEVICES, EXHAUSTIVE, FLOATING
from exact import LIMIT, assert_exact, judge, mostly_positive, numpy_of, terms
from memory import poisoned_results
from problems import UGLY, Problem, random_problem, with_modes

import convx

PROBLEMS = with_modes(UGLY)
SAME = {
    "odd": Problem(2, 3, 7, 6, 4, 3, 5, padding=(1, 2)),
    "even": Problem(2, 3, 7, 6, 4, 2, 4, padding=(0, 1), P=7, Q=6),
    "even-dilated": Problem(1, 2, 9, 9, 3, 4, 2, padding=(4, 1), dilation=(3, 3), P=9, Q=9),
    "even-groups": Problem(2, 4, 5, 6, 6, 4, 1, padding=(1, 0), G=2, P=5, Q=6),
    "beyond-input": Problem(1, 2, 3, 3, 2, 8, 6, padding=(3, 2), P=3, Q=3),
}
LARGEST = {torch.float64: 9, torch.float32: 9, torch.float16: 3, torch.bfloat16: 3}


def draw(problem, dtype, device, seed):
    """x, w, y and a bias for each side, all small integers; the first three ask for gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (problem.x_shape, problem.w_shape, problem.y_shape, (problem.C,), (problem.K,))
    return [
        mostly_positive(s, LARGEST[dtype], generator).to(device=device, dtype=dtype).requires_grad_() for s in shapes
    ]


def expect(primitive, first, second, bias, problem):
    """The exact result; refuses to expect mostly zeros, or what a kernel could not add exactly."""
    operands = [numpy_of(t) for t in (first, second, bias)]
    absolute = judge(primitive, *(t if t is None else np.abs(t) for t in operands), problem)
    assert absolute.max(initial=0) <= LIMIT[first.dtype], "partial sums could be rounded"
    expected = judge(primitive, *operands, problem)
    reached = terms(primitive, problem) > 0
    if np.count_nonzero(reached) > 20:  # of a few sums, most may well cancel
        share = np.count_nonzero(expected[reached]) / np.count_nonzero(reached)
        assert share >= 0.5, f"only {share:.0%} of what is expected is not zero"
    return expected


def sum_of(cotangent):
    return numpy_of(cotangent).sum(axis=(0, 2, 3))


def check_conv2d(problem, dtype, device, padding, seed=0):
    x, w, y, _, bias = draw(problem, dtype, device, seed)
    stride, _, dilation, groups = problem.geometry
    with poisoned_results():
        out = convx.conv2d(x, w, bias, stride, padding, dilation, groups, padding_mode=problem.mode)
        assert_exact(out, expect("forward", x, w, bias, problem), f"conv2d of {problem}")
        out.backward(y.detach())
    assert_exact(x.grad, expect("grad_input", y, w, None, problem), f"input gradient of {problem}")
    assert_exact(w.grad, expect("grad_weight", x, y, None, problem), f"weight gradient of {problem}")
    assert_exact(bias.grad, sum_of(y), f"bias gradient of {problem}")
    return out


def check_conv_transpose2d(problem, dtype, device, seed=0):
    x, w, y, bias, _ = draw(problem, dtype, device, seed)
    stride, padding, dilation, groups = problem.geometry
    with poisoned_results():
        extra = problem.output_padding
        out = convx.conv_transpose2d(y, w, bias, stride, padding, extra, groups, dilation)
        assert_exact(out, expect("grad_input", y, w, bias, problem), f"conv_transpose2d of {problem}")
        out.backward(x.detach())
    assert_exact(y.grad, expect("forward", x, w, None, problem), f"input gradient of transposed {problem}")
    assert_exact(w.grad, expect("grad_weight", x, y, None, problem), f"weight gradient of transposed {problem}")
    assert_exact(bias.grad, sum_of(x), f"bias gradient of transposed {problem}")
    return out


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=("float32", "float64"))
@pytest.mark.parametrize("name", [n for n, p in PROBLEMS.items() if p.is_symmetric])
def test_conv2d(device, name, dtype):
    problem = PROBLEMS[name]
    check_conv2d(problem, dtype, device, problem.padding)


@pytest.mark.parametrize("mode", ("zeros", "reflect", "replicate", "circular"))
@pytest.mark.parametrize("name", SAME)
def test_padding_same(device, name, mode):
    problem = SAME[name]
    if not problem.allows(mode):
        problem = replace(problem, H=problem.R, W=problem.S, P=problem.R, Q=problem.S)
    assert problem.allows(mode)
    problem = replace(problem, mode=mode)
    out = check_conv2d(problem, torch.float64, device, "same")
    assert out.shape[2:] == (problem.H, problem.W)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=("float32", "float64"))
@pytest.mark.parametrize("name", [n for n, p in UGLY.items() if p.is_transposable and p.C])
def test_conv_transpose2d(device, name, dtype):
    check_conv_transpose2d(UGLY[name], dtype, device)


@pytest.mark.parametrize("name", UGLY)
def test_grad_functions(device, name):
    """convx.grad.conv2d_input and conv2d_weight, also where P and Q are not what the formula gives."""
    problem = UGLY[name]
    x, w, y, *_ = (t.detach() for t in draw(problem, torch.float64, device, 0))
    with poisoned_results():
        grad_x = convx.grad.conv2d_input(problem.x_shape, w, y, *problem.geometry)
        grad_w = convx.grad.conv2d_weight(x, problem.w_shape, y, *problem.geometry)
    assert_exact(grad_x, expect("grad_input", y, w, None, problem), problem)
    assert_exact(grad_w, expect("grad_weight", x, y, None, problem), problem)


RANDOM = [(d, seed) for d in DEVICES for seed in range(5000 if EXHAUSTIVE else 400)]


@pytest.mark.parametrize("device, seed", RANDOM, ids=lambda v: str(v))
def test_random(device, seed):
    problem, dtype = random_problem(seed), FLOATING[seed % 4]
    stride, padding, dilation, groups = problem.geometry
    if problem.is_symmetric:
        out = check_conv2d(problem, dtype, device, padding, seed)
        if problem.mode == "zeros" and dtype == torch.float64:  # exact in torch too: a witness for the judge
            x, w, _, _, bias = draw(problem, dtype, device, seed)
            assert torch.equal(out, torch.conv2d(x, w, bias, stride, padding, dilation, groups))
    if problem.is_transposable:
        out = check_conv_transpose2d(problem, dtype, device, seed)
        if dtype == torch.float64:
            _, w, y, bias, _ = draw(problem, dtype, device, seed)
            extra = problem.output_padding
            torchs = torch.conv_transpose2d(y, w, bias, stride, padding, extra, groups, dilation)
            assert torch.equal(out, torchs)
    if not problem.is_symmetric and not problem.is_transposable:  # an output size of its own: the operators take it
        x, w, y, *_ = (t.detach() for t in draw(problem, dtype, device, seed))
        for primitive, first, second in (("forward", x, w), ("grad_input", y, w), ("grad_weight", x, y)):
            bias = () if primitive == "grad_weight" else (None,)
            with poisoned_results():
                actual = getattr(torch.ops.convx, primitive)(first, second, *bias, *problem.args(primitive))
            assert_exact(actual, expect(primitive, first, second, None, problem), f"{primitive} of {problem}")
