"""Bad input: torch is run side by side, and where it raises, convx raises the same exception type, with a message that
has the key words a user would search for. Where torch's answer is an accident (an internal error of oneDNN, an
assertion, a crash), the expectation is written down here and the reason beside it.
"""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convx

Z = torch.zeros
BIG = 2**62


class Torch:
    conv2d, conv_transpose2d = staticmethod(F.conv2d), staticmethod(F.conv_transpose2d)
    Conv2d, ConvTranspose2d, LazyConv2d = nn.Conv2d, nn.ConvTranspose2d, nn.LazyConv2d
    grad = torch.nn.grad


def x(*size, **kwargs):
    return Z(size or (2, 4, 5, 6), **kwargs)


def w(*size, **kwargs):
    return Z(size or (6, 4, 3, 3), **kwargs)


def wt(*size, **kwargs):
    return Z(size or (4, 6, 3, 3), **kwargs)


# name: (the call, given torch or convx; what the message says)
BAD = {
    # shapes
    "channels": (lambda m: m.conv2d(x(2, 3, 5, 6), w()), r"to have 4 channels, but got 3 channels"),
    "channels_transposed": (lambda m: m.conv_transpose2d(x(2, 3, 5, 6), wt()), r"to have 4 channels, but got 3"),
    "channels_unbatched": (lambda m: m.conv2d(x(3, 5, 6), w()), r"to have 4 channels, but got 3 channels"),
    "channels_of_groups": (lambda m: m.conv2d(x(), w(), groups=3), r"to have 12 channels, but got 4 channels"),
    "no_channels_unbatched": (lambda m: m.conv2d(x(0, 5, 6), w()), r"to have 4 channels, but got 0 channels"),
    "weight_rank_3": (lambda m: m.conv2d(x(), w(6, 4, 3)), r"Expected 4-dimensional weight"),
    "weight_rank_5": (lambda m: m.conv2d(x(), w(6, 4, 3, 3, 3)), r"Expected 4-dimensional weight"),
    "weight_rank_transposed": (lambda m: m.conv_transpose2d(x(), wt(4, 6, 3)), r"Expected 4-dimensional weight"),
    "input_rank_2": (lambda m: m.conv2d(x(5, 6), w()), r"Expected 3D \(unbatched\) or 4D \(batched\) input to conv2d"),
    "input_rank_5": (lambda m: m.conv2d(x(1, 1, 4, 5, 6), w()), r"Expected 3D .* or 4D .*\[1, 1, 4, 5, 6\]"),
    "input_rank_transposed": (
        lambda m: m.conv_transpose2d(x(5, 6), wt()),
        r"Expected 3D \(unbatched\) or 4D \(batched\) input to conv_transpose2d",
    ),
    "kernel_beyond_the_input": (
        lambda m: m.conv2d(x(), w(6, 4, 7, 7)),
        r"Calculated padded input size per channel: \(5 x 6\)\. Kernel size: \(7 x 7\)\. Kernel size can't be greater",
    ),
    "kernel_beyond_the_padded_input": (
        lambda m: m.conv2d(x(), w(6, 4, 9, 9), padding=1),
        r"\(7 x 8\)\. Kernel size: \(9 x 9\)\. Kernel size can't be greater",
    ),
    "dilated_kernel_beyond_the_input": (
        lambda m: m.conv2d(x(), w(), dilation=3),
        r"Kernel size: \(7 x 7\)\. Kernel size can't be greater",
    ),
    "kernel_of_size_0": (
        lambda m: m.conv2d(x(), w(6, 4, 0, 3)),
        r"kernel size should be greater",
    ),  # torch: an internal error
    "no_rows": (lambda m: m.conv2d(x(2, 4, 0, 6), w(), padding=2), r"Only zero batch or zero channel inputs"),
    "no_rows_unpadded": (
        lambda m: m.conv2d(x(2, 4, 0, 6), w()),
        r"Kernel size can't be greater|Only zero batch or zero channel inputs",
    ),
    "no_rows_transposed": (lambda m: m.conv_transpose2d(x(2, 4, 0, 6), wt()), r"Only zero batch or zero channel"),
    "no_output_channels": (lambda m: m.conv2d(x(), w(0, 4, 3, 3)), r"expected weight to be at least 1 at dimension 0"),
    "no_input_channels_transposed": (
        lambda m: m.conv_transpose2d(x(2, 0, 5, 6), wt(0, 6, 3, 3)),
        r"expected weight to be at least 1 at dimension 0",
    ),
    "bias_size": (lambda m: m.conv2d(x(), w(), Z(5)), r"bias to be 1-dimensional with 6 elements, but got .*\[5\]"),
    "bias_rank": (lambda m: m.conv2d(x(), w(), Z(6, 1)), r"bias to be 1-dimensional with 6 elements, but got .*6, 1\]"),
    "bias_scalar": (lambda m: m.conv2d(x(), w(), Z(())), r"bias to be 1-dimensional with 6 elements"),
    "bias_transposed": (lambda m: m.conv_transpose2d(x(), wt(), Z(4)), r"bias to be 1-dimensional with 6 elements"),
    # groups
    "groups_not_dividing": (lambda m: m.conv2d(x(), w(), groups=4), r"weight to be divisible by 4 at dimension 0"),
    "groups_not_dividing_transposed": (
        lambda m: m.conv_transpose2d(x(), wt(), groups=3),
        r"weight to be divisible by 3 at dimension 0",
    ),
    "more_groups_than_outputs": (lambda m: m.conv2d(x(), w(), groups=8), r"weight to be at least 8 at dimension 0"),
    "groups_0": (lambda m: m.conv2d(x(), w(), groups=0), r"non-positive groups is not supported"),
    "groups_negative": (lambda m: m.conv2d(x(), w(), groups=-2), r"non-positive groups is not supported"),
    "groups_0_transposed": (lambda m: m.conv_transpose2d(x(), wt(), groups=0), r"non-positive groups"),
    # geometry
    "stride_0": (lambda m: m.conv2d(x(), w(), stride=0), r"non-positive stride is not supported"),
    "stride_0_in_one": (lambda m: m.conv2d(x(), w(), stride=(1, 0)), r"non-positive stride is not supported"),
    "stride_negative": (lambda m: m.conv2d(x(), w(), stride=-1), r"non-positive stride is not supported"),
    "stride_0_transposed": (lambda m: m.conv_transpose2d(x(), wt(), stride=0), r"non-positive stride"),
    "dilation_0": (lambda m: m.conv2d(x(), w(), dilation=0), r"dilation"),
    "dilation_negative": (lambda m: m.conv2d(x(), w(), dilation=-1), r"dilation should be greater than zero"),
    "dilation_negative_transposed": (
        lambda m: m.conv_transpose2d(x(), wt(), dilation=-1),
        r"dilation should be greater than zero",
    ),
    "padding_negative": (lambda m: m.conv2d(x(), w(), padding=-1), r"negative padding is not supported"),
    "padding_negative_in_one": (lambda m: m.conv2d(x(), w(), padding=(0, -1)), r"negative padding is not supported"),
    "padding_negative_transposed": (lambda m: m.conv_transpose2d(x(), wt(), padding=-1), r"negative padding"),
    "output_padding_negative": (
        lambda m: m.conv_transpose2d(x(), wt(), output_padding=-1),
        r"negative output_padding is not supported",
    ),
    "output_padding_not_below_stride": (
        lambda m: m.conv_transpose2d(x(), wt(), output_padding=1),
        r"output padding must be smaller than either stride or dilation",
    ),
    "output_padding_not_below_stride_in_one": (
        lambda m: m.conv_transpose2d(x(), wt(), stride=2, output_padding=(2, 1)),
        r"output padding must be smaller than either stride or dilation",
    ),
    "output_padding_not_below_dilation": (
        lambda m: m.conv_transpose2d(x(), wt(), dilation=(3, 2), output_padding=2),
        r"output padding must be smaller than either stride or dilation",
    ),
    "three_strides": (
        lambda m: m.conv2d(x(), w(), stride=(1, 2, 3)),
        r"expected stride to be .* got stride=\[1, 2, 3\]",
    ),
    "three_paddings": (lambda m: m.conv2d(x(), w(), padding=(1, 2, 3)), r"expected padding to be .* list of 2 values"),
    "four_paddings_transposed": (
        lambda m: m.conv_transpose2d(x(), wt(), padding=(1, 2, 3, 4)),
        r"expected padding to be",
    ),
    "three_dilations": (lambda m: m.conv2d(x(), w(), dilation=(1, 1, 1)), r"expected dilation to be"),
    "no_strides": (lambda m: m.conv2d(x(), w(), stride=()), r"stride"),
    "unknown_padding": (lambda m: m.conv2d(x(), w(), padding="full"), r"Invalid padding string: '?full'?"),
    "padding_name_transposed": (lambda m: m.conv_transpose2d(x(), wt(), padding="same"), r"padding.*str"),
    "same_with_stride": (
        lambda m: m.conv2d(x(), w(), padding="same", stride=2),
        r"padding='same' is not supported for strided convolutions",
    ),
    # 64 bits
    "padding_2_62": (lambda m: m.conv2d(x(), w(), padding=BIG), r"padding.* at most|too large|overflow"),
    "padding_2_62_transposed": (lambda m: m.conv_transpose2d(x(), wt(), padding=BIG), r"at most|too large|overflow"),
    "padding_2_40": (
        lambda m: m.conv2d(x(), w(), padding=2**40),
        r"overflow|at most|too large",
    ),  # torch: an internal error of oneDNN
    "dilation_2_62": (lambda m: m.conv2d(x(), w(), dilation=BIG), r"overflow|at most|too large"),
    "dilation_2_62_transposed": (lambda m: m.conv_transpose2d(x(), wt(), dilation=BIG), r"overflow|at most|too large"),
    "stride_2_62_transposed": (lambda m: m.conv_transpose2d(x(), wt(), stride=BIG), r"overflow|at most|too large"),
    "output_beyond_64_bits": (
        lambda m: m.conv2d(Z(1, 1, 1, 1).expand(2**20, 1, 2**20, 2**20), w(8, 1, 1, 1)),
        r"overflow|at most|too large",
    ),
    "output_beyond_64_bits_transposed": (
        lambda m: m.conv_transpose2d(x(1, 1, 2, 2), w(1, 1, 1, 1), stride=2**40),
        r"overflow|at most|too large",
    ),
    # dtypes, devices, layouts, types
    "weight_dtype": (lambda m: m.conv2d(x(), w().double()), r"should be the same|expected scalar type"),
    "half_and_float": (lambda m: m.conv2d(x().half(), w()), r"should be the same|expected scalar type"),
    "bias_dtype": (lambda m: m.conv2d(x(), w(), Z(6).double()), r"Input type .* and bias type .* should be the same"),
    "bias_dtype_transposed": (
        lambda m: m.conv_transpose2d(x(), wt(), Z(6).double()),
        r"Input type .* and bias type .* should be the same",
    ),
    "complex_and_real": (lambda m: m.conv2d(x().cfloat(), w()), r"Input type .* and weight type .* should be the same"),
    "complex_and_real_transposed": (
        lambda m: m.conv_transpose2d(x(), wt().cfloat()),
        r"Input type .* and weight type .* should be the same",
    ),
    "integers_and_floats": (lambda m: m.conv2d(x().long(), w()), r"should be the same"),
    "bool": (lambda m: m.conv2d(x().bool(), w().bool()), r"not implemented for 'Bool'"),
    "bool_transposed": (lambda m: m.conv_transpose2d(x().bool(), wt().bool()), r"not implemented for 'Bool'"),
    "float8": (
        lambda m: m.conv2d(x().to(torch.float8_e4m3fn), w().to(torch.float8_e4m3fn)),
        r"not implemented for 'Float8_e4m3fn'",
    ),
    "int32_transposed": (lambda m: m.conv_transpose2d(x().int(), wt().int()), r"not implemented for 'Int'"),
    "uint8_transposed": (lambda m: m.conv_transpose2d(x().byte(), wt().byte()), r"not implemented for 'Byte'"),
    "int8_transposed": (lambda m: m.conv_transpose2d(x().char(), wt().char()), r"not implemented for 'Char'"),
    "sparse_input": (lambda m: m.conv2d(x().to_sparse(), w()), r"sparse"),
    "sparse_weight": (lambda m: m.conv2d(x(), w().to_sparse()), r"sparse"),
    "sparse_bias": (lambda m: m.conv2d(x(), w(), Z(6).to_sparse()), r"sparse"),
    "sparse_transposed": (lambda m: m.conv_transpose2d(x().to_sparse(), wt()), r"sparse"),
    "stride_float": (lambda m: m.conv2d(x(), w(), stride=1.0), r"stride"),
    "stride_str": (lambda m: m.conv_transpose2d(x(), wt(), stride="2"), r"stride"),
    "groups_float": (lambda m: m.conv2d(x(), w(), groups=2.0), r"groups"),
    "padding_none": (lambda m: m.conv2d(x(), w(), padding=None), r"padding"),
    "input_none": (lambda m: m.conv2d(None, w()), r"input|argument"),
    "weight_none": (lambda m: m.conv_transpose2d(x(), None), r"argument 'weight' \(position 2\) must be Tensor"),
    "input_array": (lambda m: m.conv2d(x().numpy(), w()), r"numpy\.ndarray|ndarray"),
    "bias_bool": (lambda m: m.conv2d(x(), w(), True), r"bool"),
    "unknown_keyword": (lambda m: m.conv2d(x(), w(), strides=1), r"strides"),
    # constructors are torch's own
    "constructor_groups": (lambda m: m.Conv2d(3, 4, 3, groups=2), r"in_channels must be divisible by groups"),
    "constructor_out_groups": (lambda m: m.Conv2d(4, 3, 3, groups=2), r"out_channels must be divisible by groups"),
    "constructor_groups_0": (lambda m: m.ConvTranspose2d(3, 4, 3, groups=0), r"groups must be a positive integer"),
    "constructor_padding": (lambda m: m.Conv2d(3, 4, 3, padding="full"), r"Invalid padding string 'full'"),
    "constructor_same": (lambda m: m.Conv2d(3, 4, 3, padding="same", stride=2), r"not supported for strided"),
    "constructor_mode": (lambda m: m.Conv2d(3, 4, 3, padding_mode="mirror"), r"padding_mode must be one of"),
    "constructor_mode_transposed": (
        lambda m: m.ConvTranspose2d(3, 4, 3, padding_mode="reflect"),
        r'Only "zeros" padding mode is supported for ConvTranspose2d',
    ),
    # layers
    "layer_channels": (lambda m: m.Conv2d(3, 4, 3)(x()), r"to have 3 channels, but got 4 channels"),
    "reflect_beyond_the_input": (
        lambda m: m.Conv2d(4, 4, 3, padding=6, padding_mode="reflect")(x()),
        r"Padding size should be less than the corresponding input dimension",
    ),
    "reflect_of_the_input": (
        lambda m: m.Conv2d(4, 4, 3, padding=(5, 0), padding_mode="reflect")(x()),
        r"Padding size should be less than the corresponding input dimension",
    ),
    "circular_beyond_the_input": (
        lambda m: m.Conv2d(4, 4, 3, padding=7, padding_mode="circular")(x()),
        r"Padding value causes wrapping around more than once",
    ),
    "output_size_too_large": (
        lambda m: m.ConvTranspose2d(4, 6, 3, stride=2)(x(), output_size=[14, 14]),
        r"requested an output size of \[14, 14\], but valid sizes range from \[11, 13\] to \[12, 14\]",
    ),
    "output_size_too_small": (
        lambda m: m.ConvTranspose2d(4, 6, 3, stride=2)(x(), output_size=[10, 13]),
        r"requested an output size of \[10, 13\], but valid sizes range",
    ),
    "output_size_of_5": (
        lambda m: m.ConvTranspose2d(4, 6, 3)(x(), output_size=[1, 1, 1, 14, 14]),
        r"for 4D input, output_size must have 2 or 4 elements \(got 5\)",
    ),
    "lazy_rank": (lambda m: m.LazyConv2d(4, 3)(x(5, 6)), r"Expected 3D \(unbatched\) or 4D \(batched\) input"),
    "lazy_groups": (lambda m: m.LazyConv2d(4, 3, groups=2)(x(1, 3, 5, 5)), r"in_channels must be divisible by groups"),
    # the gradients as functions
    "grad_input_size": (
        lambda m: m.grad.conv2d_input((2, 3, 5, 6), w(), x(2, 6, 3, 4)),
        r"channels|input_size",
    ),
    "grad_weight_groups": (lambda m: m.grad.conv2d_weight(x(), (6, 4, 3, 3), x(2, 6, 3, 4), groups=0), r"groups"),
}


