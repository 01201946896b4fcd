"""Tables of benchmark rows, and the files that keep them: python -m benchmarks.report FILE prints a file's table again.

The ratio is torch's time over convx's, so above 1 convx is faster; a class is summed up by the geometric mean of its
rows and by its worst row. The share says how near a side comes to what the machine can do (roofs.py); files from before
it was measured have none.
"""

import argparse
import datetime
import json
import math
import platform
import subprocess
import sys
from pathlib import Path

import torch

import convx

from .computations import COMPUTATIONS
from .roofs import describe
from .shapes import CLASSES

RESULTS = Path(__file__).parent / "results"
LARGE_GFLOP = 1.0


def _commit() -> str:
    """The checkout's commit, marked if files differ from it; 'unknown' outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# Options that a command may have and numbers depend on.
OPTIONS = ("device", "dtype", "layout", "threads", "max_gflop", "seconds", "tf32", "eager")


def about(options: argparse.Namespace, roofs: dict[str, float] | None = None) -> dict:
    """What the numbers depend on besides the code; with the machine's roofs if they were measured."""
    config = convx.show_config().splitlines()
    processor = next(line.removeprefix("processor").strip() for line in config if line.startswith("processor"))
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else processor,
        "config": [line for line in config if not line.startswith("installed in")],  # nobody else's folders
        "python": platform.python_version(),
        **{k: getattr(options, k) for k in OPTIONS if hasattr(options, k)},
        **({"roofs": roofs} if roofs else {}),
    }


def title(facts: dict) -> str:
    where = facts["machine"] if facts["device"] == "cuda" else f"{facts['machine']}, {facts['threads']} threads"
    return f"convx {facts['commit']} beside torch {facts['torch']} on {where}, {facts['date']}"


def heading(facts: dict) -> str:
    # Tables of GPUs from before there was the choice were made by calls from Python.
    how = ", calls recorded as CUDA graphs" if facts["device"] == "cuda" and facts.get("eager") is False else ""
    lines = [
        title(facts),
        f"{facts['dtype']}{' as TF32' if facts.get('tf32') else ''}, layout {facts['layout']}, "
        f"at most {facts['max_gflop']:g} GFLOP a call{how}",
    ]
    if "roofs" in facts:
        lines.append(f"{describe(facts['roofs'])}; share: the time that the nearest roof allows / the time taken")
    return "\n".join(lines)


def row_heading() -> str:
    return (
        f"{'layer':<28}{'computation':<13}{'torch ms':>10}{'convx ms':>10}{'torch':>9}{'convx':>9} GFLOP/s"
        f"{'torch':>8}{'convx':>7} share{'ratio':>8}  torch's backend, problem"
    )


def _shares(rows: list[dict]) -> str:
    """Geometric means of torch's and convx's shares of the nearest roof, over the rows that have them."""
    rows = [r for r in rows if "share" in r]
    if not rows:
        return f"{'-':>8}{'-':>7}"
    torchs, ours = (geometric_mean([r[k] for r in rows]) for k in ("torch_share", "share"))
    return f"{torchs:>8.3f}{ours:>7.3f}"


def row_line(row: dict) -> str:
    mark = "" if row["right"] else f" OFF: error {row['error']:.1e}, torch's {row['torch_error']:.1e};"
    rates = [row["gflop"] / row[side] * 1e3 for side in ("torch_ms", "convx_ms")]
    searched = " with cudnn.benchmark" if row.get("cudnn_benchmark") else ""
    return (
        f"{row['shape'][:27]:<28}{row['computation']:<13}{row['torch_ms']:>10.3f}{row['convx_ms']:>10.3f}"
        f"{rates[0]:>9.1f}{rates[1]:>9.1f}        {_shares([row])}      {row['ratio']:>8.3f} {mark} "
        f"{row['torch_backend']}{searched}, {row['problem']}"
    )


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def summary(rows: list[dict]) -> str:
    """One line for each class and computation, over the rows whose results are right: geometric means and the worst.

    Shares twice: over all rows, and over those of at least LARGE_GFLOP, which no fixed cost of a call blurs.
    """
    large = f"at {LARGE_GFLOP:g}+ GFLOP"
    lines = [
        "",
        f"{'class':<26}{'computation':<13}{'rows':>5}{'torch':>9}{'convx':>9} GFLOP/s"
        f"{'torch':>8}{'convx':>7} share{'torch':>8}{'convx':>7} {large}{'ratio':>8}{'lowest':>9}  of layer",
    ]
    for class_name in CLASSES:
        for computation in COMPUTATIONS:
            mine = [r for r in rows if (r["class"], r["computation"]) == (class_name, computation) and r["right"]]
            if not mine:
                continue
            worst = min(mine, key=lambda r: r["ratio"])
            rates = [geometric_mean([r["gflop"] / r[s] * 1e3 for r in mine]) for s in ("torch_ms", "convx_ms")]
            ratio = geometric_mean([r["ratio"] for r in mine])
            lines.append(
                f"{class_name:<26}{computation:<13}{len(mine):>5}{rates[0]:>9.1f}{rates[1]:>9.1f}        "
                f"{_shares(mine)}      {_shares(_large(mine))}{'':{len(large) + 1}}{ratio:>8.3f}{worst['ratio']:>9.3f}"
                f"  {worst['shape']}"
            )
    return "\n".join([*lines, closing(rows)])


def _large(rows: list[dict]) -> list[dict]:
    return [r for r in rows if r["gflop"] >= LARGE_GFLOP]


def closing(rows: list[dict]) -> str:
    """How many rows convx wins, how near to the roofs both sides come, and which rows don't count."""
    good = [r for r in rows if r["right"]]
    wrong = [f"{r['shape']} {r['computation']}" for r in rows if not r["right"]]
    faster = sum(r["ratio"] > 1 for r in good)
    text = f"convx is faster in {faster} of {len(rows)} rows; ratio: torch's time / convx's"
    for what, some in (("all rows", good), (f"rows of at least {LARGE_GFLOP:g} GFLOP", _large(good))):
        if any("share" in r for r in some):
            torchs, ours = _shares(some).split()
            text += f"\nshare of the nearest roof, geometric mean over {what}: torch {torchs}, convx {ours}"
    if wrong:
        more = f" and {len(wrong) - 5} more, marked OFF above" if len(wrong) > 5 else ""
        text += f"\nnot counted, because the result is off: {', '.join(wrong[:5])}{more}"
    return text


def save(facts: dict, rows: list[dict]) -> Path:
    """Writes the rows and what they depend on; returns the file."""
    machine = "-".join("".join(c if c.isalnum() else " " for c in facts["machine"]).lower().split())
    day = facts["date"].split()[0]
    name = f"{day}-{machine}-{facts['dtype']}{'-tf32' if facts.get('tf32') else ''}-"
    file = RESULTS / f"{name}{facts['layout']}-{facts['commit']}.json"
    RESULTS.mkdir(exist_ok=True)
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    file.write_text(f'{{"about": {json.dumps(facts, indent=1)},\n "rows": [\n{lines}\n]}}\n')
    return file


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m benchmarks.report FILE, one of:")
        print("\n".join(str(f) for f in sorted(RESULTS.glob("*.json"))))
        return 2
    content = json.loads(Path(sys.argv[1]).read_text())
    print(heading(content["about"]))
    print(row_heading())
    print("\n".join(map(row_line, content["rows"])))
    print(summary(content["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
