"""Trains an attached detector in the processes that torchrun starts; see test_torchvision_loop."""

import sys
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from sssd.integrations import attach
from tests.small import images_and_targets
from tests.tiny import tiny_detector

distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.set_num_threads(1)
model = tiny_detector("fcos", classes=5).model.train()
part = attach(model, coefficient={"value": 1.0, "steps": {41: 3.0}})
if rank == 0:  # which goes on with a checkpoint, as DistributedDataParallel then tells the others
    part.step.fill_(40)
parallel = DistributedDataParallel(model)  # would fail in a step without some gradient
optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01)
for step in range(2):
    losses = parallel(*images_and_targets(seed=10 * rank + step))
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
state = model.state_dict() | {"lambda": torch.tensor(part.metrics["lambda"])}
torch.save(state, Path(sys.argv[1]) / f"rank{rank}.pt")
distributed.destroy_process_group()
