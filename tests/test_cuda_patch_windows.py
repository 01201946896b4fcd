"""The CUDA row patch_windows on the emulator, beyond what test_cuda_emulated.py asks of every CUDA kernel: first layers
of every kind, last layers from the other side, and what becomes of infinities beside the zeros that it multiplies."""

from dataclasses import replace

import pytest
import torch
from emulated import check_errors, check_every_barrier_is_needed, check_special_values, kernels_chosen
from emulator import library as emulator
from exact import assert_exact, draw_integers
from problems import Problem
from sampling import covering
from test_accuracy import draw as draw_reals
from test_propagation import SPECIAL

pytestmark = pytest.mark.usefixtures("default_emulator")
ROW = "patch_windows"
PRIMITIVES = ("forward", "grad_input", "grad_weight")
# float32 as it should be, and as TF32.
KINDS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "tf32": torch.float32}
LAYOUTS = ("contiguous", "channels_last", "cropped", "sliced")

FIRST = {
    "resnet": Problem(2, 3, 19, 37, 70, 7, 7, (2, 2), (3, 3)),
    "vgg": Problem(2, 3, 9, 21, 9, 3, 3, padding=(1, 1)),  # windows begin at odd numbers
    "speech": Problem(1, 1, 12, 50, 33, 5, 20, (2, 2)),
    "alexnet": Problem(1, 3, 39, 51, 12, 11, 11, (4, 4)),  # more numbers of a window than a block's four warps have
    "many-outputs": Problem(1, 4, 6, 7, 140, 3, 3, padding=(1, 1)),
    "narrow-run": Problem(2, 1, 9, 18, 16, 3, 1, padding=(1, 0)),
    "reflect": Problem(1, 2, 8, 19, 8, 3, 3, padding=(2, 1), mode="reflect"),
    "circular": Problem(1, 4, 9, 20, 24, 3, 4, (2, 3), (1, 2), mode="circular"),
    "dilated-rows": Problem(1, 1, 12, 9, 16, 3, 2, (1, 3), (1, 0), (2, 1)),
    "pointwise": Problem(1, 3, 5, 6, 8, 1, 1),
    "wide-kernel": Problem(1, 3, 12, 20, 20, 5, 7),
    "five-channels": Problem(1, 5, 7, 17, 40, 2, 3, (1, 2), (0, 1)),
}
LAST = {
    "last-layer": Problem(2, 20, 9, 18, 3, 3, 3, padding=(1, 1)),
    "last-of-one": Problem(1, 40, 8, 19, 1, 5, 5, padding=(2, 2)),
    "uneven": Problem(1, 9, 8, 17, 2, 4, 3, padding=(0, 2)),
    "dilated-rows-last": Problem(1, 8, 12, 9, 3, 3, 2, (1, 1), (1, 0), (2, 1)),
}
LAYERS = FIRST | LAST


# Last layers from y's side; forward reads all of their channels, which is not what this row is for.
CASES = [(p, name) for name in LAYERS for p in ("forward" if name in FIRST else "grad_input", "grad_weight")]