def outcome(call, module):
    try:
        return call(module)
    except Exception as error:
        return error


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("name", BAD)
def test_raises_what_torch_raises(name):
    call, pattern = BAD[name]
    expected, actual = outcome(call, Torch), outcome(call, convx)
    assert isinstance(expected, Exception), f"torch accepts this: {expected}"
    assert isinstance(actual, Exception), f"accepted, but torch raises {type(expected).__name__}: {expected}"
    assert type(actual) is type(expected), f"{actual!r}, but torch raises {expected!r}"
    assert re.search(pattern, str(actual)), f"the message lacks {pattern!r}: {actual}"
    assert str(actual), "no message"


# Where torch's answer is no guide: (the call on convx, exception types, message)
OURS = {
    # torch: an internal error of oneDNN
    "dilation_0_transposed": (lambda: convx.conv_transpose2d(x(), wt(), dilation=0), RuntimeError, "dilation"),
    # torch: "could not construct a memory descriptor"
    "padding_beyond_the_output": (
        lambda: convx.conv_transpose2d(x(), wt(), padding=5),
        RuntimeError,
        r"[Oo]utput size",
    ),
    # torch: ValueError, "Overflow when unpacking long long"
    **{
        f"{name}_2_63": (
            lambda name=name: convx.conv2d(x(), w(), **{name: 2**63}),
            (ValueError, RuntimeError, OverflowError, TypeError),
            "",
        )
        for name in ("padding", "stride", "dilation", "groups")
    },
    # torch computes on uninitialised or nonexistent memory, or gives a meta tensor
    "input_on_meta": (lambda: convx.conv2d(x(device="meta"), w()), RuntimeError, "same device"),
    "weight_on_meta": (lambda: convx.conv2d(x(), w(device="meta")), RuntimeError, "same device"),
    "bias_on_meta": (lambda: convx.conv2d(x(), w(), Z(6, device="meta")), RuntimeError, "same device"),
    "weight_on_meta_transposed": (lambda: convx.conv_transpose2d(x(), wt(device="meta")), RuntimeError, "same device"),
    # what torch does not have
    "mode_of_the_function": (
        lambda: convx.conv2d(x(), w(), padding=1, padding_mode="mirror"),
        ValueError,
        "padding_mode must be one of .*'circular'.*'mirror'",
    ),
    "mode_is_keyword_only": (lambda: convx.conv2d(x(), w(), None, 1, 0, 1, 1, "reflect"), TypeError, "argument"),
    # torch: TypeError from len(int), AssertionError "self.padding must be a tuple"; convx takes ints, but not these
    "layer_padding_changed_to_none": (
        lambda: set_attributes(convx.Conv2d(4, 4, 3), padding=None)(x()),
        TypeError,
        "padding",
    ),
    "layer_stride_changed_to_0": (
        lambda: set_attributes(convx.ConvTranspose2d(4, 4, 3), stride=0)(x()),
        RuntimeError,
        "non-positive stride",
    ),
    "layer_mode_changed_transposed": (
        lambda: set_attributes(convx.ConvTranspose2d(4, 4, 3), padding_mode="reflect")(x()),
        ValueError,
        "Only `zeros` padding mode is supported for ConvTranspose2d",
    ),
}


def set_attributes(layer, **attributes):
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


@pytest.mark.parametrize("name", OURS)
def test_raises_what_is_written_here(name):
    call, types, pattern = OURS[name]
    with pytest.raises(types, match=pattern or None):
        call()
