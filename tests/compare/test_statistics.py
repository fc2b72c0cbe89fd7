"""Over 10,000 simulated plans the rule keeps what it promises."""

import math

import numpy as np
import pytest
from scipy import stats

from sssd.compare.statistics import Rule, detectable, judge, make_rule, seeds_needed, simulate

SEVERAL = 3 * math.sqrt(0.025 * 0.975 / 10_000)  # three standard errors of a rate of 2.5 %


@pytest.fixture(scope="module")
def rule() -> Rule:
    return make_rule(0.3, seeds=8)


@pytest.mark.parametrize("spread", [0.01, 0.5, 4.0])
def test_a_gain_of_nothing_is_called_go_as_rarely_as_promised(rule: Rule, spread: float) -> None:
    """Judged one look after the other, as plans are, the truth known."""
    draws = np.random.default_rng(11).normal(0, spread, (10_000, 8))
    assert np.mean([judge(plan, rule).name == "GO" for plan in draws.tolist()]) <= 0.025 + SEVERAL


def test_the_whole_promise_is_used(rule: Rule) -> None:
    """A threshold that is small beside the spread does not make GO rarer than promised."""
    go = simulate(make_rule(1e-9, seeds=8), 0, 1, seed=3).go
    assert abs(go - 0.025) < SEVERAL
    assert simulate(rule, 0.0, 4.0).go <= 0.025 + SEVERAL


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_a_gain_of_the_threshold_is_called_no_go_as_rarely(rule: Rule, spread: float) -> None:
    assert simulate(rule, 0.3, spread, seed=5).no_go <= 0.025 + SEVERAL


def test_the_interval_misses_the_truth_at_any_look_as_rarely(rule: Rule) -> None:
    gains = np.random.default_rng(7).normal(1.0, 2.0, (10_000, 8))
    missed = np.zeros(len(gains), bool)
    for n, level in zip(rule.looks, rule.levels, strict=True):
        half = stats.t.isf(level, n - 1) * gains[:, :n].std(1, ddof=1) / n**0.5
        missed |= abs(gains[:, :n].mean(1) - 1.0) > half
    assert missed.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 10_000)


def test_looks_without_correction_would_break_the_promise(rule: Rule) -> None:
    """What the levels are for: Student's 2.5 % at each look is another rule."""
    naive = Rule(0.0, rule.looks, (0.025,) * 6)
    assert simulate(naive, 0, 1).go > 0.05


def test_several_verdicts_share_the_error() -> None:
    rule = make_rule(1e-9, seeds=6, verdicts=5)
    gains = np.random.default_rng(2).normal(0, 1, (10_000, 5, 6))
    gains += np.random.default_rng(3).normal(0, 1, (10_000, 1, 6))  # the baseline's own noise
    wrong = [any(judge(arm, rule).name == "GO" for arm in plan) for plan in gains[:3000].tolist()]
    assert 0.005 < np.mean(wrong) <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 3000)


def test_one_look_is_student(rule: Rule) -> None:
    gains = [1.0, 1.4, 0.9]
    verdict = judge(gains, make_rule(0.3, seeds=3))
    own = stats.t.interval(0.95, 2, np.mean(gains), stats.sem(gains))
    assert (verdict.low, verdict.high) == pytest.approx(own)
    assert verdict.name == "GO"
    assert judge(gains, rule).name == "INCONCLUSIVE"  # five more looks may follow


@pytest.mark.parametrize("gain", [0.0, 0.1, 0.7, 1.1])
@pytest.mark.parametrize("seeds", [3, 6])
def test_gains_that_are_all_the_same_are_no_measurement(
    rule: Rule, gain: float, seeds: int
) -> None:
    """Their computed spread may be 1e-16, not 0."""
    assert judge([gain] * seeds, rule).name == "INCONCLUSIVE"


def test_verdicts(rule: Rule) -> None:
    assert judge([], rule).seeds == 0
    assert judge([9.0, 9.1], rule).name == "INCONCLUSIVE"
    assert judge([1.4, 1.5, 1.45], rule).name == "GO"
    assert judge([0.11, 0.10, 0.12], rule).name == "NO-GO"  # above 0, and not worth it
    assert judge([-5.0, -5.1, -5.2], rule).name == "NO-GO"
    assert judge([3.0, -3.0, 0.1], rule).name == "INCONCLUSIVE"
    assert judge([0.0, 0.0, 0.0], rule).name == "INCONCLUSIVE"  # three runs that learnt nothing


def test_the_first_look_that_decides_stands(rule: Rule) -> None:
    first = judge([1.4, 1.5, 1.45], rule)
    assert judge([1.4, 1.5, 1.45, -20.0, -20.0], rule) == first


def test_power(rule: Rule) -> None:
    assert simulate(rule, detectable(rule, 0.5), 0.5, seed=9).go == pytest.approx(0.8, abs=0.02)
    assert simulate(rule, 1.0, 1.0).go == pytest.approx(0.55, abs=0.03)  # docs/compare.md
    needed = seeds_needed(0.3, 0.5, 0.025)
    gains = np.random.default_rng(4).normal(0.3, 0.5, (4000, needed))
    found = np.mean(stats.ttest_1samp(gains, 0, axis=1, alternative="greater").pvalue < 0.025)
    assert found == pytest.approx(0.8, abs=0.025)
    assert seeds_needed(0.3, 0.0, 0.01) == 3
