"""What every field of a config means and may be; `python -m samop.fields` prints it.

`COMMON` has the fields that every config has, whose limits `samop.validation` holds values to.
`MODELS` and `TASKS` have those of single networks and workloads. Defaults are in `samop.config`,
`samop.models`, `samop.tasks` and `samop.variants`; a test holds these tables to them.
"""

from typing import NamedTuple

from samop import variants
from samop.data import human
from samop.limits import SWITCH, Elsewhere, Kind, Limit, Number, Whole, Words, WordsOf

SEED = 2**32 - 1  # the largest
DTYPES = ("float32", "bfloat16", "float16")
PARALLEL = ("jit", "shard_map", "pmap")  # see samop.division
# What can be measured of a network's curvature; samop.measures says what each word records.
WHAT = ("eigenvalues", "negative", "trace", "moments", "ggn", "density", "layers", "sharpness")
SHARE = Number(0, 1, open_end=True)
TEXT = Kind(str, "text")
FOLDER = Kind(str, "a folder, or ''")
WHOLE_NUMBERS = Elsewhere("whole numbers from 2 to 8")
UNSET = variants.UNSET


class Field(NamedTuple):
    """What a field means, in a line, and what it may be."""

    meaning: str
    limit: Limit


COMMON: dict[str, Field] = {
    "experiment": Field("name of the sweep, and of its folder in runs/", TEXT),
    "workload": Field(
        "what is learned; chosen by the config file", WordsOf("samop.tasks", "TASKS")
    ),
    "seed": Field("of weights, batch order and label noise of a run", Whole(0, SEED)),
    "parallel": Field(
        "how devices share a run's batches, with equal results: XLA's partitioner divides whole "
        "batches (jit), or each device has functions of its own (shard_map, pmap)",
        Words(PARALLEL),
    ),
    "profile": Field("where a profiler's trace of one epoch of each group goes; '': none", FOLDER),
    "data.name": Field("a data set", Elsewhere("a name of `python -m samop.data list`, or a game")),
    "data.dir": Field("cache of decoded data; '': $SAMOP_DATA, or the user's cache", FOLDER),
    "data.validation": Field("examples held out of the training part", Whole(1)),
    "data.train_size": Field("training examples that are used; 0: all", Whole(0)),
    "data.test_size": Field("test examples that are used; 0: all", Whole(0)),
    "data.label_noise": Field(
        "share of training labels flipped to another class; of regression the standard deviation "
        "of noise on training targets",
        Elsewhere("number in [0, 1); of regression ≥ 0"),
    ),
    "data.noise": Field(
        "whose labels: flipped ones, or people's of cifar10 (CIFAR-N, arXiv 2110.12088)",
        Words((human.SYMMETRIC, *human.KINDS)),
    ),
    "data.noise_seed": Field("of the flipped labels; -1: the run's seed", Whole(-1, SEED)),
    "data.order_seed": Field("of the batch order; -1: the run's seed", Whole(-1, SEED)),
    "data.normalize": Field(
        "of pixels: divided by 255 (unit), or less the mean and by the deviation of each channel",
        Words(("unit", "standardize", "none")),
    ),
    "data.augment": Field(
        "of training images: shifts by up to 4 pixels and mirroring (crop_flip), or random crops "
        "made as large as the network takes (resized_crop)",
        Words(("none", "crop_flip", "resized_crop")),
    ),
    "model.name": Field(
        "the network; chosen by the config file", WordsOf("samop.models", "MODELS")
    ),
    "sparsity.method": Field(
        "how weights are pruned at initialisation", WordsOf("samop.sparsity", "METHODS")
    ),
    "sparsity.level": Field("share of weights that are pruned", SHARE),
    "linearized.mode": Field(
        "the network's first-order expansion about its initial weights (jvp), or α(f(w) − f(w₀)), "
        "which becomes lazy as α grows",
        Words(("none", "jvp", "lazy")),
    ),
    "linearized.alpha": Field("α of linearized.mode=lazy", Number(1e-6)),
    "optimizer.name": Field(
        "the perturbation: base has none, sam is SAM, others are its variants",
        Words(tuple(variants.VARIANTS)),
    ),
    "optimizer.base": Field("what the gradient is given to", Words(("sgd", "adam", "adamw"))),
    "optimizer.lr": Field("peak learning rate η", Number(0)),
    "optimizer.momentum": Field("of sgd", SHARE),
    "optimizer.b1": Field("of adam and adamw", SHARE),
    "optimizer.b2": Field("of adam and adamw", SHARE),
    "optimizer.eps": Field("of adam and adamw", Number(1e-30)),
    "optimizer.clip": Field("largest global norm of the (SAM) gradient; 0: none", Number(0)),
    "optimizer.weight_decay": Field(
        "λ: with sgd and adam λw joins the (SAM) gradient; with adamw decoupled", Number(0)
    ),
    "optimizer.schedule": Field(
        "of the rate: constant, by steps, as a cosine or a line to 0, or by 1/√step",
        Words(("constant", "step", "cosine", "linear", "rsqrt")),
    ),
    "optimizer.milestones": Field(
        "of schedule=step: when the rate falls", Elsewhere("shares of training in (0, 1)")
    ),
    "optimizer.factor": Field("of schedule=step: by what the rate is multiplied", Number(0)),
    "optimizer.warmup": Field("share of training in which the rate grows linearly", SHARE),
    "optimizer.rho": Field("ρ: radius of the perturbation", Number(0)),
    "optimizer.rho_schedule": Field(
        "of ρ: constant, or linear in the rate from rho down to rho_end (lr)",
        Words(variants.RHO_SCHEDULES),
    ),
    "optimizer.rho_end": Field("of rho_schedule=lr: ρ where the rate is 0", Number(0)),
    "optimizer.ascent": Field("direction of the perturbation", Words(variants.ASCENTS)),
    "optimizer.ascent_steps": Field("gradients that make up the perturbation", Whole(1)),
    "optimizer.eta": Field("of the adaptive ascent: added to |w|", Number(0, besides=UNSET)),
    "optimizer.mask": Field("which parameters are perturbed", Words(variants.MASKS)),
    "optimizer.decay_in_ascent": Field("whether λw is part of the ascent direction", SWITCH),
    "optimizer.start": Field("share of training after which SAM is active", SHARE),
    "optimizer.end": Field("share of training until which SAM is active", Number(0, 1)),
    "optimizer.m": Field(
        "m-SAM: examples for each perturbation, a divisor of train.batch_size; 0: the whole batch",
        Whole(0),
    ),
    "optimizer.m_by": Field(
        "m-SAM's groups one after another (scan, little memory) or at once (vmap)",
        Words(variants.GROUPINGS),
    ),
    "optimizer.alpha": Field(
        "GSAM: weight of the part that lowers the gap of losses; LookSAM: of the reused part; GNP: "
        "of the perturbed gradient",
        Number(0, besides=UNSET),
    ),
    "optimizer.k": Field("LookSAM: steps for each second gradient", Whole(1, besides=UNSET)),
    "optimizer.sigma": Field(
        "F-SAM: share of the mean gradient taken out", Number(0, besides=UNSET)
    ),
    "optimizer.lam": Field("F-SAM: how slowly that mean moves", Number(0, 1, besides=UNSET)),
    "optimizer.theta": Field(
        "VASSO: weight of the newest gradient", Number(1e-12, 1, besides=UNSET)
    ),
    "optimizer.beta": Field(
        "ESAM: share of weights that are perturbed", Number(1e-12, 1, besides=UNSET)
    ),
    "optimizer.gamma": Field(
        "WSAM: γ, sharpness weighs γ/(1 − γ)", Number(0, 1 - 1e-9, besides=UNSET)
    ),
    "optimizer.decoupled": Field("WSAM: sharpness moves the weights apart from the base", SWITCH),
    "optimizer.reverse": Field("StableSAM: the clean direction with SAM's length", SWITCH),
    "train.epochs": Field("passes over the training part, of the base optimiser", Whole(1)),
    "train.budget": Field(
        "what is equal between optimisers: epochs, or gradient evaluations, so that SAM, with two "
        "a step, trains for half as many epochs",
        Words(("epochs", "grad_evals")),
    ),
    "train.batch_size": Field("examples of a step", Whole(1)),
    "train.eval_batch_size": Field("examples that are evaluated at once", Whole(1)),
    "train.diagnostics_every": Field(
        "epochs between measurements of the perturbation; 0: none", Whole(0)
    ),
    "train.label_parts": Field(
        "whether each epoch says how well examples with true and with flipped labels are fitted",
        SWITCH,
    ),
    "train.statistics": Field(
        "of BatchNorm: the whole batch's, or those of each device's own examples (replica)",
        Words(("batch", "replica")),
    ),
    "train.remat": Field(
        "whether the backward pass computes the inside of blocks again, to save memory", SWITCH
    ),
    "precision.params": Field("type of the parameters", Words(DTYPES)),
    "precision.compute": Field("type in which the clean pass computes", Words(DTYPES)),
    "precision.second_pass": Field(
        "type of the perturbed pass: float32, or as precision.compute",
        Words(("float32", "compute")),
    ),
    "precision.loss_scale": Field(
        "first dynamic scale of the loss; 0: none", Elsewhere("0, or number ≥ 1")
    ),
    "curvature.every": Field(
        "when curvature is measured beside training; '': never",
        Elsewhere("'', end, or a number and a unit: 100steps, 5epochs, 10%"),
    ),
    "curvature.what": Field("what is measured then", Elsewhere(f"some of {', '.join(WHAT)}")),
    "curvature.what_end": Field("what besides of the trained network", Elsewhere("as what, or ()")),
    "curvature.examples": Field("training examples to measure on; 0: all", Whole(0)),
    "curvature.k": Field("eigenvalues", Whole(1)),
    "curvature.probes": Field("products with random vectors for a trace", Whole(1)),
    "curvature.orders": Field("of the moments of examples' Hessians", WHOLE_NUMBERS),
    "curvature.density_probes": Field("random vectors for a spectral density", Whole(1)),
    "curvature.density_steps": Field("Lanczos steps for each of them", Whole(1)),
    "curvature.rho": Field("radius of the sharpness measures", Number(1e-12)),
    "curvature.tol": Field("largest residual, relative to the largest eigenvalue", Number(1e-6)),
    "curvature.max_matvecs": Field("most products for eigenvalues, at least k", Whole(1)),
    "run.mode": Field(
        "many runs as one program (vmap), one run a device (loop), or the faster of them",
        Words(("auto", "vmap", "loop")),
    ),
    "run.replicates": Field("most runs in one program; 0: as many as memory takes", Whole(0)),
    "run.devices": Field("devices that are used; 0: all", Whole(0)),
    "run.share_batches": Field(
        "whether devices without a run of their own share another's batches; auto: not on a CPU",
        Words(("auto", "always", "never")),
    ),
    "run.shard_parameters": Field("whether those devices divide large weights among them", SWITCH),
    "run.checkpoint_seconds": Field("seconds between checkpoints", Number(0)),
    "run.claim_seconds": Field(
        "seconds without a sign of life after which another machine is taken for dead",
        Number(1e-3),
    ),
    "run.tensorboard": Field("whether TensorBoard's files are written; needs TensorFlow", SWITCH),
    "run.compilation_cache": Field(
        "whether compiled programs are kept for the next command", SWITCH
    ),
}

