"""torch.func: vmap, grad, vjp, jvp, the Jacobians and the Hessian, and their compositions.

Operands are small integers in float64, so every result is exact in whatever order it is summed: a transform must give
the very numbers that a loop, or torch's own convolution, gives.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from counting import count_calls, ran_on_convx
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import convx
from benchmarks import per_sample

B = 3  # the size of the mapped axis


def integers(*size, seed=0):
    return torch.randint(-4, 5, size, generator=torch.Generator().manual_seed(seed)).double()


CONV = {
    "plain": ((2, 4, 5, 4), (2, 4, 3, 2), {"stride": (2, 1), "padding": (1, 0)}),
    "groups": ((2, 4, 5, 4), (6, 2, 3, 2), {"groups": 2, "dilation": (2, 1)}),
    "depthwise": ((2, 4, 4, 4), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    "reflect": ((2, 4, 5, 4), (2, 2, 3, 2), {"groups": 2, "padding": 2, "padding_mode": "reflect"}),
    "unbatched": ((4, 5, 4), (2, 4, 3, 2), {"padding": "same"}),
}
TRANSPOSED = {
    "plain": ((2, 4, 3, 4), (4, 3, 3, 2), {"stride": (2, 1), "padding": (1, 0), "output_padding": (1, 0)}),
    "groups": ((2, 4, 3, 4), (4, 3, 3, 2), {"groups": 2, "dilation": (2, 1)}),
    "depthwise": ((2, 4, 3, 3), (4, 1, 3, 3), {"groups": 4, "stride": 2}),
    "unbatched": ((4, 3, 4), (4, 3, 3, 2), {}),
}
CASES = [pytest.param(convx.conv2d, *case, id=f"conv2d-{name}") for name, case in CONV.items()] + [
    pytest.param(convx.conv_transpose2d, *case, id=f"conv_transpose2d-{name}") for name, case in TRANSPOSED.items()
]
BOTH = pytest.mark.parametrize(("function", "x_size", "w_size", "kwargs"), CASES)


def bias_size(function, w_size, kwargs):
    return w_size[0] if function is convx.conv2d else w_size[1] * kwargs.get("groups", 1)


def mapped(sizes, in_dims):
    """Integer operands with an axis of size B where in_dims says, and the B tuples of slices a loop would take."""
    operands = []
    for i, (size, dim) in enumerate(zip(sizes, in_dims, strict=True)):
        size = list(size)
        if dim is not None:
            size.insert(dim if dim >= 0 else len(size) + 1 + dim, B)
        operands.append(integers(*size, seed=i))
    slices = [[t if d is None else t.select(d, b) for t, d in zip(operands, in_dims, strict=True)] for b in range(B)]
    return operands, slices


@BOTH
def test_vmap_equals_a_loop(function, x_size, w_size, kwargs):
    """Every subset of mapped operands, the mapped axis in front, in the middle and at the end, bias or none."""
    sizes = x_size, w_size, (bias_size(function, w_size, kwargs),)
    choices = (None, 0), (None, 0), (None, 0)
    several = [d for d in itertools.product(*choices) if any(i is not None for i in d)]
    for in_dims in [*several, (1, -1, 1), (-1, 2, None), (2, None, -1)]:
        for n in (2, 3):
            if all(d is None for d in in_dims[:n]):
                continue
            operands, slices = mapped(sizes[:n], in_dims[:n])
            with count_calls() as calls:
                out = vmap(lambda *t: function(*t, **kwargs), in_dims[:n])(*operands)
            assert ran_on_convx(calls) and sum(calls.values()) == 1, "a batch of convolutions is one call"
            assert out.any() and torch.equal(out, torch.stack([function(*s, **kwargs) for s in slices])), in_dims


@BOTH
def test_nested_vmap_equals_loops(function, x_size, w_size, kwargs):
    x, w = integers(2, B, *x_size), integers(2, *w_size, seed=1)
    out = vmap(vmap(lambda x, w: function(x, w, **kwargs), (0, None)))(x, w)
    loops = torch.stack([torch.stack([function(x[i, j], w[i], **kwargs) for j in range(B)]) for i in range(2)])
    assert torch.equal(out, loops)


@BOTH
def test_per_sample_gradients_equal_a_loop(function, x_size, w_size, kwargs):
    """The classic: vmap of grad over samples, weights shared. Each of the three primitives runs under vmap here."""
    sizes = x_size, w_size, (bias_size(function, w_size, kwargs),)

    def loss(x, w, b):
        return function(x, w, b, **kwargs).square().sum()

    for in_dims in ((0, None, None), (None, 0, None), (0, 0, 0)):
        operands, slices = mapped(sizes, in_dims)
        grads = vmap(grad(loss, (0, 1, 2)), in_dims)(*operands)
        for i, got in enumerate(grads):
            assert got.any() and torch.equal(got, torch.stack([grad(loss, i)(*s) for s in slices])), (in_dims, i)


@BOTH
def test_grad_vjp_and_jvp_equal_autograd(function, x_size, w_size, kwargs):
    x, w, b = integers(*x_size), integers(*w_size, seed=1), integers(bias_size(function, w_size, kwargs), seed=2)

    def call(x, w, b):
        return function(x, w, b, **kwargs)

    leaves = [t.clone().requires_grad_() for t in (x, w, b)]
    out = call(*leaves)
    y = integers(*out.shape, seed=3)
    expected = torch.autograd.grad(out, leaves, y)
    value, pull = vjp(call, x, w, b)
    assert torch.equal(value, out) and all(map(torch.equal, pull(y), expected))
    assert all(map(torch.equal, grad(lambda *t: (call(*t) * y).sum(), (0, 1, 2))(x, w, b), expected))

    tangents = [integers(*t.shape, seed=4 + i) for i, t in enumerate((x, w, b))]
    value, push = jvp(call, (x, w, b), tuple(tangents))
    parts = function(tangents[0], w, **kwargs) + function(x, tangents[1], **kwargs)
    assert torch.equal(value, out) and torch.equal(push, parts + tangents[2][:, None, None])


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@BOTH
def test_jacobians_equal_torchs(function, x_size, w_size, kwargs):
    """Reverse and forward, by input and weight. padding_mode is torch's F.pad and then a plain convolution."""
    x, w = integers(*x_size), integers(*w_size, seed=1)

    def torchs(x, w):
        arguments = dict(kwargs)
        if function is convx.conv_transpose2d:
            return F.conv_transpose2d(x, w, **arguments)
        if mode := arguments.pop("padding_mode", None):
            x = F.pad(x, [arguments.pop("padding")] * 4, mode)
        return F.conv2d(x, w, **arguments)

    expected = torch.autograd.functional.jacobian(torchs, (x, w), vectorize=True)
    for transform in (jacrev, jacfwd):
        got = transform(lambda x, w: function(x, w, **kwargs), (0, 1))(x, w)
        assert all(map(torch.equal, got, expected)), transform.__name__


