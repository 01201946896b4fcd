"""convx.intercept: inside, torch's own convolution calls run on convx, whoever makes them; outside, nothing changes."""

import threading

import pytest
import torch
import torch.nn.functional as F
from counting import count_calls, ran_on_convx
from torch import nn
from twins import integers

import convx

X, W, B = integers(2, 4, 6, 5), integers(6, 2, 3, 2, seed=1), integers(6, seed=2)
WT, BT = integers(4, 3, 3, 2, seed=3), integers(6, seed=4)

# The ways to write a call, for any namespace that has these functions.
CONV = {
    "positional": lambda f: f(X, W, B, 2, 1, 1, 2),
    "pairs": lambda f: f(X, W, B, (2, 1), (1, 0), (1, 2), 2),
    "lists": lambda f: f(X, W, B, [2, 1], [1, 0], [1, 2], 2),
    "keywords": lambda f: f(input=X, weight=W, bias=B, stride=2, padding=1, dilation=1, groups=2),
    "mixed": lambda f: f(X, W, groups=2, bias=None, padding=(2, 1)),
    "shortest": lambda f: f(X[:, :2], W),
    "unbatched": lambda f: f(X[0, :2], W, B),
    "same": lambda f: f(X, W, B, padding="same", groups=2),
    "valid": lambda f: f(X, W, B, 2, "valid", groups=2),
}
TRANSPOSED = {
    "positional": lambda f: f(X, WT, BT, 2, 1, 1, 2, 1),
    "pairs": lambda f: f(X, WT, BT, (2, 1), (1, 0), (1, 0), 2, (1, 2)),
    "keywords": lambda f: f(input=X, weight=WT, bias=BT, stride=2, output_padding=1, groups=2, dilation=1),
    "shortest": lambda f: f(X, WT),
    "unbatched": lambda f: f(X[0], WT, stride=3),
}
CALLS = [
    pytest.param(function, call, id=f"{name}-{how}")
    for functions, calls in (
        ((("F.conv2d", F.conv2d), ("torch.conv2d", torch.conv2d)), CONV),
        ((("F.transposed", F.conv_transpose2d), ("torch.transposed", torch.conv_transpose2d)), TRANSPOSED),
    )
    for name, function in functions
    for how, call in calls.items()
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("function", "call"), CALLS)
def test_every_way_to_write_a_call(function, call):
    with count_calls() as calls:
        expected = call(function)
    assert calls and not any(name.startswith("convx.") for name in calls)
    with convx.intercept(), count_calls() as calls:
        out = call(function)
    assert ran_on_convx(calls) and sum(calls.values()) == 1
    assert expected.any() and torch.equal(out, expected) and out.stride() == expected.stride()
    with count_calls() as calls:
        call(function)
    assert not any(name.startswith("convx.") for name in calls)


class Model(nn.Module):
    """Layers, functional calls, a subclass with its own forward, and a name bound before anything was intercepted."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.weight = nn.Parameter(torch.ones(4, 1, 3, 3))

    def forward(self, x):
        x = self.up(self.conv(x), output_size=[12, 10])
        return F.conv2d(x, self.weight, groups=4) + torch.conv_transpose2d(x, self.weight, groups=4)[..., 2:-2, 2:-2]


def exact_model():
    model = Model()
    for i, p in enumerate(model.parameters()):
        p.data = integers(*p.shape, seed=i).sign()
    return model


def test_a_model_of_torchs_layers_and_its_gradients():
    """Gradients are convx's too, though the backward runs outside: the graph was built inside."""
    model = exact_model()
    x = X.clone().requires_grad_()
    expected = model(x)
    grads = torch.autograd.grad(expected.sum(), [x, *model.parameters()])
    with convx.intercept(), count_calls() as calls:
        out = model(x)
    assert ran_on_convx(calls) and sum(calls.values()) == 4
    assert expected.any() and torch.equal(out, expected)
    with count_calls() as calls:
        again = torch.autograd.grad(out.sum(), [x, *model.parameters()])
    assert ran_on_convx(calls) and sum(calls.values()) == 8
    assert all(map(torch.equal, again, grads))


def test_nesting_and_leaving():
    def on_convx():
        with count_calls() as calls:
            F.conv2d(X, W, groups=2)
        return ran_on_convx(calls)

    assert not on_convx()
    with convx.intercept():
        assert on_convx()
        with convx.intercept():
            assert on_convx()
        assert on_convx()
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            assert on_convx()
    assert not on_convx()
    with pytest.raises(ZeroDivisionError), convx.intercept():
        1 / 0  # noqa: B018
    assert not on_convx()
    mode = convx.intercept()
    for _ in range(2):  # the same object may be used again
        with mode:
            assert on_convx()