# By network; limits follow from the defaults' types, see `samop.fields.model_limit`.
MODELS: dict[str, dict[str, str]] = {
    "mlp": {
        "hidden": "sizes of the hidden layers",
        "activation": "after each of them",
        "norm": "before the activation",
    },
    "resnet18": {"filters": "channels of the first stage; later ones have 2, 4, 8 times as many"},
    "resnet50": {"filters": "channels of the first stage; later ones have 2, 4, 8 times as many"},
    "vit": {
        "size": "numbers that describe a patch",
        "layers": "blocks",
        "heads": "of attention; a divisor of size",
        "patch": "side of a patch, in pixels",
        "dropout": "rate",
    },
    "transformer": {
        "size": "numbers that describe a word; blocks are four times as wide inside",
        "layers": "blocks",
        "heads": "of attention; a divisor of size",
        "dropout": "rate",
    },
    "lstm": {
        "embed": "numbers that describe a word",
        "hidden": "numbers in the state of each direction",
        "dropout": "rate",
    },
    "gcn": {"latent": "numbers that describe an atom", "dropout": "rate"},
    "nature_cnn": {"channels": "filters of the first layer; everything else grows with it"},
    "minatar_cnn": {"channels": "filters; the dense layer grows with them"},
}

PART = Number(0, 1)
# By workload; `samop.tasks` holds values to these limits.
TASKS: dict[str, dict[str, Field]] = {
    "classification": {},
    "regression": {},
    "imagenet": {
        "image_size": Field("side of what the network sees, in pixels", Whole(1)),
        "crop_area": Field(
            "least share of a photo that a random crop shows", Elsewhere("in (0, 1]")
        ),
    },
    "tagging": {
        "min_frequency": Field("rarer words of training are one unknown word", Whole(1)),
        "word_dropout": Field("share of training's words made unknown, anew each time", SHARE),
        "max_length": Field("tokens; longer sentences are cut", Whole(1)),
        "row": Field(
            "tokens of one example, which holds several sentences",
            Elsewhere("whole number ≥ task.max_length"),
        ),
    },
    "sentiment": {
        "min_frequency": Field("rarer words of training are one unknown word", Whole(1)),
        "max_length": Field("words; longer sentences are cut", Whole(1)),
    },
    "molecules": {
        "row": Field(
            "atoms of one example, which holds several molecules; 0: as many as the largest has",
            Whole(0, 32767),
        ),
    },
    "control": {
        "agents": Field("games that are played side by side", Whole(1)),
        "horizon": Field("steps of each game between updates", Whole(1)),
        "iterations": Field("an epoch is so many times playing and updating", Whole(1)),
        "update_epochs": Field("passes over what was seen", Whole(1)),
        "gamma": Field("discount", PART),
        "lam": Field("λ of generalised advantage estimation", PART),
        "clip": Field("half-width of the ratio's interval at first; decays linearly to 0", PART),
        "value_coef": Field("weight of the value's loss", Number(0)),
        "entropy_coef": Field("weight of the policy's entropy", Number(0)),
        "clip_rewards": Field("learn from the rewards' signs; scores are never clipped", SWITCH),
        "sticky": Field("probability that a game repeats the last action instead", PART),
        "noops": Field("Atari: most random actions of nothing before a game", Whole(0, 30)),
        "life_loss": Field("Atari: for learning, a lost life is an end", SWITCH),
        "eval_episodes": Field("whole games of each of validation and test", Whole(1)),
        "eval_steps": Field("most steps of such a game", Whole(1)),
        "eval_greedy": Field("take the likeliest action; otherwise sample", SWITCH),
    },
}
