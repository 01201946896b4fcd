"""Gradients: torch's numerical checks of every order, forward and batched mode, and autograd's habits (who is computed,
what is saved, which cotangents may come). float64 throughout; the other dtypes are in test_opinfo.py.
"""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from counting import count_calls
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import convx
from convx import autograd as functions

CHECKS = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}

# name: input size, weight size, arguments. Small on purpose: a numerical Jacobian is two calls for each element.
CONV = {
    "plain": ((2, 2, 4, 5), (3, 2, 3, 2), {}),
    "stride": ((2, 2, 5, 6), (2, 2, 3, 3), {"stride": (2, 3)}),
    "padding": ((1, 2, 4, 3), (2, 2, 3, 2), {"padding": (2, 1)}),
    "dilation": ((1, 2, 6, 5), (2, 2, 2, 3), {"dilation": (3, 2)}),
    "all_three": ((1, 2, 7, 6), (2, 2, 3, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 3)}),
    "groups": ((1, 4, 4, 4), (6, 2, 3, 2), {"groups": 2}),
    "depthwise": ((2, 3, 4, 4), (3, 1, 3, 3), {"groups": 3, "padding": 1}),
    "depthwise_multiplier": ((1, 2, 4, 4), (4, 1, 2, 3), {"groups": 2, "stride": 2}),
    "same": ((1, 2, 4, 5), (2, 2, 3, 3), {"padding": "same"}),
    "same_even_dilated": ((1, 2, 5, 4), (2, 2, 2, 4), {"padding": "same", "dilation": (3, 1)}),
    "valid": ((1, 2, 4, 4), (2, 2, 3, 3), {"padding": "valid", "stride": 2}),
    "unbatched": ((2, 4, 5), (3, 2, 3, 2), {"padding": 1}),
    "kernel_as_large_as_the_input": ((1, 2, 3, 4), (2, 2, 3, 4), {}),
    "rows_never_read": ((1, 1, 6, 5), (2, 1, 1, 2), {"stride": (4, 3)}),
    "reflect": ((1, 2, 4, 3), (2, 2, 3, 3), {"padding": (2, 1), "padding_mode": "reflect"}),
    "replicate": ((1, 2, 3, 3), (2, 2, 3, 2), {"padding": (4, 1), "stride": 2, "padding_mode": "replicate"}),
    "circular": ((1, 2, 3, 4), (2, 1, 3, 3), {"padding": (3, 1), "groups": 2, "padding_mode": "circular"}),
    "reflect_same_even": ((1, 1, 4, 5), (2, 1, 4, 2), {"padding": "same", "padding_mode": "reflect"}),
}
TRANSPOSED = {
    "plain": ((2, 2, 3, 3), (2, 2, 3, 2), {}),
    "stride": ((1, 2, 3, 2), (2, 2, 3, 3), {"stride": (2, 3)}),
    "padding": ((1, 2, 3, 4), (2, 2, 3, 2), {"padding": (2, 1)}),
    "dilation": ((1, 2, 2, 3), (2, 2, 2, 3), {"dilation": (3, 2)}),
    "output_padding": ((1, 2, 3, 2), (2, 2, 3, 2), {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}),
    "output_padding_below_dilation": ((1, 2, 2, 3), (2, 1, 2, 2), {"dilation": 3, "output_padding": (2, 1)}),
    "groups": ((1, 4, 3, 3), (4, 2, 2, 3), {"groups": 2, "stride": 2}),
    "depthwise": ((2, 3, 3, 2), (3, 1, 3, 3), {"groups": 3, "stride": 2, "padding": 1}),
    "stride_beyond_the_kernel": ((1, 2, 3, 3), (2, 2, 1, 2), {"stride": (3, 4)}),
    "unbatched": ((2, 3, 3), (2, 2, 3, 2), {"stride": 2}),
}


