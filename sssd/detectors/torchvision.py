"""torchvision's FCOS, RetinaNet and Faster R-CNN as the detector protocol has them.

Each wraps the unchanged torchvision model as `self.model`: what training leaves in
`detector.model.state_dict()` loads into the plain torchvision class.
"""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList

from sssd.detectors.protocol import Batch, Detector, Losses, Maps, Targets
from sssd.precision import widen_maps, widen_output


class TorchvisionDetector(Detector):
    """What torchvision's three detectors share: the transform, the backbone, fp32 anchors."""

    model: Any  # of torchvision, whose attributes are not typed

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.model = model
        self.num_classes = num_classes
        self.width = int(self.model.backbone.out_channels)

    @property
    def backbone(self) -> nn.Module:
        """The residual network below the pyramid."""
        return self.model.backbone.body

    @property
    def pyramid(self) -> nn.Module:
        """Torchvision's feature pyramid network."""
        return self.model.backbone.fpn

    @property
    def max_detections(self) -> int | None:
        """The most objects that it finds in an image, all classes together; it may be changed."""
        most: int | None = self._postprocessing.detections_per_img
        return most

    @max_detections.setter
    def max_detections(self, most: int | None) -> None:
        self._postprocessing.detections_per_img = most

    @property
    def _postprocessing(self) -> Any:
        """The part of the model that chooses the detections."""
        return self.model

    def prepare(self, images: Sequence[Tensor], targets: Targets | None = None) -> Batch:
        """Runs torchvision's transform: normalise, resize, pad to a multiple of 32."""
        original_sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        image_list, targets = self.model.transform(list(images), targets)
        return Batch(image_list.tensors, image_list.image_sizes, original_sizes, targets)

    def maps(self, batch: Batch) -> Maps:
        """Output of `model.backbone`."""
        return list(self.model.backbone(batch.tensors).values())

    def detections(self, maps: Maps, batch: Batch) -> list[dict[str, Tensor]]:
        """Post-processing of torchvision, boxes scaled back to the original images."""
        found = self._detections_in_batch(maps, batch)
        return self.model.transform.postprocess(found, batch.sizes, batch.original_sizes)

    @abstractmethod
    def _detections_in_batch(self, maps: Maps, batch: Batch) -> list[dict[str, Tensor]]:
        """Detections in pixels of the padded batch."""


class _OneStage(TorchvisionDetector):
    """FCOS and RetinaNet: one head over all levels, targets assigned by anchors alone."""

    def __init__(self, model: FCOS | RetinaNet, num_classes: int) -> None:
        super().__init__(model, num_classes)
        model.anchor_generator.register_forward_pre_hook(widen_maps)
        model.head.register_forward_hook(widen_output)

    @property
    def head(self) -> nn.Module:
        """Classification and regression towers."""
        return self.model.head

    @abstractmethod
    def _match(self, targets: Targets, anchors: list[Tensor], cells: list[int]) -> list[Tensor]:
        """Index of the target that each anchor answers for, -1 for none, image by image."""

    def assign(self, maps: Maps, batch: Batch) -> Any:
        """Anchors and matched targets of each image."""
        assert batch.targets is not None
        anchors = self._anchors(maps, batch)
        return anchors, self._match(batch.targets, anchors, _cells(maps))

    def losses(self, maps: Maps, batch: Batch, assignment: Any) -> Losses:
        """Losses of the head: classification and bbox_regression."""
        anchors, matches = assignment
        outputs = self._head_outputs(maps)
        return self.model.head.compute_loss(batch.targets, outputs, anchors, matches)

    def _head_outputs(self, maps: Maps) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.model.head(maps)
        return outputs

    def _anchors(self, maps: Maps, batch: Batch) -> list[Tensor]:
        return self.model.anchor_generator(_image_list(batch), maps)

    def _detections_in_batch(self, maps: Maps, batch: Batch) -> list[dict[str, Tensor]]:
        outputs = self._head_outputs(maps)
        per_cell = self.model.anchor_generator.num_anchors_per_location()[0]
        counts = [cells * per_cell for cells in _cells(maps)]
        return self.model.postprocess_detections(
            {name: list(output.split(counts, dim=1)) for name, output in outputs.items()},
            [list(anchors.split(counts)) for anchors in self._anchors(maps, batch)],
            batch.sizes,
        )


