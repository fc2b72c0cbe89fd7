"""Signals stop a run between two steps, and nothing of it before."""

import os
import signal
from pathlib import Path

import pytest

from sssd.data import read_coco, training_loader
from sssd.engine.interrupt import StopSignals
from tests.scenes import write_scenes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_the_next_one_ends_the_process(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received == number
        assert signal.getsignal(number) == before, "the next one does what it always did"
    assert signal.getsignal(number) == before


def test_torchrun_may_send_a_signal_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_loader_workers_outlive_the_signals_of_a_run(tmp_path: Path) -> None:
    dataset = read_coco(write_scenes(tmp_path, "train"))
    batches = training_loader(dataset, batch_size=2, seed=0, workers=1)
    next(batches)
    (worker,) = batches._workers
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker.pid, number)
    for _ in range(12):  # more than the loader reads ahead
        next(batches)
    assert worker.is_alive()
