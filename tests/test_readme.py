"""README.md keeps its word: its example runs, and the files and commands that it names exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TEXTS = ["README.md", "CONTRIBUTING.md"]


def test_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names = {}
    exec(code, names)
    assert names["y"].shape == (1, 8, 32, 32) and names["x"].shape == (1, 3, 64, 64)
    assert all(p.grad is not None for p in names["model"].parameters())


@pytest.mark.parametrize("text", TEXTS)
def test_links_lead_somewhere(text):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / text).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("text", TEXTS)
def test_commands_exist(text):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / text).read_text()))
    assert named and named <= targets
