"""Arms are what they say and nothing else."""

from pathlib import Path

import pytest

from sssd.compare.arms import NAMED, longer, make_arms


def test_named_and_free_arms() -> None:
    free = "lambda 3: --method.coefficient.value 3 --data.flip=0"
    plain, sssd, own = make_arms("small", ["--engine.batch-size", "8"], ["plain", "sssd", free])
    assert plain.config.method.name == "plain"
    assert sssd.config.engine.batch_size == 8
    assert own.name == "lambda 3"
    assert own.config.method.coefficient.value == 3
    assert own.config.data.flip == 0


def test_all_named_arms_differ_in_the_method_alone() -> None:
    arms = make_arms("small", [], list(NAMED))
    for arm in arms:
        changed = {f for f, v in arm.settings.items() if arms[0].settings.get(f) != v}
        assert all(flag.startswith("--method.") for flag in changed)
    assert len({str(arm.settings) for arm in arms}) == len(NAMED)


def test_the_figures_are_plans() -> None:
    sweep = make_arms("small", [], ["paper-lambda"])
    values = {arm.config.method.coefficient.value for arm in sweep[1:]}
    assert sweep[0].name == "plain"
    assert len(sweep) == 11
    assert max(values) / min(values) == pytest.approx(100)  # two decades
    assert {arm.config.method.name for arm in sweep} == {"plain", "sssd", "lgd"}
    steps = make_arms("small", [], ["paper-stepwise"])
    factors = {arm.name: arm.config.method.coefficient.step_factor for arm in steps[1:]}
    assert factors == {"sssd-fixed": 1, "sssd": 2, "lgd": 1, "lgd-stepwise": 2}


REFUSED = {
    "at least two": ["plain"],
    "known are plain": ["plain", "sssdd"],
    'write "name: --flag value"': ["plain", "empty:"],
    "the name another than": ["plain", "sssd: --data.flip 0"],
    "two arms are called 'x'": ["x: --data.flip 0", "x: --data.flip 1"],
    "'sssd' and 'again' are the same training": ["sssd", "again: --method.name sssd"],
    "--engine.seed: the plan sets seeds": ["plain", "x: --engine.seed 3"],
    "--out: the plan sets": ["plain", "x: --out y --data.flip 0"],
    "--schedule.iterations must be the same": ["plain", "x: --schedule.iterations=9"],
    "--data.val must be the same": ["plain", "x: --data.val y"],
    "--data.train must be the same": ["plain", "x: --data.train y --data.flip 0"],
    "--arms x: ": ["plain", "x: --data.flop 0"],
    "runs that end early are not of equal iterations": [
        "plain",
        "x: --data.flip 0 --engine.evaluate-every 5 --engine.patience 2",
    ],
    "--arms plain: --method.temperature has no effect": ["plain", "sssd"],
}


def test_a_file_of_weights_is_known_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced between two days of a plan, it is another arm."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").touch()  # the working folder may be a run's
    path = tmp_path / "step1.safetensors"
    settings = []
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        flags = f"--method.name labelenc_step2 --method.step1-weights {path}"
        settings.append(make_arms("small", [], ["plain", f"labelenc: {flags}"])[1].settings)
    assert settings[0] == settings[2] != settings[1]
    assert settings[0]["--method.step1-weights"].startswith(f"{path} (sha256 ")


@pytest.mark.parametrize("told", REFUSED)
def test_bad_arms_are_named(told: str) -> None:
    flags = ["--method.temperature", "2"] if "temperature" in told else []
    with pytest.raises(ValueError, match=r"--arms|plan chooses") as error:
        make_arms("small", flags, REFUSED[told])
    assert told in str(error.value)


def test_seeds_and_folders_are_not_for_all_arms_either() -> None:
    with pytest.raises(ValueError, match=r"--engine\.seed: the plan sets"):
        make_arms("small", ["--engine.seed", "1"], ["plain", "sssd"])


def test_an_arm_that_changes_more_than_it_says_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a flag that moves others along."""
    import dataclasses

    from sssd.compare import arms

    parse = arms.parse

    def moves_along(words: list[str]) -> tuple[str, arms.Config]:
        recipe, config = parse(words)
        if config.data.flip == 0:
            engine = dataclasses.replace(config.engine, batch_size=2)
            config = dataclasses.replace(config, engine=engine)
        return recipe, config

    monkeypatch.setattr(arms, "parse", moves_along)
    with pytest.raises(ValueError, match=r"--engine\.batch-size from 4 to 2 without naming it"):
        make_arms("small", [], ["plain", "x: --data.flip 0"])


def test_what_has_no_effect_is_not_moved_along() -> None:
    """Rounded twice, the start of distillation is another, which plain would refuse as a flag."""
    length = next(n for n in range(50, 400) if round(114 * n / 400) != round(100 * n / 350))
    flags = ["--schedule.iterations", "400"]  # of the recipe's 350
    plain, sssd = make_arms("small", flags, ["plain", "sssd"])
    assert longer("small", flags, plain, length).config.schedule.iterations == length
    start = longer("small", flags, sssd, length).config.method.coefficient.start
    assert start == round(114 * length / 400)


def test_a_longer_run_moves_everything_along() -> None:
    flags = ["--schedule.milestones", "100", "200", "--schedule.warmup", "10"]
    flags += ["--schedule.iterations", "300"]
    (_, sssd) = make_arms("small", flags, ["plain", "sssd"])
    schedule = longer("small", flags, sssd, 600).config.schedule
    assert (schedule.iterations, schedule.milestones, schedule.warmup) == (600, (200, 400), 20)
    coefficient = longer("small", flags, sssd, 600).config.method.coefficient
    assert coefficient.start == 2 * sssd.config.method.coefficient.start
    other = longer("small", flags, sssd, 600)
    changed = {f for f, v in other.settings.items() if sssd.settings[f] != v}
    assert changed == {
        "--schedule.iterations", "--schedule.milestones", "--schedule.warmup",
        "--method.coefficient.start",
    }  # fmt: skip


def test_steps_that_flags_gave_move_before_the_factor_is_judged() -> None:
    """At 250 still, steps would lie before the first milestone, and leave the factor no effect."""
    flags = ["--method.coefficient.steps", "250", "4", "--method.coefficient.step-factor", "3"]
    own = f"own: {' '.join(flags)}"
    arm = make_arms("small", [], ["plain", own])[1]
    config = longer("small", [], arm, 700).config
    assert config.method.coefficient.steps == {500: 4}
    assert config.schedule.milestones == (480, 620)