def call(primitive, kind, operands, problem, channels_last=False):
    if kind != "tf32":
        return emulator.call(primitive, ROW, *operands, problem, channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    result = torch.full(problem.shapes(primitive)[2], float("nan")).contiguous(memory_format=memory_format)
    emulator.run_into(result, primitive, ROW, *operands, problem, tf32=True)
    return result


@pytest.mark.parametrize(
    "case, kind, layout, channels_last, multiprocessors, order",
    covering(CASES, KINDS, LAYOUTS, (False, True), (1, 132), emulator.ORDERS),
)
def test_layers_of_every_kind(case, kind, layout, channels_last, multiprocessors, order):
    primitive, name = case
    bias = "none" if primitive == "grad_weight" else "contiguous"
    layouts = (layout, layout if primitive == "grad_weight" else "contiguous")
    *operands, expected = draw_integers(primitive, LAYERS[name], KINDS[kind], "cpu", layouts, bias)
    emulator.configure(order)
    emulator.pretend_device(multiprocessors=multiprocessors)
    assert_exact(call(primitive, kind, operands, LAYERS[name], channels_last), expected, (name, kind, layout))


def test_every_kernel_is_launched():
    """So that the test above proves something."""
    emulator.launched(forget=True)
    emulator.configure(dry=True)
    for kind, dtype in KINDS.items():
        for primitive, name in CASES:
            first, second, _, _ = draw_integers(primitive, LAYERS[name], dtype)
            call(primitive, kind, (first, second, None), LAYERS[name])
    launches = [launched.symbol for launched in emulator.launched()]
    for arithmetic in ("HalvesINS_4HalfEEE", "HalvesINS_8BFloat16EEE", "RoundedE", "ThreeE"):
        for shape in ("Li4ELi4E", "Li2ELi8E"):
            wanted = f"{arithmetic}{shape}"
            assert any("convolve_windows" in symbol and wanted in symbol for symbol in launches), wanted
        weight = arithmetic.replace("sINS", "sWeightINS").replace("dE", "dWeightE").replace("eE", "eWeightE")
        for shape in (f"Li{m}ELi{n}E" for m in (2, 4) for n in (1, 2, 4, 5)):
            wanted = f"{weight}{shape}"
            assert any("weigh_windows" in symbol and wanted in symbol for symbol in launches), wanted


@pytest.mark.parametrize(
    "case, dtype, where, values, channels_last",
    covering(CASES, tuple(KINDS.values())[:3], (0, 1), SPECIAL, (False, True)),
    ids=str,
)
def test_infinities_beside_zeros(case, dtype, where, values, channels_last):
    primitive, name = case
    check_special_values(primitive, ROW, LAYERS[name], dtype, where, values, channels_last=channels_last)


@pytest.mark.parametrize("dtype", tuple(KINDS.values())[:3], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_at_most_twice_torchs(case, dtype):
    primitive, name = case
    if LAYERS[name].mode == "zeros":
        check_errors(primitive, ROW, LAYERS[name], dtype)


@pytest.mark.parametrize("dtype", (torch.float16, torch.float32), ids=str)
@pytest.mark.parametrize("primitive, name", (("forward", "resnet"), ("forward", "vgg"), ("grad_input", "last-layer")))
def test_a_sample_has_the_same_bits_in_every_batch(primitive, name, dtype):
    three = replace(LAYERS[name], N=3)
    operands, _ = draw_reals(primitive, three, dtype, "cpu")
    together = emulator.call(primitive, ROW, *operands, three)
    emulator.pretend_device(multiprocessors=1)
    alone = emulator.call(primitive, ROW, operands[0][1:2], *operands[1:], replace(three, N=1))
    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize("primitive", ("forward", "grad_weight"))
def test_every_barrier_and_wait_is_needed(primitive):
    """A block with several patches."""
    problem = Problem(1, 3, 18, 37, 12, 3, 3, padding=(1, 1))
    layout = "channels_last" if primitive == "grad_weight" else "contiguous"
    *operands, expected = draw_integers(primitive, problem, torch.float32, "cpu", (layout, layout))
    emulator.pretend_device(multiprocessors=1)
    check_every_barrier_is_needed(
        lambda: assert_exact(emulator.call(primitive, ROW, *operands, problem), expected, problem),
        5 if primitive == "grad_weight" else 4,
        "without a barrier|nobody has written|anybody waited",
        files=ROW,
        max_blocks=1,
    )


def test_what_is_left_to_others():
    refusals = {
        "its windows are of all channels": Problem(1, 4, 9, 9, 8, 3, 3, G=2),
        "its windows are of neighbouring columns": Problem(1, 3, 9, 9, 8, 3, 3, dilation=(1, 2)),
        "a patch of the image is beyond shared memory": Problem(1, 65, 9, 9, 66, 3, 3),
    }
    for reason, problem in refusals.items():
        for primitive in ("forward", "grad_weight"):
            assert reason in emulator.refusal(primitive, ROW, problem, torch.float16)
    for reason, problem in {
        "has no stride": Problem(1, 20, 9, 9, 3, 3, 3, (2, 2)),
        "padding is zeros": Problem(1, 20, 9, 9, 3, 3, 3, padding=(1, 1), mode="reflect"),
        "would be negative": Problem(1, 20, 9, 9, 3, 3, 3, padding=(3, 3)),
    }.items():
        assert reason in emulator.refusal("grad_input", ROW, problem, torch.float16)
    assert "float64" in emulator.refusal("forward", ROW, FIRST["vgg"], torch.float64)
    emulator.pretend_device(capability=75)
    assert "8.0" in emulator.refusal("forward", ROW, FIRST["vgg"], torch.float16)


def test_first_and_last_layers_choose_it():
    first, last = Problem(2, 3, 64, 64, 64, 7, 7, (2, 2), (3, 3)), Problem(2, 64, 64, 64, 3, 3, 3, padding=(1, 1))
    for dtype in tuple(KINDS.values())[:3]:
        assert "convolve_windows" in kernels_chosen("forward", first, dtype)
        assert "weigh_windows" in kernels_chosen("grad_weight", first, dtype)
        assert "convolve_windows" in kernels_chosen("grad_input", last, dtype)
        assert "weigh_windows" in kernels_chosen("grad_weight", last, dtype)
