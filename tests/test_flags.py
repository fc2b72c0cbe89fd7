"""Flags that choose a method or a fusion, would change nothing, or mean nothing."""

import dataclasses
import math
from typing import get_args

import pytest

from sssd.detectors import DetectorConfig
from sssd.engine.record import by_flag, read_settings, with_changes, write_record
from sssd.engine.settings import EngineConfig
from sssd.methods import (
    KINDS,
    FusionConfig,
    LabelGuidedConfig,
    LGDConfig,
    MethodConfig,
    SSSDConfig,
)
from sssd.methods.settings import FusionName, MethodName
from sssd.recipes import RECIPES, Config
from sssd.schedules import ScheduleConfig
from sssd.train import parse

OWN_DATA = ["small", "--data.train", "a.json", "--data.val", "b.json"]


def test_every_name_has_its_class() -> None:
    for kind, names in ((MethodConfig, MethodName), (FusionConfig, FusionName)):
        assert list(KINDS[kind]) == [settings().name for settings in KINDS[kind].values()]
        assert KINDS[kind].keys() == {*get_args(names)}
    with pytest.raises(ValueError, match="LGDConfig is 'lgd', not 'sssd'"):
        LGDConfig(name="sssd")


@pytest.mark.parametrize("name", KINDS[MethodConfig])
@pytest.mark.parametrize("recipe", ["small", "coco", "fcos_r50_lgd", "fcos_r50_plain"])
def test_another_method_is_itself_in_any_recipe(recipe: str, name: str) -> None:
    """But for when distillation starts and ends, and how long the backbone is frozen."""
    was, config = RECIPES[recipe](), parse([recipe, "--method.name", name])[1]
    assert dataclasses.replace(config, method=was.method) == was
    if was.method.name == name:
        assert config == was
        return
    expected = KINDS[MethodConfig][name]()
    if isinstance(was.method, LabelGuidedConfig) and isinstance(expected, LabelGuidedConfig):
        start = {"start": was.method.coefficient.start}
        expected = with_changes(
            expected, {"coefficient": start, "frozen_backbone": was.method.frozen_backbone}
        )
    if name == "labelenc_step1":  # 30k of 120k, in the original
        expected = with_changes(expected, {"coefficient": {"start": was.schedule.iterations // 4}})
    if name == "labelenc_step2":  # 80k of 90k, where the rate falls for the last time
        expected = with_changes(expected, {"coefficient": {"stop": was.schedule.milestones[-1]}})
    assert config.method == expected


def test_lgd_in_a_recipe_of_sssd_has_lgds_parts_and_a_fixed_lambda() -> None:
    method = parse(["coco", "--method.name", "lgd"])[1].method
    assert (method.fusion.name, method.adapter) == ("relation", "full")
    assert (method.coefficient.value, method.coefficient.step_factor) == (1.0, 1.0)
    assert method.coefficient.start == 30_000


def test_the_settings_of_what_is_chosen_are_taken() -> None:
    method = ["--method.name=lgd", "--method.fusion.name", "relation", "--method.fusion.no-context"]
    config = parse([*OWN_DATA, *method, "--method.name", "sssd", "--method.over", "cells"])[1]
    assert isinstance(config.method, SSSDConfig), "the last one counts"
    assert config.method.over == "cells"
    assert not config.method.fusion.context
    assert config.method.adapter == "separable", "as in small"


@pytest.mark.parametrize("name", KINDS[MethodConfig])
def test_a_record_gives_the_settings_back_as_they_were(name: str, tmp_path) -> None:
    config = parse(["fcos_r50_sssd_stepwise", "--method.name", name])[1]
    write_record(tmp_path, "small", config, iteration=0)
    assert read_settings(tmp_path, Config) == config
    changed = dataclasses.replace(config, engine=dataclasses.replace(config.engine, seed=3))
    assert write_record(tmp_path, "small", changed, iteration=1) == {"--engine.seed": [0, 3]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method.name", "kd"], "--method.name is 'kd'; it must be one of plain, sssd, lgd, lab"),
        (
            ["--method.fusion.name=x"],
            "--method.fusion.name is 'x'; it must be one of relation",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(arguments: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse([*OWN_DATA, *arguments])


LABEL_GUIDED = "--method.name sssd or lgd"
DISTILLING = "--method.name sssd or lgd or labelenc_step1 or labelenc_step2"
OFF, A_LAMBDA = ["--method.coefficient.value", "0"], "a lambda above 0"
FACTOR, STEPS = ["--method.coefficient.step-factor"], ["--method.coefficient.steps"]
FOLLOWED = "one of --schedule.milestones, and --method.coefficient.steps that begin later"


@pytest.mark.parametrize(
    ("arguments", "flag", "need"),
    [
        (["demo", "--data.train", "a.json"], "--data.train", "data of your own"),
        (["--data.val-images=b"], "--data.val-images", "data of your own"),
        (["demo", "--data.pixel-range", "0", "255"], "--data.pixel-range", "data of your own"),
        ([*OWN_DATA, "--method.name", "plain", "--method.adapter", "none"], "--method.adapter",
         LABEL_GUIDED),
        ([*OWN_DATA, "--method.name", "plain", "--method.coefficient.value", "2"],
         "--method.coefficient.value", DISTILLING),
        ([*OWN_DATA, "--method.name", "plain", "--method.fusion.name", "relation"],
         "--method.fusion.name", LABEL_GUIDED),
        ([*OWN_DATA, "--method.name", "lgd", "--method.over", "cells"], "--method.over",
         "--method.name sssd"),
        ([*OWN_DATA, "--method.fusion.no-context"], "--method.fusion.context",
         "--method.fusion.name relation"),
        ([*OWN_DATA, "--method.step1-weights", "x"], "--method.step1-weights",
         "--method.name labelenc_step2"),
        ([*OWN_DATA, "--detector.weights", "None", "--detector.frozen-stages", "1"],
         "--detector.frozen-stages", "pretrained --detector.weights"),
        ([*OWN_DATA, "--engine.evaluate-with", "pycocotools", "--engine.evaluate-every", "0"],
         "--engine.evaluate-with", "--engine.evaluate-every 1 or more"),
        ([*OWN_DATA, "--engine.patience", "2", "--engine.evaluate-every", "0"],
         "--engine.patience", "--engine.evaluate-every 1 or more"),
        ([*OWN_DATA, "--schedule.epochs", "2", "--schedule.iterations", "9"],
         "--schedule.iterations", "a run without --schedule.epochs"),
        ([*OWN_DATA, "--schedule.warmup", "0", "--schedule.warmup-factor", "0.5"],
         "--schedule.warmup-factor", "--schedule.warmup 1 or more"),
        ([*OWN_DATA, "--schedule.gamma", "0.5", "--schedule.milestones"], "--schedule.gamma",
         "--schedule.milestones"),
        ([*OWN_DATA, *OFF, "--method.adapter", "none"], "--method.adapter", A_LAMBDA),
        ([*OWN_DATA, *OFF, "--method.fusion.name=relation"], "--method.fusion.name", A_LAMBDA),
        ([*OWN_DATA, *OFF, "--method.coefficient.start", "9"], "--method.coefficient.start",
         A_LAMBDA),
        ([*OWN_DATA, *STEPS, "0", "2", "--method.coefficient.value", "3"],
         "--method.coefficient.value", "--method.coefficient.steps that begin later than at 0"),
        ([*OWN_DATA, *STEPS, "240", "2", *FACTOR, "3"], FACTOR[0], FOLLOWED),
        ([*OWN_DATA, *FACTOR, "3", "--schedule.milestones"], FACTOR[0], FOLLOWED),
    ],
)  # fmt: skip
def test_a_flag_without_effect_is_refused_with_what_it_needs(
    arguments: list[str], flag: str, need: str
) -> None:
    with pytest.raises(ValueError, match=f"^{flag} has no effect here; it needs {need}"):
        parse(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [*OFF, *STEPS, "100", "2", "--method.adapter", "none"],
        [*OFF, "--method.name", "labelenc_step2", "--method.step1-weights", "x"],
        [*STEPS, "0", "0", "--method.coefficient.value", "1"],  # the head is trained on K_e
        [*STEPS, "241", "2", *FACTOR, "3"],
        [*FACTOR, "1", "--schedule.milestones"],
    ],
)
def test_what_has_an_effect_after_all_is_taken(arguments: list[str]) -> None:
    parse([*OWN_DATA, *arguments])


def test_a_flag_of_no_method_is_the_parsers_business(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--method.levels" not in by_flag(Config())
    with pytest.raises(SystemExit):
        parse([*OWN_DATA, "--method.levels", "cells"])
    assert "--method.levels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (EngineConfig, {"clip_norm": 0.0}, "--engine.clip-norm is 0.0; .* above 0; None turns it"),
        (EngineConfig, {"clip_value": -1.0}, "--engine.clip-value is -1"),
        (EngineConfig, {"backbone_factor": -1.0}, "--engine.backbone-factor is -1"),
        (EngineConfig, {"weight_decay": math.nan}, "--engine.weight-decay is nan"),
        (EngineConfig, {"seed": -1}, "--engine.seed is -1"),
        (ScheduleConfig, {"learning_rate": math.nan}, "--schedule.learning-rate is nan"),
        (ScheduleConfig, {"gamma": -1.0}, "--schedule.gamma is -1"),
        (ScheduleConfig, {"warmup": -5}, "--schedule.warmup is -5"),
        (ScheduleConfig, {"warmup_factor": -3.0}, "--schedule.warmup-factor is -3"),
        (ScheduleConfig, {"milestones": (-5, 10)}, r"--schedule.milestones is \(-5, 10\)"),
        (DetectorConfig, {"max_size": 640}, "--detector.max-size is 640, less than .* 800"),
        (DetectorConfig, {"frozen_stages": -1}, "--detector.frozen-stages is -1"),
    ],
)
def test_numbers_without_meaning_are_refused(
    kind: type, settings: dict[str, object], said: str
) -> None:
    """Each of them trained, and learnt nothing or something else."""
    with pytest.raises(ValueError, match=said):
        kind(**settings)
