"""torch.library.opcheck on the three operators, all of its default checks: that the schema tells the truth, that the
autograd registration is torch's way, that fake kernels agree with real ones, and that AOTAutograd traces them with
dynamic shapes. Beside it, what opcheck does not look at: the layout that meta kernels promise.
"""

import pytest
import torch

import convx

OPS = torch.ops.convx
CHECKS = {"test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"}

# name: x, w and y sizes, then stride, padding, dilation, groups, padding_mode
PROBLEMS = {
    "plain": ((2, 3, 6, 5), (4, 3, 3, 2), (2, 4, 4, 4), (1, 1), (0, 0), (1, 1), 1, "zeros"),
    "ugly": ((2, 4, 9, 7), (6, 2, 3, 2), (2, 6, 4, 5), (2, 1), (1, 0), (2, 2), 2, "zeros"),
    "depthwise": ((1, 4, 5, 5), (4, 1, 3, 3), (1, 4, 5, 5), (1, 1), (1, 1), (1, 1), 4, "zeros"),
    "reflect": ((1, 2, 5, 4), (3, 2, 3, 3), (1, 3, 7, 4), (1, 1), (2, 1), (1, 1), 1, "reflect"),
    "replicate": ((2, 2, 4, 4), (2, 2, 2, 2), (2, 2, 4, 4), (2, 2), (2, 2), (1, 1), 1, "replicate"),
    "circular": ((1, 2, 4, 4), (2, 1, 3, 3), (1, 2, 6, 8), (1, 1), (2, 3), (1, 1), 2, "circular"),
    # one more row at the end than at the front: padding='same' with an even kernel
    "asymmetric": ((1, 2, 5, 4), (2, 2, 2, 4), (1, 2, 5, 4), (1, 1), (0, 1), (1, 1), 1, "zeros"),
    "empty_batch": ((0, 2, 5, 4), (3, 2, 3, 3), (0, 3, 3, 2), (1, 1), (0, 0), (1, 1), 1, "zeros"),
}
PRIMITIVES = ("forward", "grad_input", "grad_weight")


def arguments(primitive, problem, device="cpu", dtype=torch.float32, bias=True, requires_grad=False, fmt=None):
    """The positional arguments of torch.ops.convx.PRIMITIVE for a problem, on random operands."""
    *sizes, stride, padding, dilation, groups, mode = PROBLEMS[problem]

    def tensor(size):
        t = torch.randn(size, dtype=dtype, device=device)
        return (t if fmt is None else t.contiguous(memory_format=fmt)).requires_grad_(requires_grad)

    def vector(n):
        return torch.randn(n, dtype=dtype, device=device, requires_grad=requires_grad) if bias else None

    x, w, y = map(tensor, sizes)
    channels_last = fmt is torch.channels_last

    def geometry(size):
        return stride, padding, dilation, groups, tuple(size), mode, channels_last

    return {
        "forward": (x, w, vector(w.shape[0]), *geometry(y.shape[2:])),
        "grad_input": (y, w, vector(x.shape[1]), *geometry(x.shape[2:])),
        "grad_weight": (x, y, *geometry(w.shape[2:])),
    }[primitive]


def check(primitive, args):
    results = torch.library.opcheck(getattr(OPS, primitive).default, args)
    assert results == dict.fromkeys(CHECKS, "SUCCESS")


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("primitive", PRIMITIVES)
@pytest.mark.parametrize("requires_grad", [False, True], ids=["inference", "training"])
def test_opcheck(primitive, problem, requires_grad, device):
    check(primitive, arguments(primitive, problem, device, requires_grad=requires_grad))