class FCOSDetector(_OneStage):
    """torchvision's FCOS (Tian et al., ICCV 2019, arXiv 1904.01355).

    Its losses are sums over a batch, divided by the batch's number of foreground cells. Where
    several processes share a batch that is their common number, as in one process with all images:
    every one of them must call `assign`.
    """

    def assign(self, maps: Maps, batch: Batch) -> Any:
        """Anchors and matched targets of each image, and a factor of the losses."""
        anchors, matches = super().assign(maps, batch)
        return anchors, matches, _foreground_factor(matches)

    def losses(self, maps: Maps, batch: Batch, assignment: Any) -> Losses:
        """Losses of the head: classification, bbox_regression and bbox_ctrness."""
        anchors, matches, factor = assignment
        losses = super().losses(maps, batch, (anchors, matches))
        if factor is None:
            return losses
        return {name: loss * factor for name, loss in losses.items()}

    def _match(self, targets: Targets, anchors: list[Tensor], cells: list[int]) -> list[Tensor]:
        # torchvision's own assignment, run with a head that hands back the matches.
        borrowed = SimpleNamespace(
            center_sampling_radius=self.model.center_sampling_radius, head=_MATCHES_AS_LOSS
        )
        return FCOS.compute_loss(borrowed, targets, {}, anchors, cells)


class RetinaNetDetector(_OneStage):
    """torchvision's RetinaNet (Lin et al., ICCV 2017, arXiv 1708.02002)."""

    def _match(self, targets: Targets, anchors: list[Tensor], cells: list[int]) -> list[Tensor]:
        borrowed = SimpleNamespace(
            proposal_matcher=self.model.proposal_matcher, head=_MATCHES_AS_LOSS
        )
        return RetinaNet.compute_loss(borrowed, targets, {}, anchors)


class FasterRCNNDetector(TorchvisionDetector):
    """torchvision's Faster R-CNN (Ren et al., NeurIPS 2015, arXiv 1506.01497).

    Its class 0 is the background, so labels are shifted by one on the way in and back on the way
    out. The proposals come from the maps, so nothing of the assignment can be shared between K
    and K_e.
    """

    def __init__(self, model: FasterRCNN, num_classes: int) -> None:
        super().__init__(model, num_classes)
        model.rpn.anchor_generator.register_forward_pre_hook(widen_maps)
        model.rpn.head.register_forward_hook(widen_output)
        model.roi_heads.box_predictor.register_forward_hook(widen_output)
        self._level_names = [*model.backbone.body.return_layers.values(), "pool"]

    @property
    def head(self) -> nn.Module:
        """The proposal network and the box head."""
        return nn.ModuleDict({"rpn": self.model.rpn, "roi_heads": self.model.roi_heads})

    @property
    def _postprocessing(self) -> Any:
        return self.model.roi_heads

    def assign(self, maps: Maps, batch: Batch) -> None:
        """Nothing to share: see the class."""

    def losses(self, maps: Maps, batch: Batch, assignment: None) -> Losses:
        """Losses of both stages, under torchvision's names."""
        assert batch.targets is not None
        shifted = [{**target, "labels": target["labels"] + 1} for target in batch.targets]
        features = self._features(maps)
        proposals, first = self.model.rpn(_image_list(batch), features, shifted)
        _, second = self.model.roi_heads(features, proposals, batch.sizes, shifted)
        return {**second, **first}

    def _detections_in_batch(self, maps: Maps, batch: Batch) -> list[dict[str, Tensor]]:
        features = self._features(maps)
        proposals, _ = self.model.rpn(_image_list(batch), features)
        found, _ = self.model.roi_heads(features, proposals, batch.sizes)
        return [{**detections, "labels": detections["labels"] - 1} for detections in found]

    def _features(self, maps: Maps) -> "OrderedDict[str, Tensor]":
        return OrderedDict(zip(self._level_names, maps, strict=True))


_MATCHES_AS_LOSS = SimpleNamespace(
    compute_loss=lambda targets, outputs, anchors, matched_idxs: matched_idxs
)


def _foreground_factor(matches: list[Tensor]) -> Tensor | None:
    """This process's number of foreground cells over the mean of all processes; None if alone."""
    if not dist.is_available() or not dist.is_initialized():
        return None
    own = torch.stack([(match >= 0).sum() for match in matches]).sum().float()
    total = own.clone()
    dist.all_reduce(total)
    # torchvision divides by max(1, own); the mean over the processes divides by their number.
    return own.clamp_min(1) * dist.get_world_size() / total.clamp_min(1)


def _image_list(batch: Batch) -> ImageList:
    return ImageList(batch.tensors, batch.sizes)


def _cells(maps: Maps) -> list[int]:
    return [m.shape[-2] * m.shape[-1] for m in maps]
