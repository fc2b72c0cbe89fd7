"""A recipe follows the length that it is given."""

import math
from dataclasses import replace

import pytest

from sssd.flags import in_iterations
from sssd.recipes import RECIPES, Config
from sssd.train import parse


@pytest.mark.parametrize("name", ["demo", "small", "coco", "retinanet_r50_sssd_stepwise"])
@pytest.mark.parametrize("length", [60, 100])
def test_a_short_run_distils_and_lowers_its_rate_as_the_long_one(name: str, length: int) -> None:
    _, config = parse([name, "--schedule.iterations", str(length)])
    recipe = RECIPES[name]()
    ratio = length / recipe.schedule.iterations
    pairs = [(config.method.coefficient.start, recipe.method.coefficient.start)]
    pairs += zip(config.schedule.milestones, recipe.schedule.milestones, strict=True)
    pairs += [(config.schedule.warmup, recipe.schedule.warmup)]
    pairs += [(config.schedule.zero_from or 0, recipe.schedule.zero_from or 0)]
    assert all(abs(few - many * ratio) <= 0.5 for few, many in pairs)
    assert config.method.coefficient.acting(length - 1, config.schedule.milestones) > 0
    assert config.schedule.factor(length - 1) < 1


def test_what_is_given_stays() -> None:
    flags = ["--schedule.milestones", "50", "--method.coefficient.start", "100"]
    _, config = parse(["small", "--schedule.iterations=60", *flags])
    assert config.schedule.iterations == 60
    assert config.schedule.milestones == (50,)
    assert config.method.coefficient.start == 100
    assert config.schedule.warmup == 9


@pytest.mark.parametrize("length", ["1_000", "+1000", " 1000"])
def test_every_way_to_write_a_length_moves_the_rest(length: str) -> None:
    _, config = parse(["small", "--schedule.iterations", length])
    assert config == parse(["small", "--schedule.iterations", "1000"])[1]


@pytest.mark.parametrize("name", ["small", "coco"])
def test_a_run_of_one_iteration_is_one(name: str) -> None:
    _, config = parse([name, "--schedule.iterations", "1"])
    assert config.schedule.iterations == 1


def test_what_is_no_length_is_refused_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["small", "--schedule.iterations", "many"])
    assert "--schedule.iterations" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse(["small", "--schedule.iterations", "0"])
    assert "--schedule.iterations is 0" in capsys.readouterr().err


def resolved(arguments: list[str], images: int) -> Config:
    """The settings of a command line once the data are known."""
    _, config = parse(arguments)
    return in_iterations(config, images, arguments)


@pytest.mark.parametrize("name", ["demo", "small", "fcos_r50_labelenc_step1"])
def test_epochs_are_iterations_of_the_data_and_all_moves_along(name: str) -> None:
    batch = RECIPES[name]().engine.batch_size
    config = resolved([name, "--schedule.epochs", "12.5"], images=80)
    expected = parse([name, "--schedule.iterations", str(1000 // batch)])[1]
    assert config == expected


def test_what_is_given_beside_epochs_stays() -> None:
    flags = ["--schedule.epochs=6", "--schedule.milestones", "50", "70"]
    flags += ["--method.coefficient.start", "100", "--method.coefficient.stop=110"]
    config = resolved(["small", *flags], images=80)
    assert config.schedule.iterations == 120
    assert config.schedule.milestones == (50, 70)
    assert (config.method.coefficient.start, config.method.coefficient.stop) == (100, 110)
    assert config.schedule.warmup == round(50 * 120 / 350)


def test_a_run_that_goes_on_for_more_epochs_keeps_what_happens_when() -> None:
    config = replace(RECIPES["small"](), resume=True)
    config = replace(config, schedule=replace(config.schedule, epochs=20))
    longer = in_iterations(config, 100, ["--schedule.epochs", "20"])
    assert longer.schedule == replace(config.schedule, iterations=500, epochs=None)
    assert longer.method == config.method


@pytest.mark.parametrize("epochs", [0, -1, math.nan, math.inf])
def test_epochs_that_are_no_length_are_refused(epochs: float) -> None:
    with pytest.raises(ValueError, match=r"--schedule\.epochs is .*; it must be a number above 0"):
        replace(RECIPES["small"]().schedule, epochs=epochs)
