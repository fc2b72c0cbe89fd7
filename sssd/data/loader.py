"""Batches of images: an order that is a pure function of the seed, and workers that share memory.

The position in the training stream is one integer, the number of batches consumed, so that a run
resumes anywhere at no cost. Neither the number of workers nor the number of processes changes the
samples: `world_size` processes of `batch_size` images see, together, the batches of one process of
`world_size * batch_size`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sssd.data.dataset import DetectionDataset, Target
from sssd.data.mosaic import MosaicTransform, mosaic
from sssd.data.workers import (
    Batches,
    ImagesAndTargets,
    NotedImages,
    begin_worker,
    parent_of_workers,
)

Sample = tuple[torch.Tensor, Target]
Transform = Callable[[torch.Tensor, Target], Sample]


def training_loader(
    dataset: DetectionDataset,
    batch_size: int,
    seed: int,
    workers: int = 0,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    transform: Transform | None = None,
) -> Batches:
    """Start the endless stream of training batches of one process.

    Every epoch is a permutation drawn from (seed, epoch); a sample's augmentation is drawn from
    (seed, epoch, index). A batch may hold the end of one epoch and the beginning of the next.

    Args:
        dataset: what to draw from.
        batch_size: images in a batch of this process.
        seed: of order and augmentation.
        workers: worker processes; 0 loads in this one.
        start: batches already consumed; the stream continues after them, without replaying them.
        rank: number of this process, 0..world_size-1.
        world_size: number of processes that share the stream.
        transform: augmentation of (image, target), such as `training_transform()`; a
            `MosaicTransform` gets some samples of four images.

    Returns:
        Iterator of (images, targets): float32 (3, H, W) in [0, 1], each of its own size, and dicts
        of boxes (n, 4) float32 xyxy in pixels, labels (n,) int64, and image_id. It raises DataError
        for an image that cannot be used, and WorkerKilled (see `Batches`).

    Raises:
        ValueError: the dataset is empty, or a number is out of its range.

    Example:
        >>> batches = training_loader(dataset, batch_size=8, seed=0, workers=2)  # doctest: +SKIP
        >>> images, targets = next(batches)  # doctest: +SKIP
    """
    if len(dataset) == 0:
        raise ValueError(f"dataset: {dataset.source} has no images to train on")
    if batch_size < 1 or start < 0:
        raise ValueError(
            f"batch_size must be at least 1 and start at least 0: {batch_size}, {start}"
        )
    _check_rank(rank, world_size)
    order = _EndlessOrder(len(dataset), batch_size, seed, start, rank, world_size)
    images = NotedImages(dataset, workers)
    samples = _SeededSamples(images, transform, seed)
    return _batches(samples, images, workers, batch_sampler=order)


def evaluation_loader(
    dataset: DetectionDataset,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Batches:
    """Iterate over each image of this process's share once, in order, without augmentation.

    Args:
        dataset: what to evaluate on.
        batch_size: images in a batch; the last one may hold fewer.
        workers: worker processes; 0 loads in this one.
        rank: number of this process; its share is every `world_size`-th image.
        world_size: number of processes.

    Returns:
        Iterator as of `training_loader`, which knows its length.
    """
    _check_rank(rank, world_size)
    share = range(rank, len(dataset), world_size)
    images = NotedImages(dataset, workers)
    return _batches(images, images, workers, batch_size=batch_size, sampler=share)


def collate(samples: list[Sample]) -> ImagesAndTargets:
    """Turn samples into lists of float images in [0, 1] and of targets with plain tensors."""
    # numpy keeps to this thread; to wake torch's pool for one image costs more than the work.
    images = [
        torch.from_numpy(np.multiply(image.numpy(), 1 / 255, dtype=np.float32))
        for image, _ in samples
    ]
    targets = [
        {
            name: value.as_subclass(torch.Tensor) if isinstance(value, torch.Tensor) else value
            for name, value in target.items()
        }
        for _, target in samples
    ]
    return images, targets


class _EndlessOrder(Sampler[list[tuple[int, int, int]]]):
    """Batches of (batch, epoch, index), without end."""

    def __init__(
        self, length: int, batch_size: int, seed: int, start: int, rank: int, world_size: int
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        number = self.start
        position = (self.start * self.world_size + self.rank) * self.batch_size
        known_epoch, order = -1, np.empty(0, np.int64)
        while True:
            batch = []
            for step in range(position, position + self.batch_size):
                epoch, place = divmod(step, self.length)
                if epoch != known_epoch:
                    known_epoch, order = epoch, _permutation(self.length, self.seed, epoch)
                batch.append((number, epoch, int(order[place])))
            yield batch
            number += 1
            position += self.batch_size * self.world_size


class _SeededSamples(Dataset[Sample]):
    """Samples by (batch, epoch, index), each augmented with random numbers of its own."""

    def __init__(self, images: NotedImages, transform: Transform | None, seed: int) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        batch, epoch, index = key
        image, target = self.images[index]
        if self.transform is None:
            return image, target
        with torch.random.fork_rng(devices=[]):  # without workers, the run's own state is global
            torch.random.default_generator.manual_seed(_sample_seed(self.seed, epoch, index))
            if isinstance(self.transform, MosaicTransform) and self.transform.draws(batch):
                others = torch.randint(len(self.images.dataset), (3,)).tolist()
                image, target = mosaic([(image, target), *(self.images[i] for i in others)])
            return self.transform(image, target)


def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def _sample_seed(seed: int, epoch: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0])


def _batches(samples: Dataset[Any], images: NotedImages, workers: int, **arguments: Any) -> Batches:
    loader: DataLoader[ImagesAndTargets] = DataLoader(
        samples,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_initialized(),  # a run on the CPU leaves the GPUs alone
        worker_init_fn=partial(begin_worker, parent=parent_of_workers()) if workers else None,
        # Without one of its own, the loader draws from the global generator: resumed runs differ.
        generator=torch.Generator(),
        **arguments,
    )
    return Batches(loader, images)


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in 0..world_size-1: rank {rank}, world_size {world_size}")
