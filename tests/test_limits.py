"""The edges of what is accepted: the operators' own checks, for callers that do not come by the functions; what torch
accepts at the edge (no batch, integers that wrap, meta tensors); and the numbers that crash careless code.
"""

import re

import pytest
import torch
import torch.nn.functional as F
from process import run_python

import convx

Z = torch.zeros

# ---- the operators themselves, which callers may reach without the functions' own checks ----

GEOMETRY = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
OPERATORS = {
    "forward": ((2, 4, 5, 6), (6, 4, 3, 3), (3, 4)),
    "grad_input": ((2, 6, 3, 4), (6, 4, 3, 3), (5, 6)),
    "grad_weight": ((2, 4, 5, 6), (2, 6, 3, 4), (3, 3)),
}


def call_operator(name, first=None, second=None, size=None, mode="zeros", **geometry):
    sizes = OPERATORS[name]
    first, second = (Z(s) if t is None else t for t, s in zip((first, second), sizes[:2], strict=True))
    bias = () if name == "grad_weight" else (None,)
    numbers = {**GEOMETRY, **geometry}.values()
    return getattr(torch.ops.convx, name)(first, second, *bias, *numbers, size or sizes[2], mode)


WRONG = {
    "stride": {"stride": (0, 1)},
    "stride_count": {"stride": (1, 1, 1)},
    "padding": {"padding": (0, -1)},
    "dilation": {"dilation": (1, 0)},
    "groups": {"groups": 0},
    "groups_not_dividing": {"groups": 5},
    "mode": {"mode": "mirror"},
    "first_rank": {"first": Z(5, 6)},
    "second_rank": {"second": Z(3, 3)},
    "second_channels": {"second": Z(3, 7, 3, 4)},
    "dtype": {"second": Z(6, 4, 3, 3).double()},
    "size_count": {"size": (3,)},
    "size_negative": {"size": (-1, 4)},
    "size_beyond_64_bits": {"size": (2**62, 2**62)},
    "stride_beyond_64_bits": {"stride": (2**62, 2**62)},
    "dilation_beyond_64_bits": {"dilation": (2**62, 2**62)},
    "padding_beyond_64_bits": {"padding": (2**62, 2**62)},
    "reflect_too_far": {"mode": "reflect", "padding": (9, 9)},
    "circular_too_far": {"mode": "circular", "padding": (9, 9)},
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_operators_refuse(name, wrong, device):
    """On the CPU and on meta alike: a shape that tracing accepts must be one that running accepts."""
    arguments = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in WRONG[wrong].items()}
    for i, key in enumerate(("first", "second")):
        arguments.setdefault(key, Z(OPERATORS[name][i], device=device))
    with pytest.raises((RuntimeError, ValueError)):
        call_operator(name, **arguments)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_take_the_right_ones(name):
    """What the wrong ones above are variations of."""
    assert call_operator(name).numel() > 0


# ---- what torch accepts and so must convx ----


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_integers_wrap_as_torchs(dtype):
    """Values large enough to overflow: integers are a ring, so the result is defined."""
    info = torch.iinfo(dtype)
    a = torch.randint(info.min, info.max, (2, 4, 5, 6), dtype=dtype)
    b = torch.randint(info.min, info.max, (6, 4, 3, 3), dtype=dtype)
    c = torch.randint(info.min, info.max, (6,), dtype=dtype)
    out = convx.conv2d(a, b, c, padding=1)
    assert out.dtype == dtype and torch.equal(out, F.conv2d(a, b, c, padding=1))
    if dtype == torch.int64:
        assert torch.equal(convx.conv_transpose2d(a, b[:4], stride=2), F.conv_transpose2d(a, b[:4], stride=2))


def test_meta_gives_shapes():
    out = convx.conv2d(
        Z(2, 4, 5, 6, device="meta"), Z(6, 4, 3, 3, device="meta"), Z(6, device="meta"), stride=2, padding=1
    )
    assert out.is_meta and out.shape == (2, 6, 3, 3)
    out = convx.conv_transpose2d(Z(2, 4, 5, 6, device="meta"), Z(4, 6, 3, 3, device="meta"), stride=2, output_padding=1)
    assert out.is_meta and out.shape == (2, 6, 12, 14)
    huge = Z(1, 1, 2**20, 2**20, device="meta")
    assert convx.conv2d(huge, Z(1, 1, 3, 3, device="meta"), padding=1).shape == huge.shape


