"""The index formulas of csrc/problem.h, against counting: the file is compiled alone, without torch, and asked about
every small axis. What the kernels build on is here: which input a tap reads, which outputs read an input, which taps
need no test, and the two size formulas.
"""

import os
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest
import reference
from problems import PADDING_MODES, fitting

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
pytestmark = pytest.mark.skipif(not COMPILER, reason="no C++ compiler found")


def allowed(size, padding, after, mode):
    """torch's limits on padding that reads the input again."""
    return mode in ("zeros", "replicate") or max(padding, after) <= size - (mode == "reflect")


def _axes():
    """(input size, kernel, output size, stride, padding, dilation, mode): as many outputs as fit, fewer, and more."""
    sizes = product((1, 2, 3, 5, 8), (1, 2, 3, 4), (1, 2, 3), (0, 1, 2, 4), (1, 2, 3), PADDING_MODES)
    for size, kernel, stride, padding, dilation, mode in sizes:
        natural = fitting(size, kernel, stride, padding, dilation)
        for out in {max(1, natural - 1), natural, natural + 2} - {0}:
            after = (out - 1) * stride - padding + (kernel - 1) * dilation - (size - 1)
            if allowed(size, padding, after, mode):
                yield size, kernel, out, stride, padding, dilation, mode


AXES = list(_axes())


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The lines that describe the three problems, and for each axis {what: lists of numbers}."""
    program = tmp_path_factory.mktemp("formulas") / "problem_formulas"
    sources = [str(HERE / "problem_formulas.cpp"), str(HERE.parent / "csrc" / "problem.cpp")]
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    subprocess.run([COMPILER, *flags, *sources, "-o", str(program)], check=True)
    lines = "\n".join(" ".join(map(str, (*axis[:6], PADDING_MODES.index(axis[6])))) for axis in AXES)
    done = subprocess.run([str(program)], input=lines, capture_output=True, text=True, check=True)
    problems, *rest = done.stdout.partition("source")
    of_axes = []
    for block in "".join(rest).split("source")[1:]:
        answer = {"readers": []}
        for line in ("source" + block).splitlines():
            what, *numbers = line.split()
            numbers = list(map(int, numbers))
            if what == "readers":
                answer["readers"].append(numbers)
            else:
                answer[what] = numbers
        of_axes.append(answer)
    assert len(of_axes) == len(AXES) > 1000
    return problems.splitlines(), of_axes


def pairs(numbers):
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def sources_of(axis):
    """{(output, tap): the input it reads, or -1}, by the definition in reference.py."""
    size, kernel, out, stride, padding, dilation, mode = axis
    found = {}
    for r in range(kernel):
        outputs, inputs = reference.tap(r, size, out, stride, padding, dilation, mode)
        found |= {(p, r): -1 for p in range(out)}
        found |= {(int(p), r): int(i) for p, i in zip(outputs, inputs, strict=True)}
    return found


def test_source(answers):
    for axis, answer in zip(AXES, answers[1], strict=True):
        _, kernel, out, *_ = axis
        expected = sources_of(axis)
        assert answer["source"] == [expected[p, r] for p in range(out) for r in range(kernel)], axis


def test_outputs_inside(answers):
    """Exactly the outputs whose tap falls inside, and nothing where there are none."""
    for axis, answer in zip(AXES, answers[1], strict=True):
        size, kernel, out, stride, padding, dilation, _ = axis
        for r, (first, last) in zip(range(kernel), pairs(answer["outputs_inside"]), strict=True):
            inside = [p for p in range(out) if 0 <= p * stride - padding + r * dilation < size]
            assert list(range(first, last + 1)) == inside, (axis, r)


def test_readers_of_an_input(answers):
    """preimage() and output_reading() invert source(): each (output, tap) that reads an input, and each just once."""
    for axis, answer in zip(AXES, answers[1], strict=True):
        sources = sources_of(axis)
        for i, readers in enumerate(answer["readers"]):
            expected = sorted(reader for reader, source in sources.items() if source == i)
            assert sorted(pairs(readers)) == expected, (axis, i)


def test_sizes(answers):
    """output_size counts the windows that fit; input_size gives all the sizes that lead to it, in order."""
    seen = 0
    for axis, answer in zip(AXES, answers[1], strict=True):
        size, kernel, _, stride, padding, dilation, _ = axis
        expected = fitting(size, kernel, stride, padding, dilation)
        if not expected:  # a window larger than the padded input: such problems are refused before the formula
            continue
        assert answer["output_size"] == [expected], axis
        around = range(size - stride + 1, size + stride)
        leading = [i for i in around if fitting(i, kernel, stride, padding, dilation) == expected]
        assert answer["input_size"] == leading, axis
        seen += 1
    assert seen > 1000


def test_predicates_and_printer(answers):
    """is_depthwise, is_grouped, is_pointwise, is_unit_stride, is_dilated, is_zero_padded, multiply_adds, to_string."""
    plain, ugly, depthwise = answers[0]
    ones = "N1 C1 H1 W1 K1 R1 S1 P1 Q1 G1 stride 1x1 pad 0x0 dilation 1x1 zeros"
    assert plain == f"0 0 1 1 0 1 1 {ones}"
    work = 2 * 6 * 4 * 7 * (4 // 2) * 3 * 2
    geometry = "stride 2x1 pad 1x0 dilation 2x1 reflect"
    assert ugly == f"0 1 0 0 1 0 {work} N2 C4 H9 W8 K6 R3 S2 P4 Q7 G2 {geometry}"
    work = 2 * 8 * 4 * 7 * 1 * 3 * 2
    assert depthwise == f"1 1 0 0 1 0 {work} N2 C4 H9 W8 K8 R3 S2 P4 Q7 G4 {geometry}"
