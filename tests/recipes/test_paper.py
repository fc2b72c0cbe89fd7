"""The recipes of the paper's comparison hold the published numbers; twins differ in size alone."""

import dataclasses

import pytest

from sssd.recipes import RECIPES, describe
from sssd.recipes.paper import PAPER, TWINS

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
    sweep = {n: r().method.coefficient.value for n, r in PAPER.items() if "_lambda" in n}
    assert sweep == {f"retinanet_r50_sssd_lambda{v}": v for v in (10, 25, 50, 100, 150)}
    assert len({describe(PAPER[name]()) for name in sweep}) == len(sweep)


def test_what_all_rows_share() -> None:
    for name in PAPER:
        config = PAPER[name]()
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
    lgd, sssd = (PAPER[f"{stage}_{method}"]() for method in ("lgd", "sssd"))
    for config in (lgd, sssd):
        assert config.schedule.iterations == 180_000
        assert config.schedule.milestones == (120_000, 160_000)
        assert (config.method.coefficient.start, config.method.frozen_backbone) == (30_000, 20_000)
        fusion = config.method.fusion
        assert (fusion.name, fusion.context, fusion.detach) == ("relation", *LGD_FUSION[stage])
        assert config.method.adapter == "full"
    assert (lgd.method.name, lgd.method.coefficient.value) == ("lgd", 1.0)
    assert (sssd.method.name, sssd.method.coefficient.value) == ("sssd", 75.0)
    assert (sssd.method.reduction, sssd.method.over, sssd.method.root) == (
        "element",
        "channels",
        "level",
    )
    for method in ("lgd", "sssd"):
        stepwise, short = (PAPER[f"{stage}_{method}_{kind}"]() for kind in ("stepwise", "90k"))
        value = stepwise.method.coefficient.value
        milestones = stepwise.schedule.milestones
        at = [stepwise.method.coefficient.at(i, milestones) for i in (119_999, 120_000)]
        assert at == [value, 2 * value]
        assert short.schedule.iterations == 90_000
        assert short.schedule.milestones == (60_000, 80_000)
        assert (short.method.coefficient.start, short.method.frozen_backbone) == (15_000, 10_000)


@pytest.mark.parametrize("stage", STAGES)
def test_labelenc(stage: str) -> None:
    second, long = (PAPER[f"{stage}_labelenc_{step}"]() for step in ("step2", "step2_180k"))
    first = PAPER[f"{stage.replace('101', '50')}_labelenc_step1"]()
    assert first.schedule.iterations == 120_000
    assert first.schedule.milestones == (90_000, 110_000)
    assert dataclasses.astuple(first.method.coefficient) == (1.0, 1.0, {}, 30_000, None)
    assert second.schedule.iterations == 90_000
    assert dataclasses.astuple(second.method.coefficient) == (1.0, 1.0, {}, 0, 80_000)
    assert (long.schedule.iterations, long.method.coefficient.stop) == (180_000, 160_000)


def test_twins_differ_in_size_alone() -> None:
    for name in TWINS:
        small = TWINS[name]()
        large = PAPER[name.removeprefix("small/").replace("_lite0_", "_r50_")]()
        ratio = large.schedule.iterations / small.schedule.iterations
        assert ratio == 300
        assert small.engine == dataclasses.replace(large.engine, batch_size=4)
        assert small.schedule.learning_rate == large.schedule.learning_rate
        pairs = list(zip(small.schedule.milestones, large.schedule.milestones, strict=True))
        few, many = small.method.coefficient, large.method.coefficient
        pairs += [
            (few.start, many.start),
            (small.method.frozen_backbone, large.method.frozen_backbone),
        ]
        pairs += [*zip(few.steps, many.steps, strict=True), (few.stop or 0, many.stop or 0)]
        assert all(abs(a * ratio - b) <= ratio / 2 for a, b in pairs)
        assert list(few.steps.values()) == list(many.steps.values())
        sizes = {"coefficient": many, "frozen_backbone": large.method.frozen_backbone}
        assert dataclasses.replace(small.method, **sizes) == large.method
        assert (few.value, few.step_factor) == (many.value, many.step_factor)


def test_names_are_those_of_the_command() -> None:
    assert {"demo", "small", "coco", *PAPER, *TWINS} == RECIPES.keys()
