"""The PyTorch side of the training benchmarks: a SAM loop written by somebody who cares for speed.

What makes it fast: examples as float32 tensors in memory, one gather an epoch, `foreach` kernels
for the perturbation and a fused SGD (without it as many kernels as there are parameters run for
every operation), no value read back within an epoch. `plain` is the loop of a first version.
"""

from collections.abc import Callable

import torch
from torch import nn

Epoch = Callable[[torch.Tensor], float]  # [steps, batch] indices → mean loss of the epoch


def tuned(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, rho: float, lr=0.1, decay=1e-4
) -> Epoch:
    """An epoch of SAM around SGD with momentum .9; rho 0 is SGD alone.

    Args:
      model: in training mode.
      x, y: examples [n, ...] and labels [n].
      rho: radius.
      lr, decay: rate and weight decay of SGD.
    """
    params = list(model.parameters())
    sgd = torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=decay, fused=True)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def epoch(order: torch.Tensor) -> float:
        total = torch.zeros(())
        shape = order.shape
        inputs = x[order.flatten()].unflatten(0, shape)
        labels = y[order.flatten()].unflatten(0, shape)
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            inputs = [batch.contiguous(memory_format=torch.channels_last) for batch in inputs]
        for batch, target in zip(inputs, labels):
            sgd.zero_grad()
            loss = nn.functional.cross_entropy(model(batch), target)
            loss.backward()
            total += loss.detach()
            if rho:
                grads = [p.grad for p in params]
                norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
                scale = rho / (norm + 1e-12)
                moves = torch._foreach_mul(grads, scale)
                with torch.no_grad():
                    torch._foreach_add_(params, moves)
                for layer in norms:  # statistics come from the clean pass
                    layer.momentum = 0.0
                sgd.zero_grad()
                nn.functional.cross_entropy(model(batch), target).backward()
                for layer in norms:
                    layer.momentum = 0.1
                with torch.no_grad():
                    torch._foreach_sub_(params, moves)
            sgd.step()
        return float(total) / len(order)

    return epoch