@pytest.mark.parametrize(
    ("function", "torchs"), [(convx.conv2d, F.conv2d), (convx.conv_transpose2d, F.conv_transpose2d)]
)
@pytest.mark.parametrize("argnums", [0, 1])
def test_hessian_equals_torchs(function, torchs, argnums):
    """Forward over reverse, and reverse over reverse, of a cubic: second derivatives that depend on both operands."""
    x, w = integers(1, 2, 3, 3), integers(2, 2, 2, 2, seed=1)

    def cubic(f):
        return lambda x, w: f(x, w, stride=2, padding=1).pow(3).sum()

    expected = torch.autograd.functional.hessian(cubic(torchs), (x, w))[argnums][argnums]
    assert expected.any()
    assert torch.equal(hessian(cubic(function), argnums)(x, w), expected)
    assert torch.equal(jacrev(jacrev(cubic(function), argnums), argnums)(x, w), expected)
    assert torch.equal(jacrev(jacfwd(cubic(function), argnums), argnums)(x, w), expected)


def test_gradient_of_a_tangent_equals_tangent_of_the_gradient():
    x, w, dx = integers(1, 2, 4, 4), integers(3, 2, 3, 3, seed=1), integers(1, 2, 4, 4, seed=2)

    def loss(x, w):
        return convx.conv2d(x, w, padding=1, padding_mode="circular").pow(3).sum()

    one = grad(lambda w: jvp(lambda x: loss(x, w), (x,), (dx,))[1])(w)
    other = jvp(lambda x: grad(loss, 1)(x, w), (x,), (dx,))[1]
    assert one.any() and torch.equal(one, other)


def test_an_ensemble_of_layers():
    """Stacked parameters of several models and one input, as torch.func.stack_module_state is used."""
    models = [torch.nn.Sequential(convx.Conv2d(2, 3, 3), convx.ConvTranspose2d(3, 2, 3)).double() for _ in range(B)]
    for i, model in enumerate(models):
        for j, p in enumerate(model.parameters()):
            p.data = integers(*p.shape, seed=10 * i + j)
    parameters, buffers = torch.func.stack_module_state(models)
    x = integers(2, 2, 5, 5)

    def call(p, b):
        return functional_call(models[0], (p, b), (x,))

    out = vmap(call)(parameters, buffers)
    assert torch.equal(out, torch.stack([m(x) for m in models]))


@pytest.mark.parametrize("name", per_sample.NETWORKS)
def test_per_sample_gradients_of_a_network(name):
    """Equal to a loop and to torch's, and each layer's weights take one call of the kernel, whatever the batch."""
    torch.manual_seed(0)
    model = per_sample.NETWORKS[name](width=4).double()
    images, labels = torch.randn(B, 3, 12, 12).double(), torch.arange(B)
    expected = per_sample.per_sample(model, images, labels)[0]()
    layers = convx.count(convx.convert(model, quiet=True))
    at_once, loop = per_sample.per_sample(model, images, labels)
    with count_calls() as calls:
        got = at_once()
    assert ran_on_convx(calls) and calls["convx.grad_weight"] == layers
    # Of the input gradients the first layer's is not wanted. (A transposed layer exchanges these two primitives.)
    assert calls["convx.forward"] == layers and calls["convx.grad_input"] == layers - 1
    for gradient, one, other in zip(got, loop(), expected, strict=True):
        assert gradient.any()
        torch.testing.assert_close(gradient, one)
        torch.testing.assert_close(gradient, other)


def test_batched_cotangents():
    """autograd.grad(is_grads_batched=True), which vectorised Jacobians are made of."""
    x, w = integers(1, 2, 4, 4).requires_grad_(), integers(3, 2, 3, 3, seed=1).requires_grad_()
    out = convx.conv2d(x, w, padding=1)
    y = integers(B, *out.shape, seed=2)
    batched = torch.autograd.grad(out, (x, w), y, is_grads_batched=True, retain_graph=True)
    loop = [torch.autograd.grad(out, (x, w), c, retain_graph=True) for c in y]
    for i, got in enumerate(batched):
        assert torch.equal(got, torch.stack([g[i] for g in loop]))
