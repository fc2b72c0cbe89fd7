"""The day a GPU is there: does it work here, and how fast is it? `python -m bench.gpu`.

Stages, each in a process of its own with a time box (an illegal address ends its process, not the
run); what they find is written as it comes, into one folder:

    where     device, driver, versions, and which backend runs what
    build     the library for this device alone
    correct   the tests on a GPU file by file, then random cases against float64
    sanitize  compute-sanitizer over a small call of every kernel
    speed     divergence and boxes beside their peers and a copy of the same bytes
    choose    the switches of the CUDA plan, timed; the best are written to plan.txt
    train     a step of RetinaNet R-50: images/s, memory, and that no step waits

    python -m bench.gpu                        all of it, in 9 minutes at most
    python -m bench.gpu --stage speed choose   these again, into the same folder
    python -m bench.gpu --stage correct --seed 4711   one random case again
    python -m bench.gpu --rehearse             the same code on the CPU, tiny, for `make test`

report.md says PASS or FAIL of each stage and what to do about it. Exit status: 0, 1 if a stage
failed, 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VERDICTS, LOG, REPORT = "verdicts.json", "log.txt", "report.md"
LOG_BYTES = 2 << 20  # that a stage may leave in the log: its end says what went wrong
TABLE_ROWS = 80  # of a CSV that the report shows


class Stage(NamedTuple):
    """What the report says of a stage beside its findings."""

    seconds: int  # its time box
    tables: tuple[str, ...]
    advice: str  # when it fails


STAGES = {
    "where": Stage(
        20, (),
        "torch does not run on this GPU at all: compare its CUDA version (`python -m "
        "torch.utils.collect_env`) with the driver's before anything of sssd is looked at.",
    ),
    "build": Stage(
        90, (),
        "The end of log.txt has the compiler's message. CUDA_HOME chooses another toolkit; without "
        "the library the Triton kernels run (`SSSD_BACKEND=triton`), and the stages below time "
        "those.",
    ),
    "correct": Stage(
        130, ("correct",),
        "A test or a random case is off: `--stage correct --seed N` runs the case again alone. One "
        "backend off and the other right: a kernel; both: the tolerances of a GPU in "
        "tests/ops/divergence_cases.py. An error that changes between runs is a race: `sanitize`.",
    ),
    "sanitize": Stage(
        80, (),
        "The log names kernel, block and thread. A shipped build has no line numbers: build with "
        "`CMAKE_ARGS=-DCMAKE_CUDA_FLAGS=-lineinfo` and run `--stage sanitize` again.",
    ),
    "speed": Stage(
        120, ("speed",),
        "Compare the row with docs/results/roofline.csv: a time near the predicted one means that "
        "the unit named there binds; one far above it, that loads wait: `ncu --set full` on "
        "`python -m bench.gpu_stages call`, stall reasons and sectors a request first.",
    ),
    "choose": Stage(
        40, ("choose",),
        "A switch was refused or a variant is wrong: log.txt has its value; without SSSD_CUDA_PLAN "
        "the plan is as it was.",
    ),
    "train": Stage(
        60, ("train",),
        "Out of memory: this GPU is small for batch 8. A wait in sssd/: the line named makes the "
        "host wait for the device in every step, which tests/methods/test_no_wait.py has not seen.",
    ),
}  # fmt: skip
REHEARSED_SECONDS = 600  # the time box of all together: the machine may be shared


class Verdict(NamedTuple):
    """What came of a stage."""

    state: str  # PASS, FAIL, or SKIP: what it needs is not here
    seconds: float
    lines: list[str]  # in words


def read_verdicts(folder: Path) -> dict[str, Verdict]:
    """By stage, of this run and those before it into the same folder."""
    file = folder / VERDICTS
    if not file.exists():
        return {}
    return {name: Verdict(*one) for name, one in json.loads(file.read_text()).items()}


def write_verdict(folder: Path, stage: str, verdict: Verdict) -> None:
    """Adds it, and writes the report anew."""
    verdicts = read_verdicts(folder) | {stage: verdict}
    (folder / VERDICTS).write_text(json.dumps(verdicts, indent=1))
    write_report(folder, verdicts)


def write_report(folder: Path, verdicts: dict[str, Verdict]) -> None:
    """One page: a line a stage, then what each found."""
    text = ["# sssd on this GPU\n", "| stage | | seconds |", "| --- | --- | --- |"]
    for name in STAGES:
        one = verdicts.get(name, Verdict("not run", 0.0, []))
        text.append(f"| {name} | **{one.state}** | {one.seconds:.0f} |")
    for name, stage in STAGES.items():
        if name not in verdicts:
            continue
        one = verdicts[name]
        text += [f"\n## {name}: {one.state}\n", *(f"- {line}" for line in one.lines)]
        if one.state == "FAIL":
            text.append(f"\n**What to do.** {stage.advice}")
        for table in stage.tables:
            text += as_markdown(folder / f"{table}.csv")
    (folder / REPORT).write_text("\n".join(text) + "\n")


def as_markdown(file: Path) -> list[str]:
    """The first rows of a CSV, as a table."""
    if not file.exists():
        return []
    with file.open() as lines:
        rows = list(csv.reader(lines))
    shown = [f"| {' | '.join(row)} |" for row in rows[: TABLE_ROWS + 1]]
    left = len(rows) - len(shown)
    return ["", shown[0], "| --- " * len(rows[0]) + "|", *shown[1:]] + (
        [f"\n{left} more rows: {file.name}"] if left > 0 else []
    )


def run_stages(
    names: Sequence[str], folder: Path, seconds: float, options: Sequence[str]
) -> dict[str, Verdict]:
    """Stages in a process of their own, which is ended with its children when its time is over."""
    for table in (table for name in names for table in STAGES[name].tables):
        (folder / f"{table}.csv").unlink(missing_ok=True)
    begin = time.monotonic()
    command = [sys.executable, "-W", "ignore", "-m", "bench.gpu_stages", *names]
    command += ["--folder", str(folder), "--until", str(begin + 0.9 * seconds), *options]
    with (folder / LOG).open("ab") as log:
        log.write(f"\n==== {', '.join(names)}\n".encode())
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            end = f"its process ended with status {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            end = f"it was stopped after its {seconds:.0f} s"
        finally:
            stop(process)
    trim(folder / LOG, start)
    said = (folder / LOG).read_bytes()[start:].decode(errors="replace").strip().splitlines()[-3:]
    lost = Verdict("FAIL", time.monotonic() - begin, [end, *said])
    found = read_verdicts(folder)
    return {name: found.get(name, lost) for name in names}


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a stage that is still there, and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def trim(log: Path, start: int) -> None:
    """Keeps the end of what was written after `start`."""
    said = log.read_bytes()
    if len(said) - start > LOG_BYTES:
        log.write_bytes(said[:start] + b"...\n" + said[-LOG_BYTES:])


def has_gpu() -> bool:
    """Whether torch sees one. A rehearsal does not ask: to import torch takes seconds."""
    import torch

    return torch.cuda.is_available()


def main() -> None:
    """Runs the stages, and prints a line of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--box", type=float, default=1.0, help="times the time box of every stage")
    parser.add_argument("--seed", type=int, help="of the one random case that `correct` runs")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny sizes")
    given = parser.parse_args()
    if not given.rehearse and not has_gpu():
        print("bench.gpu: torch sees no CUDA GPU here; --rehearse runs the stages on the CPU")
        raise SystemExit(2)
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    failed = False
    options = ["--rehearse"] * given.rehearse
    if given.seed is not None:
        options += ["--seed", str(given.seed)]
    # Rehearsed, all in one process: to import torch takes longer than the tiny stages.
    for names in [given.stage] if given.rehearse else [[name] for name in given.stage]:
        kept = {n: v for n, v in read_verdicts(folder).items() if n not in names}
        (folder / VERDICTS).write_text(json.dumps(kept))
        box = REHEARSED_SECONDS if given.rehearse else STAGES[names[0]].seconds
        for name, verdict in run_stages(names, folder, box * given.box, options).items():
            write_verdict(folder, name, verdict)
            failed |= verdict.state == "FAIL"
            first = verdict.lines[0] if verdict.lines else ""
            print(f"{name:9} {verdict.state:5} {verdict.seconds:5.0f} s  {first}", flush=True)
    print(f"written to {folder / REPORT}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
