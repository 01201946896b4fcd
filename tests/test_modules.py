"""The layers as drop-ins: constructor, attributes changed later, padding modes, output_size, memory formats, autocast.
Results are compared with torch's own layers on small integers, where both are exact, or with F.pad and float64.
"""

import inspect
import itertools

import pytest
import torch
import torch.nn.functional as F
from bounds import Pool
from torch import nn
from twins import ALL, EAGER, PAIRS, assert_same_call, fill, integers, twins

import convx

pytestmark = pytest.mark.filterwarnings(
    "ignore:Lazy modules are a new feature", "ignore:Using padding='same'", "ignore:Complex modules are a new"
)


# ---- the constructor ----


@ALL
def test_same_signature(ours, torchs):
    assert inspect.signature(ours) == inspect.signature(torchs)
    assert inspect.signature(ours.forward).parameters.keys() == inspect.signature(torchs.forward).parameters.keys()
    assert issubclass(ours, torchs) and isinstance(ours(*(2, 3) if "Lazy" in ours.__name__ else (2, 3, 3)), torchs)
    assert ours.__name__ == torchs.__name__ and ours.__module__.startswith("convx") and ours.__doc__


CONV_ARGUMENTS = {
    "kernel_size": (3, (3, 2)),
    "stride": (1, (2, 1)),
    "padding": (0, (1, 2), "same", "valid"),
    "dilation": (1, (2, 1)),
    "groups": (1, 2),
    "bias": (True, False),
    "padding_mode": ("zeros", "reflect", "replicate", "circular"),
}
TRANSPOSED_ARGUMENTS = {
    "kernel_size": (3, (3, 2)),
    "stride": (1, (2, 1)),
    "padding": (0, (1, 2)),
    "output_padding": (0, (1, 0)),
    "groups": (1, 2),
    "bias": (True, False),
    "dilation": (1, (2, 1)),
}


def argument_sets(table):
    """The whole product, without what torch refuses."""
    for values in itertools.product(*table.values()):
        arguments = dict(zip(table, values, strict=True))
        if arguments["padding"] == "same" and arguments["stride"] != 1:
            continue
        if arguments.get("output_padding") == (1, 0) and arguments["stride"] == arguments["dilation"] == 1:
            continue
        yield arguments


@pytest.mark.parametrize(("ours", "torchs", "table"), [(*PAIRS[0], CONV_ARGUMENTS), (*PAIRS[1], TRANSPOSED_ARGUMENTS)])
def test_every_combination_of_constructor_arguments(ours, torchs, table):
    """Same initial weights from the same seed, same repr, same attributes, same results and gradients."""
    x = integers(2, 4, 6, 5)
    torch.set_num_threads(1)  # tiny problems
    count = 0
    for arguments in argument_sets(table):
        torch.manual_seed(3)
        a = ours(4, 6, **arguments)
        torch.manual_seed(3)
        b = torchs(4, 6, **arguments)
        assert all(map(torch.equal, a.parameters(), b.parameters())), arguments
        assert repr(a) == repr(b) and a.__dict__.keys() == b.__dict__.keys()
        assert all(a.__dict__[k] == b.__dict__[k] for k in b.__constants__)
        assert_same_call(fill(a), fill(b), x)
        count += 1
    assert count >= 100


@ALL
def test_positional_arguments_device_and_dtype(ours, torchs):
    lazy = "Lazy" in ours.__name__
    positional = (6, 3, 2, 1) if lazy else (4, 6, 3, 2, 1)
    a, b = (
        ours(*positional, device="meta", dtype=torch.float64),
        torchs(*positional, device="meta", dtype=torch.float64),
    )
    assert a.stride == b.stride and a.padding == b.padding and a.kernel_size == b.kernel_size
    out = a(torch.empty(2, 4, 8, 8, device="meta", dtype=torch.float64))
    expected = b(torch.empty(2, 4, 8, 8, device="meta", dtype=torch.float64))
    assert out.is_meta and (out.shape, out.dtype) == (expected.shape, expected.dtype)


