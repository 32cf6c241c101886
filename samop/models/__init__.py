"""Networks whose width is a parameter. `MODELS` maps a config's model.name to its builder."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import linen as nn

from samop.models.lstm import LSTMClassifier
from samop.models.mlp import MLP
from samop.models.resnet import ResNet18


class Model(NamedTuple):
    """How a config describes one kind of network.

    Attributes:
      fields: the config's `model` fields beside `name`, with their defaults: whole numbers ≥ 1,
        tuples of such, or rates in [0, 1).
      build: `build(fields, outputs, **sizes) -> module`, called as `module.apply(variables, x,
        train)`; sizes are those of its workload's data, such as `vocabulary`.
      width: the label of a width in tables and figures, e.g. "300-100".
      convolutional: whether vmapping over weights makes grouped convolutions.
      norm_layers: whether it has normalisation layers.
    """

    fields: Mapping[str, Any]
    build: Callable[..., nn.Module]
    width: Callable[[Mapping[str, Any]], str]
    convolutional: bool = False
    norm_layers: bool = False


MODELS: dict[str, Model] = {
    "mlp": Model(
        fields={"hidden": (64, 64)},
        build=lambda fields, outputs: MLP(tuple(fields["hidden"]), outputs),
        width=lambda fields: "-".join(map(str, fields["hidden"])),
    ),
    "resnet18": Model(
        fields={"filters": 64},
        build=lambda fields, outputs: ResNet18(fields["filters"], outputs),
        width=lambda fields: str(fields["filters"]),
        convolutional=True,
        norm_layers=True,
    ),
    "lstm": Model(
        fields={"embed": 300, "hidden": 298, "dropout": 0.5},
        build=lambda fields, outputs, vocabulary: LSTMClassifier(
            vocabulary, fields["embed"], fields["hidden"], outputs, fields["dropout"]
        ),
        width=lambda fields: str(fields["hidden"]),
    ),
}
