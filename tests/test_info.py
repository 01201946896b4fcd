"""show_config and ``python -m convx``: the text that goes into an issue."""

import platform
import re
import subprocess
from pathlib import Path

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
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability(0)
        assert told["GPU 0"].startswith(torch.cuda.get_device_name(0)) and f"sm_{major}{minor}," in told["GPU 0"]
    else:
        assert told["GPUs"] == "none"
    assert told["torch's commit"] == torch.version.git_version
    assert ("oneDNN" in told["torch's convolutions"]) == torch.backends.mkldnn.is_available()
    assert told["threading"].split(",")[0] in torch.__config__.parallel_info()
    assert told["installed in"] == str(Path(convx.__file__).parent)
    torch.set_num_threads(1)
    assert facts(convx.show_config())["threads"] == "1"


def test_show_config_tells_the_commit_of_a_checkout():
    root = Path(convx.__file__).parents[1]
    told = facts(convx.show_config())["commit"]
    if not (root / ".git").exists():
        assert told.startswith("unknown")
        return
    ask = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit, _, changes = told.partition("+")
    if ask.returncode == 0:
        assert len(commit) >= 7 and ask.stdout.startswith(commit) and changes in ("", "changes")
    else:
        assert told.startswith("unknown")


def test_show_config_tells_what_is_forced():
    assert facts(convx.show_config())["algorithms forced"] == "none"
    with convx.algorithm(forward="reference", grad_input="scatter"):
        assert facts(convx.show_config())["algorithms forced"] == "forward: reference, grad_input: scatter"


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
    said = told["processor's flags"].split(", ")
    assert (
        set(said) <= flags and ("avx2" in said) == ("avx2" in flags) and ("amx_tile" in said) == ("amx_tile" in flags)
    )


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
    done = run_python(
        *("-m", "convx"),
        CONVX_ALGORITHM="grad_input:scatter",
        OMP_NUM_THREADS="1",
        OMP_PROC_BIND="close",
        OTHERS_SECRET="x",
    )
    assert done.returncode == 0, done.stderr
    told = facts(done.stdout)
    assert told["CONVX_ALGORITHM"] == "grad_input:scatter" and told["algorithms forced"] == "grad_input: scatter"
    assert told["OMP_NUM_THREADS"] == told["threads"] == "1" and told["OMP_PROC_BIND"] == "close"
    assert "SECRET" not in told


def test_public_names():
    """The names that the README promises, each with a docstring."""
    promised = {
        *("Conv2d", "ConvTranspose2d", "LazyConv2d", "LazyConvTranspose2d", "conv2d", "conv_transpose2d", "grad"),
        *("convert", "revert", "layers", "intercept", "algorithms", "algorithm", "show_config"),
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
