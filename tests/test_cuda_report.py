"""tools/cuda_report.py: occupancy as NVIDIA's own calculator has it, and a table with every kernel."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "tools"))

import cuda_report
from cuda_report import MULTIPROCESSORS, occupancy

# (architecture, registers, threads, shared bytes): (blocks, share of warps, limit)
KNOWN = {
    ("80", 32, 256, 0): (8, 1.0, "registers"),
    ("80", 64, 256, 0): (4, 0.5, "registers"),
    ("80", 65, 256, 0): (3, 0.375, "registers"),  # 72 registers are given out
    ("80", 128, 256, 0): (2, 0.25, "registers"),
    ("80", 255, 128, 0): (2, 0.125, "registers"),
    ("80", 24, 64, 0): (32, 1.0, "warps"),
    ("80", 16, 32, 0): (32, 0.5, "blocks"),
    ("80", 32, 128, 48 * 1024): (3, 0.1875, "shared memory"),
    ("80", 32, 128, 100 * 1024): (1, 0.0625, "shared memory"),
    ("90a", 32, 128, 100 * 1024): (2, 0.125, "shared memory"),
    ("90a", 168, 384, 227 * 1024): (1, 0.1875, "registers"),
}


@pytest.mark.parametrize("case", KNOWN)
def test_occupancy(case):
    architecture, *sizes = case
    assert occupancy(MULTIPROCESSORS[architecture], *sizes) == KNOWN[case]


def test_the_table():
    registers = {"_Z1fIfEvPT_": 40, "_Z1gv": 30}
    launched = {("_Z1fIfEvPT_", 128): {"shared": {1024, 64 * 1024}, "chosen": 7}}
    lines = cuda_report.table("90a", MULTIPROCESSORS["90a"], registers, launched, "")
    assert lines[2].split() == ["f<float>", "40", "128", "1-64", "3-12", "19-75", "registers,", "shared", "memory", "7"]
    assert "no layer of benchmarks/shapes/ launches it" in lines[3]
    assert len(cuda_report.table("90a", MULTIPROCESSORS["90a"], registers, launched, "^g$")) == 3


def test_every_algorithm_is_launched_for_the_table(monkeypatch):
    """Over a few layers: each kernel that the automatic choice takes, and each that has to be forced."""
    import benchmarks.shapes

    few = list(benchmarks.shapes.load())[::40]
    monkeypatch.setattr(benchmarks.shapes, "load", lambda: few)
    found = cuda_report.launches(MULTIPROCESSORS["90a"], 90)
    names = {name.partition("<")[0] for name in cuda_report.short_names([symbol for symbol, _ in found])}
    assert {"forward_reference", "grad_input_reference", "grad_weight_reference", "grad_input_scatter"} <= names
    assert any(entry["chosen"] for entry in found.values())


def test_without_nvcc_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(cuda_report, "cuda_home", lambda: None)
    monkeypatch.setattr(sys, "argv", ["cuda_report.py"])
    assert cuda_report.main() == 0
    assert capsys.readouterr().out.startswith("cuda-report: skipped, no nvcc found")
