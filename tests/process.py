"""Running a Python process of its own that imports the same convx as the tests."""

import os
import subprocess
import sys
from pathlib import Path

import convx


def run_python(*arguments, timeout=300, **environment):
    """The completed process of ``python ARGUMENTS``, output as text."""
    path = os.pathsep.join(filter(None, [str(Path(convx.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