def operands(sizes, device="cpu", dtype=torch.float64, seed=0):
    """Random tensors of these sizes that require grad."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=dtype, generator=generator).to(device).requires_grad_() for s in sizes]


def conv_case(name, device="cpu", dtype=torch.float64):
    """The call and its operands: input, weight, bias."""
    x, w, kwargs = CONV[name]
    return lambda *t: convx.conv2d(*t, **kwargs), operands((x, w, w[:1]), device, dtype)


def transposed_case(name, device="cpu", dtype=torch.float64):
    x, w, kwargs = TRANSPOSED[name]
    bias = (w[1] * kwargs.get("groups", 1),)
    return lambda *t: convx.conv_transpose2d(*t, **kwargs), operands((x, w, bias), device, dtype)


def primitive_cases():
    """The primitives themselves on one ugly problem: N1 C4 H6 W5 K2 R3 S2 P3 Q3 G2, and its twin that reflects."""
    for mode, padding in (("zeros", (1, 0)), ("reflect", (2, 1))):
        p, q = ((6 + 2 * padding[0] - 4 - 1) // 2 + 1, 5 + 2 * padding[1] - 2)
        geometry = ((2, 1), padding, (2, 2), 2)
        x, w, y = (1, 4, 6, 5), (2, 2, 3, 2), (1, 2, p, q)
        rest = (mode, False)
        yield f"forward-{mode}", functions.forward, (x, w, (2,)), (*geometry, (p, q), *rest)
        yield f"grad_input-{mode}", functions.grad_input, (y, w, (4,)), (*geometry, (6, 5), *rest)
        yield f"grad_weight-{mode}", functions.grad_weight, (x, y), (*geometry, (3, 2), *rest)


PRIMITIVES = {name: case for name, *case in primitive_cases()}


def primitive_case(name, device="cpu"):
    function, sizes, args = PRIMITIVES[name]
    return lambda *t: function(*t, *args), operands(sizes, device)


CASES = (
    [pytest.param(conv_case, name, id=f"conv2d-{name}") for name in CONV]
    + [pytest.param(transposed_case, name, id=f"conv_transpose2d-{name}") for name in TRANSPOSED]
    + [pytest.param(primitive_case, name, id=name) for name in PRIMITIVES]
)


@pytest.mark.parametrize(("case", "name"), CASES)
def test_gradcheck(case, name, device):
    function, inputs = case(name, device)
    assert gradcheck(function, inputs, **CHECKS)


@pytest.mark.parametrize(("case", "name"), CASES)
def test_gradgradcheck(case, name, device):
    function, inputs = case(name, device)
    assert gradgradcheck(function, inputs, check_batched_grad=True, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize(
    ("case", "name"), [(conv_case, "plain"), (conv_case, "circular"), (transposed_case, "output_padding")]
)
def test_gradcheck_without_bias(case, name, device):
    function, inputs = case(name, device)
    assert gradcheck(function, inputs[:2], **CHECKS)


@pytest.mark.parametrize(
    ("case", "name"), [(conv_case, "reflect_same_even"), (transposed_case, "output_padding_below_dilation")]
)
def test_gradcheck_complex(case, name, device):
    function, inputs = case(name, device, torch.complex128)
    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize(("case", "name"), [(conv_case, "all_three"), (transposed_case, "output_padding")])
def test_third_order(case, name, device):
    """The second derivative of a cubic of the convolution, checked for gradients of its own."""
    function, (x, w, b) = case(name, device)

    def gradient(x, w, b):
        return torch.autograd.grad((function(x, w, b) ** 3).sum(), w, create_graph=True)[0]

    assert gradgradcheck(gradient, (x, w, b), atol=1e-4)


# ---- who is computed ----


WANTED = pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
BY_INPUT = pytest.mark.parametrize(
    ("case", "by_input"), [(conv_case, "convx.grad_input"), (transposed_case, "convx.forward")]
)


def check_calls(out, sources, wanted, by_input, full):
    """A kernel runs for the input and one for the weight if their gradients are wanted; a bias costs a sum."""
    expected = [n for i, n in ((0, by_input), (1, "convx.grad_weight")) if i in wanted]
    with count_calls() as calls:
        grads = torch.autograd.grad(out.sum(), [sources[i] for i in wanted])
    assert calls == dict.fromkeys(expected, 1)
    assert all(torch.equal(g, full[i]) for i, g in zip(wanted, grads, strict=True))


@WANTED
@BY_INPUT
def test_only_what_requires_grad_is_computed(case, by_input, wanted):
    function, inputs = case("stride")
    full = torch.autograd.grad(function(*inputs).sum(), inputs)
    some = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(inputs)]
    check_calls(function(*some), some, wanted, by_input, full)


@WANTED
@BY_INPUT
def test_only_what_autograd_grad_asks_for_is_computed(case, by_input, wanted):
    """All require grad, but autograd.grad(inputs=...) asks for some: torch's own layers compute no more than that."""
    function, inputs = case("stride")
    full = torch.autograd.grad(function(*inputs).sum(), inputs)
    check_calls(function(*inputs), inputs, wanted, by_input, full)


