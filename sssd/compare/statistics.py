"""The rule of a verdict: an interval of the mean paired gain that may be looked at after each seed.

The gains of the seeds are taken as normal, of unknown mean and spread. After n of at most N seeds
the interval is Student's, mean +- t(n - 1, level_n) * spread / sqrt(n), with one-sided levels

    level_n = level_N * n / N.

One look would have level_N = error / 2. Several looks give chance several tries, so level_N is made
smaller, until the probability that the true gain lies above any of the intervals is error / 2 (and
likewise below). t values do not depend on mean and spread, so this probability is one number for
all data: it is counted in `CALIBRATION` simulated plans with a fixed seed. Where a plan gives
several verdicts (arms, at equal iterations and at equal time), each gets an equal part of the error
(Bonferroni).

Gains that are not normal: heavy tails on both sides make errors rarer (Student's t with 2 or 3
degrees of freedom: a wrong GO in 1.4 instead of 2.5 %). Skewed ones make them more frequent, and an
arm that fails badly in one run of twenty can be called GO, for few seeds do not show such a run.

Levels in proportion to n keep what the first looks cannot use for the last ones: against equal
levels, a gain as large as the spread is found in 55 instead of 50 % of plans of 3 to 8 seeds.

Source: Pocock, Biometrika 64 (1977), for equal levels; Jennison and Turnbull, JRSS B 51 (1989), for
repeated confidence intervals; both for known spread.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

Name = Literal["GO", "NO-GO", "INCONCLUSIVE"]
FIRST_LOOK = 3
CALIBRATION = 400_000
CHUNK = 50_000  # plans at once, for memory
NO_SPREAD = 1e-9  # standard error, in points of AP, of gains that are all the same
PLANS = 10_000  # simulated ones, for power
POWER = 0.8


@dataclass(frozen=True)
class Rule:
    """What is fixed before the first run.

    Attributes:
        threshold: the smallest gain that is worth it, in points of AP.
        looks: numbers of seeds after which the plan is judged, ascending.
        levels: one-sided level of the interval at each look.
    """

    threshold: float
    looks: tuple[int, ...]
    levels: tuple[float, ...]


class Verdict(NamedTuple):
    """What a rule says of some gains.

    Attributes:
        name: GO: the interval lies above 0 and the mean is the threshold or more. NO-GO: the
            interval lies below the threshold. INCONCLUSIVE: neither, or gains without any spread.
        seeds: how many of the gains it rests on: those up to the first look that decided.
        mean: their mean.
        low: lower end of their interval; NaN before the first look, like `high`.
        high: upper end.
    """

    name: Name
    seeds: int
    mean: float
    low: float
    high: float


def make_rule(threshold: float, seeds: int, error: float = 0.05, verdicts: int = 1) -> Rule:
    """The rule of a plan.

    Args:
        threshold: the smallest gain that is worth it.
        seeds: at most so many.
        error: probability that any interval of any verdict, at any look, misses the true gain; a
            half of it bounds a wrong GO (true gain 0 or less), the other a wrong NO-GO (true gain
            the threshold or more).
        verdicts: so many the plan gives.

    Example:
        >>> [round(level, 4) for level in make_rule(0.3, seeds=3).levels]
        [0.025]
    """
    looks = tuple(range(FIRST_LOOK, seeds + 1))
    return Rule(threshold, looks, _levels(seeds, error / 2 / verdicts))


@cache
def _levels(seeds: int, part: float) -> tuple[float, ...]:
    """One-sided levels of all looks whose intervals miss the truth on one side with `part`."""
    looks = np.arange(FIRST_LOOK, seeds + 1)
    if len(looks) == 1:
        return (part,)
    numbers, smallest = np.random.default_rng(0), []
    for _ in range(CALIBRATION // CHUNK):
        mean, deviation = _means(numbers.standard_normal((CHUNK, seeds)), looks)
        p = stats.t.sf(mean / deviation, looks - 1)  # (plans, looks), one-sided
        smallest.append((p * seeds / looks).min(axis=1))
    last = float(np.quantile(np.concatenate(smallest), part))
    return tuple((last * looks / seeds).tolist())


def judge(gains: Sequence[float], rule: Rule) -> Verdict:
    """The verdict of the first look that decides, or how things stand at the last one.

    Args:
        gains: of the first seeds, in the plan's order, in points of AP.
        rule: the plan's.
    """
    if len(gains) < rule.looks[0]:
        mean = float(np.mean(gains)) if len(gains) else math.nan
        return Verdict("INCONCLUSIVE", len(gains), mean, math.nan, math.nan)
    (names,), (low,), (high,) = _looks(np.asarray([gains], np.float64), rule)
    place = int((names != 0).argmax()) if names.any() else len(names) - 1
    seeds = rule.looks[place]
    mean = float(np.mean(gains[:seeds]))
    return Verdict(_NAMES[names[place]], seeds, mean, float(low[place]), float(high[place]))


class Outcomes(NamedTuple):
    """Shares of the verdicts among simulated plans, and the seeds that they took on average."""

    go: float
    no_go: float
    inconclusive: float
    seeds: float


def simulate(rule: Rule, gain: float, spread: float, seed: int = 1) -> Outcomes:
    """What becomes of plans whose truth is known.

    Args:
        rule: the plan's.
        gain: the true mean of the paired gains.
        spread: their true standard deviation over seeds.
        seed: of the random numbers.
    """
    draws = np.random.default_rng(seed).standard_normal((PLANS, rule.looks[-1]))
    names, _, _ = _looks(gain + spread * draws, rule)
    decided = names.any(axis=1)
    first = np.where(decided, (names != 0).argmax(axis=1), len(rule.looks) - 1)
    last = names[np.arange(PLANS), first]
    go, no_go, inconclusive = (float((last == number).mean()) for number in (1, 2, 0))
    return Outcomes(go, no_go, inconclusive, float(np.asarray(rule.looks)[first].mean()))


def detectable(rule: Rule, spread: float) -> float:
    """The smallest true gain that such a plan calls GO with a probability of POWER."""
    low, high = 0.0, rule.threshold + 20 * spread
    for _ in range(20):
        middle = (low + high) / 2
        if simulate(rule, middle, spread).go < POWER:
            low = middle
        else:
            high = middle
    return high


def seeds_needed(gain: float, spread: float, level: float) -> int:
    """Seeds after which one look shows with a probability of POWER that a true gain is above 0.

    Args:
        gain: the true gain.
        spread: standard deviation of the paired gains over seeds.
        level: one-sided level of the look.
    """
    low, high = 2, 1_000_000
    while low + 1 < high:
        n = (low + high) // 2
        shift = gain / spread * math.sqrt(n) if spread else math.inf
        found = stats.nct.sf(stats.t.isf(level, n - 1), n - 1, min(shift, 100.0))
        low, high = (low, n) if found >= POWER else (n, high)
    return high


_NAMES: tuple[Name, ...] = ("INCONCLUSIVE", "GO", "NO-GO")


def _looks(gains: np.ndarray, rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The verdict (an index of _NAMES) and the interval of each plan (rows) at each look."""
    looks = np.array([n for n in rule.looks if n <= gains.shape[1]], np.int64)
    mean, error = _means(gains, looks)
    levels = np.array(rule.levels[: len(looks)])
    half = stats.t.isf(levels, looks - 1) * error
    low, high = mean - half, mean + half
    spread = error > NO_SPREAD  # gains that are all the same are no measurement
    go = spread & (low > 0) & (mean >= rule.threshold)
    no_go = spread & (high < rule.threshold)
    return np.where(go, 1, np.where(no_go, 2, 0)), low, high


def _means(gains: np.ndarray, looks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error (plans, looks) of the first n gains of each plan."""
    mean = np.stack([gains[:, :n].mean(axis=1) for n in looks], axis=1)
    spread = np.stack([gains[:, :n].std(axis=1, ddof=1) for n in looks], axis=1)
    return mean, spread / np.sqrt(looks)
