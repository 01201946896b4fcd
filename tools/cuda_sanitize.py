"""Runs the CUDA kernels on a GPU under NVIDIA's compute-sanitizer: memcheck, then racecheck, initcheck and synccheck.

    python tools/cuda_sanitize.py [--tool memcheck] [ARGUMENTS OF PYTEST]

What is run is tests/test_cuda_device.py: every algorithm and dtype. Only convx's kernels are looked at. Without a GPU
there is nothing to do but say so; the emulator of tests/emulator finds the same kinds of mistakes there.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cuda_toolkit import ROOT, cuda_home

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def sanitizer() -> str | None:
    home = cuda_home()
    beside = [home / "bin" / "compute-sanitizer", home / "compute-sanitizer" / "compute-sanitizer"] if home else []
    return next((str(p) for p in beside if p.exists()), None) or shutil.which("compute-sanitizer")


def why_not() -> str | None:
    """Why nothing can be run here."""
    try:
        import torch
    except ImportError:
        return f"no torch in {sys.executable}"
    if not torch.cuda.is_available():
        return "no GPU here"
    sys.path.append(str(ROOT))
    import convx

    if not convx.algorithms("forward", "cuda"):
        return "convx is built without CUDA"
    if sanitizer() is None:
        return "no compute-sanitizer found (it is part of the CUDA toolkit; put it on PATH or set CUDA_HOME)"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description="The CUDA kernels under compute-sanitizer.")
    parser.add_argument("--tool", action="append", choices=TOOLS, help="all by default")
    options, for_pytest = parser.parse_known_args()
    reason = why_not()
    if reason:
        print(f"cuda-sanitize: skipped, {reason}")
        return 0
    # torch's cache of memory would hide where one tensor ends: each gets memory of its own.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    tests = [sys.executable, "-m", "pytest", "-q", "-x", str(Path(ROOT, "tests", "test_cuda_device.py"))]
    tests += for_pytest or ["-k", "exact_and_the_same"]
    failed = []
    for tool in options.tool or TOOLS:
        started = time.time()
        # kns: kernels whose mangled name has this in it.
        command = [sanitizer(), "--tool", tool, "--kernel-regex", "kns=convx", "--error-exitcode", "99"]
        command += ["--target-processes", "all", "--print-limit", "20"]
        run = subprocess.run([*command, *tests], env=environment, cwd=ROOT)
        print(f"cuda-sanitize: {tool}: {'clean' if run.returncode == 0 else 'FAILED'}, {time.time() - started:.0f} s")
        if run.returncode:
            failed.append(tool)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
