"""tools/cuda_compile.py: the CUDA sources compile for every architecture, no kernel spills, and the instructions are
there that the kernels promise; and the tool sees it if one does spill, or breaks a promise."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tools"))

import cuda_compile  # noqa: E402
import machine_code  # noqa: E402
from cuda_toolkit import architectures, cuda_home, disassembler, without_parameters  # noqa: E402

HOME = cuda_home()
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


# One kernel copies 16 bytes at a time; the other has the same to do, but its pointers don't say that they are aligned.
# The third indexes an array of its own by a variable.
LOADS = """
// Machine code of wide: LDG.128, STG.128
// Machine code of wide: sm_80a: HGMMA
// Machine code of narrow<float>: LDG.128|LDGSTS.128, STG
// Machine code of narrow<float>: sm_90: HMMA.16816
__global__ void wide(const float4* from, float4* to) { to[threadIdx.x] = from[threadIdx.x]; }
template <class T>
__global__ void narrow(const T* from, T* to) {
  for (int i = 0; i < 4; ++i) to[4 * threadIdx.x + i] = from[4 * threadIdx.x + i];
}
template __global__ void narrow<float>(const float*, float*);
__global__ void local(const int* from, float* to, int n) {
  float own[32];
  for (int i = 0; i < 32; ++i) own[i] = to[i];
  for (int i = 0; i < n; ++i) own[from[i]] = 2.5f * own[from[i]] + float(i);
  for (int i = 0; i < 32; ++i) to[i] = own[i];
}
"""


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """What is compiled here is remembered apart from what `make cuda-compile` did."""
    monkeypatch.setattr(cuda_compile, "CACHE", tmp_path / "cache")


@needs_nvcc
def test_everything_compiles(capsys):
    archs = architectures(HOME)
    assert archs[:2] == ["80", "90a"]
    compiled = cuda_compile.compile_sources(HOME, archs)
    expected = machine_code.expectations(cuda_compile.CUDA)
    good = [cuda_compile.check_kernels(*item, expected) for item in compiled.items()]
    good.append(cuda_compile.check_expectations(compiled, expected))
    printed = capsys.readouterr().out
    assert all(good), printed
    for kernel in ("forward_reference", "grad_input_reference", "grad_weight_reference", "grad_input_scatter"):
        assert kernel in printed


@needs_nvcc
@pytest.mark.skipif(HOME is None or disassembler(HOME) is None, reason="no nvdisasm (pip install nvidia-cuda-nvdisasm)")
def test_broken_promises_are_reported(own_cache, tmp_path, capsys):
    source = tmp_path / "loads.cu"
    source.write_text(LOADS)
    assert not cuda_compile.compile_kernels(HOME, source, ["80", "90a"])
    wrong = [line.strip() for line in capsys.readouterr().out.splitlines() if " for sm_" in line]
    assert sorted(line.partition(" (")[0] for line in wrong) == [
        "local for sm_80 reads or writes local memory in a main loop",
        "local for sm_90a reads or writes local memory in a main loop",
        "narrow<float> for sm_80 has no LDG.128 or LDGSTS.128, which loads.cu expects",
        "narrow<float> for sm_90a has no HMMA.16816, which loads.cu expects",
        "narrow<float> for sm_90a has no LDG.128 or LDGSTS.128, which loads.cu expects",
    ]
    compiled = {source: cuda_compile.compile_source(HOME, source, ["80", "90a"])}
    expected = machine_code.expectations(tmp_path)
    assert cuda_compile.check_expectations(compiled, expected)
    assert not cuda_compile.check_expectations(compiled, [*expected, expected[0]._replace(name="wide<.*>")])
    assert "expects machine code of wide<.*>, and there is no such kernel" in capsys.readouterr().out


def test_for_which_architectures_something_is_expected():
    every, from_90, only_90a = ([machine_code.is_for(s, a) for a in ("80", "90a", "100")] for s in ("", "90", "90a"))
    assert every == [True, True, True] and from_90 == [False, True, True] and only_90a == [False, True, False]


def test_names_of_kernels():
    assert without_parameters("void convx::cuda::f<float, (convx::Primitive)0>(convx::T<float>)") == (
        "f<float, Primitive(0)>"
    )
    assert without_parameters("void k<a::H, a::S<1, 2> >(int)") == "k<H, S<1, 2>>"
    assert without_parameters("(anonymous namespace)::g(int*)") == "g"
    assert without_parameters("void a::h<a::T<(a::E)1>, false>(a::T<(a::E)1>)") == "h<T<E(1)>, false>"


@needs_nvcc
def test_the_binding_compiles(capsys):
    assert cuda_compile.check_binding(HOME), capsys.readouterr().out


@needs_nvcc
def test_a_spill_is_reported(own_cache, tmp_path, capsys):
    source = tmp_path / "spilling.cu"
    source.write_text(SPILLING)
    assert not cuda_compile.compile_kernels(HOME, source, ["80"])
    assert "spilling for sm_80 spills" in capsys.readouterr().out


@needs_nvcc
def test_an_error_is_reported(own_cache, tmp_path, capsys):
    source = tmp_path / "wrong.cu"
    source.write_text("__global__ void wrong() { undeclared = 1; }\n")
    assert not cuda_compile.compile_kernels(HOME, source, ["80"])
    assert "undeclared" in capsys.readouterr().out


def test_without_nvcc_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(cuda_compile, "cuda_home", lambda: None)
    monkeypatch.setattr(sys, "argv", ["cuda_compile.py"])
    assert cuda_compile.main() == 0
    assert capsys.readouterr().out.startswith("cuda-compile: skipped, no nvcc found")
