"""samop's networks rebuilt in PyTorch, for the other side of benchmarks.

The modules bear flax's names, so that one rule copies the weights of any of these networks.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

PyTree = Any
# flax's names of what PyTorch calls so, in layers and in BatchNorm.
LAYER = {"weight": "kernel", "bias": "bias"}
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


class MLP(nn.Module):
    """`samop.models.MLP`."""

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        for i, (before, after) in enumerate(itertools.pairwise(sizes)):
            self.add_module(f"Dense_{i}", nn.Linear(before, after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = list(self.children())
        x = x.flatten(1)
        for layer in layers[:-1]:
            x = torch.relu(layer(x))
        return layers[-1](x)


class Block(nn.Module):
    """A block of `samop.models.ResNet18`."""

    def __init__(self, inputs: int, filters: int, stride: int):
        super().__init__()
        self.Conv_0 = nn.Conv2d(inputs, filters, 3, stride, 1, bias=False)
        self.BatchNorm_0 = nn.BatchNorm2d(filters)
        self.Conv_1 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.BatchNorm_1 = nn.BatchNorm2d(filters)
        self.projects = stride != 1 or inputs != filters
        if self.projects:
            self.Conv_2 = nn.Conv2d(inputs, filters, 1, stride, bias=False)
            self.BatchNorm_2 = nn.BatchNorm2d(filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.BatchNorm_0(self.Conv_0(x)))
        y = self.BatchNorm_1(self.Conv_1(y))
        return torch.relu(y + (self.BatchNorm_2(self.Conv_2(x)) if self.projects else x))


class ResNet18(nn.Module):
    """`samop.models.ResNet18`."""

    def __init__(self, filters: int, outputs: int):
        super().__init__()
        self.Conv_0 = nn.Conv2d(3, filters, 3, 1, 1, bias=False)
        self.BatchNorm_0 = nn.BatchNorm2d(filters)
        before = filters
        for i in range(8):
            after = filters * 2 ** (i // 2)
            stride = 2 if i > 0 and i % 2 == 0 else 1
            self.add_module(f"Block_{i}", Block(before, after, stride))
            before = after
        self.Dense_0 = nn.Linear(before, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.BatchNorm_0(self.Conv_0(x)))
        for i in range(8):
            x = self.get_submodule(f"Block_{i}")(x)
        return self.Dense_0(x.mean((2, 3)))


def copy_weights(model: nn.Module, variables: Mapping[str, PyTree]) -> None:
    """Gives a model the values of flax's "params" and, where there are any, "batch_stats"."""
    import jax  # here alone: a script of PyTorch's own uses the networks without it

    trees = {**jax.device_get(dict(variables))}
    with torch.no_grad():
        for name, leaf in [*model.named_parameters(), *model.named_buffers()]:
            kind = "batch_stats" if "running" in name else "params"
            if "num_batches" not in name:
                leaf.copy_(torch.tensor(leaf_of(trees[kind], name)))


def channels_first(x: np.ndarray) -> torch.Tensor:
    """Examples [n, ...] as PyTorch wants them: images [n, channels, height, width]."""
    if x.ndim == 4:
        x = x.transpose(0, 3, 1, 2)
    return torch.tensor(np.ascontiguousarray(x))


def leaf_of(tree: PyTree, name: str) -> np.ndarray:
    """The array of flax's tree that PyTorch calls so, in PyTorch's layout."""
    *path, last = name.split(".")
    for part in path:
        tree = tree[part]
    x = np.asarray(tree[(NORM if "BatchNorm" in path[-1] else LAYER)[last]])
    return x.transpose((3, 2, 0, 1)) if x.ndim == 4 else x.T
