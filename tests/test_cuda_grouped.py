"""The CUDA row tensorcore_grouped on the emulator, beyond what test_cuda_emulated.py asks of every CUDA kernel: groups
of every size beside and across the chunks of 16 channels that are multiplied together, and what becomes of infinities
that a chunk shares with another group."""

from dataclasses import replace

import pytest
import torch
from emulated import check_errors, check_every_barrier_is_needed, check_special_values, judged, kernels_chosen
from emulator import library as emulator
from exact import assert_exact, draw_integers
from problems import UGLY, Problem, with_modes
from sampling import covering
from test_accuracy import draw as draw_reals
from test_propagation import SPECIAL, difference

pytestmark = pytest.mark.usefixtures("default_emulator")
ROW = "tensorcore_grouped"
GATHERING = ("forward", "grad_input")
PRIMITIVES = (*GATHERING, "grad_weight")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PAIRS = (("contiguous", "channels_last"), ("channels_last", "contiguous"), ("channels_last", "channels_last"))


def grouped(inputs, outputs, G, **others):
    """3x3 with padding, unless said otherwise; more than one patch of 8 columns, the last of them cut."""
    sizes = {"N": 1, "H": 6, "W": 11, "R": 3, "S": 3, "padding": (1, 1)} | others
    return Problem(C=inputs * G, K=outputs * G, G=G, **sizes)


GROUPS = {
    "groups-of-4": grouped(4, 4, 16),
    "groups-of-8": grouped(8, 8, 9, N=2),
    "groups-of-16": grouped(16, 16, 6, H=15),
    "groups-of-24": grouped(24, 24, 3),
    "groups-of-32": grouped(32, 32, 3),
    "groups-of-64": grouped(64, 64, 1, H=3, W=9),
    "groups-of-12": grouped(12, 12, 7),  # no group begins where a chunk does, but the first
    "groups-of-5": grouped(5, 5, 5),
    "4-to-8": grouped(4, 8, 10),
    "8-to-4": grouped(8, 4, 10),
    "16-to-32": grouped(16, 32, 3),
    "32-to-16": grouped(32, 16, 5),
    "24-to-8": grouped(24, 8, 4),
    "3-to-20": grouped(3, 20, 4),
    "20-to-3": grouped(20, 3, 4),
    "tall": grouped(8, 8, 4, H=29, W=3, N=2),  # patches of 14 rows
    "14x14": grouped(16, 16, 2, H=14, W=14),
    "7x7": grouped(16, 16, 2, H=7, W=7, N=3),
    "stride-2": grouped(8, 8, 4, stride=(2, 2), H=11, W=19),
    "stride-3-dilation-2": grouped(8, 16, 3, stride=(3, 2), dilation=(2, 3), padding=(2, 3), H=13, W=19),
    "stride-4-of-2x2": grouped(8, 8, 3, stride=(4, 3), R=2, S=2, padding=(0, 0), H=13, W=14),  # phases without taps
    "dilation": grouped(8, 8, 4, dilation=(2, 2), padding=(2, 2)),
    "6x5": grouped(4, 4, 5, R=6, S=5, padding=(3, 2)),  # twice three rows of taps
    "4x4": grouped(8, 8, 2, R=4, S=4),
    "reflect": grouped(8, 8, 3, mode="reflect", padding=(2, 3)),
    "circular-stride": grouped(8, 8, 3, mode="circular", padding=(2, 3), stride=(1, 2)),
    "1x1": grouped(16, 16, 4, R=1, S=1, padding=(0, 0), H=14),
}


def suits(primitive, problem, dtype=torch.float16):
    """float32 in three terms takes three times as much shared memory."""
    refused = emulator.refusal(primitive, ROW, problem, dtype)
    assert not refused or dtype == torch.float32 or (primitive == "grad_input" and problem.mode != "zeros"), refused
    return not refused


