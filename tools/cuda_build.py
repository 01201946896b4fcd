"""Builds, links and imports the whole extension, CUDA and bindings included, on a machine that need not have a GPU.

    python tools/cuda_build.py

Uses torch's CUDA build in an environment of its own, .venv-cuda/, and a copy of the sources inside it: neither the
developer's environment nor the convx/_C of the working tree is touched. Then checks that all three operators have
kernels for CPU, CUDA and Meta. The first call downloads some gigabytes; later ones compile what has changed.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cuda_toolkit import cuda_home, cuda_version

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / ".venv-cuda"
PYTHON = ENVIRONMENT / "bin" / "python"
TREE = ENVIRONMENT / "build"
COPIED = ("csrc", "convx", "setup.py", "pyproject.toml")

NEEDED = ("torch", "setuptools", "wheel", "ninja", "numpy")  # at the pins of requirements.txt
DISK_NEEDED_GB = 12  # wheels in pip's cache and what they unpack to
ARCHITECTURES = "9.0a"  # cuda_compile.py compiles the kernels for the others too

CHECK = """
import torch, convx
print(f"  torch {torch.__version__} with CUDA {torch.version.cuda}, convx {convx.__version__} in {convx.__path__[0]}")
missing = [
    f"convx::{op} for {key}"
    for op in ("forward", "grad_input", "grad_weight")
    for key in ("CPU", "CUDA", "Meta")
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"convx::{op}", key)
]
if missing:
    raise SystemExit("cuda-build: no kernel registered: " + ", ".join(missing))
print("  forward, grad_input and grad_weight are registered for CPU, CUDA and Meta")
for primitive, rows in convx.algorithms(device="cuda").items():
    if not rows:
        raise SystemExit(f"cuda-build: no CUDA algorithm for {primitive}")
    print(f"  cuda {primitive}: " + ", ".join(row.name for row in rows))
"""


def step(text: str) -> None:
    print(f"cuda-build: {text}", flush=True)


def run(command: list, what: str, **more) -> None:
    started = time.time()
    if subprocess.run([str(c) for c in command], **more).returncode:
        sys.exit(f"cuda-build: {what} failed; see above")
    step(f"{what}: {time.time() - started:.0f} s")


def toolkit() -> Path:
    home = cuda_home()
    if home is None:
        sys.exit("cuda-build: nvcc is needed, and none was found (put it on PATH or set CUDA_HOME)")
    return home


def requirements() -> list[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    wanted = [line for line in lines if line.partition("==")[0] in NEEDED]
    # Three equals signs: "==" would also accept, and here and there prefer, a local version such as 2.13.0+cpu.
    return [line.replace("==", "===", 1) if line.startswith("torch==") else line for line in wanted]


def make_environment() -> None:
    """Fills .venv-cuda/, once for each list of requirements."""
    stamp = ENVIRONMENT / "installed.txt"
    wanted = "\n".join(requirements()) + "\n"
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return step(f"{ENVIRONMENT.name}/ has what it needs")
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < DISK_NEEDED_GB:
        sys.exit(f"cuda-build: {DISK_NEEDED_GB} GB of disk are needed for torch's CUDA build, {free:.1f} GB are free")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"cuda-build: {sys.executable} can't make an environment (apt install python3-venv)")
    step(f"installing {', '.join(NEEDED)} into {ENVIRONMENT.name}/: about 5 GB")
    ready = ENVIRONMENT / "requirements.txt"
    ready.write_text(wanted)
    run([PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "-r", ready], "installing")
    ready.rename(stamp)


def match_versions(home: Path) -> None:
    """nvcc and torch must be of one CUDA major, or torch's build refuses with a longer story."""
    ask = "import torch; print(torch.version.cuda)"
    built = subprocess.run([PYTHON, "-c", ask], capture_output=True, text=True)
    if built.returncode:
        sys.exit(f"cuda-build: torch does not import in {ENVIRONMENT.name}/: {built.stderr.strip()}")
    torch_cuda, nvcc = built.stdout.strip(), cuda_version(home)
    if torch_cuda == "None":
        sys.exit("cuda-build: expected a CUDA build of torch from the package index, but got a CPU build")
    if torch_cuda.split(".")[0] != nvcc.split(".")[0]:
        sys.exit(
            f"cuda-build: torch is built with CUDA {torch_cuda}, so nvcc {torch_cuda} is needed; {home} has {nvcc}"
        )
    step(f"torch's CUDA {torch_cuda}, nvcc {nvcc} in {home}")


def copy_sources() -> None:
    """Mirrors the sources into TREE: files keep their times, so ninja compiles only what has changed."""
    wanted = set()
    for name in COPIED:
        source = ROOT / name
        files = [source] if source.is_file() else [f for f in source.rglob("*") if f.is_file()]
        for file in files:
            if "__pycache__" in file.parts or file.suffix == ".so":
                continue
            target = TREE / file.relative_to(ROOT)
            wanted.add(target)
            if not target.exists() or target.stat().st_mtime_ns != file.stat().st_mtime_ns:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, target)
    for name in ("csrc", "convx"):
        for file in (TREE / name).rglob("*"):
            if file.is_file() and file not in wanted and file.suffix != ".so" and "__pycache__" not in file.parts:
                file.unlink()


def build(environment: dict[str, str]) -> None:
    """Runs setup.py and shows which file is being compiled; its commands, a screenful each, go to a log."""
    started = time.time()
    log = TREE / "build.log"
    command = [str(PYTHON), "setup.py", "-q", "build_ext", "--inplace"]
    setup = subprocess.Popen(
        command, cwd=TREE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with log.open("w") as out:
        for line in setup.stdout:
            out.write(line)
            compiled = re.match(r"\[(\d+/\d+)\].* -c \S*/(csrc/\S+)", line)
            if compiled:
                step(f"[{compiled[1]}] {compiled[2]}")
            elif line.startswith("convx:") or "warning:" in line:
                print(line, end="", flush=True)
    if setup.wait():
        sys.exit(f"{log.read_text()[-8000:]}\ncuda-build: building failed; see above, or all of it in {log}")
    step(f"building: {time.time() - started:.0f} s")


def main() -> None:
    started = time.time()
    home = toolkit()
    make_environment()
    match_versions(home)
    copy_sources()
    environment = dict(os.environ, CUDA_HOME=str(home), CONVX_CUDA="1", TORCH_CUDA_ARCH_LIST=ARCHITECTURES)
    environment["PATH"] = f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"  # its ninja
    environment.pop("PYTHONPATH", None)
    step(f"building for {ARCHITECTURES}")
    build(environment)
    run([PYTHON, "-c", CHECK], "importing and checking", cwd=TREE, env=environment)
    step(f"all good after {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
