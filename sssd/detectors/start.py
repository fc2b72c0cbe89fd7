"""A detector that starts from the weights of another one, whose classes may be others."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.ops import FrozenBatchNorm2d

from sssd.commands import to_resume
from sssd.detectors.settings import DetectorConfig
from sssd.detectors.weights import fit_weights, read_weights

FLAG = "--detector.start-from"
COCO = "coco"
PUBLISHED = {"retinanet": "RetinaNet", "fcos": "FCOS", "fasterrcnn": "FasterRCNN"}
OF_THE_NETWORK = ("name", "backbone", "width", "p6_from")
# Weights with rows of classes: how many rows a class has side by side, and how many classes come
# before those of the data. Rows of anchors (RetinaNet) are outside of those of classes.
CLASS_ROWS = {
    "classification_head.cls_logits": (1, 0),
    "box_predictor.cls_score": (1, 1),
    "box_predictor.bbox_pred": (4, 1),
}


class _Origin(NamedTuple):
    """Weights, and what is known of them."""

    name: str
    state: dict[str, Tensor]
    classes: list[str] | None = None
    network: Mapping[str, object] | None = None


def start(
    model: nn.Module, config: DetectorConfig, num_classes: int, classes: Sequence[str] | None
) -> str:
    """Loads the weights that `config.start_from` names; heads keep the classes of the same names.

    Args:
        model: torchvision's model within the detector.
        config: its settings.
        num_classes: how many classes it has.
        classes: their names; None: they are those of the weights.

    Returns:
        A line that tells which classes are kept and which are new.

    Raises:
        FileNotFoundError: no such file, or a run that has not ended.
        OSError: torchvision's weights cannot be downloaded.
        ValueError: weights of another network, or of other classes without names.
    """
    is_coco = str(config.start_from) == COCO
    origin = _published(config) if is_coco else _of_file(config)
    name, known, state = origin.name, origin.classes, origin.state
    _refuse_another_network(origin, config)
    count = _count(model, state, num_classes)
    if known is None and count not in (None, num_classes):
        _, of_coco = _coco(config)
        if count == len(of_coco):
            known, name = of_coco, f"{name}, assumed to be torchvision's COCO weights"
            is_coco = True
    if is_coco and config.name != "fcos":
        state = state | _with_eps(model, state)
    if known is None or classes is None:
        if count not in (None, num_classes):
            raise ValueError(
                f"{origin.name} ({FLAG}) has {count} classes without names; there are "
                f"{num_classes} here. Give the model.safetensors of a run, which has the names, or "
                "data with the same number of classes"
            )
        fit_weights(model, state, Path(origin.name), FLAG)
        return f"starting from {name}: all {num_classes} classes, matched by number"
    if count not in (None, len(known)):
        raise ValueError(
            f"{origin.name} ({FLAG}) has {count} classes but names {len(known)}: the file was "
            "modified"
        )
    kept = [n for n in classes if list(classes).count(n) == known.count(n) == 1]
    rows = [(classes.index(n), known.index(n)) for n in kept]
    state = state | _with_rows(model, state, num_classes, rows)
    fit_weights(model, state, Path(origin.name), FLAG)
    return f"starting from {name}: {_told(classes, kept)}"


def _told(classes: Sequence[str], kept: list[str]) -> str:
    new = [name for name in classes if name not in kept]
    if not new:
        return f"all {len(classes)} classes are kept"
    if not kept:
        return (
            f"it has none of the {len(classes)} classes; their rows of the head start from scratch"
        )
    return f"kept classes: {', '.join(kept)}; new: {', '.join(new)}"


def _of_file(config: DetectorConfig) -> _Origin:
    assert config.start_from is not None
    path = config.start_from
    if (path / "config.json").is_file():  # a run's folder
        path /= "model.safetensors"
        if not path.is_file():
            run = path.parent
            raise FileNotFoundError(
                f"{FLAG}: the run in {run} is not finished, so it has no {path.name}; resume it "
                f"(`python -m sssd.train {to_resume(run)}`), or give a file"
            )
    state, metadata = read_weights(path, FLAG)
    classes, network = (_stated(metadata, name) for name in ("classes", "detector"))
    return _Origin(
        str(path),
        state,
        [str(name) for name in classes] if isinstance(classes, list) else None,
        network if isinstance(network, dict) else None,
    )


def _stated(metadata: dict[str, str], name: str) -> object:
    try:
        return json.loads(metadata.get(name, "null"))
    except ValueError:  # of another program
        return None


def _published(config: DetectorConfig) -> _Origin:
    """What torchvision has trained on COCO."""
    network = {"name": config.name, "backbone": "resnet50", "width": 256, "p6_from": "p5"}
    weights, classes = _coco(config)
    _refuse_another_network(_Origin(f"torchvision's {weights}", {}, network=network), config)
    try:
        state = weights.get_state_dict(check_hash=True)
    except urllib.error.URLError as error:
        raise OSError(
            f"{FLAG} {COCO}: {weights.url} cannot be downloaded ({error.reason}). Download it on a "
            f"machine with internet access and give the file ({FLAG} FILE)"
        ) from error
    return _Origin(f"torchvision's {weights}", state, classes, network)


def _coco(config: DetectorConfig) -> tuple[WeightsEnum, list[str]]:
    """Torchvision's weights for a detector, and what their rows of classes stand for."""
    name = f"{PUBLISHED[config.name]}_ResNet50_FPN_Weights.COCO_V1"
    weights = torchvision.models.get_weight(name)
    classes = list(weights.meta["categories"])
    # One-stage detectors have a row for "__background__", which torchvision never trained.
    return weights, classes[1:] if config.name == "fasterrcnn" else classes


