"""show_config and ``python -m convx``: the text that goes into an issue."""

import platform
import re

import torch
from process import run_python

import convx


def facts(text):
    """The report as a dict; every line is a name and a fact."""
    rows = [re.split(r"  +", line.strip(), maxsplit=1) for line in text.splitlines() if line.strip()]
    assert all(len(row) == 2 for row in rows), text
    return {name.rstrip(":"): fact for name, fact in rows}


def test_show_config_tells_the_truth():
    text = convx.show_config()
    assert isinstance(text, str) and text == convx.show_config()
    told = facts(text)
    assert told["convx"] == convx.__version__ and told["torch"] == torch.__version__
    assert platform.python_version() in told["python"]
    assert int(told["threads"]) == torch.get_num_threads()
    assert re.match(r"(GCC|Clang|MSVC) \d+", told["compiler"]) and "C++" in told["compiler"]
    assert told["CUDA kernels built"].startswith("yes" if convx._C.build_info()["cuda"] else "no")
    assert told["CUDA of torch"] == (torch.version.cuda or "none")
    if not torch.cuda.is_available():
        assert told["GPUs"] == "none"
    torch.set_num_threads(1)
    assert facts(convx.show_config())["threads"] == "1"


def test_show_config_names_instruction_sets_that_the_machine_has():
    told = facts(convx.show_config())
    flags = set()
    try:
        with open("/proc/cpuinfo") as f:
            flags = {flag for line in f if line.startswith("flags") for flag in line.partition(":")[2].split()}
    except OSError:
        pass
    if not flags:
        return  # nothing to hold the report against: another system than Linux, or another processor than x86
    found = told["instruction sets found"].lower()
    assert ("avx2" in found) == ({"avx2", "fma"} <= flags)
    assert "avx512" not in found or "avx512f" in flags
    assert "amx" not in found or "amx_tile" in flags
    assert told["instruction set used"]


def test_show_config_lists_every_algorithm_in_order():
    told = facts(convx.show_config())
    for device in ("cpu", "cuda"):
        for primitive, rows in convx.algorithms(device=device).items():
            names = ", ".join(a.name for a in rows)
            assert told.get(f"{device} {primitive}", "") == names
            assert device == "cuda" or names.endswith("reference"), "the reference is the last resort"


def test_python_m_convx():
    done = run_python("-m", "convx")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    told, here = facts(done.stdout), facts(convx.show_config())
    changing = {"threads", *(name for name in here if name.startswith("CONVX_"))}
    assert {k: v for k, v in told.items() if k not in changing} == {k: v for k, v in here.items() if k not in changing}


def test_environment_variables_are_part_of_the_report():
    done = run_python("-m", "convx", CONVX_ALGORITHM="grad_input:scatter")
    assert done.returncode == 0, done.stderr
    assert facts(done.stdout)["CONVX_ALGORITHM"] == "grad_input:scatter"


def test_public_names():
    """The names that the README promises, each with a docstring."""
    promised = {
        *("Conv2d", "ConvTranspose2d", "LazyConv2d", "LazyConvTranspose2d", "conv2d", "conv_transpose2d", "grad"),
        *("convert", "revert", "intercept", "algorithms", "algorithm", "show_config"),
    }
    assert promised <= set(convx.__all__)
    assert all(getattr(convx, name).__doc__ for name in convx.__all__)
    assert {"conv2d_input", "conv2d_weight"} <= set(dir(convx.grad))
    assert re.match(r"\d+\.\d+\.\d+", convx.__version__)


def test_importing_convx_is_quiet_and_changes_nothing_of_torchs():
    code = """
import warnings, torch
def state():
    return torch.conv2d, torch.nn.functional.conv2d, torch.nn.Conv2d.forward, torch.get_num_threads()
before = state()
warnings.simplefilter("error")
import convx
assert state() == before
"""
    done = run_python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
