"""What stands between the student's maps and the distance."""

from torch import nn

from sssd.fusion.relation import conv3x3


class Adapter(nn.Sequential):
    """Three 3x3 convolutions on the student's maps, shared by the levels (LGD, section 3.5).

    With width 256 it has 1,770,240 parameters.

    Args:
        width: channels of the maps.
    """

    def __init__(self, width: int) -> None:
        super().__init__(conv3x3(width), nn.ReLU(), conv3x3(width), nn.ReLU(), conv3x3(width))
