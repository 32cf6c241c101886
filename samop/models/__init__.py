"""Networks whose width is a parameter. `MODELS` maps a config's model.name to its builder."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import linen as nn

from samop.models.agents import MinAtarCNN, NatureCNN
from samop.models.gcn import GraphConvNet
from samop.models.lstm import LSTMClassifier
from samop.models.mlp import ACTIVATIONS, MLP, NORMS
from samop.models.resnet import ResNet18
from samop.models.resnet50 import ResNet50
from samop.models.transformer import Transformer
from samop.models.vit import ViT


class Model(NamedTuple):
    """How a config describes one kind of network.

    Attributes:
      fields: the config's `model` fields beside `name`, with their defaults: whole numbers ≥ 1,
        tuples of such, rates in [0, 1), or words.
      build: `build(fields, outputs, **sizes) -> module`, called as `module.apply(variables, x,
        train)`; sizes are those of its workload's data, such as `vocabulary`.
      width: the label of a width in tables and figures, e.g. "300-100".
      convolutional: whether vmapping over weights makes grouped convolutions.
      norm_layers: whether it has normalisation layers, given its fields.
      words: field → the words that it may be.
      blocks: whether its module has `remat`, with which a backward pass computes blocks again.
      later: fields that came after runs had been recorded; at their defaults they say nothing, so
        that those runs are still known.
    """

    fields: Mapping[str, Any]
    build: Callable[..., nn.Module]
    width: Callable[[Mapping[str, Any]], str]
    convolutional: bool = False
    norm_layers: Callable[[Mapping[str, Any]], bool] = lambda fields: False
    words: Mapping[str, Sequence[str]] = {}
    blocks: bool = False
    later: tuple[str, ...] = ()


def _always(fields: Mapping[str, Any]) -> bool:
    return True


MODELS: dict[str, Model] = {
    "mlp": Model(
        fields={"hidden": (64, 64), "activation": "relu", "norm": "none"},
        build=lambda fields, outputs: MLP(
            tuple(fields["hidden"]), outputs, fields["activation"], fields["norm"]
        ),
        width=lambda fields: "-".join(map(str, fields["hidden"])),
        norm_layers=lambda fields: fields["norm"] != "none",
        words={"activation": tuple(ACTIVATIONS), "norm": NORMS},
        later=("activation", "norm"),
    ),
    "resnet18": Model(
        fields={"filters": 64},
        build=lambda fields, outputs: ResNet18(fields["filters"], outputs),
        width=lambda fields: str(fields["filters"]),
        convolutional=True,
        norm_layers=_always,
        blocks=True,
    ),
    "lstm": Model(
        fields={"embed": 300, "hidden": 298, "dropout": 0.5},
        build=lambda fields, outputs, vocabulary: LSTMClassifier(
            vocabulary, fields["embed"], fields["hidden"], outputs, fields["dropout"]
        ),
        width=lambda fields: str(fields["hidden"]),
    ),
    "resnet50": Model(
        fields={"filters": 64},
        build=lambda fields, outputs: ResNet50(fields["filters"], outputs),
        width=lambda fields: str(fields["filters"]),
        convolutional=True,
        norm_layers=_always,
        blocks=True,
    ),
    "gcn": Model(
        fields={"latent": 256, "dropout": 0.1},
        build=lambda fields, outputs: GraphConvNet(fields["latent"], outputs, fields["dropout"]),
        width=lambda fields: str(fields["latent"]),
        norm_layers=_always,
    ),
    "transformer": Model(
        fields={"size": 128, "layers": 6, "heads": 8, "dropout": 0.1},
        build=lambda fields, outputs, vocabulary: Transformer(
            fields["size"],
            fields["layers"],
            fields["heads"],
            fields["dropout"],
            vocabulary,
            outputs,
        ),
        width=lambda fields: str(fields["size"]),
        norm_layers=_always,
        blocks=True,
    ),
    "vit": Model(
        fields={"size": 64, "layers": 4, "heads": 4, "patch": 4, "dropout": 0.1},
        build=lambda fields, outputs: ViT(
            fields["size"],
            fields["layers"],
            fields["heads"],
            fields["patch"],
            fields["dropout"],
            outputs,
        ),
        width=lambda fields: str(fields["size"]),
        norm_layers=_always,
        blocks=True,
    ),
    "minatar_cnn": Model(
        fields={"channels": 16},
        build=lambda fields, outputs: MinAtarCNN(fields["channels"], outputs),
        width=lambda fields: str(fields["channels"]),
        convolutional=True,
    ),
    "nature_cnn": Model(
        fields={"channels": 32},
        build=lambda fields, outputs: NatureCNN(fields["channels"], outputs),
        width=lambda fields: str(fields["channels"]),
        convolutional=True,
    ),
}
