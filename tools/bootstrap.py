"""Makes .venv/ ready for `make`: checks the system packages, creates the environment, installs what is missing.

    python3 tools/bootstrap.py [--python-given] requirements.txt ...

Nothing is downloaded where everything is there: if the python that runs this can import a recent torch (a GPU machine's
own, say), .venv/ sees that python's packages, and only distributions that are missing or too old are installed, at
their pins. It first runs under any python3, to say in one line what a bare machine lacks, and then once more inside
.venv/.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
OLDEST_PYTHON = (3, 10)
ESSENTIAL = ("torch", "setuptools", "ninja")  # nothing runs without these; without the others, some things do


def say(text):
    print("convx: " + text, flush=True)


def numbers(version):
    """'2.13.0+cpu' -> [2, 13, 0], enough to order the versions of the distributions needed here."""
    return [int(n) for n in re.match(r"\d+(\.\d+)*", version).group().split(".")]


class Requirement:
    """A line such as `numpy==2.4.6; python_version >= "3.11"  # at least 1.26`."""

    LINE = re.compile(
        r'(?P<name>[\w-]+)==(?P<pin>[\w.]+)(; python_version (?P<op><|>=) "3\.(?P<minor>\d+)")?'
        r"(\s+# at least (?P<oldest>[\d.]+)[:\s]?.*)?$"
    )

    def __init__(self, line):
        match = self.LINE.match(line)
        if not match:
            sys.exit(f"convx: tools/bootstrap.py can't read this requirement: {line}")
        self.name, self.pin, self.oldest = match["name"], match["pin"], match["oldest"] or match["pin"]
        minor = sys.version_info[1]
        self.applies = match["op"] is None or (minor < int(match["minor"])) == (match["op"] == "<")

    def __str__(self):
        return f"{self.name}=={self.pin}"

    def found(self):
        """Whether .venv/ has the pinned version, or sees one outside that is recent enough."""
        from importlib import metadata

        try:
            distribution = metadata.distribution(self.name)
        except metadata.PackageNotFoundError:
            return self.name == "ninja" and shutil.which("ninja") is not None
        ours = VENV in Path(distribution.locate_file("")).resolve().parents
        have = numbers(distribution.version)
        return have == numbers(self.pin) if ours else have >= numbers(self.oldest)


def requirements(files):
    lines = (line.strip() for file in files for line in (ROOT / file).read_text().splitlines())
    return [r for r in (Requirement(line) for line in lines if line and line[0] != "#") if r.applies]


def has_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def check_system(torch_outside):
    """One line for each system package that is missing, and exit."""
    if sys.version_info < OLDEST_PYTHON:
        have = ".".join(map(str, sys.version_info[:3]))
        say(f"Python 3.10 or newer is needed, but {sys.executable} is {have} (choose: make PYTHON=python3.12 ...)")
        sys.exit(1)
    missing = []
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        missing.append(("python3-dev", f"Python.h, the headers of {sys.executable}"))
    # On a machine that has everything but this, an environment without pip will do.
    if not has_module("ensurepip") and not torch_outside:
        missing.append(("python3-venv", "Python's module ensurepip"))
    if not any(shutil.which(c) for c in (os.environ.get("CXX", "").split() or ["c++", "g++"])[:2]):
        missing.append(("g++", "a C++ compiler"))
    for package, what in missing:
        say(f"the system package {package} is missing ({what}): apt install {package}")
    if missing:
        sys.exit(1)


def torch_outside(oldest):
    """Whether the python that runs this has a torch of its own that is recent enough."""
    if not has_module("torch"):
        return False
    ask = [sys.executable, "-c", "import torch; print(torch.__version__)"]
    answer = subprocess.run(ask, capture_output=True, text=True)
    return answer.returncode == 0 and numbers(answer.stdout) >= numbers(oldest)


def environment_fits(python_given):
    """Whether .venv/ works, stands where it was made, and is of the Python asked for, if one was."""
    if not PYTHON.exists():
        return False
    ask = [str(PYTHON), "-c", "import sys; print(sys.prefix, *sys.version_info[:2])"]
    answer = subprocess.run(ask, capture_output=True, text=True)
    if answer.returncode != 0:
        return False
    prefix, major, minor = answer.stdout.strip().rsplit(" ", 2)
    same_version = (int(major), int(minor)) == sys.version_info[:2]
    return Path(prefix) == VENV and (same_version or not python_given)


def create_environment(sees_outside):
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    if sees_outside:
        command.append("--system-site-packages")
        if has_module("pip") or not has_module("ensurepip"):
            # That pip is seen too; the one that comes with an environment may bring an old setuptools in front.
            command.append("--without-pip")
    say(f"creating .venv/ with Python {sys.version.split()[0]}" + (" and this machine's torch" if sees_outside else ""))
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        say("python3 -m venv failed: " + " ".join((made.stdout + made.stderr).split()))
        sys.exit(1)
    if sees_outside and sys.prefix != sys.base_prefix:
        # An environment of an environment sees the base's packages only: name the one between them.
        between = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
        site = subprocess.check_output([str(PYTHON), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
        Path(site.decode().strip(), "outside.pth").write_text("\n".join(between) + "\n")
        ninja = Path(sys.prefix, "bin", "ninja")
        if ninja.exists():
            (VENV / "bin" / "ninja").symlink_to(ninja)


def pip_install(wanted, log):
    """Installs with pip, all that it says going to a file; returns whether it worked."""
    # Few retries: without a network the answer should come in seconds.
    command = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--retries=1"]
    with log.open("ab") as file:
        pip = subprocess.Popen(command + [str(r) for r in wanted], stdout=file, stderr=subprocess.STDOUT)
        while True:
            try:
                return pip.wait(timeout=15) == 0
            except subprocess.TimeoutExpired:  # a sign of life: torch takes minutes
                lines = log.read_text(errors="replace").split("\n")
                say("pip: " + next((line.strip()[:90] for line in reversed(lines) if line.strip()), "..."))


def install(files):
    """Inside .venv/: installs what is missing; returns whether all is there."""
    needed = requirements(files)
    missing = [r for r in needed if not r.found()]
    if not missing:
        say("nothing to install: " + ", ".join(r.name for r in needed) + " are there")
        return True
    if not has_module("pip"):
        say("the system package python3-venv is missing (Python's module ensurepip): apt install python3-venv")
        sys.exit(1)
    say("installing " + ", ".join(map(str, missing)) + " (what pip says: .venv/pip.log)")
    log = VENV / "pip.log"
    log.unlink(missing_ok=True)
    if pip_install(missing, log):
        return True
    essential = [r for r in missing if r.name in ESSENTIAL]
    if essential and not pip_install(essential, log):
        say(f"could not install {', '.join(map(str, essential))}: no network? See .venv/pip.log")
        sys.exit(1)
    failed = [r for r in missing if r not in essential and not pip_install([r], log)]
    if failed:
        say(f"going on without {', '.join(r.name for r in failed)}, which could not be installed (see .venv/pip.log)")
    return not failed


def main():
    arguments = sys.argv[1:]
    if "--install" in arguments:
        files = [a for a in arguments if a != "--install"]
        complete = install(files)
        # For make. An old stamp after an incomplete installation: the next call tries again, yet rebuilds nothing.
        stamp = VENV / (Path(files[-1]).stem + ".ready")
        stamp.touch()
        if not complete:
            os.utime(stamp, (0, 0))
        return
    python_given = "--python-given" in arguments
    files = [a for a in arguments if a != "--python-given"]
    if sys.version_info < OLDEST_PYTHON or not environment_fits(python_given):
        oldest = next((r.oldest for r in requirements(["requirements.txt"]) if r.name == "torch"), "0")
        outside = sys.version_info >= OLDEST_PYTHON and torch_outside(oldest)
        check_system(outside)
        create_environment(outside)
    path = str(VENV / "bin") + os.pathsep + os.environ.get("PATH", "")
    command = [str(PYTHON), str(Path(__file__).resolve()), "--install", *files]
    sys.exit(subprocess.run(command, env=dict(os.environ, PATH=path)).returncode)


if __name__ == "__main__":
    main()
