"""The report says what the results say, whatever the names."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sssd.compare.plan import Plan
from sssd.compare.report import write_report
from tests.compare.made_up import make_plan, make_results
from tests.compare.test_verdicts import truth


class Checked(HTMLParser):
    """Finds whether every tag is closed, and what is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "!doctype"):
            self.open.append(tag)
        links = [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.loaded += [link for link in links if not link.startswith("#")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "br"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_of_a_plan(tmp_path: Path) -> None:
    plan = make_plan()
    results = make_results(plan, truth, 4)
    write_report(plan, {}, {}, tmp_path)
    assert '<p class="verdict inconclusive">' in (tmp_path / "report.html").read_text()
    assert "100 validation images are few" in (tmp_path / "report.md").read_text()
    told = write_report(plan, results, {}, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == told
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"\*\*sssd over plain at equal iterations: GO\*\*, \+2\.\d+ AP \[\+1", text)
    assert "validation images are few" not in text  # as measured, they are not
    assert "| sssd | iterations | 3 | GO | +2." in text
    for name in ("gains", "curves", "teacher", "metrics"):
        assert (tmp_path / f"{name}.svg").read_text().startswith("<svg")
    page = Checked()
    page.feed((tmp_path / "report.html").read_text())
    assert page.open == []
    assert page.loaded == []  # one file, nothing beside it
    assert "sssd over plain at equal time" in page.text
    assert '<p class="verdict go">' in (tmp_path / "report.html").read_text()
    before = (tmp_path / "report.html").read_bytes()
    write_report(plan, results, {}, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


def test_a_report_at_equal_iterations_alone(tmp_path: Path) -> None:
    plan = replace(make_plan(), equal=["iterations"])
    told = write_report(plan, make_results(plan, truth, 3), {}, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert [row["equal"] for row in told["verdicts"]] == ["iterations"]
    assert "equal time" not in text
    assert "sssd over plain at equal iterations:" in text  # the classes
    assert "cost more than the baseline's had more time" in text


@pytest.mark.parametrize("seeds", [0, 1])
def test_a_report_of_too_few_runs(seeds: int, tmp_path: Path) -> None:
    plan = make_plan()
    why = {plan.run("sssd", 0): "status 1: error: training | diverged <b>"}
    write_report(plan, make_results(plan, truth, seeds), why, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "too few to tell" in text if seeds else "no pair of runs yet" in text
    assert "Failed, not counted: sssd, 400 iterations, seed 0" in text
    assert "diverged &lt;b&gt;" in (tmp_path / "report.html").read_text()


def test_runs_that_learnt_nothing_are_named(tmp_path: Path) -> None:
    plan = make_plan()
    write_report(plan, make_results(plan, lambda run: 0.0, 3), {}, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "plain has AP 0.00 after 400 iterations: hardly anything was learned" in text
    assert "INCONCLUSIVE**, +0.00 AP [+0.00, +0.00] in 3 seeds" in text


def test_names_are_text(tmp_path: Path) -> None:
    arms = ("[stop] $$ %s {0}", "<script>", "$a_b$ | 信号")
    plan = make_plan(arms)
    write_report(plan, make_results(plan, truth, 3), {}, tmp_path)
    page = Checked()
    page.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    for name in arms:
        assert name in page.text
    parts = (tmp_path / "report.md").read_text(encoding="utf-8").split("```")
    text = "".join(parts[::2])  # between them stand commands, to be copied as they are
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "$a_b$ \\| 信号" in text, "in a table the bar ends no cell"


def with_settings(plan: Plan, **settings: dict[str, str]) -> Plan:
    import dataclasses

    return dataclasses.replace(plan, settings={k.replace("_", "-"): v for k, v in settings.items()})


def test_the_figures_of_the_paper(tmp_path: Path) -> None:
    value, factor = "--method.coefficient.value", "--method.coefficient.step-factor"
    plan = with_settings(
        make_plan(("plain", "sssd-1", "sssd-2", "sssd-3", "sssd-4")),
        plain={"--method.name": "plain", value: "1.0", factor: "1.0"},
        sssd_1={"--method.name": "sssd", value: "0.1", factor: "1.0"},
        sssd_2={"--method.name": "sssd", value: "1.0", factor: "1.0"},
        sssd_3={"--method.name": "sssd", value: "10.0", factor: "1.0"},
        sssd_4={"--method.name": "sssd", value: "1.0", factor: "2.0"},
    )
    write_report(plan, make_results(plan, truth, 3), {}, tmp_path)
    assert (tmp_path / "lambda.svg").exists()
    assert (tmp_path / "stepwise.svg").exists()
    assert "## AP over lambda" in (tmp_path / "report.md").read_text()
