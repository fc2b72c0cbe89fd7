"""The recipes of the paper's comparison hold the published numbers."""

import dataclasses

import pytest

from sssd.recipes import RECIPES, describe
from sssd.recipes.paper import PAPER, row

LGD_FUSION = {  # context row, appearance detached
    "retinanet_r50": (True, False),
    "retinanet_r101": (True, False),
    "fcos_r50": (False, False),
    "fcos_r101": (True, False),
    "fasterrcnn_r50": (False, True),
    "fasterrcnn_r101": (False, True),
}
STAGES = tuple(LGD_FUSION)


def test_every_row_has_a_recipe() -> None:
    rows = ["plain", "lgd", "lgd_stepwise", "sssd", "sssd_stepwise"]
    rows += [f"{row}_90k" for row in rows]
    rows += ["labelenc_step2", "labelenc_step2_180k"]
    names = {f"{stage}_{row}" for stage in STAGES for row in rows}
    names |= {f"{stage}_labelenc_step1" for stage in STAGES if stage.endswith("r50")}
    assert names == {name for name in PAPER if "_lambda" not in name}
    sweep = {n: row(n).method.coefficient.value for n in PAPER if "_lambda" in n}
    assert sweep == {f"retinanet_r50_sssd_lambda{v}": v for v in (10, 25, 50, 100, 150)}


def test_no_row_is_another() -> None:
    assert len({describe(row(name)) for name in PAPER}) == len(PAPER)


def test_what_all_rows_share() -> None:
    for name in PAPER:
        config = row(name)
        engine, schedule, detector = config.engine, config.schedule, config.detector
        assert (engine.batch_size, engine.optimizer, engine.weight_decay) == (16, "sgd", 1e-4)
        assert (engine.clip_value, engine.clip_norm, engine.ema_decay) == (1.0, None, None)
        assert (schedule.warmup, schedule.warmup_factor, schedule.gamma) == (1000, 1e-3, 0.1)
        assert schedule.learning_rate == (0.02 if "fasterrcnn" in name else 0.01)
        assert detector.min_size == (640, 672, 704, 736, 768, 800)
        assert (detector.max_size, detector.width) == (1333, 256)
        assert detector.backbone == ("resnet50" if "_r50" in name else "resnet101")
        assert config.data.flip == 0.5
        assert detector.weights == "imagenet_v1"
        p5 = "fasterrcnn" in name or ("fcos" in name and "labelenc" in name)
        assert detector.p6_from == ("p5" if p5 else "c5")
        assert schedule.zero_from == (
            None if "stepwise" not in name else 85_000 if "90k" in name else 170_000
        )


@pytest.mark.parametrize("stage", STAGES)
def test_lgd_and_sssd(stage: str) -> None:
    lgd, sssd = (row(f"{stage}_{method}") for method in ("lgd", "sssd"))
    for config in (lgd, sssd):
        assert config.schedule.iterations == 180_000
        assert config.schedule.milestones == (120_000, 160_000)
        assert (config.method.coefficient.start, config.method.frozen_backbone) == (30_000, 20_000)
        fusion = config.method.fusion
        assert (fusion.name, fusion.context, fusion.detach) == ("relation", *LGD_FUSION[stage])
        assert config.method.adapter == "full"
    assert (lgd.method.name, lgd.method.coefficient.value) == ("lgd", 1.0)
    assert (sssd.method.name, sssd.method.coefficient.value) == ("sssd", 75.0)
    assert (sssd.method.elements, sssd.method.over, sssd.method.root) == (
        "mean",
        "channels",
        "level",
    )
    for method in ("lgd", "sssd"):
        stepwise, short = (row(f"{stage}_{method}_{kind}") for kind in ("stepwise", "90k"))
        value = stepwise.method.coefficient.value
        milestones = stepwise.schedule.milestones
        at = [stepwise.method.coefficient.at(i, milestones) for i in (119_999, 120_000)]
        assert at == [value, 2 * value]
        assert short.schedule.iterations == 90_000
        assert short.schedule.milestones == (60_000, 80_000)
        assert (short.method.coefficient.start, short.method.frozen_backbone) == (15_000, 10_000)


@pytest.mark.parametrize("stage", STAGES)
def test_labelenc(stage: str) -> None:
    second, long = (row(f"{stage}_labelenc_{step}") for step in ("step2", "step2_180k"))
    first = row(f"{stage.replace('101', '50')}_labelenc_step1")
    assert first.schedule.iterations == 120_000
    assert first.schedule.milestones == (90_000, 110_000)
    assert dataclasses.astuple(first.method.coefficient) == (1.0, 1.0, {}, 30_000, None)
    assert second.schedule.iterations == 90_000
    assert dataclasses.astuple(second.method.coefficient) == (1.0, 1.0, {}, 0, 80_000)
    assert (long.schedule.iterations, long.method.coefficient.stop) == (180_000, 160_000)


def test_names_are_those_of_the_command() -> None:
    assert ["demo", "small", "coco", *PAPER] == list(RECIPES)
