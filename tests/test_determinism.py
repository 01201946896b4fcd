"""The same bits from run to run, for any number of threads, and for a sample whatever batch it is in.

Operands are real-valued, so that a changed order of adding shows, and problems are large enough to be split between
threads.
"""

import pytest
import torch
from choices import call, choices, forced
from conftest import DEVICES, DTYPES, INSTRUCTION_SETS, PRIMITIVES, THREADS
from problems import Problem

import convx

# At least a million multiply-adds each: work for three threads by any kernel's count.
PROBLEMS = {
    "dense": Problem(5, 19, 17, 15, 23, 3, 3, padding=(1, 1)),
    "one-image": Problem(1, 32, 19, 21, 33, 3, 3, padding=(1, 1)),
    "stride": Problem(6, 16, 17, 19, 35, 3, 2, (2, 1), (1, 0)),
    "depthwise": Problem(7, 21, 31, 33, 21, 3, 3, padding=(1, 1), G=21),
    "pointwise": Problem(6, 35, 13, 14, 33, 1, 1),
    "few-channels": Problem(5, 3, 41, 39, 16, 7, 7, (2, 2), (3, 3)),
    "reflect": Problem(5, 17, 18, 16, 19, 3, 3, padding=(1, 1), mode="reflect"),
    "large-batch": Problem(61, 6, 9, 11, 7, 5, 5, padding=(2, 2)),
}
ROWS = [
    (d, p, algorithm, isa)
    for d in DEVICES
    for p in PRIMITIVES
    for algorithm, isa in choices(d, p)
    if {a.name: a.deterministic for a in convx.algorithms(p, d)}[algorithm]
]


def bits(tensor):
    """The bits as integers: -0.0 is not 0.0, and a NaN equals itself."""
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def same_bits(a, b):
    return torch.equal(bits(a), bits(b))


def draw(primitive, problem, dtype, device):
    generator = torch.Generator().manual_seed(0)

    def random(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)

    first, second, result = problem.shapes(primitive)
    return random(first), random(second), None if primitive == "grad_weight" else random(result[1:2])