@pytest.mark.parametrize("case", [conv_case, transposed_case])
def test_double_backward_uses_the_primitives_once_each(case):
    """Never a convolution with a huge filter, never torch's."""
    function, (x, w, _) = case("stride")
    gx, gw = torch.autograd.grad(function(x, w).pow(2).sum(), (x, w), create_graph=True)
    with count_calls() as calls:
        torch.autograd.grad((gx.sum() + gw.sum()), (x, w))
    assert set(calls) == {"convx.forward", "convx.grad_input", "convx.grad_weight"}
    # by y twice (of gx and of gw), by x of gw, by w of gx, and through y to x and w
    assert sum(calls.values()) == 6


# ---- what is saved ----


@WANTED
@pytest.mark.parametrize("case", [conv_case, transposed_case])
def test_only_what_is_needed_is_saved(case, wanted):
    """The input for the weight's gradient, the weight for the input's: a frozen layer keeps no activations alive."""
    function, inputs = case("stride")
    some = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(inputs)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()), lambda _: None):
        out = function(*some)
    assert out.requires_grad
    assert sorted(saved) == sorted(some[1 - i].data_ptr() for i in (0, 1) if i in wanted)


@pytest.mark.parametrize("case", [conv_case, transposed_case])
def test_saved_tensors_are_freed_with_the_graph(case):
    """At once, without the garbage collector: nothing refers to itself."""
    function, (x, w, b) = case("stride")
    x = x * 1
    alive = weakref.ref(x)
    out = function(x, w, b)
    del x
    gc.collect()
    gc.disable()
    try:
        assert alive() is not None
        out.sum().backward(retain_graph=True)
        assert alive() is not None
        del out
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("case", [conv_case, transposed_case])
def test_no_graph_where_none_is_wanted(case):
    function, inputs = case("stride")
    assert function(*inputs).requires_grad
    assert not function(*(t.detach() for t in inputs)).requires_grad
    with torch.no_grad():
        assert function(*inputs).grad_fn is None
    with torch.inference_mode():
        assert function(*inputs).is_inference()


# ---- what may come as a cotangent ----


def cotangents(size):
    """The same values in every layout that a caller's graph may hand back. Integers, so that the bias gradient, a sum
    whose order torch chooses by the layout, is exact in any order."""
    generator = torch.Generator().manual_seed(7)
    plain = torch.randint(-9, 10, size, generator=generator).double()
    yield "transposed", plain, plain.transpose(-1, -2).contiguous().transpose(-1, -2)
    if len(size) == 4:
        yield "channels_last", plain, plain.contiguous(memory_format=torch.channels_last)
    yield "strided", plain, plain.repeat_interleave(2, -1)[..., ::2]
    yield "offset", plain, torch.cat([torch.full((3,), torch.nan), plain.flatten()]).double()[3:].view(size)
    for dim in range(len(size)):
        row = plain.narrow(dim, 0, 1)
        yield f"expanded {dim}", row.expand(size).contiguous(), row.expand(size)
    yield "expanded scalar", torch.full(size, 1.5, dtype=torch.float64), torch.tensor(1.5).double().expand(size)


@pytest.mark.parametrize(
    ("case", "name"),
    [(conv_case, "all_three"), (conv_case, "reflect"), (conv_case, "unbatched"), (transposed_case, "depthwise")],
)
def test_cotangents_of_any_layout(case, name):
    function, inputs = case(name)
    out = function(*inputs)
    for label, plain, cotangent in cotangents(out.shape):
        assert torch.equal(plain, cotangent)
        expected = torch.autograd.grad(out, inputs, plain, retain_graph=True)
        for a, b in zip(torch.autograd.grad(out, inputs, cotangent, retain_graph=True), expected, strict=True):
            assert torch.equal(a, b), label


@pytest.mark.parametrize("channels", [1, 2])
def test_bias_gradient_is_the_same_bits_for_any_number_of_threads(channels):
    """torch's own sum to a single number is not: it adds up one partial sum for each thread."""
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(16, channels, 128, 128, generator=generator)
    bias = torch.zeros(channels, requires_grad=True)
    out = convx.conv2d(torch.zeros(16, 1, 128, 128), torch.zeros(channels, 1, 1, 1), bias)
    grads = []
    for n in (1, 2, 3, 4):
        torch.set_num_threads(n)  # conftest.py sets it back
        grads.append(torch.autograd.grad(out, bias, cotangent, retain_graph=True)[0])
    assert grads[0].any()
    assert all(torch.equal(g, grads[0]) for g in grads)


