"""A recipe follows the length that it is given."""

import pytest

from sssd.recipes import RECIPES
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


@pytest.mark.parametrize("name", ["small", "coco"])
def test_a_run_of_one_iteration_is_one(name: str) -> None:
    _, config = parse([name, "--schedule.iterations", "1"])
    assert config.schedule.iterations == 1


def test_what_is_no_length_is_refused_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["small", "--schedule.iterations", "many"])
    assert "--schedule.iterations" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"--schedule\.iterations is 0"):
        parse(["small", "--schedule.iterations", "0"])
