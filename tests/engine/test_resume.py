"""A run goes on with its own settings; another is honoured and recorded, or refused unharmed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from sssd.engine.log import read_metrics
from sssd.engine.record import by_flag, read_record, read_settings, write_record
from sssd.engine.resume import HONOURED
from sssd.engine.runs import load
from sssd.engine.state import checkpoints
from sssd.methods import METHODS, RelationConfig, SSSDConfig
from sssd.recipes import Config
from sssd.train import main, parse
from tests.runs import make_run
from tests.scenes import write_scenes

# Every setting there is, with another value than the run has. One that stands nowhere has not been
# thought about: add its flag to HONOURED if a run may go on with another value, and here.
REFUSED = {
    "--data.pixel-range": ["0", "255"],
    "--data.flip": ["0.25"],
    "--data.photometric": [],
    "--data.scale": ["1.5"],
    "--data.mosaic": ["0.25"],
    "--detector.name": ["retinanet"],
    "--detector.backbone": ["resnet34"],
    "--detector.weights": ["imagenet"],
    "--detector.start-from": ["model.safetensors"],
    "--detector.width": ["96"],
    "--detector.p6-from": ["c5"],
    "--detector.min-size": ["48"],
    "--detector.max-size": ["320"],
    "--detector.frozen-stages": ["1"],
    "--method.name": ["lgd"],
    "--method.coefficient.value": ["3"],
    "--method.coefficient.step-factor": ["4"],
    "--method.coefficient.steps": ["1", "2.0"],
    "--method.coefficient.start": ["7"],
    "--method.coefficient.stop": ["9"],
    "--method.fusion.name": ["painted"],
    "--method.fusion.no-context": [],
    "--method.fusion.detach": [],
    "--method.over": ["cells"],
    "--method.temperature": ["2"],
    "--method.root": ["None"],
    "--method.elements": ["mean"],
    "--method.adapter": ["none"],
    "--method.teacher-every": ["2"],
    "--method.frozen-backbone": ["1"],
    "--method.step1-weights": ["step1.safetensors"],
    "--engine.batch-size": ["4"],
    "--engine.optimizer": ["sgd"],
    "--engine.ema-decay": ["0.5"],
    "--engine.seed": ["5"],
}
TAKEN = {
    "--data.format": ["coco"],
    "--data.train": ["elsewhere.json"],
    "--data.train-images": ["elsewhere"],
    "--data.val": ["elsewhere.json"],
    "--data.val-images": ["elsewhere"],
    "--data.train-split": ["test"],
    "--data.val-split": ["test"],
    "--data.val-share": ["0.2", "--data.val", "None"],
    "--data.on-bad-data": ["drop"],
    "--schedule.iterations": ["5"],
    "--schedule.epochs": ["3"],
    "--schedule.learning-rate": ["0.001"],
    "--schedule.milestones": ["2", "4"],
    "--schedule.gamma": ["0.5"],
    "--schedule.warmup": ["3"],
    "--schedule.warmup-factor": ["0.5"],
    "--schedule.zero-from": ["4"],
    "--engine.backbone-factor": ["0.5"],
    "--engine.weight-decay": ["0.3"],
    "--engine.clip-value": ["0.2"],
    "--engine.clip-norm": ["0.1"],
    "--engine.precision": ["bf16"],
    "--engine.accumulate": ["2"],
    "--engine.no-channels-last": [],
    "--engine.device": ["cpu"],
    "--engine.deterministic": [],
    "--engine.workers": ["1"],
    "--engine.log-every": ["1"],
    "--engine.checkpoint-every": ["3"],
    "--engine.evaluate-every": ["2"],
    "--engine.evaluate-with": ["pycocotools"],
    "--engine.patience": ["3"],
    "--engine.loggers": ["tensorboard"],
}
OF_THE_COMMAND = {"--out", "--resume"}
METHOD = SSSDConfig(fusion=RelationConfig())
OF_THE_RUN = by_flag(Config(method=METHOD))
EXISTING = OF_THE_RUN.keys() | {flag for kind in METHODS for flag in by_flag(Config(method=kind()))}


def of(flag: str) -> str:
    """The name of a setting, given by its flag or the one that switches it off."""
    return flag.replace(".no-", ".")


def there(table: dict[str, list[str]]) -> list[str]:
    return [flag for flag in table if of(flag) in OF_THE_RUN]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one iteration."""
    return make_run(
        tmp_path_factory.mktemp("run"),
        *("--schedule.warmup", "1", "--method.name", "sssd", "--method.fusion.name", "relation"),
    )


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as raised:
        main(list(arguments))
    return int(str(raised.value.code)), " ".join(capsys.readouterr().err.split())


def test_every_setting_has_been_decided_about() -> None:
    decided = {of(flag) for flag in REFUSED} | {of(flag) for flag in TAKEN} | OF_THE_COMMAND
    assert decided == EXISTING
    assert {of(flag) for flag in TAKEN} | OF_THE_COMMAND == HONOURED