# ---- attributes changed after construction ----


def changed(layer, **attributes):
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


@pytest.mark.parametrize(
    "attributes",
    [
        {"padding": 2},
        {"padding": (2, 1)},
        {"padding": [1, 2]},
        {"padding": "same"},
        {"stride": 2},
        {"stride": (1, 3)},
        {"dilation": 2},
        {"kernel_size": 3, "padding": 2},
        {"stride": 2, "padding": 1, "dilation": (1, 2)},
    ],
    ids=str,
)
def test_conv_attributes_changed_later(attributes):
    """As the seeds do: out.kernel_size = 3; out.padding = 2."""
    layer = changed(fill(convx.Conv2d(2, 3, 3)), **attributes)
    x = integers(2, 2, 8, 7)
    kwargs = {k: v for k, v in attributes.items() if k != "kernel_size"}
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, **kwargs))
    assert_same_call(layer, changed(fill(nn.Conv2d(2, 3, 3)), **attributes), x)


@pytest.mark.parametrize(
    "attributes",
    [
        {"padding": 2},
        {"padding": (2, 1)},
        {"stride": 2},
        {"stride": 2, "padding": 2, "output_padding": 0},
        {"stride": 3, "output_padding": 1},
        {"stride": (2, 3), "output_padding": (1, 2)},
        {"dilation": 2, "output_padding": [1, 1]},
        {"kernel_size": 3, "padding": 1},
    ],
    ids=str,
)
def test_transposed_attributes_changed_later(attributes):
    """torch's own layer refuses ints here ("self.padding must be a tuple"), the seeds need them."""
    layer = changed(fill(convx.ConvTranspose2d(2, 3, 3)), **attributes)
    x = integers(2, 2, 5, 4)
    kwargs = {k: v for k, v in attributes.items() if k != "kernel_size"}
    expected = F.conv_transpose2d(x, layer.weight, layer.bias, **kwargs)
    assert torch.equal(layer(x), expected)
    if "dilation" not in attributes:  # torch's range check is by the stride alone
        assert torch.equal(layer(x, output_size=expected.shape), expected)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_and_mode_changed_later(mode):
    """What is read at the call is the attribute, padding and mode alike."""
    layer = changed(fill(convx.Conv2d(2, 3, 3)), padding_mode=mode, padding=2)
    x = integers(1, 2, 6, 5)
    assert torch.equal(layer(x), F.conv2d(F.pad(x, [2] * 4, mode), layer.weight, layer.bias))


@EAGER
def test_repr_with_plain_integers(ours, torchs):
    """torch's extra_repr takes the length of what is now an int; ours shows what the pair would."""
    attributes = {"stride": 2, "padding": 1, "dilation": 3, "kernel_size": 5}
    if ours is convx.ConvTranspose2d:
        attributes["output_padding"] = 2
    pairs = {name: (value, value) for name, value in attributes.items()}
    layer = changed(ours(4, 6, 3, groups=2, bias=False), **attributes)
    assert repr(layer) == repr(changed(torchs(4, 6, 3, groups=2, bias=False), **pairs))
    assert repr(nn.Sequential(layer)).count("kernel_size=(5, 5), stride=(2, 2), padding=(1, 1)") == 1