def test_no_batch_and_no_channels():
    """N = 0 as torch; C = 0 gives the empty sum, where torch returns a tensor of the wrong shape, (2, 0, 3, 4)."""
    for size in ((0, 4, 5, 6), (0, 4, 0, 6)):
        torchs = F.conv2d(Z(*size), Z(6, 4, 3, 3), Z(6), padding=2)
        assert convx.conv2d(Z(*size), Z(6, 4, 3, 3), Z(6), padding=2).shape == torchs.shape
    assert (
        convx.conv_transpose2d(Z(0, 4, 5, 6), Z(4, 6, 3, 3)).shape
        == F.conv_transpose2d(Z(0, 4, 5, 6), Z(4, 6, 3, 3)).shape
    )
    bias = torch.arange(6.0)
    out = convx.conv2d(Z(2, 0, 5, 6), Z(6, 0, 3, 3), bias)
    assert out.shape == (2, 6, 3, 4) and torch.equal(out, bias[:, None, None].expand_as(out))
    assert not convx.conv2d(Z(2, 0, 5, 6), Z(6, 0, 3, 3)).any()


def test_lists_single_values_and_index_types():
    """Whatever torch takes for a pair: lists, one-element tuples, numpy integers, tensors of one integer."""
    import numpy

    image, weight = torch.randn(2, 4, 8, 8), torch.randn(6, 4, 3, 3)
    for stride in (2, (2,), [2], [2, 2], torch.Size([2, 2]), numpy.int64(2), (numpy.int32(2), 2), torch.tensor(2)):
        assert convx.conv2d(image, weight, stride=stride).shape == F.conv2d(image, weight, stride=stride).shape


NASTY = r"""
import torch, convx
Z = torch.zeros
x, w, wt = Z(2, 4, 5, 6), Z(6, 4, 3, 3), Z(4, 6, 3, 3)
values = (-2**63, -2**62, -1, 0, 2**31 - 1, 2**31, 2**40, 2**61, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64, 2**100)
count = 0
for name in ("stride", "padding", "dilation", "groups", "output_padding"):
    for v in values:
        for value in (v, (1, v), (v, 1)) if name != "groups" else (v,):
            for f, weight in ((convx.conv2d, w), (convx.conv_transpose2d, wt)):
                if f is convx.conv2d and name == "output_padding":
                    continue
                for mode in ({}, {"padding_mode": "reflect"}, {"padding_mode": "circular"}):
                    if mode and f is not convx.conv2d:
                        continue
                    try:
                        out = f(x, weight, **{name: value}, **mode)
                    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
                        assert str(error)
                    else:  # a huge stride is fine, and so is a huge step that is taken zero times
                        assert out.numel() < 10**6, (f, name, value, out.shape)
                    count += 1
for size in ((2**62, 1), (2**31, 2**31), (2**40, 2**40), (-2**63, 4), (2**63 - 1, 1)):
    for args in ((torch.ops.convx.forward, x, w, None), (torch.ops.convx.grad_input, Z(2, 6, 3, 4), w, None),
                 (torch.ops.convx.grad_weight, x, Z(2, 6, 3, 4))):
        try:
            args[0](*args[1:], (1, 1), (0, 0), (1, 1), 1, size)
        except (RuntimeError, ValueError, MemoryError) as error:
            assert str(error)
        else:
            raise AssertionError((args[0], size))
        count += 1
huge = Z(1, 1, 1, 1).expand(2**20, 1, 2**20, 2**20)  # one element, broadcast; the results would be 2**63 and more
for f in (lambda: convx.conv2d(huge, Z(8, 1, 1, 1)), lambda: convx.conv2d(huge, Z(1, 1, 1, 1), padding=2**20),
          lambda: convx.conv_transpose2d(huge, Z(1, 8, 1, 1))):
    try:
        f()
    except RuntimeError as error:
        count += 1
    else:
        raise AssertionError("a result of more bytes than 64 bits count")
print("survived", count)
"""


def test_nothing_crashes_the_process():
    """The nastiest numbers, in a process of their own: exceptions only, no signal and no gigabytes."""
    done = run_python("-c", NASTY)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr[-2000:]}"
    assert re.fullmatch(r"survived \d{3}", done.stdout.strip()), done.stdout
