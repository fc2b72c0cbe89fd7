"""Learning rate and coefficient as functions of the iteration."""

import dataclasses

import pytest

from sssd.schedules import CoefficientConfig, ScheduleConfig

MILESTONES = (120_000, 160_000)
SCHEDULE = ScheduleConfig(iterations=180_000, milestones=MILESTONES, warmup=1000)


@pytest.mark.parametrize(
    ("iteration", "factor"),
    [(0, 1e-3), (500, 0.5005), (1000, 1.0), (119_999, 1.0), (120_000, 0.1), (160_000, 0.01)],
)
def test_learning_rate_warms_up_and_decays_at_milestones(iteration: int, factor: float) -> None:
    assert SCHEDULE.factor(iteration) == pytest.approx(factor)


def test_learning_rate_is_zero_from_an_iteration_on() -> None:
    schedule = dataclasses.replace(SCHEDULE, zero_from=170_000)
    assert [schedule.factor(i) for i in (169_999, 170_000, 179_999)] == [
        pytest.approx(0.01), 0.0, 0.0,
    ]  # fmt: skip


def test_learning_rate_is_stated_for_sixteen_images() -> None:
    assert ScheduleConfig(learning_rate=0.02).scaled_learning_rate(4) == pytest.approx(0.005)


def test_stepwise_coefficient_follows_the_milestones() -> None:
    coefficient = CoefficientConfig(value=75.0, step_factor=2.0)
    values = [coefficient.at(i, MILESTONES) for i in (0, 119_999, 120_000, 160_000)]
    assert values == [75.0, 75.0, 150.0, 300.0]


def test_explicit_steps_replace_the_rule() -> None:
    coefficient = CoefficientConfig(value=75.0, steps={120_000: 100.0, 150_000: 20.0})
    values = [coefficient.at(i, MILESTONES) for i in (0, 120_000, 149_999, 160_000)]
    assert values == [75.0, 100.0, 100.0, 20.0]


def test_distillation_stops() -> None:
    coefficient = CoefficientConfig(value=1.0, stop=130_000)
    assert coefficient.at(129_999, MILESTONES) == 1.0
    assert coefficient.at(130_000, MILESTONES) == 0.0


def test_lambda_acts_on_the_student_from_the_start_to_the_stop() -> None:
    coefficient = CoefficientConfig(value=75.0, step_factor=2.0, start=30_000, stop=130_000)
    assert coefficient.at(0, MILESTONES) == 75.0, "what the adapter learns by"
    acting = [coefficient.acting(i, MILESTONES) for i in (0, 29_999, 30_000, 120_000, 130_000)]
    assert acting == [0.0, 0.0, 75.0, 150.0, 0.0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"iterations": 0},
        {"milestones": (5, 3)},
        {"milestones": (5, 5)},
        {"learning_rate": 0.0},
        {"zero_from": 0},
    ],
)
def test_impossible_schedules_are_refused_by_name(arguments: dict) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=f"--schedule.{name.replace('_', '-')}"):
        ScheduleConfig(**arguments)


@pytest.mark.parametrize(
    "arguments", [{"value": -1.0}, {"step_factor": -2.0}, {"steps": {3: -1.0}}]
)
def test_negative_coefficients_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"coefficient: \w+ is -\d.*finite number of 0 or more"):
        CoefficientConfig(**arguments)