# ---- padding ----


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 1, (2, 0), (0, 3), "same", "valid"], ids=str)
@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), ((2, 4), 1), ((2, 3), (3, 2)), (1, 1)], ids=str)
def test_padding_modes_equal_pad_and_convolve(mode, padding, kernel_size, dilation):
    """Against F.pad and a plain convolution in float64; even kernels and 'same' pad one more at the end."""
    layer = fill(convx.Conv2d(2, 3, kernel_size, padding=padding, dilation=dilation, padding_mode=mode).double())
    x = integers(2, 2, 6, 7, dtype=torch.float64)
    before, after = [], []
    given = padding if isinstance(padding, tuple) else (padding, padding)
    for p, k, d in zip(given, layer.kernel_size, layer.dilation, strict=True):
        total = d * (k - 1)
        before.append({"same": total // 2, "valid": 0}.get(p, p))
        after.append({"same": total - total // 2, "valid": 0}.get(p, p))
    amounts = [before[1], after[1], before[0], after[0]]
    padded = F.pad(x, amounts, "constant" if mode == "zeros" else mode)
    assert torch.equal(layer(x), F.conv2d(padded, layer.weight, layer.bias, dilation=dilation))
    if padding == "same":
        assert layer(x).shape[2:] == x.shape[2:]


@pytest.mark.parametrize("mode", ["replicate", "reflect", "circular"])
def test_negative_padding_crops_as_torchs(mode):
    """F.pad takes negative amounts, and so do torch's layers in every mode but zeros."""
    ours, torchs = twins(convx.Conv2d, nn.Conv2d, 2, 3, 3, padding=(-1, 1), padding_mode=mode)
    assert_same_call(ours, torchs, integers(2, 2, 7, 6))


def test_padding_at_its_largest():
    """reflect up to size - 1, circular up to size, replicate without limit."""
    for mode, padding in (("reflect", (3, 4)), ("circular", (4, 5)), ("replicate", (9, 11))):
        ours, torchs = twins(convx.Conv2d, nn.Conv2d, 2, 3, 3, padding=padding, padding_mode=mode, stride=2)
        assert_same_call(ours, torchs, integers(2, 2, 4, 5))


# ---- output_size ----


@pytest.mark.parametrize("arguments", [{"stride": 3}, {"stride": (2, 3), "padding": 1, "dilation": (1, 2)}], ids=str)
def test_every_output_size_in_range_and_the_next_outside(arguments):
    ours, torchs = twins(convx.ConvTranspose2d, nn.ConvTranspose2d, 2, 3, 3, **arguments)
    x = integers(2, 2, 4, 3)
    smallest = torchs(x).shape[2:]
    valid = 0
    for extra in itertools.product(range(-1, 4), repeat=2):
        size = [n + e for n, e in zip(smallest, extra, strict=True)]
        if all(0 <= e < s for e, s in zip(extra, torchs.stride, strict=True)):
            assert_same_call(ours, torchs, x, output_size=size)
            assert torch.equal(ours(x, [2, 3, *size]), ours(x, size))  # with batch and channels, by position
            assert torch.equal(ours(x, torch.Size(size)), ours(x, size))
            valid += 1
        else:
            with pytest.raises(ValueError, match="valid sizes range from") as mine:
                ours(x, output_size=size)
            with pytest.raises(ValueError, match="valid sizes range from") as theirs:
                torchs(x, output_size=size)
            assert str(mine.value) == str(theirs.value)
    assert valid == torchs.stride[0] * torchs.stride[1]


def test_output_size_overrides_output_padding_and_takes_unbatched():
    ours, torchs = twins(convx.ConvTranspose2d, nn.ConvTranspose2d, 2, 3, 3, stride=2, output_padding=1)
    assert_same_call(ours, torchs, integers(2, 4, 3), output_size=[9, 7])
    assert_same_call(ours, torchs, integers(2, 4, 3), output_size=[3, 9, 7])
    assert_same_call(ours, torchs, integers(2, 4, 3))


# ---- inputs ----


@EAGER
@pytest.mark.parametrize("size", [(4, 6, 5), (1, 4, 6, 5), (0, 4, 6, 5)], ids=str)
def test_unbatched_and_empty_batches(ours, torchs, size):
    a, b = twins(ours, torchs, 4, 6, 3, stride=2, padding=1, groups=2)
    x = integers(*size).requires_grad_()
    out, expected = a(x), b(x)
    assert out.shape == expected.shape and torch.equal(out, expected)
    grads = torch.autograd.grad(out.sum(), [x, *a.parameters()])
    wanted = torch.autograd.grad(expected.sum(), [x, *b.parameters()])
    assert all(map(torch.equal, grads, wanted))
    if 0 in size:
        assert out.numel() == 0 and not grads[1].any()


@EAGER
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.complex128], ids=str)
def test_dtypes_exactly(ours, torchs, dtype):
    a, b = twins(ours, torchs, 4, 6, (3, 2), stride=(2, 1), padding=1, groups=2, dtype=dtype)
    x = integers(2, 4, 6, 5, dtype=dtype)
    if dtype.is_complex:
        x = x + 1j * integers(2, 4, 6, 5, seed=5).to(dtype)
        for layer in (a, b):
            layer.weight.data += 1j * integers(*layer.weight.shape, seed=6).to(dtype)
    assert_same_call(a, b, x)
    if dtype.is_complex:
        assert torch.equal(a(x.conj()), b(x.conj().clone()))  # a lazily conjugated input


@EAGER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_rounding_dtypes(ours, torchs, dtype):
    """Real values: within twice torch's own error of float64."""
    torch.manual_seed(0)
    a = ours(4, 6, (3, 2), stride=2, padding=1, dtype=dtype)
    b = torchs(4, 6, (3, 2), stride=2, padding=1, dtype=dtype)
    b.load_state_dict(a.state_dict())
    x = torch.randn(4, 4, 19, 21).to(dtype)
    truth = torchs(4, 6, (3, 2), stride=2, padding=1, dtype=torch.float64)
    truth.load_state_dict(a.state_dict())
    pool = Pool()
    pool.check(a(x), b(x), truth(x.double()), "output", f"{ours.__name__} {dtype}")
    assert not pool.failures()


@EAGER
@pytest.mark.parametrize("of", ["input", "layer", "both", "neither"])
def test_memory_format_is_what_torch_returns(ours, torchs, of):
    """channels_last if the input or the weight is, in values and gradients; to(memory_format=) is torch's."""
    a, b = twins(ours, torchs, 4, 6, 3, padding=1)
    x = integers(2, 4, 6, 5)
    if of in ("input", "both"):
        x = x.to(memory_format=torch.channels_last)
    if of in ("layer", "both"):
        a, b = a.to(memory_format=torch.channels_last), b.to(memory_format=torch.channels_last)
    assert_same_call(a, b, x)
    out, expected = a(x), b(x)
    assert out.stride() == expected.stride()
    assert out.is_contiguous(memory_format=torch.channels_last) == (of != "neither")


# ---- autocast ----


@EAGER
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(ours, torchs, dtype):
    """Output dtype as torch's, nested and disabled inside too; gradients arrive in the parameters' dtype."""
    a, b = twins(ours, torchs, 4, 6, 3)
    x = integers(2, 4, 6, 5)
    with torch.autocast("cpu", dtype=dtype):
        out, expected = a(x), b(x)
        assert out.dtype == expected.dtype == dtype and torch.equal(out, expected)
        with torch.autocast("cpu", enabled=False):
            assert a(x).dtype == b(x).dtype == torch.float32
        assert a(x.to(dtype)).dtype == b(x.to(dtype)).dtype == dtype
        functional = convx.conv2d if ours is convx.Conv2d else convx.conv_transpose2d
        assert functional(x, a.weight, a.bias).dtype == dtype
        for layer in (a, b):
            layer.zero_grad()
            layer(x).float().sum().backward()
    assert a.weight.grad.dtype == torch.float32 and torch.equal(a.weight.grad, b.weight.grad)
    assert torch.equal(a.bias.grad, b.bias.grad)
    assert a(x).dtype == torch.float32


def test_autocast_leaves_other_dtypes_as_torch_does():
    """float64 is not cast, integers are not, and what then disagrees is refused as in torch."""
    x, w = integers(1, 2, 5, 5), integers(3, 2, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float64, torch.int64, torch.complex64):
            ours, torchs = convx.conv2d(x.to(dtype), w.to(dtype)), F.conv2d(x.to(dtype), w.to(dtype))
            assert ours.dtype == torchs.dtype and torch.equal(ours, torchs)