def _with_eps(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scales of frozen batch norms with an eps, that do what those of weights do without one.

    Those of torchvision's COCO_V1, but for FCOS, had none when they were trained: torchvision sets
    it to 0 where it loads them (`overwrite_eps`, pytorch/vision 2933).
    """
    norms = {n: m for n, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    scales = {f"{n}.weight": (f"{n}.running_var", m.eps) for n, m in norms.items()}
    return {
        scale: state[scale] * (state[variance] + eps).sqrt() * state[variance].rsqrt()
        for scale, (variance, eps) in scales.items()
        if scale in state and variance in state
    }


def _refuse_another_network(origin: _Origin, config: DetectorConfig) -> None:
    known = origin.network or {}
    own = {name: getattr(config, name) for name in OF_THE_NETWORK if name in known}
    other = [name for name, value in own.items() if value != known[name]]
    if other:
        flags = {n: f"--detector.{n.replace('_', '-')}" for n in other}
        theirs = " ".join(f"{flag} {known[n]}" for n, flag in flags.items())
        ours = " ".join(f"{flag} {own[n]}" for n, flag in flags.items())
        raise ValueError(
            f"{origin.name} ({FLAG}) was trained with {theirs}, but here it is {ours}: use the "
            "former, or start from other weights"
        )


def _count(model: nn.Module, state: dict[str, Tensor], num_classes: int) -> int | None:
    """How many classes weights have, by the first that has rows of them; None: none has."""
    for name, own in model.state_dict().items():
        rows = CLASS_ROWS.get(".".join(name.split(".")[-3:-1]))
        if rows is not None and name in state:
            before = rows[1]
            return len(state[name]) * (num_classes + before) // len(own) - before
    return None


def _with_rows(
    model: nn.Module, state: dict[str, Tensor], num_classes: int, rows: list[tuple[int, int]]
) -> dict[str, Tensor]:
    """A model's own weights of classes, with (own, other) rows taken from a state dict."""
    found = {}
    for name, own in model.state_dict().items():
        layout = CLASS_ROWS.get(".".join(name.split(".")[-3:-1]))
        if layout is None or name not in state:
            continue
        per_class, before = layout
        anchors = len(own) // (num_classes + before) // per_class
        if len(state[name]) % (anchors * per_class) or own.shape[1:] != state[name].shape[1:]:
            continue  # of another network: it does not fit, and that is told
        new = own.clone().unflatten(0, (anchors, num_classes + before, per_class))
        other = state[name].unflatten(0, (anchors, -1, per_class))
        for here, there in [(i, i) for i in range(before)] + [
            (here + before, there + before) for here, there in rows
        ]:
            new[:, here] = other[:, there]
        found[name] = new.flatten(0, 2)
    return found
