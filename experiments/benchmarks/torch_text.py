"""The PyTorch side of the benchmarks of text: samop's LSTM and Transformer, and their SAM step.

Networks as somebody would write them there: `nn.LSTM` over packed sequences, whose backward
direction then begins at a sentence's last word as ours does (`packed=False`: over padding too,
which computes something else), `nn.TransformerEncoder` with its norms first. Sizes and dropout are
arguments; weights are PyTorch's own start, since speeds do not depend on them, and so are the
Transformer's position signals, random numbers here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch_train import perturb

UNKNOWN, WORD_DROPOUT = 1, 0.1
Step = Callable[[Any, torch.Tensor], torch.Tensor]  # inputs, labels → loss


class LSTM(nn.Module):
    """`samop.models.lstm.LSTMClassifier`: words [batch, steps] → logits [batch, outputs]."""

    def __init__(
        self,
        vocabulary: int,
        embed: int,
        hidden: int,
        outputs: int,
        dropout: float = 0.5,
        packed: bool = True,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embed)
        self.lstm = nn.LSTM(embed, hidden, bidirectional=True)
        self.keys = nn.Linear(2 * hidden, hidden, bias=False)
        self.energy = nn.Linear(hidden, 1, bias=False)
        self.hidden = nn.Linear(2 * hidden, hidden)
        self.logits = nn.Linear(hidden, outputs, bias=False)
        self.drop = nn.Dropout(dropout)
        self.packed = packed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.T
        mask = x > 0
        if self.training:
            gone = torch.rand(x.shape) < WORD_DROPOUT
            x = torch.where(gone & mask, UNKNOWN, x)
        states = self.drop(self.embedding(x))
        if self.packed:
            pack = nn.utils.rnn.pack_padded_sequence(states, mask.sum(0), enforce_sorted=False)
            states, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(pack)[0], total_length=len(x))
        else:
            states, _ = self.lstm(states)
        states = self.drop(states)
        energy = self.energy(torch.tanh(self.keys(states)))[..., 0]
        share = torch.softmax(energy.masked_fill(~mask, -torch.inf), 0)
        summary = self.drop(torch.einsum("tb,tbh->bh", share, states))
        return self.logits(self.drop(torch.tanh(self.hidden(summary))))


class Transformer(nn.Module):
    """`samop.models.transformer.Transformer`, for rows that hold several sentences."""

    def __init__(
        self,
        vocabulary: int,
        size: int,
        layers: int,
        heads: int,
        steps: int,
        outputs: int,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, size)
        self.register_buffer("positions", torch.randn(steps, size))
        layer = nn.TransformerEncoderLayer(
            size, heads, 4 * size, dropout, nn.functional.elu, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(size), enable_nested_tensor=False
        )
        self.drop = nn.Dropout(dropout)
        self.tags = nn.Linear(size, outputs)
        self.heads = heads

    def forward(self, x: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Words and sentence numbers, both [rows, steps] → [rows, steps, outputs].

        A word sees those of its own sentence.
        """
        word, segment = x
        apart = segment[:, :, None] != segment[:, None, :]
        states = self.drop(self.embedding(word)) + self.positions
        states = self.encoder(states, mask=apart.repeat_interleave(self.heads, 0))
        return self.tags(states)


def step(model: nn.Module, rho: float, base: torch.optim.Optimizer, ignore: int = -100) -> Step:
    """A training step of SAM around an optimiser; rho 0 is the optimiser alone.

    Both passes draw the same dropout masks.

    Args:
      model: in training mode; its last axis holds the logits.
      rho: radius.
      base: of the model's parameters.
      ignore: the label that does not count.
    """
    weights = list(model.parameters())

    def backward(x, y):
        base.zero_grad(set_to_none=True)
        logits = model(x).flatten(0, -2)
        loss = nn.functional.cross_entropy(logits, y.flatten(), ignore_index=ignore)
        loss.backward()
        return loss.detach()

    def one(x, y):
        masks = torch.get_rng_state() if rho else None
        loss = backward(x, y)
        if rho:
            moves = perturb(weights, rho)
            torch.set_rng_state(masks)
            backward(x, y)
            with torch.no_grad():
                torch._foreach_sub_(weights, moves)
        base.step()
        return loss

    return one
