"""The benchmark commands: each runs, prints both sides, and what it computes from times and sizes is right."""

import argparse
import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import convx
from benchmarks import gpu, memory, networks, padding, per_sample, report, roofs, run, scaling
from benchmarks.computations import make_operands
from benchmarks.shapes import CLASSES, load

ROOFS = {"float32": 100.0, "float64": 50.0, "copy": 10.0}
SMALL = "mobilenet:conv6/dw"
ROOT = Path(__file__).parents[1]


def run_command(monkeypatch, capsys, module, *arguments):
    """(exit status, output) of `python -m benchmarks.MODULE ARGUMENTS`, run in this process."""
    monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
    return importlib.import_module(f"benchmarks.{module}").main(), capsys.readouterr().out


def test_roofs_are_numbers():
    measured = roofs.measure(threads=2, seconds=0.005, array_bytes=8 << 20)
    assert {"float32", "float64", "copy"} <= measured.keys()
    assert all(math.isfinite(rate) and rate > 0 for rate in measured.values())
    assert 0.1 < measured["float64"] < 1e5  # no processor with SSE2 does less, none does more
    assert "float32" in roofs.describe(measured) and "GB/s" in roofs.describe(measured)


def test_roofs_need_a_compiler(monkeypatch, capsys):
    roofs._library.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(OSError):
        roofs.measure(1)
    assert run.measured_roofs(argparse.Namespace(device="cpu", threads=1)) is None
    assert "no roofs" in capsys.readouterr().out
    roofs._library.cache_clear()


def test_every_other_shape():
    shapes = [s for s in load() if s.class_name in ("dilated", "depthwise")]
    some = list(run.every(5, shapes))
    assert [s.class_name for s in some] == ["dilated", *["depthwise"] * 4]
    first = next(i for i, s in enumerate(shapes) if s.class_name == "depthwise")
    assert some == [shapes[0], *shapes[first::5]]


def test_in_rotation_each_class_comes_early():
    shapes = list(load())
    turned = list(run.in_rotation(shapes))
    assert sorted(s.name for s in turned) == sorted(s.name for s in shapes)
    classes = list(dict.fromkeys(s.class_name for s in shapes))
    assert [s.class_name for s in turned[: len(classes)]] == classes


def test_calls_take_turns():
    called = []
    in_turns = gpu.in_turns([lambda i=i: called.append(i) for i in range(3)])
    for _ in range(4):
        in_turns()
    assert called == [0, 1, 2, 0]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@needs_gpu
def test_a_row_on_a_gpu():
    """torch counts with its best of both layouts and cudnn.benchmark, and the copies are more than the cache holds."""
    shape = next(s for s in load() if s.class_name == "depthwise").at_most(0.1)
    row = run.measure(shape, "forward", "float16", "cuda", "best", 0.05, gpu.measure_roofs(0.05, 1 << 28, 2048))
    assert row["right"] and 0 < row["share"] < 1.5 and row["cudnn_benchmark"] in (False, True)
    operands = make_operands(shape, torch.float16, "cuda")
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    turns = gpu.copies(operands)
    assert len(turns) == gpu.MOST_COPIES or len(turns) * sum(t.nbytes for t in operands) >= gpu.CACHES * cache


def test_nearest_roof():
    assert roofs.least_ms(1.0, 10**6, "float32", ROOFS) == pytest.approx(10)  # operations take longer
    assert roofs.least_ms(1.0, 10**6, "float64", ROOFS) == pytest.approx(20)
    assert roofs.least_ms(1.0, 10**6, "bfloat16", ROOFS) == pytest.approx(10)  # computed in float32
    assert roofs.least_ms(1.0, 10**6, "bfloat16", {**ROOFS, "bfloat16": 1000.0}) == pytest.approx(1)
    assert roofs.least_ms(1.0, 10**9, "float32", ROOFS) == pytest.approx(100)  # bytes take longer


def test_shares():
    row = {"needed_gflop": 1.0, "bytes": 10**6, "convx_ms": 20.0, "torch_ms": 12.5}
    assert run.shares(row, "float32", ROOFS) == pytest.approx({"share": 0.5, "torch_share": 0.8})


