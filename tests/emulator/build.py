"""Compiles csrc/cuda and the emulator as plain C++ into a library: once for each state of the sources, and of them only
what has changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HERE = ROOT / "tests" / "emulator"
FOLDERS = (HERE, ROOT / "csrc", ROOT / "csrc" / "cuda")
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")

FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
# For kernels only: see memory_hooks.cpp.
WATCHED = ["-fsanitize=thread", "-g1"]


def sources() -> list[Path]:
    own = (ROOT / "csrc" / "cuda" / "algorithms.cpp", ROOT / "csrc" / "algorithm.cpp", ROOT / "csrc" / "problem.cpp")
    return [*sorted(HERE.glob("*.c*")), *sorted((ROOT / "csrc" / "cuda").glob("*.cu")), *own]


def _digest(command: list[str], files) -> str:
    key = hashlib.sha256(" ".join([*command, *WATCHED]).encode())
    for file in files:
        key.update(str(file).encode() + Path(file).read_bytes())
    return key.hexdigest()[:16]


def _compile(source: Path, command: list[str], folder: Path) -> Path:
    command = [*command, *(WATCHED if source.suffix == ".cu" else [])]
    listed = subprocess.run([*command, "-MM", str(source)], check=True, capture_output=True, text=True).stdout
    read = listed.partition(":")[2].replace("\\\n", " ").split()
    made = folder / f"{source.stem}-{_digest(command, read)}.o"
    if not made.exists():
        half_done = made.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-c", str(source), "-o", str(half_done)], check=True)
        half_done.replace(made)
    return made


def build() -> Path:
    """The library's path."""
    command = [*COMPILER.split(), *FLAGS, f"-I{HERE}", "-x", "c++"]
    files = sorted(f for folder in FOLDERS for f in folder.iterdir() if f.suffix in (".h", ".cuh", ".cu", ".cpp"))
    folder = ROOT / "build" / "emulator"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{_digest(command, files)}.so"
    if library.exists():
        return library
    jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count())
    with ThreadPoolExecutor(jobs) as pool:
        objects = list(pool.map(lambda s: _compile(s, command, folder), sources()))
    half_done = library.with_suffix(f".{os.getpid()}")
    link = [*COMPILER.split(), "-shared", *map(str, objects), "-o", str(half_done)]
    subprocess.run(link, check=True)
    for old in {*folder.glob("*.so"), *folder.glob("*.o")} - {*objects}:
        old.unlink(missing_ok=True)
    half_done.replace(library)
    return library
