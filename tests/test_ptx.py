"""csrc/cuda/ptx.h, ptx_wgmma.h and ptx_tma.h, instruction by instruction: the emulator's twins against plain matrix
products and copies; and on a machine with a GPU, the hardware against the same, and against the twins.

The kernels are those of emulator/ptx_checks.cu, compiled for both.
"""

import ctypes
import itertools
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from emulator import library as emulator
from emulator.build import COMPILER, HERE, ROOT

sys.path.append(str(Path(__file__).parent.parent / "tools"))
from cuda_toolkit import cuda_home

if COMPILER is None:
    pytest.skip("no C++ compiler for the emulator (apt install g++)", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("default_emulator")

FP16, BF16, FP32, FP64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
# name: (number in ptx_checks.cu, (rows of a, depth, columns of b), dtype of a and b)
PRODUCTS = {
    "fp16": (0, (16, 16, 8), FP16),
    "bf16": (1, (16, 16, 8), BF16),
    "fp16-ldmatrix": (2, (16, 16, 8), FP16),
    "fp16-ldmatrix-trans": (3, (16, 16, 8), FP16),
    "bf16-ldmatrix": (4, (16, 16, 8), BF16),
    "bf16-ldmatrix-trans": (5, (16, 16, 8), BF16),
    "tf32": (6, (16, 8, 8), FP32),
    "f64": (7, (8, 4, 8), FP64),
    "fp16-wgmma-64": (14, (64, 16, 64), FP16),
    "fp16-wgmma-128-across-along": (15, (64, 16, 128), FP16),
    "fp16-wgmma-256-across": (16, (64, 16, 256), FP16),
    "bf16-wgmma-64-across": (17, (64, 16, 64), BF16),
    "bf16-wgmma-128-along-across": (18, (64, 16, 128), BF16),
    "bf16-wgmma-256": (19, (64, 16, 256), BF16),
    "fp16-wgmma-64-wide": (20, (64, 16, 64), FP16),
    "bf16-wgmma-256-wide": (21, (64, 16, 256), BF16),
    "tf32-wgmma-64-wide": (22, (64, 8, 64), FP32),
    "tf32-wgmma-128-wide": (23, (64, 8, 128), FP32),
    "tf32-wgmma-256-wide": (24, (64, 8, 256), FP32),
}
ROUNDING, COPIES, SHUFFLES, VOTES = 8, {4: 9, 8: 10, 16: 11}, 12, 13


def on_emulator(which, source, result, count=0):
    emulator.ptx_check(which, source, result, count)
    return result


HOPPER = (9, 0)


@lru_cache(maxsize=1)
def hardware():
    """ptx_checks.cu for the GPU that is here."""
    home = cuda_home()
    if home is None:
        pytest.skip("no nvcc found (put it on PATH or set CUDA_HOME)")
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        pytest.skip(f"sm_{major}{minor} lacks these instructions")
    library = ROOT / "build" / f"ptx_checks-{major}{minor}-{os.getpid()}.so"
    library.parent.mkdir(exist_ok=True)
    arch = f"{major}{minor}" + "a" * ((major, minor) == HOPPER)  # the "a" for wgmma
    command = [home / "bin" / "nvcc", "-std=c++17", "-O3", f"-gencode=arch=compute_{arch},code=sm_{arch}"]
    command += ["-shared", "-Xcompiler=-fPIC"]
    sources = HERE / "ptx_checks.cu", ROOT / "csrc" / "cuda" / "tensor_map.cpp"
    subprocess.run([*command, *sources, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def on_gpu(which, source, result, count=0):
    source, result = source.cuda(), result.cuda()
    torch.cuda.synchronize()  # the kernel runs on the default stream
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in (source, result))
    assert hardware().ptx_check(which, *pointers, count) == 0
    torch.cuda.synchronize()
    return result.cpu()


RUNS = {"emulator": on_emulator} | ({"gpu": on_gpu} if torch.cuda.is_available() else {})


@pytest.fixture(params=RUNS)
def run(request):
    return RUNS[request.param]


def product(run, name, a, b, d):
    """d + a @ b by the instruction. Of `a` and `b` the dtype is the instruction's, of `d` its accumulator's."""
    if run is on_gpu and "wgmma" in name and torch.cuda.get_device_capability() != HOPPER:
        pytest.skip("only a GPU of compute capability 9.0 has wgmma")
    return run(PRODUCTS[name][0], torch.cat([a.reshape(-1), b.reshape(-1)]), d.clone())


def operands(name, draw):
    (m, k, n), dtype = PRODUCTS[name][1:]
    return draw(m, k).to(dtype), draw(k, n).to(dtype), draw(m, n).to(FP64 if dtype == FP64 else FP32)


def integers(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randint(-50, 51, shape, generator=generator).double()


def reals(seed):
    """Of magnitudes between 2^-6 and 2^6."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        signs = torch.randint(0, 2, shape, generator=generator) * 2.0 - 1
        return signs * torch.exp2(12 * torch.rand(shape, generator=generator, dtype=FP64) - 6)

    return draw


def as_tf32(t):
    """What of a float the TF32 instruction looks at."""
    return (t.view(torch.int32) & ~0x1FFF).view(FP32)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_integers_are_exact(name, run):
    for order, seed in zip(emulator.ORDERS, range(3), strict=True):
        emulator.configure(order)
        a, b, d = operands(name, integers(seed))
        assert torch.equal(product(run, name, a, b, d).double(), a.double() @ b.double() + d.double())


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_error_of_products(name, run):
    """Terms are cut off one bit below float32's last, at the largest: each loses at most 2^-24 of it. float64 rounds
    each of its additions."""
    depth, dtype = PRODUCTS[name][1][1], PRODUCTS[name][2]
    differs = False
    for seed in range(5):
        a, b, d = operands(name, reals(seed))
        a_read, b_read = (as_tf32(t).double() if dtype == FP32 else t.double() for t in (a, b))
        actual, exact = product(run, name, a, b, d).double(), a_read @ b_read + d.double()
        scale = a_read.abs() @ b_read.abs() + d.double().abs()
        bound = (depth + 1) * scale * 2.0 ** (-52 if dtype == FP64 else -23)
        assert ((actual - exact).abs() <= bound).all()
        differs = differs or not torch.equal(actual, exact)
    assert differs, "what was drawn needed no rounding, so nothing was tested"


@pytest.mark.parametrize("sign", (1, -1))
def test_sums_are_cut_off_and_not_rounded(run, sign):
    """1 + 1.75 * 2^-23 lies nearer to 1 + 2 * 2^-23 than to 1 + 2^-23."""
    a, b = torch.zeros(16, 16, dtype=BF16), torch.zeros(16, 8, dtype=BF16)
    a[:, 0], b[0] = sign, 7 * 2.0**-25
    assert (product(run, "bf16", a, b, torch.full((16, 8), float(sign))) == sign * (1 + 2.0**-23)).all()


@pytest.mark.parametrize("name", PRODUCTS)
def test_infinities_and_nan_stay_in_their_row_and_column(name, run):
    inf, nan = float("inf"), float("nan")
    a, b, d = (t.abs() for t in operands(name, integers(4)))
    a[a == 0], b[b == 0] = 1, 1
    a[1, 2], a[2, 0], b[1, 3], d[5, 5] = inf, nan, -inf, inf
    actual, expected = product(run, name, a, b, d), a.double() @ b.double() + d.double()
    assert torch.equal(actual.isnan(), expected.isnan()) and expected.isnan().any() and expected.isinf().any()
    assert torch.equal(actual.double().nan_to_num(7), expected.nan_to_num(7))


def test_subnormal_factors_count(run):
    a, b = torch.full((16, 16), 2.0**-24, dtype=FP16), torch.full((16, 8), 2.0**-14, dtype=FP16)
    assert (product(run, "fp16", a, b, torch.zeros(16, 8)) == 16 * 2.0**-38).all()


def rounded_to_tf32(values, ties_to_even=False):
    """To the nearest number of 11 significant bits; ties go away from zero, or to even."""
    wide = values.double()
    spacing = torch.exp2(torch.floor(torch.log2(wide.abs().clamp(min=2.0**-126))) - 10)
    steps = wide / spacing
    return (steps.round() if ties_to_even else torch.sign(steps) * torch.floor(steps.abs() + 0.5)) * spacing


def test_rounding_to_tf32(run):
    values = torch.cat([reals(1)(4096).float(), torch.tensor([0.0, -0.0, 1 + 2.0**-11, -1 - 2.0**-11, 3e38, 1e-40])])
    actual = run(ROUNDING, values, torch.zeros(len(values), dtype=torch.int32), len(values)).view(FP32)
    assert torch.equal(as_tf32(actual), actual)
    assert torch.equal(actual.double(), rounded_to_tf32(values))
    special = torch.tensor([float("inf"), -float("inf"), float("nan")])
    actual = run(ROUNDING, special, torch.zeros(3, dtype=torch.int32), 3).view(FP32)
    assert actual[0] == float("inf") and actual[1] == -float("inf") and actual[2].isnan()


@pytest.mark.parametrize("piece", COPIES)
def test_copies_in_stages(piece, run):
    generator = torch.Generator().manual_seed(5)
    count = 7 * 32 * piece
    source = torch.randint(1, 256, (count,), generator=generator, dtype=torch.uint8)
    expected = source.clone()
    expected.view(-1, piece)[4::5] = 0
    for order in emulator.ORDERS:
        emulator.configure(order)
        assert torch.equal(run(COPIES[piece], source, torch.full_like(source, 255), count), expected)


def test_every_wait_and_barrier_of_the_copies_is_needed():
    source = torch.ones(7 * 32 * 16, dtype=torch.uint8)
    emulator.places()
    on_emulator(COPIES[16], source, torch.zeros_like(source), len(source))
    places = emulator.places()
    assert len(places) == 3
    for place in places:
        for order in emulator.ORDERS:
            emulator.configure(order, dropped=place)
            with pytest.raises(RuntimeError, match=r"before anybody waited|without a barrier|nobody has written"):
                on_emulator(COPIES[16], source, torch.zeros_like(source), len(source))


def test_shuffles_and_votes(run):
    values = torch.arange(32, dtype=torch.int32) * 3 + 1
    lane = torch.arange(32)
    rows = [
        values[(lane * 5 + 3) % 32],
        values[lane ^ 5],
        values[torch.where(lane % 16 + 3 < 16, lane + 3, lane)],
        values[torch.where(lane >= 2, lane - 2, lane)],
        torch.full((32,), 0, dtype=torch.int32),
        torch.full((32,), 2 + 1, dtype=torch.int32),
    ]
    for order in emulator.ORDERS:
        emulator.configure(order)
        assert torch.equal(run(SHUFFLES, values, torch.zeros(192, dtype=torch.int32)), torch.cat(rows))
    values[3], values[31] = -3, -6
    votes = run(SHUFFLES, values, torch.zeros(192, dtype=torch.int32)).view(6, 32)
    assert (votes[4] == 8 - 2**31).all() and (votes[5] == 2).all()


@pytest.mark.parametrize("positive", (0, 1, 40, 64))
def test_votes_of_a_block(positive, run):
    values = torch.where(torch.arange(64) < positive, 1, -1).to(torch.int32)
    expected = 4 * positive + 2 * (positive > 0) + (positive == 64)
    for order in emulator.ORDERS:
        emulator.configure(order)
        assert (run(VOTES, values, torch.zeros(64, dtype=torch.int32)) == expected).all()


@pytest.mark.skipif("gpu" not in RUNS, reason="no GPU here")
@pytest.mark.parametrize("name", PRODUCTS)
def test_the_twins_are_near_the_hardware(name):
    """The same integers to the bit; of reals, float64 to the bit too, and the others within what is cut off."""
    depth, dtype = PRODUCTS[name][1][1], PRODUCTS[name][2]
    for seed in range(20):
        a, b, d = operands(name, reals(seed))
        twin, real = product(on_emulator, name, a, b, d).double(), product(on_gpu, name, a, b, d).double()
        scale = a.double().abs() @ b.double().abs() + d.double().abs()
        bound = 0 if dtype == FP64 else (depth + 1) * 2.0**-23
        assert ((twin - real).abs() <= bound * scale).all()


def copies_on_emulator(which, source, result, numbers, skipped=0):
    emulator.tma_check(which, source.view(-1)[skipped:], result, numbers)
    return result


def copies_on_gpu(which, source, result, numbers, skipped=0):
    if torch.cuda.get_device_capability() != HOPPER:
        pytest.skip("only a GPU of compute capability 9.0 is sure to have this copy engine")
    source, result = source.cuda().view(-1)[skipped:], result.cuda()
    torch.cuda.synchronize()
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in (source, result))
    if hardware().tma_check(which, *pointers, (ctypes.c_int64 * len(numbers))(*numbers)):
        raise RuntimeError("there is no such map")
    torch.cuda.synchronize()
    return result.cpu()


COPIES_RUN = {"emulator": copies_on_emulator} | ({"gpu": copies_on_gpu} if torch.cuda.is_available() else {})


@pytest.fixture(params=COPIES_RUN)
def copy(request):
    return COPIES_RUN[request.param]


def straight(rows):
    """What lies swizzled in shared memory, chunk c of row r at c ^ r % 8, straightened. Rows of 128 bytes."""
    row, chunk = torch.arange(len(rows))[:, None], torch.arange(8)[None]
    return rows.view(len(rows), 8, -1)[row, chunk ^ row % 8].view(rows.shape)


def numbered(*shape):
    """16-bit numbers that tell where they are."""
    return (torch.arange(torch.Size(shape).numel()) * 7919 % 65521 - 32760).to(torch.int16).view(shape)


# sizes from the fastest dimension on, those of the memory that the tensor is the corner of, box, place
TILES = {
    "matrix": ((64, 24, 1, 1, 1), (64, 24, 1, 1, 1), (64, 16, 1, 1, 1), (0, 8, 0, 0, 0)),
    "over the edges": ((72, 20, 3, 1, 1), (80, 21, 4, 1, 1), (64, 5, 3, 1, 1), (32, 17, 1, 0, 0)),
    "before the edges": ((72, 20, 3, 1, 1), (72, 20, 3, 1, 1), (64, 7, 2, 1, 1), (-8, -3, -1, 0, 0)),
    "five dimensions": ((64, 5, 4, 3, 2), (72, 5, 4, 3, 2), (64, 3, 2, 2, 2), (0, 3, 1, 2, 1)),
    "narrow": ((24, 9, 1, 1, 1), (24, 9, 1, 1, 1), (64, 9, 1, 1, 1), (0, 0, 0, 0, 0)),
    "outside": ((64, 4, 1, 1, 1), (64, 4, 1, 1, 1), (64, 8, 1, 1, 1), (0, 100, 0, 0, 0)),
    "largest": ((64, 300, 2, 1, 1), (64, 300, 2, 1, 1), (64, 256, 2, 1, 1), (0, 50, 0, 0, 0)),
}


@pytest.mark.parametrize("name", TILES)
def test_tiles_of_the_copy_engine(name, copy):
    sizes, memory, box, place = TILES[name]
    source = numbered(*reversed(memory))
    strides = [source.stride(4 - d) for d in range(1, 5)]
    rows = torch.Size(box[1:]).numel()
    expected = torch.zeros(rows, 64, dtype=torch.int16)
    for row, (i4, i3, i2, i1) in enumerate(itertools.product(*(range(b) for b in reversed(box[1:])))):
        at = [p + i for p, i in zip(place[1:], (i1, i2, i3, i4), strict=True)]
        if all(0 <= a < s for a, s in zip(at, sizes[1:], strict=True)):
            for i in range(64):
                if 0 <= place[0] + i < sizes[0]:
                    expected[row, i] = source[(*reversed(at), place[0] + i)]
    actual = copy(0, source, torch.zeros(rows, 64, dtype=torch.int16), (*sizes, *strides, *box, *place, 0))
    assert torch.equal(straight(actual), expected)


# (C, W, H, N), the memory's, (columns, rows) as (first, count, step), pixels, (channel, w, h, n), (across, down)
IMAGES = {
    "1x1": ((64, 7, 5, 2), (64, 7, 5, 2), ((0, 7, 1), (0, 5, 1)), 32, (0, 3, 2, 0), (0, 0)),
    "padding, first tap": ((64, 9, 6, 3), (64, 9, 6, 3), ((-1, 9, 1), (-1, 6, 1)), 128, (0, -1, -1, 0), (0, 0)),
    "padding, last tap": ((64, 9, 6, 3), (64, 9, 6, 3), ((-1, 9, 1), (-1, 6, 1)), 100, (0, 4, 2, 1), (2, 2)),
    "stride": ((64, 15, 11, 2), (72, 16, 12, 2), ((-1, 8, 2), (-1, 6, 2)), 64, (0, 5, 3, 0), (1, 2)),
    "dilation": ((128, 12, 12, 2), (128, 12, 12, 2), ((-3, 12, 1), (-3, 12, 1)), 200, (64, -3, 0, 0), (6, 3)),
    "a tail of channels": ((88, 6, 6, 2), (88, 6, 6, 2), ((0, 4, 1), (0, 4, 1)), 16, (64, 2, 3, 0), (1, 1)),
    "past the last image": ((64, 6, 6, 2), (64, 6, 6, 2), ((-1, 6, 1), (-1, 6, 1)), 256, (0, 2, 3, 1), (1, 1)),
    "many strides": ((64, 40, 33, 1), (64, 40, 33, 1), ((-2, 6, 8), (5, 7, 3)), 42, (0, -2, 5, 0), (3, 17)),
    "far tap": ((64, 300, 2, 1), (64, 300, 2, 1), ((0, 60, 5), (0, 2, 1)), 64, (0, 0, 0, 0), (255, 1)),
    "one pixel": ((64, 1, 1, 5), (64, 1, 1, 5), ((0, 1, 1), (0, 1, 1)), 8, (0, 0, 0, 1), (0, 0)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_pixels_of_the_copy_engine(name, copy):
    (C, W, H, N), memory, axes, pixels, (channel, w, h, n), taps = IMAGES[name]
    source = numbered(*reversed(memory))
    expected = torch.zeros(pixels, 64, dtype=torch.int16)
    columns, lines = ([first + i * step for i in range(count)] for first, count, step in axes)
    grid = [(i, y, x) for i in range(N + pixels) for y in lines for x in columns]
    start = grid.index((n, h, w))
    for row, (i, y, x) in enumerate(grid[start : start + pixels]):
        y, x = y + taps[1], x + taps[0]
        if i < N and 0 <= y < H and 0 <= x < W:
            read = source[i, y, x, channel : min(C, channel + 64)]
            expected[row, : len(read)] = read
    strides = [source.stride(d) for d in (2, 1, 0)]
    numbers = (C, W, H, N, *strides, *axes[0], *axes[1], pixels, channel, w, h, n, *taps, 0)
    actual = copy(1, source, torch.zeros(pixels, 64, dtype=torch.int16), numbers)
    assert torch.equal(straight(actual), expected)
    assert expected.any()


@pytest.mark.parametrize("gathered", (False, True), ids=("tile", "im2col"))
def test_the_copy_engine_rounds_float32(gathered, copy):
    """To TF32, to the nearest, ties to even; what is outside of the tensor is zeros."""
    source = reals(9)(16, 48).float()
    source[9, 20:27] = torch.tensor(
        [1 + 2.0**-11, -1 - 2.0**-11, 1 + 3 * 2.0**-11, 0.0, 3e38, -float("inf"), 2.0**-126]
    )
    expected = torch.zeros(12, 32)
    expected[:8, :28] = rounded_to_tf32(source[8:, 20:], ties_to_even=True).float()
    expected[1, 5] = -float("inf")
    if gathered:  # an image of one row, sixteen pixels of 48 channels
        numbers = (48, 16, 1, 1, 48, 768, 768, 0, 16, 1, 0, 1, 1, 12, 20, 8, 0, 0, 0, 0, 1)
    else:
        numbers = (48, 16, 1, 1, 1, 48, 768, 768, 768, 32, 12, 1, 1, 1, 20, 8, 0, 0, 0, 1)
    actual = straight(copy(int(gathered), source, torch.ones(12, 32), numbers))
    wrong = actual != expected
    pairs = zip(actual[wrong].tolist(), expected[wrong].tolist(), strict=True)
    assert not wrong.any(), [f"{a.hex()} for {e.hex()}" for a, e in pairs]


def test_tiles_in_stages(copy):
    rows = 8 * 11
    source = numbered(rows, 64)
    for order in emulator.ORDERS:
        emulator.configure(order)
        actual = copy(2, source, torch.zeros_like(source), (rows,))
        assert torch.equal(straight(actual), source)


def test_every_wait_and_arrival_of_the_tiles_is_needed():
    rows = 8 * 11
    source = numbered(rows, 64)
    emulator.places()
    copies_on_emulator(2, source, torch.zeros_like(source), (rows,))
    places = emulator.places()
    assert len(places) == 6  # of them the fence and the barrier after the initialisation
    found = (
        "is on its way there",
        "without a barrier between them",
        "which nobody has written yet",
        "a wait that never ends",
        "without a fence.mbarrier_init",
        "initialised the mbarrier",
        "all 1 of this phase have come before",
    )
    for place in places:
        for order in emulator.ORDERS:
            emulator.configure(order, dropped=place)
            with pytest.raises(RuntimeError, match="|".join(found)):
                copies_on_emulator(2, source, torch.zeros_like(source), (rows,))


@pytest.mark.parametrize("across", (0, 1))
def test_a_product_of_matrices_by_the_copy_engine(across, copy):
    """Two warpgroups multiply what a third asks for."""
    depth, generator = 64 * 7, torch.Generator().manual_seed(3)
    a, b = (torch.randint(-8, 9, (rows, depth), generator=generator).to(BF16) for rows in (128, 64))
    expected = a.double() @ b.double().T
    source = torch.cat([a.reshape(-1), (b.T if across else b).reshape(-1)])
    for order in emulator.ORDERS:
        emulator.configure(order)
        assert torch.equal(copy(3, source, torch.zeros(128, 64), (depth, across)).double(), expected)


def test_every_wait_and_arrival_of_the_product_is_needed():
    source = torch.ones((128 + 64) * 64 * 5, dtype=BF16)
    emulator.places()
    copies_on_emulator(3, source, torch.zeros(128, 64), (64 * 5, 0))
    places = emulator.places()
    assert len(places) == 8  # the fence and the barrier, two waits and an arrival on each side, and two of wgmma
    for place, order in itertools.product(places, emulator.ORDERS):
        emulator.configure(order, dropped=place)
        with pytest.raises(RuntimeError):
            copies_on_emulator(3, source, torch.zeros(128, 64), (64 * 5, 0))


MATRIX = [64, 24, 1, 1, 1, 64, 1536, 1536, 1536, 64, 8, 1, 1, 1, 0, 0, 0, 0, 0, 0]
IMAGE = [64, 9, 6, 3, 64, 576, 3456, -1, 9, 1, -1, 6, 1, 32, 0, -1, -1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "which, numbers, changes",
    [
        (0, MATRIX, {0: 0}),  # sizes
        (0, MATRIX, {2: 2**32}),
        (0, MATRIX, {5: 68}),  # strides
        (0, MATRIX, {8: 2**39}),
        (0, MATRIX, {10: 257}),  # box
        (0, MATRIX, {11: 0}),
        (1, IMAGE, {0: 0}),
        (1, IMAGE, {4: 60}),
        (1, IMAGE, {9: 9}),  # step
        (1, IMAGE, {9: 0}),
        (1, IMAGE, {7: -129}),  # lower corner
        (1, IMAGE, {7: 128}),
        (1, IMAGE, {8: 200}),  # upper corner
        (1, IMAGE, {2: 150}),
        (1, IMAGE, {13: 257}),  # pixels
    ],
)
def test_maps_that_do_not_exist(which, numbers, changes, copy):
    source, result = numbered(3, 6, 9, 64), torch.zeros(32, 64, dtype=torch.int16)
    copy(which, source, result, numbers)
    numbers = [changes.get(i, n) for i, n in enumerate(numbers)]
    with pytest.raises(RuntimeError, match="there is no such map"):
        copy(which, source, result, numbers)
    with pytest.raises(RuntimeError, match="there is no such map"):  # nor one of an odd address
        copy(which, source, result, IMAGE if which else MATRIX, skipped=4)