@pytest.mark.parametrize("class_name", CLASSES)
def test_needed_work_is_what_is_multiplied(class_name):
    """A convolution of ones counts the taps that fall inside."""
    s = replace(min(load([class_name]), key=lambda s: s.gflop), N=2)
    x, w = torch.ones(s.N, s.C, s.H, s.W), torch.ones(s.K, s.C // s.G, s.R, s.S)
    y = torch.conv2d(x, w, None, s.stride, s.padding, s.dilation, s.G)
    assert s.needed_gflop == pytest.approx(2e-9 * float(y.double().sum()))
    assert s.values == x.numel() + w.numel() + y.numel()
    assert s.needed_gflop <= s.gflop


def made_up_row(name, gflop, **others):
    return {
        "shape": name, "class": "dense", "computation": "forward", "problem": "", "gflop": gflop, "torch_backend": "",
        "torch_ms": 1.0, "convx_ms": 2.0, "ratio": 0.5, "right": True, **others,
    }  # fmt: skip


def test_summary_has_shares():
    rows = [
        made_up_row("small", 0.5, share=0.1, torch_share=0.2),
        made_up_row("large", 2.0, share=0.4, torch_share=0.8),
        made_up_row("wrong", 2.0, share=0.9, torch_share=0.9, right=False, error=1.0, torch_error=0.0),
    ]
    text = report.summary(rows)
    (dense,) = (line.split() for line in text.splitlines() if line.startswith("dense"))
    assert dense[5:9] == ["0.400", "0.200", "0.800", "0.400"]  # torch and convx: all rows, then the large ones
    assert "over all rows: torch 0.400, convx 0.200" in text
    assert "over rows of at least 1 GFLOP: torch 0.800, convx 0.400" in text


def test_rows_without_shares_are_printed():
    row = made_up_row("old", 2.0)
    assert "share" not in report.summary([row]).splitlines()[-1]
    assert report.row_line(row).split()[6:8] == ["-", "-"]


@pytest.mark.parametrize("file", sorted(report.RESULTS.glob("*.json")), ids=lambda f: f.stem)
def test_kept_results_are_printed(file, monkeypatch, capsys):
    status, text = run_command(monkeypatch, capsys, "report", file)
    assert status == 0 and len(text.splitlines()) > len(json.loads(file.read_text())["rows"])


def test_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(roofs, "measure", lambda threads: ROOFS)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    arguments = ("--shapes", SMALL, "--seconds", 0, "--max-gflop", 0.01, "--save")
    status, text = run_command(monkeypatch, capsys, "run", *arguments)
    assert status == 0 and roofs.describe(ROOFS) in text and "over all rows" in text
    (file,) = tmp_path.iterdir()
    content = json.loads(file.read_text())
    assert content["about"]["roofs"] == ROOFS and len(content["rows"]) == 3
    for row in content["rows"]:
        assert row["share"] == pytest.approx(run.shares(row, "float32", ROOFS)["share"])
    assert run_command(monkeypatch, capsys, "report", file)[1] in text  # a file's table is the run's


def test_run_takes_the_higher_roofs(monkeypatch, capsys, tmp_path):
    first = {name: roof / 2 for name, roof in ROOFS.items()}
    measured = iter((first, ROOFS))
    monkeypatch.setattr(roofs, "measure", lambda threads: next(measured))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    arguments = ("--shapes", SMALL, "--seconds", 0, "--max-gflop", 0.01, "--save")
    status, text = run_command(monkeypatch, capsys, "run", *arguments)
    assert status == 0 and roofs.describe(first) in text and roofs.describe(ROOFS) in text
    (file,) = tmp_path.iterdir()
    content = json.loads(file.read_text())
    assert content["about"]["roofs"] == ROOFS
    for row in content["rows"]:
        assert row["share"] == pytest.approx(run.shares(row, "float32", ROOFS)["share"])


def test_overhead(monkeypatch, capsys):
    status, text = run_command(monkeypatch, capsys, "overhead", "--seconds", 0, "--backend", "none")
    assert status == 0 and "3x3, 0.12 MFLOP: Conv2d and backward" in text and "of 20" in text


def test_overhead_under_compile(monkeypatch, capsys):
    arguments = ("--seconds", 0, "--backend", "aot_eager", "--shapes", "transposed 4x4")
    status, text = run_command(monkeypatch, capsys, "overhead", *arguments)
    assert status == 0 and "ConvTranspose2d, compiled and backward" in text and "of 6" in text


@pytest.mark.parametrize("name", per_sample.NETWORKS)
def test_per_sample(name, monkeypatch, capsys):
    arguments = ("--seconds", 0, "--batch", 3, "--size", 16, "--networks", name)
    status, text = run_command(monkeypatch, capsys, "per_sample", *arguments)
    assert status == 0 and "of 1" in text and "OFF" not in text


def test_per_sample_sees_a_wrong_gradient(monkeypatch, capsys):
    """The loop is of other samples."""
    right = per_sample.per_sample
    monkeypatch.setattr(per_sample, "per_sample", lambda m, x, t: (right(m, x, t)[0], right(m, x.flip(0), t)[1]))
    arguments = ("--seconds", 0, "--batch", 3, "--size", 16, "--networks", "strided")
    status, text = run_command(monkeypatch, capsys, "per_sample", *arguments)
    assert status == 1 and "OFF" in text and "differ from a loop's: strided" in text


def test_padding(monkeypatch, capsys):
    status, text = run_command(
        monkeypatch, capsys, "padding", "--seconds", 0, "--max-gflop", 0.01, "--shapes", SMALL, "up2_4x4_depthwise"
    )
    assert status == 0 and "of 6" in text and "left out, transposed" in text and "OFF" not in text


def test_scaling(monkeypatch, capsys):
    arguments = ("--seconds", 0, "--max-gflop", 0.01, "--min-gflop", 0, "--shapes", SMALL)
    status, text = run_command(monkeypatch, capsys, "scaling", *arguments)
    assert (
        status == 0 and text.count(SMALL) == 3 and "the same bits on 1 and 2 threads in 3 rows, other bits in 0" in text
    )


def test_scaling_sees_other_bits(monkeypatch, capsys):
    monkeypatch.setattr(scaling, "convx_call", lambda *_: lambda: torch.tensor(float(torch.get_num_threads())))
    arguments = ("--seconds", 0, "--max-gflop", 0.01, "--min-gflop", 0, "--shapes", SMALL)
    status, text = run_command(monkeypatch, capsys, "scaling", *arguments)
    assert status == 1 and text.count("NOT THE SAME BITS") == 3


def test_padding_sees_a_difference():
    t = torch.randn(2, 3)
    assert padding.same(t, t.clone()) and padding.same((t, t), (t, t.clone()))
    assert not padding.same((t, t), (t, t * 1.01)) and not padding.same(t / 0, t)


def test_default_shapes_have_padding():
    for shape in load(names=padding.SHAPES):
        assert any(shape.padding) and not shape.transposed and shape.at_most(1.0)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_networks_agree(name):
    both = networks.trainers(networks.NETWORKS[name], 2, 64)
    convolutions = [m for m in both["torch"].model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert convx.count(both["convx"].model) == len(convolutions) and convx.count(both["torch"].model) == 0
    for trainer in both.values():
        trainer.step()
    assert networks.agree(both), networks.difference(both)


@pytest.mark.parametrize("options", [(), ("--autocast", "bfloat16")])
def test_networks(options, monkeypatch, capsys):
    arguments = ("--seconds", 0, "--batch", 2, "--size", 32, "--networks", "unet", *options)
    status, text = run_command(monkeypatch, capsys, "networks", *arguments)
    assert status == 0 and "of 1" in text and "OFF" not in text


@pytest.mark.parametrize("lost", [False, True])
def test_networks_see_a_wrong_gradient(lost):
    """One convolution of one side gets no gradient."""
    both = networks.trainers(networks.NETWORKS["dcgan"], 2, 64)
    both["convx"].model.discriminator[2].weight.register_hook(lambda g: g * (not lost))
    for trainer in both.values():
        trainer.step()
    assert networks.agree(both) is not lost


def twelve_mib():
    """A call that has 13 MiB at its peak, of which 1 is its result."""

    def call():
        first = torch.ones(1 << 20)
        second = torch.ones(1 << 20)
        return (first + second)[: 1 << 18].clone()

    return call


@pytest.mark.skipif(sys.platform != "linux", reason="process memory is measured on Linux only")
def test_memory_is_measured():
    # first, second and their sum; the result comes when the sum is still there
    peak = memory.peak_in_a_process(1, twelve_mib)
    assert peak is None or 11 << 20 <= peak <= 14 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="process memory is measured on Linux only")
def test_memory(monkeypatch, capsys):
    status, text = run_command(monkeypatch, capsys, "memory", "--shapes", SMALL, "--max-gflop", 0.01)
    assert status == 0 and "in 0 of" in text and text.count(SMALL) == 3


def test_memory_of_packed_weights():
    (shape,) = load(names=["db_train_9"])
    assert memory.packed_weight_bytes(shape, torch.bfloat16) == 256 * 128 * 9 * 4
    assert memory.packed_weight_bytes(shape, torch.float64) == 256 * 128 * 9 * 8
    assert [s.class_name for s in memory.chosen(None, 2.0)] == list(CLASSES)


def test_builds_are_compared(monkeypatch, capsys, tmp_path):
    if not list(ROOT.glob("build/temp*")):
        pytest.skip("convx was not built in this checkout")
    options = ("--shapes", SMALL, "--seconds", 0.01, "--computations", "forward")
    status, output = run_command(monkeypatch, capsys, "builds", ROOT, *options, "--algorithms", "", "reference")
    *_, before, after, ratio, chosen, _, forced = output.splitlines()[2].split()
    assert status == 0 and float(ratio) == pytest.approx(float(before) / float(after), rel=0.05)
    assert chosen.startswith("depthwise") and forced == "reference" and float(ratio) < 1
    with pytest.raises(OSError, match="expected object files of a build"):
        run_command(monkeypatch, capsys, "builds", tmp_path, *options)
    with pytest.raises(RuntimeError, match="was forced but can't do"):
        run_command(monkeypatch, capsys, "builds", ROOT, *options, "--algorithms", "winograd", "")