def floating(device):
    return [dtype for dtype in DTYPES[device] if dtype.is_floating_point]


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("row", ROWS, ids=lambda r: "-".join(filter(None, r)))
def test_same_bits(row, name):
    """Run to run, on 1, 2 and 3 threads; forward and grad_input also for each sample alone."""
    (device, primitive, algorithm, isa), problem = row, PROBLEMS[name]
    for dtype in floating(device):
        operands = draw(primitive, problem, dtype, device)
        what = f"{algorithm} of {dtype} {problem}"
        try:
            with forced(primitive, algorithm, isa):
                first = call(primitive, *operands, problem)
                for threads in (2, 3, 1, 2):
                    torch.set_num_threads(threads)
                    again = call(primitive, *operands, problem)
                    assert same_bits(first, again), f"other bits on {threads} threads: {what}"
                if primitive == "grad_weight":
                    continue
                for n in (0, problem.N // 2, problem.N - 1):
                    alone = call(primitive, operands[0][n : n + 1], *operands[1:], problem)
                    assert same_bits(first[n : n + 1], alone), f"other bits for sample {n} alone: {what}"
        except RuntimeError as error:
            if "was forced but can't do" not in str(error):
                raise


@pytest.mark.parametrize("special", (float("inf"), float("nan")), ids=str)
@pytest.mark.parametrize("name", [name for name, p in PROBLEMS.items() if p.N > 1])
@pytest.mark.parametrize("row", [r for r in ROWS if r[1] != "grad_weight"], ids=lambda r: "-".join(filter(None, r)))
def test_an_infinite_neighbour_changes_nothing(row, name, special):
    """A sample beside one with an infinity or NaN has the same bits as alone, whatever path they make a kernel take."""
    (device, primitive, algorithm, isa), problem = row, PROBLEMS[name]
    first, second, bias = draw(primitive, problem, torch.float32, device)
    first[0, 0, 1, 1] = special
    try:
        with forced(primitive, algorithm, isa):
            together = call(primitive, first, second, bias, problem)
            alone = call(primitive, first[1:2], second, bias, problem)
    except RuntimeError as error:
        if "was forced but can't do" not in str(error):
            raise
        return
    assert not together[0].isfinite().all()
    assert same_bits(together[1:2], alone), f"{algorithm} of {problem}"


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_layers_forward_and_backward(device, dtype, name):
    """What a training step sees: output and all gradients, the bias's too, through both layers, on 1 to 3 threads."""
    p = PROBLEMS[name]
    stride, padding, dilation, groups = p.geometry
    conv = convx.Conv2d(p.C, p.K, (p.R, p.S), stride, padding, dilation, groups, padding_mode=p.mode)
    extra = p.output_padding
    back = convx.ConvTranspose2d(p.K, p.C, (p.R, p.S), stride, padding, extra, groups, dilation=dilation)
    model = torch.nn.Sequential(conv, back if p.is_transposable else torch.nn.Identity()).to(device, dtype)
    x = torch.randn(p.x_shape).to(device, dtype).requires_grad_()

    def step():
        model.zero_grad()
        x.grad = None
        out = model(x)
        out.square().sum().backward()
        return [out.detach(), x.grad, *(parameter.grad.clone() for parameter in model.parameters())]

    first = step()
    for threads in (THREADS, 3, 1):
        torch.set_num_threads(threads)
        for i, (a, b) in enumerate(zip(first, step(), strict=True)):
            assert same_bits(a, b), f"tensor {i} has other bits on {threads} threads"


# Where a choice by size could fall differently for a sample alone than for all of them.
ALONE = PROBLEMS | {
    "very-deep": Problem(9, 1100, 7, 7, 120, 3, 3, padding=(1, 1)),
    "a-little-work": Problem(8, 32, 7, 8, 32, 3, 3, padding=(1, 1)),
    "pointwise-with-a-stride": Problem(9, 40, 14, 13, 30, 1, 1, stride=(2, 2)),
}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_a_sample_alone_through_the_layer(device, isa, dtype, memory_format, name):
    """The automatic choice too must not depend on the batch: output and input gradient of a sample, unbatched."""
    if device != "cpu" and isa != INSTRUCTION_SETS[-1]:
        return
    convx._C.force_cpu_isa(isa)
    try:
        check_a_sample_alone(device, dtype, memory_format, ALONE[name])
    finally:
        convx._C.force_cpu_isa("")


def check_a_sample_alone(device, dtype, memory_format, p):
    stride, padding, dilation, groups = p.geometry
    conv = convx.Conv2d(p.C, p.K, (p.R, p.S), stride, padding, dilation, groups, padding_mode=p.mode)
    conv = conv.to(device, dtype, memory_format=memory_format)
    x = torch.randn(p.x_shape).to(device, dtype, memory_format=memory_format).requires_grad_()
    y = conv(x)
    cotangent = torch.randn_like(y)
    (grad_x,) = torch.autograd.grad(y, x, cotangent)
    for n in (0, p.N // 2, p.N - 1):
        alone = x.detach()[n].requires_grad_()
        out = conv(alone)
        (grad,) = torch.autograd.grad(out, alone, cotangent[n])
        assert same_bits(out, y[n]), f"output of sample {n}"
        assert same_bits(grad, grad_x[n]), f"input gradient of sample {n}"


def test_torch_accepts_every_default_as_deterministic(device):
    """torch.use_deterministic_algorithms raises where an operator may not be; convx's own choice never does."""
    torch.use_deterministic_algorithms(True)
    try:
        for primitive in PRIMITIVES:
            problem = PROBLEMS["stride"]
            operands = draw(primitive, problem, torch.float32, device)
            operands = operands[:2] if primitive == "grad_weight" else operands
            getattr(torch.ops.convx, primitive)(*operands, *problem.args(primitive))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("threads", (1, 2))
def test_threads_are_used(threads):
    """A parallel loop runs on as many threads as torch.set_num_threads says; without OpenMP it would always be one."""
    torch.set_num_threads(threads)
    assert convx._C.parallel_threads() == threads
