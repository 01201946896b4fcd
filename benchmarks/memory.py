"""Memory that a call takes at its peak, over its operands and its result: torch's and convx's.

    python -m benchmarks.memory                                of each class the layer with the most data
    python -m benchmarks.memory --shapes db_train_9 conv_in --dtype bfloat16
    python -m benchmarks.memory --device cuda

Exits with 1 if convx takes more than the bound: 16 MiB and one packed copy of the weights, in the type that it computes
in.

On a CPU neither side's workspace goes through anything that counts, so the process itself is measured, by Linux's mark
of its largest size. Each call has a process of its own, and runs twice there. What the second run adds at its peak is
counted, and so is the anonymous memory that the first one left behind, since a library may keep its workspace; pages of
the libraries' code, which a first run brings in too, are not. Linux counts in batches: less than about 1 MiB is noise.
On a GPU torch's allocator counts, and both sides take their memory from it.
"""

import ctypes
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from .commands import parser, start
from .computations import COMPUTATIONS, DTYPES, convx_call, make_operands, torch_call
from .shapes import CLASSES, Shape, load

MIB = 1 << 20
BOUND = 16 * MIB
SIDES = ("torch", "convx")


def packed_weight_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """One copy of the weights as convx computes with them: float32 unless they are float64."""
    return shape.K * (shape.C // shape.G) * shape.R * shape.S * max(4, dtype.itemsize)


def _status(*names: str) -> list[int]:
    """Fields of /proc/self/status in bytes. OSError or KeyError where there is no such thing."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return [1024 * int(fields[name].split()[0]) for name in names]


def _settle_malloc() -> None:
    """Has glibc give freed memory back at once, or a call could take what its operands' making left behind."""
    libc = ctypes.CDLL(None)
    m_mmap_threshold = -3
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.mallopt(m_mmap_threshold, 128 << 10)
        libc.malloc_trim(0)


def prepared(side: str, shape: Shape, computation: str, dtype: torch.dtype, device: str) -> Callable[[], Tensor]:
    """One side's call, its operands allocated."""
    operands = make_operands(shape, dtype, device)
    if side == "torch":
        return torch_call(shape, computation, operands)
    return convx_call(shape, computation, operands, "contiguous")


def peak_in_this_process(prepare: Callable[[], Callable[[], Tensor]]) -> int | None:
    """What the call that `prepare` returns takes over its result; None where Linux does not tell. Once a process."""
    _settle_malloc()
    call = prepare()
    try:
        (before,) = _status("RssAnon")
        call()
        kept, resident = _status("RssAnon", "VmRSS")
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the mark falls to the present size
        result = call()
        (peak,) = _status("VmHWM")
    except (OSError, KeyError):
        return None
    return max(0, peak - resident + kept - before - result.nbytes)


def _answer(connection: Connection, threads: int, prepare: Callable[[], Callable[[], Tensor]]) -> None:
    torch.set_num_threads(threads)
    connection.send(peak_in_this_process(prepare))


def peak_in_a_process(threads: int, prepare: Callable[[], Callable[[], Tensor]]) -> int | None:
    """peak_in_this_process() in a new one, which finds `prepare` by its name; None if it died."""
    # Forked from a server that has imported torch but never computed: importing takes seconds, and the threads of one
    # that has computed would not survive the fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.computations"])
    mine, others = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(others, threads, prepare))
    process.start()
    others.close()
    try:
        return mine.recv()
    except EOFError:
        return None
    finally:
        process.join()


def peak_on_gpu(call: Callable[[], Tensor]) -> int:
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - result.nbytes


def extra_bytes(
    side: str, shape: Shape, computation: str, dtype: torch.dtype, device: str = "cpu", threads: int = 2
) -> int | None:
    """What one side's call takes at its peak over operands and result; None where that can't be measured."""
    prepare = partial(prepared, side, shape, computation, dtype, device)
    if device == "cuda":
        return peak_on_gpu(prepare())
    return peak_in_a_process(threads, prepare) if sys.platform == "linux" else None


def chosen(names: list[str] | None, gflop: float) -> Iterator[Shape]:
    """The named shapes, or of each class the one with the most data, with at most so much work."""
    small = [s for s in (shape.at_most(gflop) for shape in load(names=names)) if s]
    if names:
        yield from small
        return
    for class_name in CLASSES:
        yield max((s for s in small if s.class_name == class_name), key=lambda s: s.values)


def main() -> int:
    made = parser("memory", __doc__, seconds=None)
    made.add_argument("--dtype", choices=DTYPES, default="float32")
    made.add_argument("--shapes", nargs="+", metavar="NAME", help="names from benchmarks/shapes/")
    made.add_argument("--max-gflop", type=float, default=2.0, help="batches are halved as benchmarks.run does (2)")
    options = start(made)
    dtype = DTYPES[options.dtype]
    columns = ("operands", "torch", "convx", "weights", "bound")
    print(f"MiB: {'layer':<25}{'computation':<13}{''.join(f'{c:>10}' for c in columns)}   problem")
    over = measured = 0
    for shape in chosen(options.shapes, options.max_gflop):
        weights = packed_weight_bytes(shape, dtype)
        for computation in COMPUTATIONS:
            extra = [extra_bytes(side, shape, computation, dtype, options.device, options.threads) for side in SIDES]
            sizes = [shape.values * dtype.itemsize, *extra, weights, BOUND + weights]
            cells = "".join(f"{'unknown':>10}" if size is None else f"{size / MIB:>10.1f}" for size in sizes)
            measured += extra[1] is not None
            above = extra[1] is not None and extra[1] > BOUND + weights
            over += above
            print(f"{shape.name[:29]:<30}{computation:<13}{cells}{' !' if above else '  '} {shape.problem}", flush=True)
    print(f"convx takes more than the bound, 16 MiB and the packed weights, in {over} of {measured} rows, marked !")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
