"""Every layer of torch.nn that takes one tensor, with the shape of one row of its input."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

Layer = tuple[Callable[[], nn.Module], tuple[int, ...]]

VECTOR, SEQUENCE, IMAGE, VOLUME = (6,), (4, 8), (4, 8, 8), (4, 6, 6, 6)

PLAIN = """ELU Hardshrink Hardsigmoid Hardtanh Hardswish LeakyReLU LogSigmoid PReLU ReLU ReLU6 RReLU SELU CELU GELU Sigmoid SiLU
Mish Softplus Softshrink Softsign Tanh Tanhshrink GLU Dropout AlphaDropout FeatureAlphaDropout Identity Flatten"""
SIZED = """AvgPool1d AvgPool2d AvgPool3d MaxPool1d MaxPool2d MaxPool3d ZeroPad1d ZeroPad2d ZeroPad3d ReflectionPad1d
ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d CircularPad1d CircularPad2d CircularPad3d
AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d"""
CHANNELS = """BatchNorm1d BatchNorm2d BatchNorm3d InstanceNorm1d InstanceNorm2d InstanceNorm3d"""
CONVOLUTIONS = "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d"
DROPOUTS = "Dropout1d Dropout2d Dropout3d"
BY_DIMENSIONS = {"1d": SEQUENCE, "2d": IMAGE, "3d": VOLUME}


def _made(name: str, *arguments: int) -> Callable[[], nn.Module]:
    return lambda: getattr(nn, name)(*arguments)


LAYERS: dict[str, Layer] = {
    **{name: (_made(name), VECTOR) for name in PLAIN.split()},
    **{name: (_made(name, 2), BY_DIMENSIONS[name[-2:]]) for name in SIZED.split()},
    **{name: (_made(name, 4), BY_DIMENSIONS[name[-2:]]) for name in CHANNELS.split()},
    **{name: (_made(name, 4, 3, 2), BY_DIMENSIONS[name[-2:]]) for name in CONVOLUTIONS.split()},
    **{name: (_made(name), BY_DIMENSIONS[name[-2:]]) for name in DROPOUTS.split()},
    "Threshold": (lambda: nn.Threshold(0.1, 20), VECTOR),
    "Softmax": (lambda: nn.Softmax(1), VECTOR),
    "Softmin": (lambda: nn.Softmin(1), VECTOR),
    "LogSoftmax": (lambda: nn.LogSoftmax(1), VECTOR),
    "Softmax2d": (nn.Softmax2d, IMAGE),
    "Linear": (lambda: nn.Linear(6, 2), VECTOR),
    "LayerNorm": (lambda: nn.LayerNorm(6), VECTOR),
    "RMSNorm": (lambda: nn.RMSNorm(6), VECTOR),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGE),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(2), IMAGE),
    "CrossMapLRN2d": (lambda: nn.CrossMapLRN2d(2), IMAGE),
    "ConstantPad1d": (lambda: nn.ConstantPad1d(1, 0.5), SEQUENCE),
    "ConstantPad2d": (lambda: nn.ConstantPad2d(1, 0.5), IMAGE),
    "ConstantPad3d": (lambda: nn.ConstantPad3d(1, 0.5), VOLUME),
    "LPPool1d": (lambda: nn.LPPool1d(2, 2), SEQUENCE),
    "LPPool2d": (lambda: nn.LPPool2d(2, 2), IMAGE),
    "LPPool3d": (lambda: nn.LPPool3d(2, 2), VOLUME),
    "FractionalMaxPool2d": (lambda: nn.FractionalMaxPool2d(2, output_size=3), IMAGE),
    "FractionalMaxPool3d": (lambda: nn.FractionalMaxPool3d(2, output_size=3), VOLUME),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), IMAGE),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), IMAGE),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), IMAGE),
    "Unfold": (lambda: nn.Unfold(3), IMAGE),
    "Fold": (lambda: nn.Fold((4, 4), 2, stride=2), (16, 4)),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 3)), VECTOR),
    "Upsample nearest": (lambda: nn.Upsample(scale_factor=2), IMAGE),
    "Upsample linear": (lambda: nn.Upsample(16, mode="linear"), SEQUENCE),
    "Upsample bicubic": (lambda: nn.Upsample(size=(11, 7), mode="bicubic"), IMAGE),
    "Upsample trilinear": (lambda: nn.Upsample(scale_factor=2, mode="trilinear"), VOLUME),
    "Upsample nearest-exact": (lambda: nn.Upsample(scale_factor=1.5, mode="nearest-exact"), IMAGE),
    "UpsamplingNearest2d": (lambda: nn.UpsamplingNearest2d(scale_factor=2), IMAGE),
    "UpsamplingBilinear2d": (lambda: nn.UpsamplingBilinear2d(scale_factor=2), IMAGE),
}
