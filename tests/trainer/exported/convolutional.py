"""Networks of convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.trainer.exported.architectures import Inputs, architecture, floats

Made = tuple[nn.Module, Inputs]


def conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def classifier(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, 5))


@architecture
def lenet() -> Made:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5),
    ), floats(1, 12, 12)  # fmt: skip


@architecture
def cnn_with_batch_norm_and_dropout() -> Made:
    return nn.Sequential(
        conv(3, 8),
        nn.MaxPool2d(2),
        nn.Dropout2d(0.3),
        conv(8, 16),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(64, 5),
    ), floats(3, 8, 8)


@architecture
def vgg() -> Made:
    features = [conv(3, 8), conv(8, 8), nn.MaxPool2d(2), conv(8, 16), conv(16, 16), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(64, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 5)]
    return nn.Sequential(nn.Sequential(*features), nn.Sequential(*head)), floats(3, 8, 8)


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, stride), nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
        )
        self.shortcut = (
            nn.Identity() if stride == 1 else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


@architecture
def resnet() -> Made:
    blocks = (Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 16, 1), Residual(16, 32, 2))
    return nn.Sequential(conv(3, 8), *blocks, classifier(32)), floats(3, 16, 16)


class StochasticDepth(nn.Module):
    """The branch of a row is dropped with the probability `p`, in training only."""

    def __init__(self, branch: nn.Module, p: float) -> None:
        super().__init__()
        self.branch, self.p = branch, p

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        if self.training:
            keep = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.p)
            y = y * keep.div_(1 - self.p)
        return x + y


@architecture
def resnet_with_stochastic_depth() -> Made:
    return nn.Sequential(conv(3, 8), *(StochasticDepth(conv(8, 8), 0.3) for _ in range(3)), classifier(8)), floats(3, 8, 8)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv(1, 4), conv(4, 8), conv(8, 16)
        self.up2, self.up1 = nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)
        self.merge2, self.merge1, self.head = conv(16, 8), conv(8, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        b = self.merge2(torch.cat([self.up2(c), b], dim=1))
        a = self.merge1(torch.cat([self.up1(b), a], dim=1))
        return self.head(a)  # type: ignore[no-any-return]


@architecture
def unet() -> Made:
    return UNet(), floats(1, 16, 16)


class UpsampleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = conv(1, 8, 2), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.encoder(x), scale_factor=2, mode="bilinear", align_corners=False)
        y = self.decoder(F.pad(y, (1, 1, 1, 1), mode="reflect"))
        return F.interpolate(y, size=x.shape[-2:], mode="nearest")


@architecture
def upsampling_network() -> Made:
    return UpsampleNet(), floats(1, 8, 8)


@architecture
def convolutional_autoencoder() -> Made:
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1))
    decoder = nn.Sequential(nn.ConvTranspose2d(4, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, 2), nn.Sigmoid())
    return nn.Sequential(encoder, decoder), floats(1, 8, 8)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, channels // 2, 1), nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.silu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.expand(scale))


@architecture
def squeeze_excite() -> Made:
    return nn.Sequential(conv(3, 8), SqueezeExcite(8), conv(8, 8), SqueezeExcite(8), classifier(8)), floats(3, 8, 8)


@architecture
def mobilenet() -> Made:
    def separable(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            conv(inputs, inputs, groups=inputs), nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU6()
        )

    return nn.Sequential(conv(3, 8, 2), separable(8, 16), nn.Hardswish(), separable(16, 16), classifier(16)), floats(3, 12, 12)


class DenseBlock(nn.Module):
    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels + i * growth), nn.ReLU(), nn.Conv2d(channels + i * growth, growth, 3, padding=1)
            )
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


@architecture
def densenet() -> Made:
    transition = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1), nn.AvgPool2d(2))
    return nn.Sequential(conv(3, 8), DenseBlock(8, 4, 3), transition, DenseBlock(10, 4, 2), classifier(18)), floats(3, 8, 8)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(8, 4, 1)
        self.three = nn.Sequential(
            nn.Conv2d(8, 4, 1), nn.Conv2d(4, 6, (1, 3), padding=(0, 1)), nn.Conv2d(6, 6, (3, 1), padding=(1, 0))
        )
        self.five = nn.Sequential(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 4, 5, padding="same"))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


@architecture
def inception() -> Made:
    return nn.Sequential(conv(3, 8), Inception(), nn.ReLU(), classifier(16)), floats(3, 8, 8)


class ShuffleUnit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv(4, 4), conv(4, 4, groups=4))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), dim=1)
        return x.view(x.shape[0], 2, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


@architecture
def shufflenet() -> Made:
    return nn.Sequential(conv(3, 8), ShuffleUnit(), ShuffleUnit(), classifier(8)), floats(3, 8, 8)


class ConvNeXtBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.LayerNorm(8)
        self.up, self.down, self.scale = nn.Linear(8, 16), nn.Linear(16, 8), nn.Parameter(torch.full((8,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)  # type: ignore[no-any-return]


@architecture
def convnext() -> Made:
    return nn.Sequential(nn.Conv2d(3, 8, 2, 2), ConvNeXtBlock(), ConvNeXtBlock(), classifier(8)), floats(3, 12, 12)


@architecture
def group_norm_network() -> Made:
    layers = (
        nn.Conv2d(3, 8, 3),
        nn.GroupNorm(4, 8),
        nn.ELU(),
        nn.Conv2d(8, 8, 3),
        nn.GroupNorm(1, 8),
        nn.Mish(),
        classifier(8),
    )
    return nn.Sequential(*layers), floats(3, 9, 9)


@architecture
def instance_norm_network() -> Made:
    norms = nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.InstanceNorm2d(8)
    layers = (
        nn.ReflectionPad2d(1),
        nn.Conv2d(3, 8, 3),
        norms[0],
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 8, 3),
        norms[1],
        classifier(8),
    )
    return nn.Sequential(*layers), floats(3, 9, 9)


@architecture
def local_response_and_pixel_shuffle() -> Made:
    layers = (
        nn.Conv2d(1, 8, 3, padding=1),
        nn.LocalResponseNorm(2),
        nn.PReLU(8),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.PixelShuffle(2),
    )
    return nn.Sequential(*layers), floats(1, 6, 6)


class Chomp(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.size].contiguous()


@architecture
def temporal_convolutional_network() -> Made:
    def block(inputs: int, dilation: int) -> list[nn.Module]:
        convolution = nn.utils.parametrizations.weight_norm(nn.Conv1d(inputs, 8, 3, padding=2 * dilation, dilation=dilation))
        return [convolution, Chomp(2 * dilation), nn.ReLU(), nn.Dropout(0.1)]

    return nn.Sequential(*block(2, 1), *block(8, 2), *block(8, 4), nn.Flatten(), nn.Linear(80, 3)), floats(2, 10)


@architecture
def wavenet() -> Made:
    class Gated(nn.Module):
        def __init__(self, dilation: int) -> None:
            super().__init__()
            self.filter, self.gate = (nn.Conv1d(4, 4, 2, dilation=dilation) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x))
            return x[..., -y.shape[-1] :] + y

    return nn.Sequential(nn.Conv1d(1, 4, 1), Gated(1), Gated(2), Gated(4), nn.Conv1d(4, 1, 1)), floats(1, 16)


@architecture
def volumes_in_three_dimensions() -> Made:
    layers = (nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 8, 2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(8, 2)), floats(1, 4, 4, 4)


@architecture
def spectral_norm_discriminator() -> Made:
    norm = nn.utils.parametrizations.spectral_norm
    layers = (
        norm(nn.Conv2d(1, 8, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        norm(nn.Conv2d(8, 8, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
    )
    return nn.Sequential(*layers, norm(nn.Linear(32, 1))), floats(1, 8, 8)


class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.localise = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
        self.head = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), classifier(4))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.localise(x).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return self.head(F.grid_sample(x, grid, align_corners=False))  # type: ignore[no-any-return]


@architecture
def spatial_transformer() -> Made:
    return SpatialTransformer(), floats(1, 8, 8)