def test_counts_what_it_took_over():
    model = exact_model()
    with convx.intercept() as outer:
        model(X)
        assert outer.count == 4
        with convx.intercept() as inner:
            model(X)
        assert inner.count == 4
    model(X)
    assert inner.count == 4


def test_errors_are_torchs():
    for wrong in (
        lambda: F.conv2d(X, WT),
        lambda: F.conv2d(X, W, stride=0),
        lambda: F.conv_transpose2d(X, WT, output_padding=3),
        lambda: F.conv2d(X, W, padding="full"),
        lambda: F.conv2d(X, W, nonsense=1),
        lambda: F.conv2d(X),
    ):
        with pytest.raises((RuntimeError, TypeError)) as expected:
            wrong()
        with pytest.raises((RuntimeError, TypeError)) as actual, convx.intercept():
            wrong()
        assert actual.type is expected.type


def test_other_operations_are_left_to_torch():
    x = torch.randn(2, 4, 6)
    with convx.intercept() as mode, count_calls() as calls:
        F.conv1d(x, torch.randn(3, 4, 2))
        F.conv3d(torch.randn(1, 1, 3, 3, 3), torch.randn(1, 1, 2, 2, 2))
        F.linear(x, torch.randn(5, 6))
        F.unfold(X, 2)
    assert mode.count == 0 and calls and not any(name.startswith("convx.") for name in calls)


def test_tensors_that_convx_has_no_kernels_for_go_to_torch():
    """A MKL-DNN tensor, which torch's convolution takes."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no MKL-DNN")
    with convx.intercept() as mode:
        out = F.conv2d(X.to_mkldnn(), W, B, groups=2)
    assert mode.count == 0 and out.layout is torch._mkldnn
    torch.testing.assert_close(out.to_dense(), F.conv2d(X, W, B, groups=2))


def test_dtypes_meta_and_autocast():
    for dtype in (torch.float64, torch.int64, torch.complex64):
        expected = F.conv2d(X.to(dtype), W.to(dtype), groups=2)
        with convx.intercept() as mode:
            assert torch.equal(F.conv2d(X.to(dtype), W.to(dtype), groups=2), expected)
        assert mode.count == 1
    with convx.intercept():
        assert F.conv2d(X.to("meta"), W.to("meta"), groups=2).shape == (2, 6, 4, 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert F.conv2d(X, W, groups=2).dtype == torch.bfloat16


def test_torch_func_inside():
    def loss(w):
        return F.conv2d(X, w, groups=2).pow(2).sum()

    expected = torch.func.grad(loss)(W)
    with convx.intercept(), count_calls() as calls:
        out = torch.func.grad(loss)(W)
    assert ran_on_convx(calls) and expected.any() and torch.equal(out, expected)
    with convx.intercept(), count_calls() as calls:
        out = torch.func.vmap(lambda x: F.conv_transpose2d(x, WT, stride=2))(X)
    assert ran_on_convx(calls) and torch.equal(out, F.conv_transpose2d(X, WT, stride=2))


def test_converted_and_convx_layers_inside_are_unaffected():
    layer = convx.Conv2d(4, 6, 3)
    expected = layer(X)
    with convx.intercept() as mode, count_calls() as calls:
        out = layer(X)
    assert torch.equal(out, expected) and calls == {"convx.forward": 1} and mode.count == 0


def test_tensor_subclasses_still_see_the_call():
    """A subclass with a __torch_function__ of its own gets convx's function, as it would get torch's."""
    seen = []

    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(getattr(func, "__name__", str(func)))
            return super().__torch_function__(func, types, args, kwargs or {})

    x = X.as_subclass(Logged)
    expected = F.conv2d(x, W, groups=2)
    assert "conv2d" in seen
    seen.clear()
    with convx.intercept(), count_calls() as calls:
        out = F.conv2d(x, W, groups=2)
    assert ran_on_convx(calls) and "conv2d" in seen
    assert type(out) is Logged and torch.equal(out.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))


def test_only_the_thread_that_entered_is_intercepted():
    """As with every mode of torch; other threads keep what they have."""
    counts = []

    def work():
        with count_calls() as calls:
            F.conv2d(X, W, groups=2)
        counts.append(ran_on_convx(calls))

    with convx.intercept():
        work()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert counts == [True, False]
