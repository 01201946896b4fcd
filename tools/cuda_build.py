"""Builds, links and imports the whole extension, CUDA and bindings included, on a machine that need not have a GPU.

    python tools/cuda_build.py [--torch 2.11.0]

Uses torch's CUDA build in an environment of its own, .venv-cuda/, and a copy of the sources inside it: neither the
developer's environment nor the convx/_C of the working tree is touched. Then checks that all three operators have
kernels for CPU, CUDA and Meta. The first call downloads some gigabytes; later ones compile what has changed.

--torch builds against another torch than the one in requirements.txt, in .venv-cuda-VERSION/: the oldest that convx
says it works with, say, or the one on the machine with the GPU.
"""

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cuda_toolkit import cuda_home, cuda_version

ROOT = Path(__file__).parent.parent
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


@dataclass(frozen=True)
class Environment:
    """Where torch's CUDA build and the copied sources are; of the torch of requirements.txt or another one."""

    torch: str | None

    @property
    def folder(self) -> Path:
        return ROOT / (f".venv-cuda-{self.torch}" if self.torch else ".venv-cuda")

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def tree(self) -> Path:
        return self.folder / "build"

    def requirements(self) -> list[str]:
        lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line[:1] not in ("", "#")]
        wanted = [line for line in lines if line.partition("==")[0] in NEEDED]
        if self.torch:  # an older torch may refuse the newest of the others
            wanted = [re.sub(r"==[^;#]*(.*)# at least ([\d.]+).*", r">=\2 \1", line) for line in wanted]
            wanted = [f"torch=={self.torch}" if line.startswith("torch>=") else line for line in wanted]
        # Three equals signs: "==" would also accept, and here and there prefer, a local version such as 2.13.0+cpu.
        return [re.sub("^torch==", "torch===", line).partition("#")[0].strip() for line in wanted]


def make_environment(at: Environment) -> None:
    """Fills the environment, once for each list of requirements."""
    stamp = at.folder / "installed.txt"
    wanted = "\n".join(at.requirements()) + "\n"
    if at.python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return step(f"{at.folder.name}/ has what it needs")
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < DISK_NEEDED_GB:
        sys.exit(f"cuda-build: {DISK_NEEDED_GB} GB of disk are needed for torch's CUDA build, {free:.1f} GB are free")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", at.folder], capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"cuda-build: {sys.executable} can't make an environment (apt install python3-venv)")
    step(f"installing {', '.join(NEEDED)} into {at.folder.name}/: about 5 GB")
    ready = at.folder / "requirements.txt"
    ready.write_text(wanted)
    run([at.python, "-m", "pip", "install", "--disable-pip-version-check", "-r", ready], "installing")
    ready.rename(stamp)


def match_versions(at: Environment, home: Path) -> None:
    """nvcc and torch must be of one CUDA major, or torch's build refuses with a longer story."""
    ask = "import torch; print(torch.version.cuda)"
    built = subprocess.run([at.python, "-c", ask], capture_output=True, text=True)
    if built.returncode:
        sys.exit(f"cuda-build: torch does not import in {at.folder.name}/: {built.stderr.strip()}")
    torch_cuda, nvcc = built.stdout.strip(), cuda_version(home)
    if torch_cuda == "None":
        sys.exit("cuda-build: expected a CUDA build of torch from the package index, but got a CPU build")
    if torch_cuda.split(".")[0] != nvcc.split(".")[0]:
        sys.exit(
            f"cuda-build: torch is built with CUDA {torch_cuda}, so nvcc {torch_cuda} is needed; {home} has {nvcc}"
        )
    step(f"torch's CUDA {torch_cuda}, nvcc {nvcc} in {home}")


def copy_sources(tree: Path) -> None:
    """Mirrors the sources into tree. Only files that differ are written, and get the time of now, so that ninja
    compiles what has changed, even if that was while it compiled."""
    wanted = set()
    for name in COPIED:
        source = ROOT / name
        files = [source] if source.is_file() else [f for f in source.rglob("*") if f.is_file()]
        for file in files:
            if "__pycache__" in file.parts or file.suffix == ".so":
                continue
            target = tree / file.relative_to(ROOT)
            wanted.add(target)
            if not target.exists() or not filecmp.cmp(file, target, shallow=False):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
    for name in ("csrc", "convx"):
        for file in (tree / name).rglob("*"):
            if file.is_file() and file not in wanted and file.suffix != ".so" and "__pycache__" not in file.parts:
                file.unlink()


def build(at: Environment, environment: dict[str, str]) -> None:
    """Runs setup.py and shows which file is being compiled; its commands, a screenful each, go to a log."""
    started = time.time()
    log = at.tree / "build.log"
    command = [str(at.python), "setup.py", "-q", "build_ext", "--inplace"]
    setup = subprocess.Popen(
        command, cwd=at.tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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
    options = argparse.ArgumentParser(description="Builds, links and imports the extension with CUDA; no GPU needed.")
    options.add_argument("--torch", metavar="VERSION", help="another torch than the one in requirements.txt")
    at = Environment(options.parse_args().torch)
    started = time.time()
    home = toolkit()
    make_environment(at)
    match_versions(at, home)
    copy_sources(at.tree)
    environment = dict(os.environ, CUDA_HOME=str(home), CONVX_CUDA="1", TORCH_CUDA_ARCH_LIST=ARCHITECTURES)
    environment["PATH"] = f"{at.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"  # its ninja
    environment.pop("PYTHONPATH", None)
    step(f"building for {ARCHITECTURES}")
    build(at, environment)
    run([at.python, "-c", CHECK], "importing and checking", cwd=at.tree, env=environment)
    step(f"all good after {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
