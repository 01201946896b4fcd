"""Plain eager calls, which C++ takes from Python's arguments to the kernel (csrc/bindings_call.cpp) and differentiates
(csrc/bindings_autograd.cpp). There is a longer way to the same kernels, through convx/functional.py and the
dispatcher: everything unusual must go that way, and both must give the same bits.
"""

import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

import convx
from convx import _C
from convx import autograd as functions

X, W, B = (2, 4, 6, 7), (6, 2, 3, 3), (6,)  # of conv2d with groups=2
Y, V, A = (2, 4, 5, 4), (4, 3, 3, 2), (6,)  # of conv_transpose2d with groups=2


def values(*size, dtype=torch.float32, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def conv(x=None, w=None, b=None, stride=1, padding=0, dilation=1, groups=2, mode="zeros"):
    x = values(*X) if x is None else x
    return x, values(*W, seed=1) if w is None else w, b, stride, padding, dilation, groups, mode


def transposed(x=None, w=None, b=None, stride=1, padding=0, extra=0, groups=2, dilation=1):
    x = values(*Y) if x is None else x
    return x, values(*V, seed=1) if w is None else w, b, stride, padding, extra, groups, dilation


def public(args):
    """The same call through convx.conv2d."""
    *rest, mode = args
    return convx.conv2d(*rest, padding_mode=mode)


PLAIN = {
    "ints": conv(),
    "pairs": conv(stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "lists": conv(stride=[2, 1], padding=[1, 2], dilation=[1, 2]),
    "bias": conv(b=values(*B)),
    "same": conv(padding="same", dilation=(2, 1)),
    "valid": conv(padding="valid", stride=2),
    "same of an even kernel": conv(w=values(6, 2, 2, 4), padding="same"),
    "reflect": conv(padding=1, mode="reflect"),
    "circular same": conv(padding="same", mode="circular"),
    "channels_last": conv(values(*X).contiguous(memory_format=torch.channels_last)),
    "strides in memory": conv(values(*X[::-1]).permute(3, 2, 1, 0), values(*W[::-1]).permute(3, 2, 1, 0)),
    "no batch entries": conv(values(0, *X[1:])),
    "parameter": conv(values(*X), torch.nn.Parameter(values(*W))),
    "requires grad": conv(values(*X).requires_grad_(), values(*W).requires_grad_(), values(*B).requires_grad_()),
    **{str(d): conv(*(values(*s, dtype=d) for s in (X, W, B))) for d in (torch.float64, torch.half, torch.bfloat16)},
}
PLAIN_TRANSPOSED = {
    "ints": transposed(),
    "pairs": transposed(stride=(2, 3), padding=(1, 0), extra=(1, 2), dilation=(1, 2)),
    "bias": transposed(b=values(*A), stride=[2, 1]),
    "extra below dilation": transposed(extra=1, dilation=2),
    "requires grad": transposed(*(values(*s).requires_grad_() for s in (Y, V, A))),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_conv2d_is_taken_and_gives_the_same_bits(name, monkeypatch):
    args = PLAIN[name]
    out = _C.conv2d(*args)
    assert type(out) is torch.Tensor
    monkeypatch.setattr(_C, "conv2d", lambda *_: None)
    longer = public(args)
    assert torch.equal(out, longer) and out.stride() == longer.stride() and out.requires_grad == longer.requires_grad


@pytest.mark.parametrize("name", PLAIN_TRANSPOSED)
def test_plain_conv_transpose2d_is_taken_and_gives_the_same_bits(name, monkeypatch):
    args = PLAIN_TRANSPOSED[name]
    out = _C.conv_transpose2d(*args)
    assert type(out) is torch.Tensor
    monkeypatch.setattr(_C, "conv_transpose2d", lambda *_: None)
    longer = convx.conv_transpose2d(*args)
    assert torch.equal(out, longer) and out.stride() == longer.stride() and out.requires_grad == longer.requires_grad


def test_the_public_functions_and_layers_make_plain_calls(monkeypatch):
    """None of the long way's lines run."""

    def unreachable(*_):
        raise AssertionError("not a plain call")

    monkeypatch.setattr(convx.functional, "_check_operands", unreachable)
    convx.conv2d(values(*X), values(*W), values(*B), groups=2)
    convx.conv_transpose2d(values(*Y), values(*V), groups=2)
    for padding in (1, (1, 0), "same"):
        convx.Conv2d(4, 6, 3, padding=padding)(values(*X).requires_grad_()).sum().backward()
    convx.ConvTranspose2d(4, 6, 3, stride=2)(values(*Y), output_size=(12, 10)).sum().backward()


class Subclass(torch.Tensor):
    pass


class Integer(int):
    pass


BIG = 2**31
UNUSUAL = {
    "unbatched": conv(values(*X[1:])),
    "rank 5": conv(values(1, *X)),
    "weight of rank 3": conv(w=values(*W[1:])),
    "no rows": conv(values(2, 4, 0, 7), padding=2),
    "empty kernel": conv(w=values(6, 2, 0, 3)),
    "kernel beyond the input": conv(w=values(6, 2, 7, 3)),
    "kernel beyond the input by less than a stride": conv(w=values(6, 2, 7, 3), stride=3),
    "subclass": conv(values(*X).as_subclass(Subclass)),
    "subclass of the weight": conv(w=values(*W).as_subclass(Subclass)),
    "subclass of the bias": conv(b=values(*B).as_subclass(Subclass)),
    "no tensor": conv(np.zeros(X, np.float32)),
    "a bias that is no tensor": conv(b=0),
    "complex": conv(values(*X, dtype=torch.cfloat), values(*W, dtype=torch.cfloat)),
    "int64": conv(values(*X).long(), values(*W).long()),
    "uint8": conv(values(*X).byte(), values(*W).byte()),
    "two dtypes": conv(values(*X).double()),
    "a bias of another dtype": conv(b=values(*B).double()),
    "meta": conv(values(*X).to("meta"), values(*W).to("meta")),
    "two devices": conv(w=values(*W).to("meta")),
    "a bias on another device": conv(b=values(*B).to("meta")),
    "sparse": conv(values(*X).to_sparse()),
    "sparse bias": conv(b=values(*B).to_sparse()),
    "same with a stride": conv(padding="same", stride=2),
    "unknown padding": conv(padding="full"),
    "mode None": conv(mode=None),
    **{
        f"{name} {value!r}": conv(**{name: value})
        for name in ("stride", "padding", "dilation", "groups")
        for value in (-1, BIG, 2**63, 2**70, 1.0, True, np.int64(1), Integer(1), None, "1", torch.tensor(1))
    },
    **{
        f"{name} {value!r}": conv(**{name: value})
        for name in ("stride", "padding", "dilation")
        for value in ((), (1,), (1, 1, 1), (1, -1), [BIG, 1], (1, 1.0), torch.Size((1, 1)), (1, None), ((1, 1), 1))
    },
    "stride 0": conv(stride=(1, 0)),
    "dilation 0": conv(dilation=0),
    "groups 0": conv(groups=0),
}
UNUSUAL_TRANSPOSED = {
    "unbatched": transposed(values(*Y[1:])),
    "subclass": transposed(values(*Y).as_subclass(Subclass)),
    "negative padding": transposed(padding=-1),
    "nothing left": transposed(padding=4),
    "negative output_padding": transposed(extra=-1),
    "output_padding not below stride": transposed(stride=2, extra=(1, 2)),
    "padding name": transposed(padding="same"),
    "dilation 0": transposed(dilation=0),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_conv2d_is_left_to_python(name):
    assert _C.conv2d(*UNUSUAL[name]) is None


@pytest.mark.parametrize("name", UNUSUAL_TRANSPOSED)
def test_unusual_conv_transpose2d_is_left_to_python(name):
    assert _C.conv_transpose2d(*UNUSUAL_TRANSPOSED[name]) is None


def test_a_wrong_number_of_arguments_is_left_to_python():
    assert _C.conv2d(*conv()[:7]) is None and _C.conv2d() is None and _C.conv_transpose2d(*transposed(), 1) is None


class Passing(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


CONTEXTS = {
    "nothing": (nullcontext, True),
    "no_grad": (torch.no_grad, True),
    "inference": (torch.inference_mode, True),
    "anomaly": (lambda: torch.autograd.set_detect_anomaly(True), True),
    "autocast of another device": (lambda: torch.autocast("cuda", torch.float16), True),
    "autocast": (lambda: torch.autocast("cpu", torch.bfloat16), False),
    "forward mode": (forward_ad.dual_level, True),
    "function mode": (Passing, False),
    "intercept": (convx.intercept, False),
    "default device": (lambda: torch.device("cpu"), False),  # a function mode as well
}


@pytest.mark.filterwarnings("ignore:.*CUDA is not available", "ignore:Anomaly Detection")
@pytest.mark.parametrize("name", CONTEXTS)
def test_contexts(name):
    context, plain = CONTEXTS[name]
    args, back = conv(), transposed()
    with context():
        assert (_C.conv2d(*args) is not None) == plain
        assert (_C.conv_transpose2d(*back) is not None) == plain
    assert _C.conv2d(*args) is not None


def test_transforms_are_plain():
    """A wrapped tensor has the sizes that its function sees, and the operator dispatches on the wrapper."""
    args = conv()
    taken = []

    def loss(x):
        out = _C.conv2d(x, *args[1:])
        taken.append(out is not None)
        return out.sum()

    x = args[0]
    alone = loss(x)
    gradient = torch.func.grad(loss)(x)
    assert torch.equal(torch.func.vmap(loss)(x[None])[0], alone)
    assert torch.equal(torch.func.jvp(loss, (x,), (x,))[0], alone)
    assert torch.equal(torch.func.vmap(torch.func.grad(loss))(x[None])[0], gradient)
    assert taken == [True] * 5


# ---- the nodes ----


def leaves(*sizes):
    return [values(*s, dtype=torch.float64, seed=i).requires_grad_() for i, s in enumerate(sizes)]


NAMES = {"forward": "Forward", "grad_input": "GradInput", "grad_weight": "GradWeight"}
SHARED = ((2, 1), (1, 2), (1, 2), 2)  # stride, padding, dilation, groups
PROBLEMS = {  # the plain call, sizes of the operands, spatial size of the result
    "forward": (lambda x, w, b: convx.conv2d(x, w, b, *SHARED), (X, W, B), (3, 7)),
    "grad_input": (
        lambda y, w, b: convx.conv_transpose2d(y, w, b, *SHARED[:2], 0, SHARED[3], SHARED[2]),
        (Y, V, A),
        (9, 2),
    ),
    "grad_weight": (None, (X, (2, 6, 3, 7)), (3, 3)),
}


def in_all_ways(primitive):
    """Operands, and one problem as a plain call, as the long way calls it, and by the dispatcher."""
    plain, sizes, result = PROBLEMS[primitive]
    args = (*SHARED, result, "zeros", False)
    long, operator = getattr(functions, primitive), getattr(torch.ops.convx, primitive)
    calls = [plain] if plain else []
    return leaves(*sizes), [*calls, lambda *t: long(*t, *args), lambda *t: operator(*t, *args)]


def derivatives_of_orders(function, operands, orders):
    """The value and gradients of rising order, each of the sum of the products of those before with fixed numbers."""
    results = [function(*operands)]
    latest = results
    for order in range(orders):
        weighted = sum((t * t * values(*t.shape, dtype=t.dtype, seed=order)).sum() for t in latest)
        latest = torch.autograd.grad(weighted, operands, create_graph=True)
        results.extend(latest)
    return results


@pytest.mark.parametrize("primitive", NAMES)
def test_derivatives_to_the_third_order_are_the_same_bits_in_all_ways(primitive):
    operands, calls = in_all_ways(primitive)
    expected, *others = [derivatives_of_orders(call, operands, 3) for call in calls]
    assert all(t.any() for t in expected)
    for results in others:
        assert all(map(torch.equal, results, expected))


@pytest.mark.parametrize("primitive", NAMES)
def test_nodes_have_names(primitive):
    operands, calls = in_all_ways(primitive)
    name = NAMES[primitive]
    for call in calls:
        node = call(*operands).grad_fn
        assert type(node).__name__ == f"{name}Backward" and f"convx::{name}" in node.name()
        assert [type(n).__name__ for n, _ in node.next_functions] == ["AccumulateGrad"] * len(operands)
        assert re.match("<.*Backward object", repr(node))


def test_a_tangent_of_the_cotangent():
    """The call was recorded before forward mode began."""
    x, w, b = leaves(X, W, B)
    out = convx.conv2d(x, w, b, groups=2)
    cotangent, tangent = values(*out.shape).double(), values(*out.shape, seed=1).double()
    expected = torch.autograd.grad(out, (x, w, b), tangent, retain_graph=True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(cotangent, tangent)
        grads = torch.autograd.grad(out, (x, w, b), dual)
        tangents = [forward_ad.unpack_dual(g).tangent for g in grads]
    assert all(map(torch.equal, tangents, expected))


def test_the_gradient_of_an_undefined_gradient_is_undefined():
    class Undefined(torch.autograd.Function):
        @staticmethod
        def forward(ctx, t):
            return t.clone()

        @staticmethod
        def backward(ctx, _):
            return None

    x, w, b = leaves(X, W, B)
    out = Undefined.apply(convx.conv2d(x, w, b, groups=2))
    assert torch.autograd.grad(out.sum(), (x, w, b), allow_unused=True) == (None, None, None)


def test_a_graph_of_batched_gradients():
    """is_grads_batched with create_graph, as vectorised Hessians need it: the gradients have a graph of their own."""
    x, w, b = leaves(X, W, B)

    def penalty(out, cotangents):
        grads = torch.autograd.grad(out, (x, w, b), cotangents, is_grads_batched=True, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), (x, w, cotangents))

    out = convx.conv2d(x, w, b, groups=2)
    cotangents = values(3, *out.shape, dtype=torch.float64).requires_grad_()
    expected = penalty(torch.conv2d(x, w, b, groups=2), cotangents)
    for got, wanted in zip(penalty(out, cotangents), expected, strict=True):
        assert got.any()
        torch.testing.assert_close(got, wanted)
