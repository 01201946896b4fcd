"""Runs kernels under AddressSanitizer and UndefinedBehaviorSanitizer: a program of its own, for their runtime has to be
loaded before anything else is. tests/test_emulator.py starts it, with environment(), and reads what it prints.

First the kernels of mistakes.cu that are named on the command line, each in a process of its own, since a sanitizer
that finds something ends it. Then a sample of problems for every CUDA algorithm and dtype, which must bring no report.

What is found beyond the emulator's own checks: accesses beyond a thread's own arrays, shifts and integers that
overflow, pointers that are not aligned to their type.
"""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))
from emulator.build import COMPILER


def environment() -> dict[str, str] | None:
    """What the program is to be started with; None if the compiler came without the sanitizers."""
    asked = [*COMPILER.split(), "-print-file-name=libasan.so"]
    runtime = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_absolute():
        return None
    return {
        "LD_PRELOAD": runtime,
        # Python leaks on purpose, and fibers have stacks of their own.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "CONVX_EMULATOR": "sanitized",
    }


def run_algorithms() -> None:
    import test_cuda_emulated as tests
    import test_cuda_emulated_depthwise_small as small
    from emulator import library as emulator
    from exact import assert_exact, draw_integers
    from memory import LAYOUTS

    layouts, runs = sorted(LAYOUTS), 0
    rows = [(row, sorted(tests.PROBLEMS), tests.PROBLEMS) for row in tests.ROWS]
    for primitive, dtype in product(small.PRIMITIVES, small.FLOATING):
        names = sorted(name for p, name in small.CASES if p == primitive)
        rows.append(((primitive, small.NAME, dtype), names, small.PROBLEMS))
    for i, ((primitive, algorithm, dtype), names, problems) in enumerate(rows):
        bias = "none" if primitive == "grad_weight" else "sliced"
        for j in range(tests.SANITIZED_PROBLEMS):  # other ones for each row
            problem = problems[names[(37 * i + 61 * j) % len(names)]]
            layout = layouts[(5 * i + 7 * j) % len(layouts)]
            if not tests.suits(primitive, algorithm, problem, dtype):
                continue
            first, second, b, expected = draw_integers(primitive, problem, dtype, "cpu", (layout, "contiguous"), bias)
            emulator.configure(emulator.ORDERS[j % 3])
            actual = emulator.call(primitive, algorithm, first, second, b, problem, channels_last=j % 2 == 1)
            assert_exact(actual, expected, f"{algorithm} {dtype} {problem} {layout}")
            runs += 1
    print(f"{runs} runs without a report")


def report_of(name: str) -> str:
    """What the sanitizers say of a kernel of mistakes.cu, in one line."""
    from emulator import library as emulator

    emulator.run_mistake(name, mistake=False)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 2)
        emulator.run_mistake(name, mistake=True)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as messages:
        text = " ".join(messages.read().split())
    _, status = os.waitpid(child, 0)
    return text if status else "no report"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {report_of(name)}", flush=True)
    run_algorithms()
