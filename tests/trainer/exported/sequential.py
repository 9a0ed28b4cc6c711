"""Recurrent networks, attention and what reads tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.trainer.exported.architectures import Inputs, architecture, floats, tokens

Made = tuple[nn.Module, Inputs]


class LastStep(nn.Module):
    """A recurrent layer and a linear one on its last step."""

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.layer(x)
        return self.head(outputs[:, -1])  # type: ignore[no-any-return]


@architecture
def lstm() -> Made:
    return LastStep(nn.LSTM(4, 8, num_layers=2, dropout=0.2, batch_first=True), 8), floats(6, 4)


@architecture
def bidirectional_lstm() -> Made:
    return LastStep(nn.LSTM(4, 8, bidirectional=True, batch_first=True), 16), floats(6, 4)


@architecture
def lstm_with_projection() -> Made:
    return LastStep(nn.LSTM(4, 8, proj_size=5, batch_first=True), 5), floats(6, 4)


@architecture
def gru() -> Made:
    return LastStep(nn.GRU(4, 8, num_layers=2, dropout=0.1, batch_first=True), 8), floats(6, 4)


@architecture
def rnn_tanh() -> Made:
    return LastStep(nn.RNN(4, 8, batch_first=True), 8), floats(6, 4)


@architecture
def rnn_relu() -> Made:
    return LastStep(nn.RNN(4, 8, nonlinearity="relu", bidirectional=True, batch_first=True), 16), floats(6, 4)


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.lstm, self.rnn = nn.GRUCell(4, 6), nn.LSTMCell(6, 6), nn.RNNCell(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = (x.new_zeros(x.shape[0], width) for width in (6, 6, 6))
        d = x.new_zeros(x.shape[0], 5)
        for step in x.unbind(1):
            a = self.gru(step, a)
            b, c = self.lstm(a, (b, c))
            d = self.rnn(b, d)
        return d


@architecture
def recurrent_cells() -> Made:
    return Cells(), floats(4, 4)


class SequenceToSequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.encoder, self.decoder = nn.GRU(8, 8, batch_first=True), nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(16, 20)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, state = self.encoder(self.embed(source))
        outputs, _ = self.decoder(self.embed(target), state)
        weights = torch.softmax(torch.bmm(outputs, memory.transpose(1, 2)), -1)
        return self.head(torch.cat([outputs, torch.bmm(weights, memory)], -1))  # type: ignore[no-any-return]


@architecture
def sequence_to_sequence_with_attention() -> Made:
    return SequenceToSequence(), lambda rows: (torch.randint(0, 20, (rows, 5)), torch.randint(0, 20, (rows, 4)))


class TextClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(20, 8, mode="mean", padding_idx=0), nn.Linear(8, 3)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.bag(text))  # type: ignore[no-any-return]


@architecture
def text_classifier_with_embedding_bag() -> Made:
    return TextClassifier(), tokens(7)


class TextCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(8, 4, size) for size in (2, 3, 4))
        self.head = nn.Linear(12, 3)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embed(text).transpose(1, 2)
        return self.head(torch.cat([F.relu(c(x)).amax(-1) for c in self.convolutions], 1))  # type: ignore[no-any-return]


@architecture
def text_cnn() -> Made:
    return TextCNN(), tokens(8)


class Positional(nn.Module):
    encoding: Tensor

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        angles = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        self.register_buffer("encoding", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x + self.encoding[: x.shape[1]])  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """torch's own encoder with a causal mask and a padding mask made from the tokens."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(20, 16, padding_idx=0), Positional(16, 12)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(6), persistent=False)
        self.head = nn.Linear(16, 20)

    def forward(self, text: Tensor) -> Tensor:
        padding = (text == 0).float().masked_fill(text == 0, -1e9)
        x = self.position(self.embed(text))
        return self.head(self.encoder(x, mask=self.mask, src_key_padding_mask=padding))  # type: ignore[no-any-return]


@architecture
def transformer_encoder_with_masks() -> Made:
    return Encoder(), tokens(6)


@architecture
def transformer_encoder_post_norm() -> Made:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(40, 3)), floats(5, 8)


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, dropout=0.1, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool, device=target.device).triu(1)
        return self.head(self.transformer(self.embed(source), self.embed(target), tgt_mask=mask))  # type: ignore[no-any-return]


@architecture
def transformer_with_decoder() -> Made:
    return Translator(), lambda rows: (torch.randint(0, 20, (rows, 5)), torch.randint(0, 20, (rows, 4)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in self.qkv(x).split(c, dim=2))
        dropout = 0.1 if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=self.causal)
        return self.out(y.transpose(1, 2).contiguous().view(b, t, c))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 2, causal)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width), nn.Dropout(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """The output layer shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(20, 8), nn.Embedding(6, 8)
        self.blocks = nn.ModuleList(Block(8, causal=True) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, text: Tensor) -> Tensor:
        x = self.embed(text) + self.position(torch.arange(text.shape[1], device=text.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


@architecture
def gpt_with_tied_weights() -> Made:
    return GPT(), tokens(6)


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.blocks, self.head = nn.Sequential(Block(8, False), Block(8, False)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.blocks(x)[:, 0])  # type: ignore[no-any-return]


@architecture
def vision_transformer() -> Made:
    return ViT(), floats(3, 8, 8)


class AttentionPooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.attention = (
            nn.Parameter(torch.randn(1, 1, 8)),
            nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True),
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, weights = self.attention(self.query.expand(x.shape[0], -1, -1), x, x)
        return self.head(pooled.squeeze(1)), weights


@architecture
def attention_pooling() -> Made:
    return AttentionPooling(), floats(5, 8)


class LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = torch.einsum("bnd,bne->bde", k, v)
        scale = 1 / torch.einsum("bnd,bd->bn", q, k.sum(1))
        return self.out(torch.einsum("bnd,bde,bn->bne", q, state, scale))  # type: ignore[no-any-return]


@architecture
def linear_attention() -> Made:
    return LinearAttention(), floats(5, 8)


class Fourier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.mlp(torch.fft.fft2(x).real))  # type: ignore[no-any-return]


@architecture
def fourier_network() -> Made:
    return nn.Sequential(Fourier(), Fourier(), nn.Flatten(), nn.Linear(40, 2)), floats(5, 8)


class Rotary(nn.Module):
    """Rotary positions and a root-mean-square norm, as in recent language models."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate, self.up, self.down = nn.RMSNorm(8), nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[1], dtype=torch.float32), 1 / 100 ** (torch.arange(0, 8, 2) / 8))
        even, odd = x[..., ::2], x[..., 1::2]
        turned = torch.stack((even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()), -1)
        y = self.norm(turned.flatten(-2))
        return x + self.down(F.silu(self.gate(y)) * self.up(y))  # type: ignore[no-any-return]


@architecture
def rotary_gated_mlp() -> Made:
    return nn.Sequential(Rotary(), Rotary(), nn.Linear(8, 2)), floats(5, 8)