@pytest.mark.parametrize("primitive", PRIMITIVES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_opcheck_dtypes(primitive, dtype, device):
    check(primitive, arguments(primitive, "ugly", device, dtype, requires_grad=True))


def test_opcheck_int64():
    integers = [a.long() if isinstance(a, torch.Tensor) else a for a in arguments("forward", "ugly")]
    check("forward", tuple(integers))


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_opcheck_channels_last(primitive, device):
    check(primitive, arguments(primitive, "ugly", device, requires_grad=True, fmt=torch.channels_last))


@pytest.mark.parametrize("primitive", ["forward", "grad_input"])
def test_opcheck_without_bias(primitive, device):
    check(primitive, arguments(primitive, "ugly", device, bias=False, requires_grad=True))


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_opcheck_strided_and_broadcast_operands(primitive, device):
    first, second, *rest = arguments(primitive, "ugly", device)
    first = first.repeat_interleave(2, -1)[..., ::2]
    second = second[:1].expand_as(second)
    check(primitive, (first, second, *rest))


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("primitive", PRIMITIVES)
@pytest.mark.parametrize("fmt", [torch.contiguous_format, torch.channels_last], ids=str)
def test_meta_kernels_promise_the_real_sizes_and_strides(primitive, problem, fmt, device):
    """As torch.compile relies on them."""
    args = arguments(primitive, problem, device, fmt=fmt)
    op = getattr(OPS, primitive)
    real = op(*args)
    meta = op(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in args))
    assert meta.device.type == "meta"
    assert (meta.shape, meta.stride(), meta.dtype) == (real.shape, real.stride(), real.dtype)
    assert real.is_contiguous(memory_format=fmt)


def test_schemas_are_part_of_the_interface():
    """Names and defaults of the arguments, which callers from C++ and exported graphs depend on."""
    tail = 'str padding_mode="zeros", bool channels_last=False) -> Tensor'
    middle = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups, SymInt[2] "
    assert {name: str(getattr(OPS, name).default._schema) for name in PRIMITIVES} == {
        "forward": f"convx::forward(Tensor input, Tensor weight, Tensor? bias, {middle}output_size, {tail}",
        "grad_input": f"convx::grad_input(Tensor grad_output, Tensor weight, Tensor? bias, {middle}input_size, {tail}",
        "grad_weight": f"convx::grad_weight(Tensor input, Tensor grad_output, {middle}kernel_size, {tail}",
    }


LAYERS = {
    "conv2d": ("conv2d.default", (2, 4, 7, 6), (6, 2, 3, 2), ((2, 1), (1, 0), (1, 2), 2), {}),
    "conv2d reflect": ("conv2d.default", (2, 4, 7, 6), (6, 4, 3, 3), ((1, 1), (2, 2)), {"padding_mode": "reflect"}),
    "conv2d same": ("conv2d.padding", (2, 4, 7, 6), (6, 4, 4, 3), ((1, 1), "same"), {}),
    "unbatched": ("conv2d.default", (4, 7, 6), (6, 4, 3, 3), (), {}),
    "conv_transpose2d": ("conv_transpose2d.default", (2, 4, 5, 6), (4, 3, 3, 3), ((2, 1), (1, 1), (1, 0), 2), {}),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("requires_grad", [False, True], ids=["inference", "training"])
def test_opcheck_layers(name, requires_grad, device):
    """The operators composed of the primitives; they give what the functions give, dispatched, traced and batched."""
    op, x_size, w_size, args, kwargs = LAYERS[name]
    packet, _, overload = op.partition(".")
    operator = getattr(getattr(OPS, packet), overload)
    x, w = (torch.randn(s, device=device, requires_grad=requires_grad) for s in (x_size, w_size))
    results = torch.library.opcheck(operator, (x, w, None, *args), kwargs)
    assert results == dict.fromkeys(CHECKS, "SUCCESS")
    expected = getattr(convx, packet)(x, w, None, *args, **kwargs)
    assert torch.equal(operator(x, w, None, *args, **kwargs), expected)
    assert torch.equal(torch.vmap(lambda x: operator(x, w, None, *args, **kwargs))(x[None])[0], expected)
