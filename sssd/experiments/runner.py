"""Runs variants x seeds, several at once if asked, and keeps every result once it is there."""

import csv
import dataclasses
import hashlib
import itertools
import multiprocessing
import os
import re
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from rich.console import Console

from sssd import __version__
from sssd.commands import plain_console
from sssd.data import DataError, WorkerKilled
from sssd.data.workers import end_with
from sssd.engine.evaluate import METRICS
from sssd.engine.log import read_metrics
from sssd.engine.record import by_flag, read_settings
from sssd.engine.state import RunError, checkpoints
from sssd.experiments.plans import Variants
from sssd.fitting import fit
from sssd.recipes import Config

Row = dict[str, str]
SETTINGS = ["variant", "seed", "settings", "iterations", "seconds"]
VERSIONS = ["sssd", "torch", "device"]
FREE = ("--data.train", "--data.val", "--data.format", "--out", "--resume", "--engine.seed")
"""Beginnings of the flags that a variant's results are not told apart by."""


def run_all(
    variants: Variants, seeds: Sequence[int], folder: Path, jobs: int, console: Console
) -> list[Row]:
    """Runs what is missing in a folder's `results.csv`, and gives all its rows.

    A run that was interrupted goes on from its checkpoint; one that failed is told and tried again
    the next time.

    Args:
        variants: configurations by name.
        seeds: each variant is run once with each.
        folder: of results.csv, and of the folders of the runs.
        jobs: runs at once; they share the processor's cores.
        console: for a line a run.

    Raises:
        ValueError: the folder has results of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.csv"
    rows = read_rows(path)
    _require_same_settings(rows, variants, path)
    there = {(row["variant"], int(row["seed"])) for row in rows}
    missing = [(n, s) for s in seeds for n in variants if (n, s) not in there]
    console.print(f"{len(missing)} runs to do, {len(there)} done before; in {folder}")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin_process, (threads, os.getpid())) as pool:
        waiting, running = iter(missing), dict[Future[Row | None], tuple[str, int]]()
        try:
            while True:
                # No more than there are processes: what the pool has queued can not be stopped.
                for name, seed in itertools.islice(waiting, jobs - len(running)):
                    run = folder / _folder_name(name, seed)
                    running[pool.submit(_run, variants[name], seed, run)] = (name, seed)
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    _keep(future, *running.pop(future), path, console)
        except KeyboardInterrupt:  # the runs have it too: each saves where it is, and ends
            console.print("stopped; the same command goes on")
        except BrokenProcessPool:
            console.print(
                "the system killed a run, most likely for its memory. The same command goes on; "
                "fewer --jobs take less memory",
                style="red",
            )
    return read_rows(path)


def _begin_process(threads: int, parent: int) -> None:
    """Settles a process that will run some variants for a parent."""
    # It ends with the command, however that ends: left alone it would go on in its run's folder
    # beside the same command started again. What a run loses by it is what any kill loses.
    end_with(parent)
    torch.set_num_threads(threads)


def _keep(future: Future[Row | None], name: str, seed: int, path: Path, console: Console) -> None:
    """Appends the result of a run that has ended, or says what came of it."""
    try:
        result = future.result()
    except (RunError, DataError, WorkerKilled, ValueError, OSError) as error:
        console.print(f"{name}, seed {seed} failed: {error}", style="red", soft_wrap=True)
        return
    if result is None:
        console.print(f"{name}, seed {seed}: stopped; the same command goes on with it")
        return
    _append(path, {"variant": name, "seed": str(seed), **result})
    console.print(f"{name}, seed {seed}: AP {result['AP']} in {result['seconds']} s")


def _require_same_settings(rows: Sequence[Row], variants: Variants, path: Path) -> None:
    """Refuses results of another profile, experiment or version, whose names are the same."""
    for row in rows:
        config = variants.get(row["variant"])
        if config and row.get("settings") != _fingerprint(config):
            run = path.parent / _folder_name(row["variant"], int(row["seed"]))
            raise _of_other_settings(run, row["variant"], row["iterations"], config)


def _of_other_settings(run: Path, name: str, iterations: object, config: Config) -> ValueError:
    return ValueError(
        f"--out: {run.parent} has {name!r} after {iterations} iterations with other settings "
        f"({run / 'config.json'}) than are asked for ({config.schedule.iterations} iterations); "
        "give another folder"
    )


def _fingerprint(config: Config) -> str:
    """Digest of what a result depends on beside the files of its data and its seed."""
    text = repr([(f, v) for f, v in by_flag(config).items() if not f.startswith(FREE)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_rows(path: Path) -> list[Row]:
    """The results so far."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _run(config: Config, seed: int, run: Path) -> Row | None:
    """One run, begun or gone on with; None if it was stopped by a signal."""
    engine = dataclasses.replace(config.engine, seed=seed)
    config = dataclasses.replace(config, engine=engine, out=run, resume=bool(checkpoints(run)))
    if config.resume:  # a run of two settings would be no variant's
        begun = read_settings(run, Config)
        if _fingerprint(begun) != _fingerprint(config):
            raise _of_other_settings(run, run.name, f"{begun.schedule.iterations} planned", config)
    run.mkdir(parents=True, exist_ok=True)
    with (run / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as log:
        console = plain_console(file=log, width=100)
        trained = fit(config, recipe=run.name, console=console)
    if trained.numbers is None:
        return None
    device = next(trained.detector.parameters()).device
    return {
        "settings": _fingerprint(config),
        "iterations": str(config.schedule.iterations),
        "seconds": f"{_seconds(config, run):.0f}",
        **{name: f"{trained.numbers[name]:.4f}" for name in METRICS},
        "sssd": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _seconds(config: Config, run: Path) -> float:
    """Time spent in training steps, over all the parts of a run."""
    steps = [row for row in read_metrics(run) if "images_per_second" in row]
    before = [0, *(row["iteration"] for row in steps)]
    return sum(
        (row["iteration"] - last) * config.engine.batch_size / row["images_per_second"]
        for last, row in zip(before, steps, strict=False)
    )


def _append(path: Path, row: Row) -> None:
    header = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*SETTINGS, *METRICS, *VERSIONS])
        if header:
            writer.writeheader()
        writer.writerow(row)


def _folder_name(variant: str, seed: int) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", variant).strip("-") + f"-seed{seed}"
