"""How fast a group trained: what `timing.jsonl` says beside seconds."""

from typing import TYPE_CHECKING, Any

from absl import logging

from samop import flops, transforms
from samop.step import TrainState
from samop.workloads import flops_of_example

if TYPE_CHECKING:
    from samop.loop import Ready


def grad_evals(state: TrainState) -> int:
    """Gradient evaluations of each run so far; a group's runs have the same."""
    return int(transforms.grad_evals(state.opt_state, state.step))


def figures(ready: "Ready", epochs: int, evaluations: int, seconds: float) -> dict[str, Any]:
    """The speed of a call of `samop.loop.train`, evaluation included.

    Args:
      ready: the group.
      epochs, evaluations: epochs and gradient evaluations that the call added to each run.
      seconds: that it took.

    Returns:
      "steps": updates of each run; and, all runs of the group together, "steps_per_second",
      "examples_per_second" (an example counts once an update) and "model_flops_per_second": three
      forward passes' for each example and gradient evaluation (arXiv 2204.02311), whatever else is
      computed. A network whose flops cannot be counted has none, and a warning says why.
    """
    group, size = ready.group, ready.group.points[0]["train"]["batch_size"]
    steps = epochs * ready.run.steps_per_epoch
    work = {"steps": steps, "examples": steps * size}
    try:
        of_a_gradient = flops.OF_A_GRADIENT * flops_of_example(ready.workload)
        work["model_flops"] = of_a_gradient * size * evaluations
    except ValueError as error:
        logging.warning("group %s: no model flops in its record: %s", group.name, error)
    runs = len(group.names)
    rates = {f"{name}_per_second": runs * each / seconds for name, each in work.items()}
    return {"steps": steps, **{name: float(f"{rate:.6g}") for name, rate in rates.items()}}
