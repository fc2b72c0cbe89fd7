"""Command: train a detector.

Example:
    python -m sssd.train                # the demo: SSSD on handwritten digits
    python -m sssd.train --help         # the recipes
    python -m sssd.train --list         # all recipes, the paper's included, one per line
    python -m sssd.train coco --help    # all settings of a recipe
    python -m sssd.train demo --method.name lgd           # a recipe with another method
    python -m sssd.train --resume --out runs/coco         # resumes a run with its own settings
    torchrun --nproc-per-node 8 -m sssd.train coco ...    # 8 GPUs share each batch
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import sssd.extras  # noqa: F401  it comes before what may be missing

# isort: split
import tyro

from sssd.commands import FAILED, WRONG_USE, exit_on, plain_output, to_resume
from sssd.engine.record import read_record, read_settings
from sssd.engine.resume import compared, refuse_changes
from sssd.flags import of_kinds, of_length, refuse_without_effect
from sssd.methods import KINDS, MethodConfig
from sssd.recipes import DEFAULT_RECIPE, RECIPES, SHORTLIST, Config, describe


def main(arguments: list[str] | None = None) -> int:
    """Trains, evaluates and draws what was learnt; returns the exit status."""
    plain_output()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--list"]:
        for name, make in RECIPES.items():
            print(f"{name:40} {describe(make())}")
        return 0
    with exit_on(WRONG_USE, ValueError, OSError):
        recipe, config = parse(arguments)
        from sssd.engine import distributed  # with torch, seconds that --help need not take

        distributed.choose_device(config.engine.device)  # refuses one that is not there
    with distributed.process_group(config.engine.device):
        return _fit(recipe, config, arguments)


def _fit(recipe: str, config: Config, flags: Sequence[str]) -> int:
    with exit_on(WRONG_USE, ValueError):  # an environment variable of the operators
        from sssd.data import WorkerKilled
        from sssd.engine import distributed
        from sssd.engine.files import BEST, REPORT, RunError
        from sssd.engine.tables import table
        from sssd.fitting import fit_settings

    console = distributed.console()
    with (
        exit_on(WRONG_USE, ValueError, OSError, ImportError),
        exit_on(FAILED, RunError, WorkerKilled),
    ):
        run = fit_settings(config, recipe, flags, console)
    if run.signal is not None:
        alone = distributed.world_size() == 1
        launcher = "python" if alone else "torchrun (with the same flags)"
        same = f"{launcher} -m sssd.train {to_resume(run.folder)}"
        console.print(f"stopped; to resume:\n  {same}", soft_wrap=True)
        return 128 + run.signal
    assert run.numbers is not None
    console.print(table(run.numbers, title="validation set"))
    if (run.folder / REPORT).exists():
        console.print(f"report:       {run.folder / REPORT}", soft_wrap=True)
    if run.best is not None:
        console.print(
            f"best weights: {run.folder / BEST}, AP {100 * run.best.AP:.2f} at "
            f"iteration {run.best.iteration} ({run.best.rule})",
            soft_wrap=True,
        )
    console.print(f"run folder:   {run.folder}", soft_wrap=True)
    return 0


def parse(arguments: Sequence[str]) -> tuple[str, Config]:
    """A recipe's name and the settings of a run, new or gone on with, from a command line.

    What is given overrides the recipe's settings; with --resume, those that the run in --out has.

    Raises:
        ValueError: a flag that cannot be honoured, or a run that cannot go on.
        FileNotFoundError: --resume, and --out is no run's folder.
    """
    if arguments[:1] in (["-h"], ["--help"]):
        _show_help()
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    flags = arguments[1:] if named else arguments
    if named and named not in RECIPES:
        raise ValueError(
            f"there is no recipe {named!r}; `python -m sssd.train --list` lists all of them"
        )
    run = _resumed(flags)
    if run is None:
        recipe = named or DEFAULT_RECIPE
        own = of_kinds(of_length(RECIPES[recipe](), flags), flags)
    else:
        recipe, own = str(read_record(run).get("recipe", named)), read_settings(run, Config)
        if named not in (None, recipe):
            raise ValueError(
                f"{named}: {run} was started with the recipe {recipe}; leave the recipe's name out"
            )
        asked = compared(of_kinds(own, flags))
        refuse_changes(compared(own), {f: v for f, v in asked.items() if f in compared(own)})
    config = tyro.cli(
        Config,
        prog=f"python -m sssd.train {recipe}",
        description=str(RECIPES[recipe].__doc__) if recipe in SHORTLIST else describe(own),
        default=own,
        args=flags,
    )
    if run is not None:
        refuse_changes(compared(own), compared(config))
    refuse_without_effect(config, flags)
    return recipe, config


def _show_help() -> NoReturn:
    recipes = "\n".join(f"  {name:25} {RECIPES[name].__doc__}" for name in SHORTLIST)
    methods = ", ".join(KINDS[MethodConfig])
    print(
        f"""usage: python -m sssd.train [RECIPE] [--SETTING VALUE ...]

Train a detector. The default recipe is {DEFAULT_RECIPE}.

recipes:
{recipes}
  fcos_r50_lgd, ...         The rows of the paper's comparison; --list shows all of them.

  RECIPE --help             All settings of a recipe.
  RECIPE --method.name NAME The recipe with another method: {methods}.
  --list                    All recipes, one per line.
  --resume --out RUN        Resume a run with its own settings."""
    )
    sys.exit(0)


def _resumed(flags: Sequence[str]) -> Path | None:
    """The folder of the run to go on with, if a command line asks for that."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--out", type=Path)
    asked, _ = parser.parse_known_args(flags)
    if not asked.resume:
        return None
    from sssd.engine.state import checkpoints

    if asked.out is None:
        raise ValueError("--resume: name the run's folder with --out")
    if os.environ.get("RANK", "0") == "0" and not checkpoints(asked.out):
        raise ValueError(
            f"--resume: {asked.out} holds no checkpoint; name a run's folder with --out"
        )
    return Path(asked.out)


if __name__ == "__main__":
    sys.exit(main())
