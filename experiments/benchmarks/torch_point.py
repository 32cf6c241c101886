"""One run of MNIST in PyTorch, as a script that is started once for each point of a grid.

python experiments/benchmarks/torch_point.py --rho=0.05 --epochs=5 --out=row.json

The other side of grid.py's commands: an MLP with `torch_train.tuned`, the data from samop's decoded
cache ($SAMOP_DATA, else ~/.cache/samop/data), 5,000 examples held out, validation and test accuracy
after every epoch; neither samop nor jax is imported. --rho=0 is SGD.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from torch_models import MLP
from torch_train import tuned

BATCH, VALIDATION = 128, 5000


def load(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in [0, 1] and labels of "train" or "test"."""
    x = torch.from_numpy(np.load(folder / f"{part}_x.npy")).flatten(1).float().div_(255)
    return x, torch.from_numpy(np.load(folder / f"{part}_y.npy")).long()


@torch.no_grad()
def accuracy(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of examples whose largest logit is their class."""
    return float((model(x).argmax(1) == y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rho", type=float, default=0.05, help="0: SGD")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--width", default="10-10", help="hidden sizes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True, help="file for a JSON row an epoch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    folder = Path(os.environ.get("SAMOP_DATA") or "~/.cache/samop/data").expanduser() / "mnist"
    x, y = load(folder, "train")
    test = load(folder, "test")
    # The examples are in random order already; which are held out is nothing to time.
    validation, x, y = (x[-VALIDATION:], y[-VALIDATION:]), x[:-VALIDATION], y[:-VALIDATION]
    model = MLP([x.shape[1], *map(int, options.width.split("-")), 10])
    train = tuned(model, x, y, options.rho, flat=True)
    with Path(options.out).open("w") as file:
        for number in range(options.epochs):
            order = torch.randperm(len(x))[: len(x) // BATCH * BATCH].view(-1, BATCH)
            row = {"epoch": number + 1, "train_loss": train(order)}
            row |= {"validation": accuracy(model, *validation), "test": accuracy(model, *test)}
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
