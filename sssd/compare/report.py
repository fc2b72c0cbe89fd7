"""`report.md`, `report.html` and `results.json` of a plan, whatever of it has been run."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from sssd.compare import plots
from sssd.compare.markdown import markdown
from sssd.compare.plan import Plan, PlannedRun, image_warning
from sssd.compare.runs import code
from sssd.compare.verdicts import LEARNT, METRICS, Results, summary
from sssd.engine.files import write_text
from sssd.report.page import Block, Code, Heading, Picture, Table, Text, Verdict, html

CLASSES_SHOWN = 40


def write_report(
    plan: Plan, results: Results, failed: Mapping[PlannedRun, str], folder: Path
) -> dict[str, Any]:
    """Writes the three files anew, and the pictures; returns what `results.json` holds.

    Args:
        plan: what was asked.
        results: of the runs that have ended.
        failed: why a run has not.
        folder: of the plan.
    """
    told = summary(plan, results, failed)
    blocks = [
        Heading(1, f"{_several(plan.others)} over {plan.baseline}"),
        *_verdicts(plan, told),
        *_pictures(plan, results, told),
        *_numbers(plan, told),
        *_noise(plan, told),
        *_classes(plan, told),
        *_cost(plan, told),
        *_how(plan, told, failed, results),
    ]
    title = f"sssd.compare: {', '.join(plan.arms)}"
    files = {
        "results.json": json.dumps(told, indent=2, allow_nan=False) + "\n",
        "report.md": markdown(blocks),
        "report.html": html(blocks, title),
    }
    files |= {f"{b.name}.svg": b.svg for b in blocks if isinstance(b, Picture)}
    for name, text in files.items():
        write_text(folder / name, text)
    return told


def _several(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 4 else f"{len(names)} arms"


def sentence(row: Mapping[str, Any]) -> str:
    """A verdict in words."""
    so_far = " so far" if row["open"] else ""
    head = f"**{row['arm']} over {row['over']} at equal {row['equal']}: {row['verdict']}{so_far}**"
    if row["gain"] is None:
        return f"{head}, no pair of runs yet."
    low, high = row["interval"]
    if low is None:
        seeds = "1 seed" if row["seeds"] == 1 else f"{row['seeds']} seeds"
        return f"{head}, {row['gain']:+.2f} AP in {seeds}, too few to tell."
    return f"{head}, {row['gain']:+.2f} AP [{low:+.2f}, {high:+.2f}] in {row['seeds']} seeds."


def _verdicts(plan: Plan, told: Mapping[str, Any]) -> list[Block]:
    data = plan.data
    blocks: list[Block] = [Verdict(row["verdict"], sentence(row)) for row in told["verdicts"]]
    for one in told["failed"]:
        blocks.append(
            Text(
                f"**Failed, not counted: {one['arm']}, {one['iterations']} iterations, seed "
                f"{one['seed']}**: {one['why']}. The verdict of this arm uses only the seeds "
                "before it."
            )
        )
    blocks += [
        _rule(plan),
        Text(
            f"{data['train']['images']:,} training images, {data['val']['images']:,} validation "
            f"images with {data['val']['objects']:,} objects of {len(data['classes'])} classes; "
            f"{plan.iterations:,} iterations."
        ),
    ]
    known = [row for row in told["arms"] if row["numbers"]["AP"]["mean"] is not None]
    short = [row for row in known if row["numbers"]["AP"]["mean"] < LEARNT]
    if short:
        worst = min(short, key=lambda row: row["numbers"]["AP"]["mean"])
        blocks.append(
            Text(
                f"Note: {worst['arm']} has AP {worst['numbers']['AP']['mean']:.2f} after "
                f"{worst['iterations']:,} iterations: hardly anything was learned, so this says "
                "nothing about a longer training."
            )
        )
    measured = [row["image_noise"]["spread"] for row in told["verdicts"] if "image_noise" in row]
    spread = max(measured, default=None)
    if warning := image_warning(data["val"]["images"], plan.rule.threshold, spread):
        blocks.append(Text(f"Note: {warning}."))
    return blocks


def _rule(plan: Plan) -> Text:
    threshold, sides = f"{plan.rule.threshold:g}", f"{100 * plan.error / 2:g} %"
    return Text(
        "Rule, written before the first run: GO where the interval lies above 0 and the mean "
        f"is {threshold} AP or more; NO-GO where it lies below {threshold}; else "
        f"INCONCLUSIVE, and one more seed, up to {len(plan.seeds)}. INCONCLUSIVE, too, while "
        f"neither side has learned as much as {LEARNT:g} AP. If gains vary over seeds "
        "roughly as a normal distribution, the intervals of all looks and verdicts hold "
        f"together with {100 * (1 - plan.error):g} % confidence: a gain of 0 is called GO in "
        f"at most {sides} of such plans, a gain of {threshold} NO-GO in at most "
        f"{sides}. They hold over all plans: in those that ended in GO the gain is on average "
        "too high, and more intervals than that miss the true one. "
        + (
            "The verdict at equal time is the one that counts."
            if plan.counts == "time"
            else "Arms whose steps cost more than the baseline's had more time."
        )
    )


@matplotlib.rc_context({"text.parse_math": False})  # names are text
def _pictures(plan: Plan, results: Results, told: Mapping[str, Any]) -> list[Block]:
    verdicts = told["verdicts"]
    pictures = (
        ("gains", "Gains", plots.gains(verdicts, plan.rule.threshold, plan.baseline)),
        ("curves", "AP during training", plots.curves(plan, results)),
        ("teacher", "The detector and its teacher", plots.teachers(plan, results)),
        ("lambda", "AP over lambda", plots.over_lambda(plan, results)),
        ("stepwise", "Stepwise and fixed lambda", plots.stepwise(plan, results)),
        ("metrics", "Gains by number and size of object", plots.by_metric(plan, verdicts)),
    )
    blocks: list[Block] = []
    for name, title, svg in pictures:
        if svg is not None:
            blocks += [Heading(2, title), Picture(name, title, svg)]
    return blocks


def _numbers(plan: Plan, told: Mapping[str, Any]) -> list[Block]:
    return [*_over_seeds(plan, told), *_teachers(told), *_levels(told)]


def _over_seeds(plan: Plan, told: Mapping[str, Any]) -> list[Block]:
    arms = [
        [row["arm"], f"{row['iterations']:,}", row["seeds"]]
        + [_spread(row["numbers"][metric]) for metric in METRICS]
        for row in told["arms"]
    ]
    gains = [
        [row["arm"], row["equal"], row["seeds"], row["verdict"]]
        + [_spread(row["metrics"][metric], "+") for metric in METRICS]
        for row in told["verdicts"]
        if row["seeds"]
    ]
    return [
        Heading(2, "Numbers"),
        Text("Mean ± standard deviation over seeds, in points; a dash where there are no objects."),
        Table(["arm", "iterations", "seeds", *METRICS], arms),
        Text(f"Gains over {plan.baseline}, run by run with the same seed:"),
        Table(["arm", "equal", "seeds", "verdict", *METRICS], gains),
    ]


def _teachers(told: Mapping[str, Any]) -> list[Block]:
    rows = [
        [
            row["arm"],
            _spread(row["numbers"]["AP"]),
            _spread(row["numbers"]["teacher/AP"]),
            "{:.3f} to {:.3f}".format(*row["distance"]) if row["distance"] else "-",
            "{} of {}".format(*row["nearer_at_the_end"]),
        ]
        for row in told["arms"]
        if "teacher/AP" in row["numbers"]
    ]
    if not rows:
        return []
    return [
        Heading(2, "The teacher"),
        Text(
            "The same head on K_e, which is given the validation images' labels: the upper "
            "limit of what can be distilled. The distance between K and K_e is the mean over "
            "levels in training, from the first to the last tenth of it."
        ),
        Table(["arm", "AP", "teacher's AP", "distance", "closer at the end"], rows),
    ]


def _levels(told: Mapping[str, Any]) -> list[Block]:
    rows = [
        [row["arm"], f"{one['iteration']:,}", f"{one['lambda']:g}"]
        + [", ".join(f"{value:.2f}" for value in one[what]) for what in ("distance", "share")]
        for row in told["arms"]
        for one in row["levels"]
    ]
    if not rows:
        return []
    return [
        Text(
            "By level, the finest first, mean over seeds: the distance, and the distance's "
            "share in the gradient that reaches K (of the sum of the three losses' norms)."
        ),
        Table(["arm", "iteration", "lambda", "distance", "share of the gradient"], rows),
    ]


def _noise(plan: Plan, told: Mapping[str, Any]) -> list[Block]:
    seeds, images = [], []
    for row in told["verdicts"]:
        if noise := row.get("seed_noise"):
            power = f"{noise['power_at_twice_the_threshold']:.0%}"
            ahead = f"{noise['detectable']:+.2f}", power, f"{noise['seeds_needed']:,}"
            seeds.append([row["arm"], row["equal"], row["seeds"], f"{noise['spread']:.2f}", *ahead])
        if noise := row.get("image_noise"):
            ends = "{:+.2f} to {:+.2f}".format(*noise["interval"])
            counts = f"{noise['images']:,}", f"{noise['images_needed']:,}"
            images.append([row["arm"], row["equal"], f"{noise['spread']:.2f}", ends, *counts])
    threshold = f"{plan.rule.threshold:g}"
    blocks: list[Block] = [Heading(2, "Noise")] if seeds or images else []
    if seeds:
        blocks += [
            Text(
                "**Seeds**: the spread of the paired gains. Other seeds give another gain; the "
                "verdict's interval covers this noise."
            ),
            Table(
                ["arm", "equal", "seeds", "spread", "gain that gets GO in 80 % of such plans",
                 f"GO if the gain is {2 * plan.rule.threshold:g}",
                 f"seeds for an interval above 0 if it is {threshold}"],
                seeds,
            ),
        ]  # fmt: skip
    if images:
        blocks += [
            Text(
                "**Validation images**: the gain of the same runs on resampled images (bootstrap, "
                f"{plan.draws} draws). The verdict holds for these images; if this interval "
                "contains 0, other images of the same kind may give another verdict."
            ),
            Table(
                ["arm", "equal", "spread", "gain on other images, 95 %", "images",
                 f"images to tell {threshold}"],
                images,
            ),
        ]  # fmt: skip
    return blocks


def _classes(plan: Plan, told: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for row in told["verdicts"]:
        if row["equal"] == plan.counts and len(row["classes"]) > 1:
            shown = row["classes"]
            if len(shown) > CLASSES_SHOWN:
                half = CLASSES_SHOWN // 2
                shown = [*shown[:half], *shown[-half:]]
            blocks.append(Text(f"{row['arm']} over {row['over']} at equal {row['equal']}:"))
            cells = [
                [c["class"], f"{c['baseline']:.1f}", f"{c['AP']:.1f}", _spread(c, "+")]
                for c in shown
            ]
            blocks.append(Table(["class", row["over"], row["arm"], "gain"], cells))
    return [Heading(2, "Classes"), *blocks] if blocks else []


def _cost(plan: Plan, told: Mapping[str, Any]) -> list[Block]:
    unit = plan.seconds[plan.baseline]
    rows = []
    for row in told["arms"]:
        step = row["seconds_a_step"]
        costs = f"{step:.3g}", f"{step / unit:.2f}", f"{row['hours']:.2f}"
        rows.append([row["arm"], f"{row['iterations']:,}", row["seeds"], *costs])
    return [
        Heading(2, "Cost"),
        Text(
            "Seconds per training step, measured before the first run in one process, the arms in "
            f"turns. All runs together: {told['machine_hours']:.2f} job hours."
        ),
        Table(["arm", "iterations", "seeds", "s a step", "x baseline", "job-hours"], rows),
    ]


def _how(
    plan: Plan, told: Mapping[str, Any], failed: Mapping[PlannedRun, str], results: Results
) -> list[Block]:
    runs = []
    for r in told["runs"]:
        ap, minutes = f"{100 * r['numbers']['AP']:.2f}", f"{r['wall_seconds'] / 60:.1f}"
        runs.append([r["arm"], r["seed"], f"{r['iterations']:,}", ap, minutes, r["folder"]])
    train = ["python", "-m", "sssd.train", plan.recipe, *plan.flags]
    lines = [shlex.join([*train, *own]) for own in plan.arms.values()]
    blocks: list[Block] = [
        Heading(2, "How"),
        Code("\n".join(lines)),
        *([Text(_shortened(plan))] if plan.iterations != _asked(plan) else []),
        Text("Versions: " + ", ".join(f"{name} {v}" for name, v in plan.versions.items()) + "."),
    ]
    sources = {one["code"] for one in results.values()}
    if len(sources) > 1:
        blocks.append(
            Text(
                f"**The package's source changed between the runs** ({len(sources)} versions; now "
                f"{code()}): pairs of the same seed may differ in more than the arm."
            )
        )
    blocks += [
        Heading(2, "All runs"),
        Table(["arm", "seed", "iterations", "AP", "minutes", "folder"], runs),
    ]
    return blocks


def _asked(plan: Plan) -> int:
    """The iterations that were asked for."""
    return int(plan.settings[plan.baseline].get("--schedule.iterations", plan.iterations))


def _shortened(plan: Plan) -> str:
    return (
        f"Each with {plan.iterations:,} instead of {_asked(plan):,} iterations, and the milestones "
        "moved along, since three seeds did not fit into the time. The `config.json` of a run has "
        "all its settings."
    )


def _spread(value: Mapping[str, Any], sign: str = "") -> str:
    if value["mean"] is None:
        return "-"
    mean = f"{value['mean']:{sign}.2f}"
    return mean if value["spread"] is None else f"{mean} ± {value['spread']:.2f}"
