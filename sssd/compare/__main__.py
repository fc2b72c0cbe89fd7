"""Command: does a change of a training help, on your data?

Example:
    python -m sssd.compare small --data.train DIR --data.val DIR --arms plain sssd lgd --hours 6
    python -m sssd.compare demo --arms sssd "lambda 3: --method.coefficient.value 3" --jobs 2
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
from sssd.commands import WRONG_USE, exit_on, plain_console, plain_output
from sssd.compare.arms import FIGURES, NAMED
from sssd.recipes import RECIPES

DESCRIPTION = f"""
Train several variants ("arms") with the same seeds and judge their gain over the first one, by a
rule that is written to plan.json before the first run. Writes report.html, report.md, results.json.

RECIPE and all flags of `python -m sssd.train RECIPE` that are not listed below apply to every arm.
You can stop at any time; the same command resumes.

verdicts:
  GO            the confidence interval of the gain lies above 0, and the mean gain reaches the
                threshold
  NO-GO         the interval lies below the threshold
  INCONCLUSIVE  neither

arms: {", ".join(NAMED)};
the paper's figures: {", ".join(FIGURES)} (lambda over two decades; stepwise and fixed lambda);
or your own: "name: --flag value ...".
"""


def parser() -> argparse.ArgumentParser:
    """The command's own flags."""
    result = argparse.ArgumentParser(
        prog="python -m sssd.compare",
        usage="python -m sssd.compare RECIPE [flags of sssd.train] [--arms NAME ...] ...",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--arms", nargs="+", default=["plain", "sssd"],
        help="the variants to train; the first is the baseline (default: plain sssd)")  # fmt: skip
    add("--seeds", nargs="+", type=int, default=list(range(8)),
        help="three first, then one more while a verdict is open (default: 0 to 7)")  # fmt: skip
    add("--threshold", type=float, default=0.3,
        help="smallest gain that is worth it, in points of AP (default: 0.3)")  # fmt: skip
    add("--error", type=float, default=0.05,
        help="error probability of the whole plan, over all verdicts and looks: half of it bounds "
        "a wrong GO, half a wrong NO-GO (default: 0.05)")  # fmt: skip
    add("--equal", nargs="+", choices=("iterations", "time"), default=["iterations", "time"],
        help="what arm and baseline have in common where they are judged; without time the "
        "baseline needs no second, longer run (default: iterations time)")  # fmt: skip
    add("--jobs", type=int,
        help="runs at the same time, each on one core or one GPU (default: all)")  # fmt: skip
    budget = result.add_mutually_exclusive_group()
    budget.add_argument("--hours", type=float, help="start no run that would end later; if three "
        "seeds do not fit, a new plan has shorter runs")  # fmt: skip
    budget.add_argument("--minutes", type=float, help="the same, in minutes")
    add("--out", type=Path, help="folder of the plan (default: runs/compare-RECIPE)")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a plan as far as it gets; the exit status is 1 if a run failed."""
    plain_output()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["-h"], ["--help"]):
        parser().parse_args(["--help"])
    recipe, *words = words or ["no recipe"]
    with exit_on(WRONG_USE, ValueError):
        if recipe not in RECIPES:
            raise ValueError(
                f"{recipe}: the recipe's name comes first; `python -m sssd.train --list` lists all "
                "of them"
            )
    chosen, flags = parser().parse_known_args(words)

    with exit_on(WRONG_USE, ValueError):  # an environment variable of the operators
        from sssd.compare.comparison import compare  # with torch, seconds that --help need not take

    console = plain_console()
    try:
        return compare(recipe, flags, chosen, console)
    except KeyboardInterrupt:  # before the first run; then the runner has it
        console.print("stopped; no run was started")
        return 130


if __name__ == "__main__":
    sys.exit(main())
