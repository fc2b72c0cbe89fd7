"""Started by torchrun: trains four steps, then again two and two more from the checkpoint."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from sssd import attach
from tests.integrations.transformers_runs import STEPWISE, scenes, small, trainer


def run(folder: Path, rows: list[dict[str, Any]], resume: str | None) -> Any:
    """A Trainer that has trained."""
    model = small()
    attach(model, coefficient=STEPWISE)
    made = trainer(
        model, rows, folder, steps=4, save_strategy="steps", save_steps=2,
        per_device_train_batch_size=1, gradient_accumulation_steps=2,
        ddp_find_unused_parameters=False,
    )  # fmt: skip
    made.train(resume_from_checkpoint=resume)
    return made


def sums(model: torch.nn.Module) -> list[float]:
    """Tells weights apart, those of the part too."""
    return [float(p.double().sum()) for p in model.parameters()]


def main(folder: Path) -> None:
    """Writes what each process found."""
    torch.set_num_threads(1)
    rows = scenes(folder / "cache")
    whole = run(folder, rows, None)
    resumed = run(folder, rows, str(folder / "checkpoint-2"))
    found = {
        "weights": sums(whole.model),
        "resumed": sums(resumed.model),
        "log": [x for x in whole.state.log_history if "loss" in x],
    }
    rank = torch.distributed.get_rank()
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
