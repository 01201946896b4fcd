"""Reads the machine code of CUDA kernels: are the instructions there that a kernel is written for?

A kernel's file says which those are, in comments of one line each:

    // Machine code of NAME: HMMA.16816, LDGSTS.128, LDSM

NAME is a regular expression for whole names as `make cuda-compile` prints them, types included ("tile<Half, .*>").
Each instruction is an opcode of NVIDIA's assembly language with the modifiers that it must have among others: LDG.128
is a load of 16 bytes from global memory, whatever else it says about caches. LDG.128|LDGSTS.128 asks for one of the
two. The instructions may follow an architecture from which on they are expected, as in "sm_80: ...", or the only one
that has them, as in "sm_90a: ...". That main loops, the innermost ones that multiply and add, touch no local memory
(spills, and arrays indexed by a variable) is asked of every kernel but those that say LOCAL.
"""

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

EXPECTATION = re.compile(
    r"^// Machine code of (?P<name>\S.*?): (?:sm_(?P<since>\d+a?): )?(?P<instructions>[A-Z].*)$", re.M
)
LOCAL, ALLOWED = ("LDL", "STL"), "LOCAL"
MULTIPLY_ADDS = ("FFMA", "DFMA", "HFMA2", "HMMA", "DMMA", "IMMA", "HGMMA")


class Code(NamedTuple):
    """How often each instruction stands in a kernel, and in its main loops. Instructions as "LDG.E.128"."""

    everywhere: dict[str, int]
    in_main_loops: dict[str, int]


class Expectation(NamedTuple):
    source: str
    name: str
    since: str  # architecture, as in 80; with an a, as in 90a, no other; or empty
    alternatives: tuple[tuple[str, ...], ...]  # of each list, one


def expectations(folder: Path) -> list[Expectation]:
    found = []
    for file in sorted(f for f in folder.iterdir() if f.suffix in (".cu", ".cuh", ".h")):
        for m in EXPECTATION.finditer(file.read_text()):
            wanted = tuple(tuple(w.strip().split("|")) for w in m["instructions"].rstrip(".").split(","))
            found.append(Expectation(file.name, m["name"], m["since"] or "", wanted))
    return found


def disassemble(nvdisasm: Path, cubin: Path) -> dict[str, Code]:
    """The code of each kernel of a file, by its mangled name."""
    text = subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout
    pieces = re.split(r"^\.text\.(\w+):", text, flags=re.M)
    return {name: parse(section) for name, section in zip(pieces[1::2], pieces[2::2], strict=True)}


def parse(section: str) -> Code:
    lines = re.compile(
        r"^(?P<label>\.L\w+):|"
        r"/\*[0-9a-f]+\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?(?P<opcode>[A-Z][\w.]*)(?P<rest>[^;]*);",
        re.M,
    )
    labels, opcodes, jumps = {}, [], []
    for m in lines.finditer(section):
        if m["label"]:
            labels[m["label"]] = len(opcodes)
            continue
        target = re.search(r"`\((\.L\w+)\)", m["rest"]) if m["opcode"].startswith(("BRA", "JMP")) else None
        if target:
            jumps.append((len(opcodes), target[1]))
        opcodes.append(m["opcode"])
    # A jump backwards closes a loop; but not the jump to itself that stands at the end of all code.
    loops = {(labels[target], at + 1) for at, target in jumps if target in labels and labels[target] < at}
    main = Counter()
    for begin, end in loops:
        innermost = not any((b, e) != (begin, end) and begin <= b and e <= end for b, e in loops)
        inside = Counter(opcodes[begin:end])
        if innermost and any(count(inside, opcode) for opcode in MULTIPLY_ADDS):
            main += inside
    return Code(dict(Counter(opcodes)), dict(main))


def count(instructions: dict[str, int], wanted: str) -> int:
    """How many instructions are `wanted`: the same opcode, and all its modifiers."""
    opcode, *modifiers = wanted.split(".")
    return sum(
        n for text, n in instructions.items() if text.split(".")[0] == opcode and {*modifiers} <= {*text.split(".")[1:]}
    )


def is_for(since: str, architecture: str) -> bool:
    """Whether what is expected since one architecture is expected of another."""
    if since.endswith("a"):
        return architecture == since
    return int(re.match(r"\d+", architecture)[0]) >= int(since or 0)


def problems(name: str, architecture: str, code: Code, expected: list[Expectation]) -> list[str]:
    """What is not as it should be in one kernel's code."""
    found = []
    mine = [e for e in expected if re.fullmatch(e.name, name)]
    allowed = any((ALLOWED,) in e.alternatives for e in mine)
    local = 0 if allowed else sum(count(code.in_main_loops, opcode) for opcode in LOCAL)
    if local:
        found.append(f"{name} for sm_{architecture} reads or writes local memory in a main loop ({local} instructions)")
    for e in mine:
        if not is_for(e.since, architecture):
            continue
        for alternatives in e.alternatives:
            if alternatives != (ALLOWED,) and not any(count(code.everywhere, a) for a in alternatives):
                found.append(
                    f"{name} for sm_{architecture} has no {' or '.join(alternatives)}, which {e.source} expects"
                )
    return found
