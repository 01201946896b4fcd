"""What every test file shares: which devices, dtypes, algorithms and instruction sets there are, and a fixed start.

The default run takes a covering sample of the large cross products (sampling.py); CONVX_TEST_EXHAUSTIVE=1 takes
them whole. Under pytest-xdist (`make test`, if it is there) each processor runs a share of them.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

# For examples/, and for a convx built in place; behind an installed one.
sys.path.append(str(Path(__file__).parent.parent))

import convx

IS_XDIST_WORKER = "PYTEST_XDIST_WORKER" in os.environ
EXHAUSTIVE = os.environ.get("CONVX_TEST_EXHAUSTIVE", "0") not in ("", "0")
THREADS = 2  # enough for what goes wrong between threads

PRIMITIVES = ("forward", "grad_input", "grad_weight")
DEVICES = ["cpu"]
if torch.cuda.is_available() and convx.algorithms("forward", "cuda"):
    DEVICES.append("cuda")

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# What has kernels of its own; the other dtypes are composed of these.
DTYPES = {"cpu": (*FLOATING, torch.int64), "cuda": FLOATING}

# Every (device, primitive, algorithm) there is, in the order of choice.
ALGORITHMS = [(d, p, a.name) for d in DEVICES for p in PRIMITIVES for a in convx.algorithms(p, d)]

# Instruction sets that this machine can run, lowest first.
INSTRUCTION_SETS = convx._C.cpu_isas()


def pytest_report_header():
    size = "exhaustive" if EXHAUSTIVE else "a covering sample (CONVX_TEST_EXHAUSTIVE=1 for all)"
    isas = ", ".join(INSTRUCTION_SETS)
    return f"convx on {', '.join(DEVICES)}; {THREADS} threads; instruction sets: {isas}; {size}"


# Of the CUDA kernels, those that ran on the emulator, and how often: of all workers.
EMULATED = pytest.StashKey[list]()


def emulated_kernels():
    emulator = sys.modules.get("emulator.library")
    return emulator.kernels_run() if emulator else {}


def pytest_configure(config):
    config.stash[EMULATED] = []


def pytest_sessionfinish(session):
    if IS_XDIST_WORKER:
        session.config.workeroutput["emulated"] = emulated_kernels()
    else:
        session.config.stash[EMULATED].append(emulated_kernels())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    node.config.stash[EMULATED].append(getattr(node, "workeroutput", {}).get("emulated", {}))


def pytest_terminal_summary(terminalreporter, config):
    """How many CUDA kernels ran on the emulator, which is all that shows of them where there is no GPU."""
    ran = Counter()
    for kernels in config.stash[EMULATED]:
        ran.update(kernels)
    if ran:
        names = {instance.partition("<")[0] for instance in ran}
        terminalreporter.write_line(
            f"CUDA kernels that ran on the emulator, each load and store checked: {len(names)}, "
            f"or {len(ran)} with their types and tiles, in {ran.total()} launches"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A kernel that faults takes its process's CUDA context with it, and every later test would fail for that. Under
    pytest-xdist the process ends, and a new one goes on; otherwise the run does."""
    report = yield
    if report.failed and "cuda" in DEVICES:
        try:
            torch.cuda.synchronize()
        except RuntimeError as lost:
            text = f"{item.nodeid}: the CUDA context is lost\n{report.longreprtext[-3000:]}\n{lost}"
            if not IS_XDIST_WORKER:
                pytest.exit(text, returncode=3)
            os.write(2, text.encode())
            os._exit(3)
    return report


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(autouse=True)
def fixed_start():
    """The same seed and thread count for each test, whatever ran before it; and no algorithm left forced."""
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    forced = [convx._C.forced_algorithm(p) for p in PRIMITIVES]
    yield
    assert forced == [convx._C.forced_algorithm(p) for p in PRIMITIVES], "the test left an algorithm forced"


@pytest.fixture
def default_emulator():
    """The emulator of CUDA kernels as it is by default, before and after a test."""
    from emulator import library as emulator

    emulator.configure()
    yield
    emulator.configure()
    emulator.pretend_device()