@pytest.mark.parametrize("flag", there(REFUSED))
def test_what_can_not_be_honoured_is_refused_with_both_values(flag: str, finished: Path) -> None:
    was = by_flag(read_settings(finished, Config))[of(flag)]
    with pytest.raises(ValueError, match="Nothing was written") as raised:
        parse(["--resume", "--out", str(finished), flag, *REFUSED[flag]])
    assert f"{of(flag)} is now " in str(raised.value)
    assert f" and was {was}" in str(raised.value)
    value = REFUSED[flag][-1] if REFUSED[flag] else str(flag == of(flag))
    assert value in str(raised.value)


@pytest.mark.parametrize("flag", there(TAKEN))
def test_what_is_honoured_is_recorded(flag: str, run: Path) -> None:
    was = by_flag(read_settings(run, Config))
    recipe, config = parse(["--resume", "--out", str(run), flag, *TAKEN[flag]])
    assert recipe == "small"
    now = by_flag(config)
    assert now[of(flag)] != was[of(flag)]
    write_record(run, recipe, config, iteration=1)
    (entry,) = read_record(run)["history"]
    assert entry["iteration"] == 1
    plain = json.loads(json.dumps([was[of(flag)], now[of(flag)]], default=str))
    assert entry["changed"][of(flag)] == plain
    again = by_flag(read_settings(run, Config))
    assert {f: v for f, v in again.items() if f not in OF_THE_COMMAND} == {
        f: v for f, v in now.items() if f not in OF_THE_COMMAND
    }


def test_a_run_goes_on_by_its_folder_alone_and_with_what_is_given_besides(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a divergence the advice is a lower rate: it must reach the optimizer."""
    more = ["--schedule.iterations", "3", "--schedule.learning-rate", "0.0016"]
    more += ["--engine.weight-decay", "0.3", "--engine.backbone-factor", "0.5"]
    more += ["--engine.log-every", "1"]
    assert main(["--resume", "--out", str(run), *more]) == 0
    said = capsys.readouterr().out
    assert "resumes after iteration 1" in said
    assert "--schedule.learning-rate 0.0016 (was 0.008)" in said
    rates = {r["iteration"]: r["learning_rate"] for r in read_metrics(run) if "loss" in r}
    # small: x 2/16 for the batch; the milestone at 1 has multiplied it by 0.3
    assert rates[2] == rates[3] == pytest.approx(0.0016 * 2 / 16 * 0.3)
    groups = torch.load(checkpoints(run)[-1], weights_only=True)["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.3]
    assert groups[0]["lr"] == pytest.approx(groups[1]["lr"] / 2)
    before = read_record(run)
    (entry,) = before["history"]
    assert entry["iteration"] == 1
    assert entry["changed"]["--engine.weight-decay"] == [0.05, 0.3]
    assert main(["--resume", "--out", str(run)]) == 0
    assert read_record(run) == before, "nothing has changed"


def test_a_refused_command_leaves_a_finished_run_as_it_was(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, resume = contents(run), ["--resume", "--out", str(run)]
    other = write_scenes(tmp_path / "other", "train", count=5)
    config = run / "config.json"
    edited = config.read_text().replace('"max_size": 64', '"max_size": 320')
    cases: list[tuple[int, str, list[str]]] = [
        (2, "--engine.optimizer is now sgd and was adamw", ["--engine.optimizer", "sgd"]),
        (2, "--detector.max-size is now 320 and was 64", ["--detector.max-size", "320"]),
        (1, "training data's fingerprint is", ["--data.train", str(other)]),
        (1, "validation data's fingerprint is", ["--data.val", str(other)]),
    ]
    for status, said, arguments in cases:
        found = refusal(capsys, *resume, *arguments)
        assert found[0] == status, found
        assert said in found[1]
        assert contents(run) == before, said
    config.write_text(edited)
    status, message = refusal(capsys, *resume)  # the checkpoint knows better
    assert "--detector.max-size is now 320 and was 64" in message
    assert config.read_text() == edited
    config.write_bytes(before["config.json"])
    assert len(load(run).classes) == 2


def test_a_run_can_not_be_shorter_than_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--resume", "--out", str(run), "--schedule.iterations", "2"]) == 0
    before = contents(run)
    found = refusal(capsys, "--resume", "--out", str(run), "--schedule.iterations", "1")
    assert found == (
        1,
        "error: 1 iterations are asked for (--schedule.iterations or --schedule.epochs), but the "
        "run has already done 2; ask for more",
    )
    assert contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume"], "name the run's folder with --out"),
        (["--resume", "--out", "nowhere"], "nowhere holds no checkpoint"),
        (["coco", "--resume", "--out", "RUN"], "RUN was started with the recipe small"),
    ],
)
def test_what_there_is_to_go_on_with_is_asked_for(
    arguments: list[str], said: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.parent)
    Path("RUN").symlink_to(finished)
    with pytest.raises(ValueError, match=said):
        parse(arguments)
    Path("RUN").unlink()
