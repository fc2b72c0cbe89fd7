"""The table of an experiment says what its rows say."""

from pathlib import Path

from sssd.experiments.report import markdown, plot
from sssd.experiments.runner import Row


def row(variant: str, seed: int, ap: float, small: float = 0.1) -> Row:
    numbers = {name: str(ap) for name in ("AP", "AP50", "AP75", "APm", "APl")}
    return {
        "variant": variant,
        "seed": str(seed),
        "iterations": "300",
        "seconds": "60",
        "APs": str(small),
        **numbers,
    }


ROWS = [row("plain", 0, 0.50), row("ours", 0, 0.53), row("plain", 1, 0.54), row("ours", 1, 0.55)]


def test_mean_spread_and_gain_by_seed() -> None:
    lines = markdown(ROWS, ["plain", "ours", "never run"]).splitlines()
    assert len(lines) == 4
    plain, ours = ([c.strip() for c in line.strip("|").split("|")] for line in lines[2:])
    assert plain[:5] == ["plain", "2", "300", "60", "52.0 ± 2.8"]
    assert ours[4] == "54.0 ± 1.4"
    assert ours[-1] == "+2.0 ± 1.0"  # gains of 3 and 1: deviation 1.41, over the root of 2


def test_what_coco_leaves_undefined_is_a_dash() -> None:
    cells = markdown([row("plain", 0, 0.5, small=-1)], ["plain"]).splitlines()[2].split("|")
    assert [c.strip() for c in cells[5:11]] == ["50.0", "50.0", "50.0", "-", "50.0", "50.0"]


def test_a_gain_needs_a_run_of_the_same_seed() -> None:
    table = markdown([row("plain", 0, 0.5), row("ours", 1, 0.6)], ["plain", "ours"])
    assert table.splitlines()[-1].split("|")[-2].strip() == "-"


def test_plot_is_drawn(tmp_path: Path) -> None:
    plot(ROWS, ["plain", "ours"], "title", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
