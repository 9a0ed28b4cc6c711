"""Networks of linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.trainer.exported.architectures import Inputs, architecture, floats

Made = tuple[nn.Module, Inputs]


@architecture
def mlp() -> Made:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)), floats(6)


@architecture
def mlp_with_batch_norm() -> Made:
    layers = (
        nn.Linear(6, 16),
        nn.BatchNorm1d(16),
        nn.SELU(),
        nn.AlphaDropout(0.2),
        nn.Linear(16, 8),
        nn.BatchNorm1d(8, affine=False),
    )
    return nn.Sequential(*layers, nn.Softplus(), nn.Linear(8, 3)), floats(6)


class ResidualMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleDict(
            {f"block {i}": nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for i in range(3)}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks.values():
            x = x + block(x)
        return self.head(x)  # type: ignore[no-any-return]


@architecture
def residual_mlp() -> Made:
    return ResidualMLP(), floats(6)


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        return torch.lerp(x, torch.tanh(self.value(x)), gate)


@architecture
def highway() -> Made:
    return nn.Sequential(Highway(), Highway(), nn.Linear(6, 1), nn.Sigmoid()), floats(6)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.tokens = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        self.channels = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).mT).mT
        return x + self.channels(self.norm2(x))  # type: ignore[no-any-return]


@architecture
def mlp_mixer() -> Made:
    return nn.Sequential(Mixer(), Mixer(), nn.Flatten(), nn.Linear(32, 3)), floats(4, 8)


@architecture
def autoencoder() -> Made:
    return nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2), nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 8)), floats(8)


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mean, self.logvar = nn.Linear(8, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        self.decoder = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = F.relu(self.encoder(x))
        mean, logvar = self.mean(hidden), self.logvar(hidden)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean) if self.training else mean
        return self.decoder(z), mean, logvar


@architecture
def variational_autoencoder() -> Made:
    return VAE(), floats(8)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = F.normalize(self.tower(left), dim=1), F.normalize(self.tower(right), dim=1)
        return F.cosine_similarity(a, b).unsqueeze(1)


@architecture
def siamese_with_two_inputs() -> Made:
    return Siamese(), lambda rows: (torch.randn(rows, 6), torch.randn(rows, 6))


class WideAndDeep(nn.Module):
    """Numbers and categories in, a class and a value out."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(n, 4, max_norm=None) for n in (5, 7))
        self.trunk, self.classes, self.value = nn.Linear(11, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, numbers: Tensor, categories: Tensor) -> list[Tensor]:
        embedded = [embed(categories[:, i]) for i, embed in enumerate(self.embeddings)]
        hidden = F.relu(self.trunk(torch.cat([numbers, *embedded], dim=1)))
        return [self.classes(hidden), self.value(hidden)]


@architecture
def categories_and_two_outputs() -> Made:
    return WideAndDeep(), lambda rows: (torch.randn(rows, 3), torch.randint(0, 5, (rows, 2)))


class MixtureOfExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts, self.router = nn.ModuleList(nn.Linear(6, 3) for _ in range(4)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        values, chosen = self.router(x).topk(2, dim=-1)
        gates = torch.zeros(x.shape[0], 4, device=x.device).scatter(1, chosen, values.softmax(-1))
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return (outputs * gates[..., None]).sum(1)


@architecture
def mixture_of_experts() -> Made:
    return MixtureOfExperts(), floats(6)


class GraphConvolution(nn.Module):
    """A fixed graph of five nodes, its adjacency a plain tensor attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.adjacency = torch.eye(5).roll(1, 0) + torch.eye(5)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.adjacency @ self.first(x))
        return (self.adjacency @ self.second(x)).log_softmax(-1)  # type: ignore[no-any-return]


@architecture
def graph_convolution() -> Made:
    return GraphConvolution(), floats(5, 4)


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.product, self.frozen, self.head = nn.Bilinear(6, 6, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x, x.flip(1)) + self.frozen.weight.diagonal()
        return self.head(F.glu(torch.cat([y, self.frozen(y)], 1)))  # type: ignore[no-any-return]


@architecture
def bilinear_with_a_frozen_layer() -> Made:
    return Bilinear(), floats(6)


class RunningAverage(nn.Module):
    """A buffer of its own that the training changes, and a noise that torch draws."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
            x = x + 0.1 * torch.randn_like(x)
        return self.head(x - self.mean)  # type: ignore[no-any-return]


@architecture
def own_running_average() -> Made:
    return RunningAverage(), floats(6)