@pytest.mark.parametrize("case", [conv_case, transposed_case])
def test_retain_graph(case):
    function, inputs = case("groups")
    loss = function(*inputs).square().sum()
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    again = torch.autograd.grad(loss, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("case", [conv_case, transposed_case])
@pytest.mark.parametrize("changed", [0, 1])
def test_in_place_change_of_a_saved_tensor_is_detected(case, changed):
    function, inputs = case("stride")
    leaves = [t.detach().requires_grad_() for t in inputs]
    used = [t * 1 for t in leaves]  # not leaves, so that they may be changed
    loss = function(*used).sum()
    used[changed].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, leaves[1 - changed])


@pytest.mark.parametrize("case", [conv_case, transposed_case])
def test_in_place_change_of_what_is_not_saved_is_allowed(case):
    """The bias is not saved, and the output is not either: nn.ReLU(inplace=True) behind a layer must work."""
    function, inputs = case("stride")
    expected = torch.autograd.grad(function(*inputs).relu().sum(), inputs)
    bias = inputs[2] * 1
    out = function(inputs[0], inputs[1], bias)
    bias.zero_()
    loss = out.relu_().sum()
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(loss, inputs), expected, strict=True))


def test_same_tensor_as_several_operands():
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: convx.conv2d(x, x, padding=1), (x,), **CHECKS)
    assert gradgradcheck(lambda x: convx.conv_transpose2d(x, x), (x,))


def test_view_and_parameter_hooks_see_the_gradient():
    function, (x, w, b) = conv_case("plain")
    seen = []
    w.register_hook(lambda g: seen.append(g.shape))
    out = function(x.transpose(-1, -2).transpose(-1, -2), w, b)
    out.register_hook(lambda g: seen.append(g.shape))
    out.sum().backward()
    assert seen == [out.shape, w.shape]
    assert x.grad.shape == x.shape and b.grad.shape == b.shape


def test_accumulates_into_grad():
    function, inputs = conv_case("groups")
    function(*inputs).sum().backward()
    once = [t.grad.clone() for t in inputs]
    function(*inputs).sum().backward()
    assert all(torch.equal(t.grad, 2 * g) for t, g in zip(inputs, once, strict=True))


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled", "ignore:Error detected in")
def test_anomaly_mode_points_at_our_node():
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    w = torch.full((1, 1, 1, 1), torch.inf, dtype=torch.float64)
    with torch.autograd.detect_anomaly(check_nan=True), pytest.raises(RuntimeError, match="convx::Forward"):
        convx.conv2d(x, w).backward(torch.zeros(1, 1, 2, 2, dtype=torch.float64))


def test_backward_in_several_threads_at_once():
    function, inputs = conv_case("groups")
    expected = torch.autograd.grad(function(*inputs).square().sum(), inputs)

    def work(_):
        return torch.autograd.grad(function(*inputs).square().sum(), inputs)

    with ThreadPoolExecutor(4) as pool:
        for grads in pool.map(work, range(32)):
            assert all(map(torch.equal, grads, expected))


def test_checkpointing_gives_the_same_bits():
    function, inputs = conv_case("all_three")
    expected = torch.autograd.grad(function(*inputs).sum(), inputs)
    out = torch.utils.checkpoint.checkpoint(function, *inputs, use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(out.sum(), inputs), expected, strict=True))


@pytest.mark.parametrize("case", [conv_case, transposed_case])
def test_forward_mode_by_dual_numbers(case):
    """Tangents on any subset of the operands, under no_grad too, and an operand without tangent costs nothing."""
    function, inputs = case("stride")
    x, w, b = (t.detach() for t in inputs)
    tangents = [t.detach() for t in operands((x.shape, w.shape, b.shape), seed=1)]
    with forward_ad.dual_level(), torch.no_grad():
        for subset in ((0,), (1,), (2,), (0, 1, 2)):
            duals = [forward_ad.make_dual(t, tangents[i]) if i in subset else t for i, t in enumerate((x, w, b))]
            with count_calls() as calls:
                tangent = forward_ad.unpack_dual(function(*duals)).tangent
            parts = {
                0: function(tangents[0], w, None),
                1: function(x, tangents[1], None),
                2: tangents[2][:, None, None].expand_as(tangent),
            }
            torch.testing.assert_close(tangent, sum(parts[i] for i in subset))
            assert sum(calls.values()) == 1 + len(set(subset) - {2})
        assert forward_ad.unpack_dual(function(x, w, b)).tangent is None
