"""What one network sees, as another one wants it."""

import pytest
import torch

from sssd.integrations.pixels import Pixels

MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
FORMS = {
    "0 to 1": Pixels(),
    "torchvision": Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mmdetection": Pixels.of_bytes(MEAN, STD, is_bgr=False),
    "detectron2": Pixels.of_bytes(MEAN.flip(0), torch.ones(3), is_bgr=True),
    "of one value": Pixels.of_bytes(torch.zeros(1), torch.ones(1), is_bgr=True),
}


def given(name: str, rgb: torch.Tensor) -> torch.Tensor:
    """What each framework computes of RGB pixels in 0..1."""
    mean, std = MEAN[:, None, None], STD[:, None, None]
    return {
        "0 to 1": rgb,
        "torchvision": (rgb * 255 - mean) / std,
        "mmdetection": (rgb * 255 - mean) / std,
        "detectron2": rgb.flip(1) * 255 - mean.flip(0),
        "of one value": rgb.flip(1) * 255,
    }[name]


@pytest.mark.parametrize("theirs", FORMS)
@pytest.mark.parametrize("own", FORMS)
def test_every_form_becomes_every_other(own: str, theirs: str) -> None:
    rgb = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = FORMS[own].into(FORMS[theirs], given(own, rgb))
    torch.testing.assert_close(found, given(theirs, rgb), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.half, torch.double])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    images = torch.rand(1, 3, 2, 2).to(dtype)
    assert FORMS["0 to 1"].into(FORMS["torchvision"], images).dtype == dtype


def test_other_numbers_of_channels() -> None:
    """A detector of four channels can be attached to, and taught by one that has as many."""
    four = Pixels.of_bytes(torch.arange(4.0), torch.ones(4), is_bgr=True)
    assert len(four.mean) == 4
    images = torch.rand(1, 4, 2, 2)
    torch.testing.assert_close(four.into(four, images), images)
