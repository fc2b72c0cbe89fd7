"""Command: compare methods over seeds.

Example:
    python -m sssd.experiments methods                 # on the demo's digits
    python -m sssd.experiments ablation --profile bccd --seeds 0 1 --jobs 2
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from sssd.commands import FAILED, WRONG_USE, exit_on, plain_console, plain_output
from sssd.experiments.plans import EXPERIMENTS, PROFILES
from sssd.experiments.report import markdown, plot
from sssd.experiments.runner import run_all
from sssd.recipes import stretched


@dataclass(frozen=True)
class Arguments:
    """Train every variant of an experiment with every seed; a table and a plot of what came out.

    Stop it at any time: the same command goes on.
    """

    experiment: tyro.conf.Positional[Literal["methods", "methods-at-equal-time", "ablation"]]
    """methods: plain, LGD, SSSD fixed and stepwise, in equal iterations; or in equal time.
    ablation: SSSD with one choice changed at a time."""

    profile: Literal["digits", "bccd", "bccd-long"] = "digits"
    """digits: the demo's, made on first use. bccd: blood cells, in the folder bccd of $SSSD_DATA.
    bccd-long: three times the iterations."""

    iterations: int | None = None
    """Length of every run; by default the profile's."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each variant is trained once with each."""

    variants: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME ...")] = None
    """Only these variants; by default all."""

    jobs: int = 1
    """Runs at once; they share the cores."""

    out: Path | None = None
    """Folder of results.csv, table.md, plot.png and the runs; by default
    runs/experiments/PROFILE-EXPERIMENT."""


def main(arguments: list[str] | None = None) -> int:
    """Runs an experiment to its end; the exit status is 1 if a run is missing."""
    plain_output()
    chosen = tyro.cli(Arguments, prog="python -m sssd.experiments", args=arguments)
    console = plain_console()
    name = f"{chosen.profile}-{chosen.experiment}"
    folder = chosen.out or Path("runs") / "experiments" / name
    with exit_on(WRONG_USE, ValueError, OSError, ImportError):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // chosen.jobs))
        base = PROFILES[chosen.profile]()
        if chosen.iterations is not None:
            base = stretched(base, chosen.iterations)
        variants = EXPERIMENTS[chosen.experiment](base, folder)
        for variant in chosen.variants or ():
            if variant not in variants:
                raise ValueError(f"--variants: no {variant!r}; there are {', '.join(variants)}")
        wanted = {v: variants[v] for v in chosen.variants or variants}
        rows = run_all(wanted, chosen.seeds, folder, chosen.jobs, console)
    if not rows:
        return FAILED
    text = markdown(rows, list(variants))
    (folder / "table.md").write_text(text, encoding="utf-8")
    plot(rows, list(variants), f"{chosen.experiment}, {chosen.profile}", folder / "plot.png")
    console.print(text, soft_wrap=True)
    console.print(f"{folder / 'results.csv'}, table.md, plot.png", soft_wrap=True)
    there = {(row["variant"], int(row["seed"])) for row in rows}
    complete = all((v, seed) in there for v in wanted for seed in chosen.seeds)
    return 0 if complete else FAILED


if __name__ == "__main__":
    sys.exit(main())
