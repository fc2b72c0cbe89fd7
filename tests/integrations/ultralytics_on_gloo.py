"""One of two processes: runs the file that Ultralytics writes for its DDP, over gloo on the CPU."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from ultralytics.engine.trainer import BaseTrainer

script, folder = map(Path, sys.argv[1:])
rank = int(os.environ["RANK"])
made, wrap = BaseTrainer.__init__, nn.parallel.DistributedDataParallel


def initialised(self: Any, *arguments: Any, **keywords: Any) -> None:
    made(self, *arguments, **keywords)
    self.world_size = 2


def on_gloo(self: Any) -> None:
    place = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)


def saved(self: Any) -> None:
    """Instead of the last evaluation, which asks CUDA for the device."""
    torch.save(self.model.module.state_dict(), folder / f"rank{rank}.pt")


BaseTrainer.__init__, BaseTrainer._setup_ddp, BaseTrainer.final_eval = initialised, on_gloo, saved
nn.parallel.DistributedDataParallel = lambda model, device_ids, **keywords: wrap(model, **keywords)
exec(compile(script.read_text(), script, "exec"))
distributed.destroy_process_group()
