"""The results page shows the study's verdicts as its results have them."""

from tools.study import ASKED, DOCS, results, table


def test_the_page_has_the_table_that_the_results_make() -> None:
    told = results()
    arms = {(name, row["arm"]) for name, value in told.items() for row in value["verdicts"]}
    assert arms <= ASKED.keys(), "tools/study.py does not tell what these arms ask"
    assert table(told) in (DOCS / "results.md").read_text()
