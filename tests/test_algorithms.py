"""Listing the algorithms and forcing one: by name, for one primitive, from the environment; and undoing it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from choices import call, choices, forced
from conftest import DEVICES, DTYPES, INSTRUCTION_SETS, PRIMITIVES
from exact import assert_exact, draw_integers
from problems import UGLY

import convx

ROOT = Path(__file__).parent.parent


def forced_now():
    return {p: convx._C.forced_algorithm(p) for p in PRIMITIVES}


AUTOMATIC = dict.fromkeys(PRIMITIVES, "")


def test_listing():
    everything = convx.algorithms()
    assert tuple(everything) == PRIMITIVES
    for primitive, rows in everything.items():
        assert rows == convx.algorithms(primitive) == convx.algorithms(primitive, device="cpu")
        names = [row.name for row in rows]
        assert len(set(names)) == len(names) and "" not in names
        assert all(row.summary and isinstance(row.deterministic, bool) for row in rows)
        assert rows[0] == (rows[0].name, rows[0].summary, rows[0].deterministic)
    assert "scatter" in [row.name for row in everything["grad_input"]]


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_the_reference_is_last(device, primitive):
    rows = convx.algorithms(primitive, device)
    assert rows[-1].name == "reference" and rows[-1].deterministic


def test_cuda_has_none_without_cuda():
    expected = {p: [] for p in PRIMITIVES}
    if not convx._C.build_info()["cuda"]:
        assert convx.algorithms(device="cuda") == expected
    else:
        assert all(convx.algorithms(device="cuda").values())


@pytest.mark.parametrize("arguments", (("backward",), ("forward", "tpu"), ("", "cpu")), ids=str)
def test_listing_of_what_does_not_exist(arguments):
    with pytest.raises(ValueError, match="expected"):
        convx.algorithms(*arguments)


@pytest.mark.parametrize("device, primitive", [(d, p) for d in DEVICES for p in PRIMITIVES])
def test_each_algorithm_can_do_something(device, primitive):
    """A row that refuses every problem would pass every other test; only a missing instruction set excuses one."""
    reasons = {algorithm: [] for algorithm, _ in choices(device, primitive)}
    done = set()
    for problem in UGLY.values():
        if 0 in (problem.N, problem.C):
            continue
        for algorithm, isa in choices(device, primitive):
            dtype = torch.bfloat16 if algorithm == "bfloat16_pairs" else torch.float32
            first, second, bias, _ = draw_integers(primitive, problem, dtype, device)
            try:
                with forced(primitive, algorithm, isa):
                    call(primitive, first, second, bias, problem)
                done.add(algorithm)
            except RuntimeError as error:
                assert f"algorithm '{algorithm}' was forced but can't do {primitive} of {str(dtype)[6:]}" in str(error)
                reasons[algorithm].append(str(error).rpartition(": ")[2])
    for algorithm in reasons.keys() - done:
        missing = {"avx2", "avx512"} - set(INSTRUCTION_SETS)
        told = "".join(reasons[algorithm]).lower().replace("-", "")
        assert any(isa in told for isa in missing), f"{algorithm} refuses everything: {set(reasons[algorithm])}"


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_forcing_takes_effect(primitive):
    """Seen by kernels that refuse int64: forced, each says so; the reference forced inside, or none forced, does it."""
    problem = UGLY["plain"]
    first, second, bias, expected = draw_integers(primitive, problem, torch.int64)

    def run():
        assert_exact(call(primitive, first, second, bias, problem), expected, problem)

    picky = 0
    for name in [row.name for row in convx.algorithms(primitive)]:
        with convx.algorithm(**{primitive: name}):
            try:
                run()
            except RuntimeError as error:
                picky += 1
                assert f"algorithm '{name}' was forced" in str(error)
            with convx.algorithm("reference"):
                run()
        run()
    assert picky, "nothing was seen"


def test_by_name():
    with convx.algorithm("reference"):
        assert forced_now() == dict.fromkeys(PRIMITIVES, "reference")
    assert forced_now() == AUTOMATIC


def test_a_primitive_that_lacks_the_name_stays_automatic():
    with convx.algorithm("scatter"):
        assert forced_now() == {**AUTOMATIC, "grad_input": "scatter"}


def test_by_primitive():
    with convx.algorithm(grad_input="scatter", forward="reference"):
        assert forced_now() == {"forward": "reference", "grad_input": "scatter", "grad_weight": ""}
    with convx.algorithm("reference", grad_input="scatter"):
        assert forced_now() == {**dict.fromkeys(PRIMITIVES, "reference"), "grad_input": "scatter"}


def test_nesting_and_reuse():
    outer = convx.algorithm("reference")
    with outer:
        with convx.algorithm("scatter"):
            assert forced_now()["grad_input"] == "scatter" and forced_now()["forward"] == "reference"
            with outer:
                assert forced_now() == dict.fromkeys(PRIMITIVES, "reference")
            assert forced_now()["grad_input"] == "scatter"
        assert forced_now() == dict.fromkeys(PRIMITIVES, "reference")
    assert forced_now() == AUTOMATIC


def test_restored_after_an_exception():
    with pytest.raises(KeyError), convx.algorithm("reference"), convx.algorithm("scatter"):
        raise KeyError
    assert forced_now() == AUTOMATIC


def test_as_a_decorator():
    @convx.algorithm("scatter")
    def inside():
        return forced_now()

    assert inside()["grad_input"] == "scatter" and forced_now() == AUTOMATIC


def test_holds_for_every_thread():
    """Autograd may run a backward on another thread than the one that asked."""
    seen = []
    with convx.algorithm("scatter"):
        thread = threading.Thread(target=lambda: seen.append(forced_now()["grad_input"]))
        thread.start()
        thread.join()
    assert seen == ["scatter"]


@pytest.mark.parametrize(
    "arguments, options, names",
    (
        (("sctter",), {}, ("reference", "scatter")),
        ((), {"grad_input": "sctter"}, ("reference", "scatter")),
        ((), {"forward": "scatter"}, ("reference",)),
        ((), {"backward": "reference"}, PRIMITIVES),
    ),
    ids=str,
)
def test_unknown_names_are_refused_with_the_known_ones(arguments, options, names):
    with pytest.raises(ValueError) as error:
        convx.algorithm(*arguments, **options)
    for name in (*arguments, *names):
        assert name in str(error.value)
    assert forced_now() == AUTOMATIC


def test_forced_but_impossible_says_why():
    """Every refusal is a RuntimeError that names algorithm, primitive, dtype, problem and reason."""
    refusals = 0
    problem = UGLY["plain"]
    for primitive in PRIMITIVES:
        for algorithm, isa in choices("cpu", primitive):
            for dtype in DTYPES["cpu"]:
                first, second, bias, _ = draw_integers(primitive, problem, dtype)
                try:
                    with forced(primitive, algorithm, isa):
                        call(primitive, first, second, bias, problem)
                except RuntimeError as error:
                    refusals += 1
                    for part in (f"'{algorithm}'", primitive, str(dtype)[6:], "N2 C3 H7 W8"):
                        assert part in str(error)
    if len(choices("cpu", "forward")) > 1:
        assert refusals, "no kernel but the reference takes int64"


def in_a_new_process(code, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CONVX_")}
    path = os.pathsep.join(filter(None, (str(ROOT), inherited.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


SHOW = "import convx; print(*(convx._C.forced_algorithm(p) or '-' for p in ('forward', 'grad_input', 'grad_weight')))"


@pytest.mark.parametrize(
    "value, expected",
    (
        ("scatter", "- scatter -"),
        ("grad_input:scatter,forward:reference", "reference scatter -"),
        (" grad_weight:reference , scatter ", "- scatter reference"),
    ),
)
def test_environment(value, expected):
    done = in_a_new_process(SHOW, CONVX_ALGORITHM=value)
    assert done.stdout.split() == expected.split(), done.stderr


@pytest.mark.parametrize("value", ("sctter", "forward:scatter"))
def test_environment_refuses_unknown_names(value):
    done = in_a_new_process(SHOW, CONVX_ALGORITHM=value)
    assert done.returncode != 0 and not done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError") and f"CONVX_ALGORITHM={value}" in last


def test_instruction_set_from_the_environment():
    show = "import convx; print(convx._C.cpu_isa())"
    lowest = INSTRUCTION_SETS[0]
    assert in_a_new_process(show, CONVX_CPU_ISA=lowest).stdout.strip() == lowest
    unknown = in_a_new_process(show, CONVX_CPU_ISA="avx3")
    assert unknown.returncode != 0 and "avx3" in unknown.stderr and lowest in unknown.stderr
