"""What a run says before its first step."""

from sssd.detectors import DetectorConfig
from sssd.engine import distributed
from sssd.engine.device import name_of
from sssd.engine.loop import Trainer
from sssd.engine.memory import memory_in_use, memory_there
from sssd.engine.settings import EngineConfig


def first_lines(recipe: str, detector: DetectorConfig, trainer: Trainer) -> list[str]:
    """How long the run is, on which device, how many weights it trains, and on what.

    Args:
        recipe: what the settings are called.
        detector: its settings.
        trainer: of the run, before it begins.
    """
    engine, schedule, train_set = trainer.config, trainer.schedule, trainer.train_set
    device, dtype = trainer.train_step.device, trainer.train_step.dtype
    precision = "fp32" if dtype is None else str(dtype).removeprefix("torch.")
    weights = [p.numel() for p in trainer.method.parameters()]
    trained = [p.numel() for p in trainer.method.parameters() if p.requires_grad]
    epochs = schedule.iterations * engine.batch_size / len(train_set)
    rate = schedule.scaled_learning_rate(engine.batch_size)
    every = "AP only at the end"
    if trainer.evaluate_every:
        every = f"AP every {trainer.evaluate_every} iterations"
    return [
        f"{recipe}: {schedule.iterations} iterations = {epochs:.3g} epochs on {name_of(device)} "
        f"({precision}; {memory_in_use(device):.1f} of {memory_there(device):.0f} GB); "
        f"{trainer.method.config.name} trains {detector.name} on {detector.backbone}, "
        f"{sum(trained):,} of {sum(weights):,} weights",
        f"{len(train_set)} images, {len(trainer.validation_set)} for validation, "
        f"{train_set.num_classes} classes; batch {_batch(engine)}; learning rate "
        f"{schedule.learning_rate:g} x {engine.batch_size}/16 = {rate:g}; {every}; "
        f"run in {trainer.folder}",
    ]


def _batch(engine: EngineConfig) -> str:
    """The images of a step, as the processes share them: "16 = 2 processes x 2 parts x 4"."""
    processes = distributed.world_size()
    counts = [f"{processes} processes"] if processes > 1 else []
    counts += [f"{engine.accumulate} parts"] if engine.accumulate > 1 else []
    shares = " x ".join([*counts, str(engine.part_size(processes))])
    return f"{engine.batch_size} = {shares}" if counts else str(engine.batch_size)
