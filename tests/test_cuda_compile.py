"""tools/cuda_compile.py: the CUDA sources compile for every architecture, no kernel spills; and the tool sees it if one
does."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tools"))

import cuda_compile  # noqa: E402

HOME = cuda_compile.cuda_home()
needs_nvcc = pytest.mark.skipif(HOME is None, reason="no nvcc found (put it on PATH or set CUDA_HOME)")

# 64 values that live across a loop, in a block so large that a thread gets 32 registers.
SPILLING = """
__global__ void __launch_bounds__(1024, 2) spilling(float* p, int n) {
  float v[64];
  for (int i = 0; i < 64; ++i) v[i] = p[i * 1024 + threadIdx.x];
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < 64; ++i) v[i] = v[i] * v[(i + 1) % 64] + float(j);
  for (int i = 0; i < 64; ++i) p[i * 1024 + threadIdx.x] = v[i];
}
"""


@needs_nvcc
def test_everything_compiles(capsys):
    kernels = [
        cuda_compile.compile_kernels(HOME, s, list(cuda_compile.ARCHITECTURES))
        for s in sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    ]
    printed = capsys.readouterr().out
    assert kernels and all(kernels), printed
    for kernel in ("forward_reference", "grad_input_reference", "grad_weight_reference", "grad_input_scatter"):
        assert kernel in printed
    assert "sm_80" in printed and "sm_90a" in printed


@needs_nvcc
def test_the_binding_compiles(capsys):
    assert cuda_compile.check_binding(HOME), capsys.readouterr().out


@needs_nvcc
def test_a_spill_is_reported(tmp_path, capsys):
    source = tmp_path / "spilling.cu"
    source.write_text(SPILLING)
    assert not cuda_compile.compile_kernels(HOME, source, ["80"])
    assert "spilling for sm_80 spills" in capsys.readouterr().out


@needs_nvcc
def test_an_error_is_reported(tmp_path, capsys):
    source = tmp_path / "wrong.cu"
    source.write_text("__global__ void wrong() { undeclared = 1; }\n")
    assert not cuda_compile.compile_kernels(HOME, source, ["80"])
    assert "undeclared" in capsys.readouterr().out


def test_without_nvcc_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(cuda_compile, "cuda_home", lambda: None)
    monkeypatch.setattr(sys, "argv", ["cuda_compile.py"])
    assert cuda_compile.main() == 0
    assert capsys.readouterr().out.startswith("cuda-compile: skipped, no nvcc found")