@pytest.mark.parametrize("multiprocessors", (1, 132))  # blocks of many patches, and of one
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_groups_of_every_size(primitive, name, multiprocessors):
    problem, seen = GROUPS[name], len(name) + multiprocessors
    emulator.pretend_device(multiprocessors=multiprocessors)
    for i, (from_layout, to_layout) in enumerate(PAIRS):
        dtype, order = DTYPES[(seen + i) % 3], emulator.ORDERS[(seen // 3 + i) % 3]
        if not suits(primitive, problem, dtype):
            continue
        bias = ("none", "contiguous")[i % 2 and primitive != "grad_weight"]
        first, second, b, expected = draw_integers(primitive, problem, dtype, "cpu", (from_layout, to_layout), bias)
        emulator.configure(order, max_blocks=3 if i == 2 else emulator.ALL_BLOCKS)
        actual = emulator.call(primitive, ROW, first, second, b, problem, to_layout == "channels_last")
        assert_exact(actual, expected, (name, dtype, from_layout))


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_float32_as_tf32(primitive, name):
    problem, seen = GROUPS[name], len(name)
    if not suits(primitive, problem, torch.float32):
        return
    from_layout, to_layout = PAIRS[seen % 3]
    bias = "none" if primitive == "grad_weight" else "contiguous"
    layouts = (from_layout, to_layout if primitive == "grad_weight" else "contiguous")
    *operands, expected = draw_integers(primitive, problem, torch.float32, "cpu", layouts, bias)
    memory_format = torch.channels_last if to_layout == "channels_last" else torch.contiguous_format
    result = torch.full(problem.shapes(primitive)[2], float("nan")).contiguous(memory_format=memory_format)
    emulator.configure(emulator.ORDERS[seen % 3])
    emulator.run_into(result, primitive, ROW, *operands, problem, tf32=True)
    assert_exact(result, expected, name)


def test_every_kernel_is_launched():
    """So that the tests above prove something."""
    emulator.launched(forget=True)
    emulator.configure(dry=True)
    for dtype, tf32 in (*((dtype, False) for dtype in DTYPES), (torch.float32, True)):
        for problem in GROUPS.values():
            for primitive in (p for p in PRIMITIVES if suits(p, problem, dtype)):
                first, second, _, _ = draw_integers(primitive, problem, dtype)
                result = torch.empty(problem.shapes(primitive)[2], dtype=dtype)
                emulator.run_into(result, primitive, ROW, first, second, None, problem, tf32=tf32)
    launches = [launched.symbol for launched in emulator.launched()]
    for arithmetic in ("HalvesINS_4HalfEEE", "HalvesINS_8BFloat16EEE", "RoundedE", "ThreeE"):
        for fragments in (4, 7):
            for tap_rows in (1, 3) if fragments == 4 or arithmetic != "ThreeE" else ():
                wanted = f"{arithmetic}Li{fragments}ELi{tap_rows}E"
                assert any("convolve_groups" in symbol and wanted in symbol for symbol in launches), wanted
            weight = arithmetic.replace("sINS", "sWeightINS").replace("dE", "dWeightE").replace("eE", "eWeightE")
            for together in (0, 1) if fragments == 4 or "Halves" in arithmetic else ():
                wanted = f"{weight}Li{fragments}ELb{together}E"
                assert any("weight_of_groups" in symbol and wanted in symbol for symbol in launches), wanted


NAMES = ("groups-of-4", "groups-of-5", "groups-of-8", "groups-of-16", "24-to-8", "3-to-20", "stride-2", "7x7", "tall")
PROPAGATION = {n: GROUPS[n] for n in NAMES} | {
    n: p for n, p in with_modes(UGLY).items() if p.N and p.C and p.R * p.S <= 9 and len(n) % 3 == 0
}


@pytest.mark.parametrize(
    "primitive, name, dtype, where, values, channels_last",
    covering(PRIMITIVES, PROPAGATION, DTYPES, (0, 1), SPECIAL, (False, True)),
    ids=str,
)
def test_infinities_stay_in_their_group(primitive, name, dtype, where, values, channels_last):
    problem = PROPAGATION[name]
    if emulator.refusal(primitive, ROW, problem, dtype):
        return
    check_special_values(primitive, ROW, problem, dtype, where, values, channels_last=channels_last)


@pytest.mark.parametrize("inputs, outputs, G", ((4, 4, 8), (8, 8, 4), (5, 7, 6), (24, 24, 2)))
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_infinities_of_every_other_group(primitive, inputs, outputs, G):
    """Half of the groups are infinite, and the others don't see it; with a bias, which is added once."""
    problem = grouped(inputs, outputs, G)
    bias = "none" if primitive == "grad_weight" else "contiguous"
    first, second, bias, _ = draw_integers(primitive, problem, torch.float16, bias=bias)
    first = first.abs() + 1
    per_group = first.shape[1] // G
    for group in range(0, G, 2):
        first[:, group * per_group : (group + 1) * per_group] = float("inf")
    expected = judged(primitive, (first, second, bias), problem)
    actual = emulator.call(primitive, ROW, first, second, bias, problem)
    assert not (wrong := difference(actual, expected, problem)), wrong
    actual = actual.transpose(0, 1) if primitive != "grad_weight" else actual
    per_group = actual.shape[0] // G
    assert actual[per_group : 2 * per_group].isfinite().all() and not actual[:per_group].isfinite().all()


@pytest.mark.parametrize("channels", (16, 40))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weight_gradient_split_over_patches(dtype, channels):
    """Several blocks share the patches, and their sums are added: exact, whatever number of multiprocessors says how
    many they are."""
    problem = grouped(channels, channels, 2, N=3, H=15, W=17)
    x, y, _, expected = draw_integers("grad_weight", problem, dtype)
    most = set()
    for multiprocessors in (1, 4, 132):
        emulator.pretend_device(multiprocessors=multiprocessors)
        emulator.launched(forget=True)
        assert_exact(emulator.call("grad_weight", ROW, x, y, None, problem), expected, problem)
        most.add(max(row.most_blocks for row in emulator.launched() if "weight_of_groups" in row.symbol))
    assert len(most) > 1, most


@pytest.mark.parametrize("primitive", GATHERING)
def test_a_sample_has_the_same_bits_in_every_batch(primitive):
    for name in ("groups-of-4", "groups-of-16", "stride-2", "14x14"):
        three = replace(GROUPS[name], N=3)
        operands, _ = draw_reals(primitive, three, torch.float16, "cpu")
        together = emulator.call(primitive, ROW, *operands, three)
        emulator.pretend_device(multiprocessors=500)
        alone = emulator.call(primitive, ROW, operands[0][1:2], *operands[1:], replace(three, N=1))
        emulator.pretend_device()
        assert torch.equal(together[1:2], alone), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ("groups-of-4", "groups-of-16", "groups-of-32", "stride-2", "6x5"))
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_error_at_most_twice_torchs(primitive, name, dtype):
    check_errors(primitive, ROW, GROUPS[name], dtype)


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_every_barrier_and_wait_is_needed(primitive):
    """A block with several items, of two patches and of one: the last is in either buffer."""
    problem = grouped(16, 16, 8, N=3, H=8, W=7)
    first, second, bias, expected = draw_integers(primitive, problem, torch.float16)
    emulator.pretend_device(multiprocessors=1)
    check_every_barrier_is_needed(
        lambda: assert_exact(emulator.call(primitive, ROW, first, second, bias, problem), expected, problem),
        3 if primitive == "grad_weight" else 5,
        "without a barrier|nobody has written|anybody waited",
        files=ROW,
        max_blocks=1,
    )


def test_what_is_left_to_others():
    """Kernels whose weights, or strides whose patches are too large, and gradients of padding that repeats."""
    beyond = {"large-kernel", "long-line", "stride-beyond-input"}
    for primitive in PRIMITIVES:
        for name, problem in with_modes(UGLY).items():
            if not all(torch.Size(s).numel() for s in problem.shapes(primitive)):
                continue
            refused = emulator.refusal(primitive, ROW, problem, torch.float16)
            if primitive == "grad_input" and problem.mode != "zeros":
                assert "padding that repeats" in refused
            elif (
                primitive == "grad_input" and min(problem.H, problem.stride[0]) * min(problem.W, problem.stride[1]) > 16
            ):
                assert "phase" in refused
            elif refused:
                assert "beyond shared memory" in refused and any(name.startswith(b) for b in beyond), (name, refused)
    problem = grouped(512, 512, 2)
    assert "beyond shared memory" in emulator.refusal("forward", ROW, problem, torch.float16)
    emulator.pretend_device(capability=75)
    assert "8.0" in emulator.refusal("forward", ROW, GROUPS["1x1"], torch.float16)


def test_what_networks_have_is_chosen():
    """For groups of 4 to 64 channels, on GPUs with tensor cores; few_channels has smaller ones, float64 and older
    GPUs."""

    def layer(channels, **others):
        return grouped(channels, channels, 256 // channels, H=14, W=14, **others)

    kernels = {"forward": "convolve_groups", "grad_input": "convolve_groups", "grad_weight": "weight_of_groups"}
    for primitive, kernel in kernels.items():
        for dtype in DTYPES:
            for channels in (4, 8, 16, 32, 64) if dtype != torch.float32 else (4, 8, 16, 32):
                assert kernel in kernels_chosen(primitive, layer(channels), dtype)
            assert kernel in kernels_chosen(primitive, layer(16, stride=(2, 2)), dtype)
            assert kernel not in kernels_chosen(primitive, layer(2), dtype)
            assert kernel not in kernels_chosen(primitive, layer(128), dtype)
        assert "window" in kernels_chosen(primitive, layer(8), torch.float64)
    # What this row refuses is multiplied by another that has tensor cores.
    mirrored = replace(layer(16), mode="reflect")
    assert "window_gather" not in kernels_chosen("grad_input", mirrored, torch.float16)
    emulator.pretend_device(capability=75)
    assert "window_gather" in kernels_chosen("forward", layer(8), torch.float16)
