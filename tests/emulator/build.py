"""Compiles csrc/cuda and the emulator as plain C++ into a library: once for each state of the sources, and of them only
what has changed.
"""

from __future__ import annotations

import fcntl
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

FLAGS = ["-std=c++17", "-fPIC", "-g1", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
FLAGS += ["-Wno-psabi"]  # a note that tensor maps were once passed to functions otherwise
# variant: (flags for the emulator, flags for the kernels)
VARIANTS = {
    "watched": (["-O2"], ["-O2", "-fsanitize=thread"]),  # not linked with ThreadSanitizer: see memory_hooks.cpp
    "sanitized": (2 * (["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],)),
}


def sources() -> list[Path]:
    own = (ROOT / "csrc" / "algorithm.cpp", ROOT / "csrc" / "problem.cpp")
    of_a_gpu = {
        ROOT / "csrc" / "cuda" / name for name in ("device.cpp", "tensor_map.cpp")
    }  # the emulator is the device
    cuda = {*(ROOT / "csrc" / "cuda").glob("*.c*")} - of_a_gpu
    return [*sorted(HERE.glob("*.c*")), *sorted(f for f in cuda if f.suffix != ".cuh"), *own]


def _digest(command: list[str], files) -> str:
    key = hashlib.sha256(" ".join(command).encode())
    for file in files:
        key.update(str(file).encode() + Path(file).read_bytes())
    return key.hexdigest()[:16]


def _compile(source: Path, command: list[str], folder: Path) -> Path:
    """The object file, which is compiled only if what it is made of has changed."""
    listed = subprocess.run([*command, "-MM", str(source)], check=True, capture_output=True, text=True).stdout
    read = listed.partition(":")[2].replace("\\\n", " ").split()
    made = folder / f"{source.stem}-{_digest(command, read)}.o"
    if not made.exists():
        half_done = made.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-c", str(source), "-o", str(half_done)], check=True)
        half_done.replace(made)
    return made


def build(variant: str) -> Path:
    """The library's path."""
    emulator_flags, kernel_flags = VARIANTS[variant]

    def command(source):
        flags = kernel_flags if source.suffix == ".cu" else emulator_flags
        return [*COMPILER.split(), *FLAGS, *flags, f"-I{HERE}", "-x", "c++"]

    files = sorted(f for folder in FOLDERS for f in folder.iterdir() if f.suffix in (".h", ".cuh", ".cu", ".cpp"))
    folder = ROOT / "build" / "emulator" / variant
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{_digest(command(files[0]) + kernel_flags, files)}.so"
    with open(folder / "lock", "w") as lock:  # several test processes may come: one builds, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _link(library, emulator_flags, {source: command(source) for source in sources()})
    return library


def _link(library: Path, flags: list[str], commands: dict[Path, list[str]]) -> None:
    folder = library.parent
    jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count())
    with ThreadPoolExecutor(jobs) as pool:
        objects = list(pool.map(lambda source: _compile(source, commands[source], folder), commands))
    half_done = library.with_suffix(f".{os.getpid()}")
    subprocess.run([*COMPILER.split(), *flags, "-shared", *objects, "-o", half_done], check=True)
    for old in {*folder.glob("*.so"), *folder.glob("*.o")} - {*objects}:
        old.unlink(missing_ok=True)
    half_done.replace(library)
