"""Who is told a run's metrics beside its own files: TensorBoard, W&B, MLflow, and any function."""

import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
Row = Mapping[str, float]
Logger = Callable[[Row, int], Any]
"""Is called as `logger(row, step)`: numbers by name, and the iteration that they are of.

What has a method `close` is closed at the end.
"""

PROJECT = "sssd"


class Loggers:
    """All loggers of a run. One that fails is named in a warning and gets no more metrics.

    Args:
        named: of `--engine.loggers`.
        others: functions of the user's own.
        run: the run's folder.
        iteration: steps that the run has made; what was logged after it, before a crash, counts no
            more.
        settings: of the run, by the names of their flags.
    """

    def __init__(
        self,
        named: Iterable[LoggerName],
        others: Iterable[Logger],
        run: Path,
        iteration: int,
        settings: Mapping[str, Any],
    ) -> None:
        self._loggers: dict[str, Logger] = {}
        for name in named:
            opened = self._try(name, KINDS[name], run, iteration, settings)
            if opened is not None:
                self._loggers[name] = opened
        for number, other in enumerate(others):
            self._loggers[f"{getattr(other, '__name__', type(other).__name__)} ({number})"] = other

    def log(self, row: Row, step: int) -> None:
        """Tells all of them."""
        for name, logger in list(self._loggers.items()):
            self._try(name, logger, row, step)

    def close(self) -> None:
        """Closes those that want to be."""
        for name, logger in list(self._loggers.items()):
            if hasattr(logger, "close"):
                self._try(name, logger.close)

    def _try(self, name: str, act: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return act(*arguments)
        except Exception as error:
            self._loggers.pop(name, None)
            warnings.warn(
                f"logger {name} failed and gets no more metrics; training continues, and the run's "
                f"own metrics are complete: {type(error).__name__}: {error}",
                stacklevel=3,
            )
            return None


class _TensorBoard:
    """Event files below `tensorboard` in the run's folder."""

    def __init__(self, run: Path, iteration: int, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import

        # TensorBoard drops what an interrupted run had written after the checkpoint's iteration.
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=iteration + 1)

    def __call__(self, row: Row, step: int) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a run that is killed resumes from what is in its checkpoint

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run of Weights & Biases, set up by its own environment (WANDB_MODE=offline, ...).

    Its id is kept in the folder: a run that goes on is the same run there, which takes a step that
    it has already as told.
    """

    def __init__(self, run: Path, iteration: int, settings: Mapping[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        self._alone = wandb.run is None  # else a notebook has one of its own
        options = wandb.Settings(console="off")  # it would take the place of the progress bar
        self._run = wandb.init(
            dir=str(run),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=_kept(run / "wandb_id.txt", iteration, lambda: uuid.uuid4().hex[:8]),
            resume="allow",
            config=dict(settings),
            reinit="create_new",
            settings=options,
        )

    def __call__(self, row: Row, step: int) -> None:
        self._run.log(dict(row), step=step)

    def close(self) -> None:
        self._run.finish()
        if self._alone:
            self._wandb.teardown()  # its process


class _MLflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI, or below `mlruns` in the run's folder.

    Its id is kept in the folder: a run that goes on is the same run there. MLflow takes nothing
    back, so what it has been told is not told again.
    """

    def __init__(self, run: Path, iteration: int, settings: Mapping[str, Any]) -> None:
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:
            place = (run / "mlruns").resolve().as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for a database
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, MlflowClient(tracking_uri=place)

        def create() -> str:
            experiment = self._client.get_experiment_by_name(PROJECT)
            number = (
                experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
            )
            made = self._client.create_run(number, run_name=run.name).info.run_id
            params = [Param(_mlflow_name(n), str(value)[:500]) for n, value in settings.items()]
            self._client.log_batch(made, params=params)
            return str(made)

        self._id = _kept(run / "mlflow_id.txt", iteration, create)
        self._client.update_run(self._id, status="RUNNING")
        histories = {
            name: self._client.get_metric_history(self._id, name)
            for name in self._client.get_run(self._id).data.metrics
        }
        self._told = {name: max(m.step for m in points) for name, points in histories.items()}

    def __call__(self, row: Row, step: int) -> None:
        now = int(1000 * time.time())
        values = {_mlflow_name(name): value for name, value in row.items()}
        metrics = [
            self._metric(name, value, now, step)
            for name, value in values.items()
            if step > self._told.get(name, -1)
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._id)


KINDS: dict[LoggerName, type[Any]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}


def _mlflow_name(name: str) -> str:
    """Without what it refuses, nor "/": in a folder, "loss" cannot lie beside "loss/..."."""
    return re.sub(r"[^\w.]+", "_", name.replace("/", ".").strip("-"))


def _kept(path: Path, iteration: int, create: Callable[[], str]) -> str:
    """The id in a file of a run that goes on; else a new one, which the file then holds."""
    if iteration and path.exists():
        return path.read_text().strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    made = create()
    path.write_text(made + "\n")
    return made
