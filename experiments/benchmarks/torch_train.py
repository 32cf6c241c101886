"""The PyTorch side of the training benchmarks: a SAM loop written by somebody who cares for speed.

What makes it fast: examples as float32 tensors in memory, `foreach` kernels for the perturbation
and a fused SGD (without it as many kernels as there are parameters run for every operation), no
value read back within an epoch. Rows, whose batches fit into a core's cache, are gathered a batch
at a time into one buffer (SAM on MLP 10-10, 30,000 examples, one thread: 0.15 s an epoch in place
of 0.21 with one gather an epoch); images, whose gather does not weigh, once an epoch. `flat` keeps
all parameters in one buffer and their gradients in another, so that a perturbation is three kernels
(about a tenth off an epoch of MLPs 10-10 and 50-50). Tried without gain: `torch.compile`, and
`torch.autograd.grad` in place of `backward`. Which number of threads is best depends on the width:
the scripts try.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

Epoch = Callable[[torch.Tensor], float]  # [steps, batch] indices → mean loss of the epoch


def tuned(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    rho: float,
    lr: float = 0.1,
    decay: float = 1e-4,
    flat: bool = False,
) -> Epoch:
    """An epoch of SAM around SGD with momentum .9; rho 0 is SGD alone.

    Args:
      model: in training mode.
      x, y: examples [n, ...] and labels [n].
      rho: radius.
      lr, decay: rate and weight decay of SGD.
      flat: the model's parameters become views of one buffer.
    """
    params = list(model.parameters())
    weights = [one_buffer(params)] if flat else params
    sgd = torch.optim.SGD(weights, lr=lr, momentum=0.9, weight_decay=decay, fused=True)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def epoch(order: torch.Tensor) -> float:
        total = torch.zeros(())
        for batch, target in batches(x, y, order):
            # Gradients in a buffer must stay there; others are cheaper to make anew.
            sgd.zero_grad(set_to_none=not flat)
            loss = nn.functional.cross_entropy(model(batch), target)
            loss.backward()
            total += loss.detach()
            if rho:
                moves = perturb(weights, rho)
                for layer in norms:  # statistics come from the clean pass
                    layer.momentum = 0.0
                sgd.zero_grad(set_to_none=not flat)
                nn.functional.cross_entropy(model(batch), target).backward()
                for layer in norms:
                    layer.momentum = 0.1
                with torch.no_grad():
                    torch._foreach_sub_(weights, moves)
            sgd.step()
        return float(total) / len(order)

    return epoch


@torch.no_grad()
def perturb(weights: list[torch.Tensor], rho: float) -> list[torch.Tensor]:
    """Moves the weights up their gradient by rho in all; returns the moves."""
    grads = [w.grad for w in weights]
    if len(grads) == 1:
        moves = [grads[0] * (rho / (torch.linalg.vector_norm(grads[0]) + 1e-12))]
    else:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        moves = torch._foreach_mul(grads, rho / (norm + 1e-12))
    torch._foreach_add_(weights, moves)
    return moves


def one_buffer(params: list[nn.Parameter]) -> nn.Parameter:
    """One parameter that holds all of `params`, which become views of it; gradients likewise."""
    whole = nn.Parameter(torch.cat([p.detach().flatten() for p in params]))
    whole.grad = torch.zeros_like(whole)
    begin = 0
    for p in params:
        part = slice(begin, begin + p.numel())
        p.data, p.grad = whole.data[part].view_as(p), whole.grad[part].view_as(p)
        begin = part.stop
    return whole


def batches(
    x: torch.Tensor, y: torch.Tensor, order: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of an epoch; that of rows is overwritten by the next one."""
    labels = y[order.flatten()].unflatten(0, order.shape)
    if x.ndim == 2:
        batch = torch.empty(order.shape[1], x.shape[1])
        for index, target in zip(order, labels):
            torch.index_select(x, 0, index, out=batch)
            yield batch, target
        return
    inputs = x[order.flatten()].unflatten(0, order.shape)
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    for batch, target in zip(inputs, labels):
        yield batch.contiguous(memory_format=torch.channels_last) if last else batch, target
