"""What the benchmark commands share: their options, how they begin, and lines with torch's time beside convx's."""

import argparse
from collections.abc import Sequence

import torch

from . import report
from .timing import Timing


def parser(
    module: str, doc: str, seconds: float | None, devices: Sequence[str] = ("cpu", "cuda"),
    seconds_help: str = "how long each comparison lasts", epilog: str | None = None,
) -> argparse.ArgumentParser:  # fmt: skip
    """A parser with the options that all commands have; the description is the first paragraph of `doc`.

    No --seconds where seconds is None.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}", description=doc.split("\n\n")[0], epilog=epilog
    )
    made.add_argument("--device", choices=devices, default="cpu")
    made.add_argument("--threads", type=int, default=2, help="of the CPU (2)")
    if seconds is not None:
        made.add_argument("--seconds", type=float, default=seconds, help=f"{seconds_help} ({seconds:g})")
    return made


def parsed(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The options given, with torch's number of threads set to theirs."""
    options = made.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        made.error("no GPU that torch can use")
    torch.set_num_threads(options.threads)
    return options


def start(made: argparse.ArgumentParser) -> argparse.Namespace:
    """parsed(), after which the machine and the versions are printed."""
    options = parsed(made)
    print(report.title(report.about(options)))
    return options


class Pairs:
    """Prints lines of torch's and convx's time, each as it comes, and at the end the geometric mean of their ratios."""

    def __init__(self, what: str, unit: str):
        self.scale, self.ratios = {"us": 1e6, "ms": 1e3}[unit], []
        print(f"{what:<62}{f'torch {unit}':>10}{f'convx {unit}':>10}{'ratio':>8}")

    def add(self, what: str, timings: dict[str, Timing], note: str = "") -> None:
        theirs, ours = timings["torch"].median, timings["convx"].median
        self.ratios.append(theirs / ours)
        times = f"{theirs * self.scale:>10.2f}{ours * self.scale:>10.2f}{self.ratios[-1]:>8.3f}"
        print(f"{what:<62}{times}  {note}".rstrip(), flush=True)

    def close(self) -> None:
        mean, faster = report.geometric_mean(self.ratios), sum(r > 1 for r in self.ratios)
        print(f"ratio, torch's time / convx's: geometric mean {mean:.3f}, lowest {min(self.ratios):.3f}; ", end="")
        print(f"convx is faster in {faster} of {len(self.ratios)}")
