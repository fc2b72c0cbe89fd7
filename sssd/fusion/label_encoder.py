"""Label encoder of LGD (Zhang et al., AAAI 2022): descriptors of objects to embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _norm_relu(x: Tensor) -> Tensor:
    """ReLU of a layer norm over the channels of a row, without affine part."""
    return F.relu(F.layer_norm(x, x.shape[-1:]))


class SpatialTransformer(nn.Module):
    """Predicts a (size, size) matrix for each row and multiplies the row by it.

    PointNet's transform network (Qi et al., CVPR 2017), one matrix a row, without the identity
    shortcut, as LGD uses it.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        widths = [size, 64, 128, 1024, 512, 256]
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.matrix = nn.Linear(widths[-1], size * size)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (T, size) to (T, size)."""
        size = x.shape[-1]
        hidden = x
        for layer in self.layers:
            hidden = _norm_relu(layer(hidden))
        matrix = self.matrix(hidden).view(-1, size, size)  # (T, size, size)
        return torch.bmm(x.unsqueeze(1), matrix).squeeze(1)


class LabelEncoder(nn.Module):
    """Embeds each object's descriptor together with what else is in its image.

    With 84 inputs (80 classes) and width 256 it has 4,893,392 parameters, and the last projection
    65,792 more.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.transform_input = SpatialTransformer(inputs)
        self.transform_feature = SpatialTransformer(64)
        self.local = nn.Linear(inputs, 64)
        self.hidden = nn.Linear(64, 128)
        self.shared = nn.Linear(128, 1024)
        self.merge = nn.Linear(64 + 1024, width)
        self.project = nn.Linear(width, width)

    def forward(self, descriptors: Tensor, image_index: Tensor, batch_size: int) -> Tensor:
        """Encodes descriptors.

        Args:
            descriptors: (T, inputs).
            image_index: (T,) int64, the image of each row.
            batch_size: B; every image has a row.

        Returns:
            (T, width) embeddings.
        """
        local = _norm_relu(self.local(self.transform_input(descriptors)))  # (T, 64)
        local = self.transform_feature(local)
        shared = _norm_relu(self.shared(_norm_relu(self.hidden(local))))  # (T, 1024)
        # ReLU made every entry non-negative, so zeros are the identity of the maximum.
        image = shared.new_zeros(batch_size, shared.shape[1]).scatter_reduce(
            0, image_index[:, None].expand_as(shared), shared, "amax"
        )  # (B, 1024)
        merged = _norm_relu(self.merge(torch.cat([local, image[image_index]], dim=1)))
        return _norm_relu(self.project(merged))
