"""Every SAM variant in float64 NumPy, from the papers' equations; nothing here comes from samop.

Weights are one flat vector `w`. A *rule* maps (step, w, grad) to the gradient that the base sees
and to a displacement added after the base (nought but for decoupled WSAM); `grad(w, rows)` is the
gradient on this step's mini-batch, or on some of its rows. Rules and bases have state:
use them once.
"""

from typing import NamedTuple

import numpy as np

STEPS, BATCH = 20, 16
LEAVES = {
    ("layer1", "kernel"): (12, 7),
    ("layer1", "bias"): (7,),
    ("layer2", "kernel"): (7, 4),
    ("layer2", "bias"): (4,),
}


def _spans():
    ends = np.cumsum([np.prod(shape) for shape in LEAVES.values()])
    return {leaf: slice(a, b) for leaf, a, b in zip(LEAVES, [0, *ends], ends)}


SPANS = _spans()
SIZE = sum(int(np.prod(shape)) for shape in LEAVES.values())


def flatten(tree):
    """One vector a set of weights; leading axes (groups) stay."""
    rows = []
    for (layer, name), shape in LEAVES.items():
        leaf = np.asarray(tree[layer][name])
        rows.append(leaf.reshape(*leaf.shape[: leaf.ndim - len(shape)], -1))
    return np.concatenate(rows, -1)


def unflatten(w):
    tree = {}
    for (layer, name), shape in LEAVES.items():
        tree.setdefault(layer, {})[name] = w[SPANS[layer, name]].reshape(shape)
    return tree


def where(chosen):
    """The coordinates of the leaves for which chosen(layer, name) holds, as a vector of bools."""
    keep = np.zeros(SIZE, bool)
    for leaf, span in SPANS.items():
        keep[span] = chosen(*leaf)
    return keep


# ---- a tanh classifier, its loss and its gradient by hand


def _forward(w, x):
    p = unflatten(w)
    hidden = np.tanh(x @ p["layer1"]["kernel"] + p["layer1"]["bias"])
    logits = hidden @ p["layer2"]["kernel"] + p["layer2"]["bias"]
    logits = logits - logits.max(1, keepdims=True)
    return p, hidden, logits - np.log(np.exp(logits).sum(1, keepdims=True))


def loss(w, x, y):
    return -_forward(w, x)[2][np.arange(len(y)), y].mean()


def gradient(w, x, y):
    p, hidden, log_p = _forward(w, x)
    d = (np.exp(log_p) - np.eye(log_p.shape[1])[y]) / len(y)
    back = d @ p["layer2"]["kernel"].T * (1 - hidden**2)
    return flatten(
        {
            "layer1": {"kernel": x.T @ back, "bias": back.sum(0)},
            "layer2": {"kernel": hidden.T @ d, "bias": d.sum(0)},
        }
    )


def problem(steps=STEPS, batch=BATCH):
    """Starting weights, and another mini-batch for each step."""
    rng = np.random.default_rng(2010_01412)
    scale = np.concatenate([np.full(np.prod(s), s[0] ** -0.5) for s in LEAVES.values()])
    batches = [(rng.normal(size=(batch, 12)), rng.integers(0, 4, batch)) for _ in range(steps)]
    return rng.normal(size=SIZE) * scale, batches


# ---- base optimisers: (step, w, gradient) → next w


def value(number, t):
    """A rate or a radius: a number, or a schedule of the step, which counts from 0."""
    return number(t) if callable(number) else number


def sgd(rate, momentum=0.0, decay=0.0):
    v = 0.0

    def base(t, w, g):
        nonlocal v
        v = momentum * v + (g + decay * w)
        return w - value(rate, t) * v

    return base


def adam(rate, decay=0.0, b1=0.9, b2=0.999, tiny=1e-8):
    """Adam 1412.6980, with L2 decay (not AdamW's)."""
    m = s = 0.0

    def base(t, w, g):
        nonlocal m, s
        g = g + decay * w
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        m_hat, s_hat = m / (1 - b1 ** (t + 1)), s / (1 - b2 ** (t + 1))
        return w - value(rate, t) * m_hat / (np.sqrt(s_hat) + tiny)

    return base


class Run(NamedTuple):
    path: np.ndarray  # weights before the first step and after each
    points: np.ndarray  # where gradients were taken, in order: the cost, and ε itself
    clean: np.ndarray | None = None  # MSAM: the unperturbed weights beside `path`


def _on(batch, points):
    x, y = batch

    def grad(w, rows=slice(None)):
        points.append(w)
        return gradient(w, x[rows], y[rows])

    return grad


def train(rule, base, w, batches):
    path, points = [w], []
    for t, batch in enumerate(batches):
        g, shift = rule(t, w, _on(batch, points))
        w = base(t, w, g) + shift
        path.append(w)
    return Run(np.array(path), np.array(points))


# ---- ascents: (g, w) → ε at radius 1


def unit(x):
    """n(x), with n(0) = 0."""
    size = np.linalg.norm(x)
    return x / size if size > 0 else 0.0 * x


def normalized(g, w):
    return unit(g)


def unnormalized(g, w):
    return g


def sign(g, w):
    return np.sign(g)


def layerwise(g, w):
    return np.concatenate([unit(g[span]) for span in SPANS.values()])


def adaptive(eta):
    """ASAM 2102.11600: T²g/‖Tg‖, T = |w|+η on weights and 1 on biases."""
    weights = where(lambda layer, name: name != "bias")

    def ascent(g, w):
        T = np.where(weights, np.abs(w) + eta, 1.0)
        return T**2 * g / np.linalg.norm(T * g)

    return ascent


def masked(ascent, keep):
    """ε, and any norm in it, on some coordinates only."""
    return lambda g, w: ascent(np.where(keep, g, 0.0), w)


def given(directions):
    """Directions drawn elsewhere, one a step."""
    directions = iter(directions)
    return lambda g, w: next(directions)


# ---- rules


def plain(t, w, grad):
    return grad(w), 0.0


def sam(rho, ascent=normalized, ascent_steps=1):
    """SAM 2010.01412: base(g_ε). K steps climb ρ/K each, every one from where the last arrived."""

    def rule(t, w, grad):
        epsilon = np.zeros_like(w)
        for _ in range(ascent_steps):
            here = w + epsilon
            epsilon = epsilon + value(rho, t) / ascent_steps * ascent(grad(here), here)
        return grad(w + epsilon), 0.0

    return rule


def window(rule, start, end):
    """A rule on the steps start ≤ t < end, the base alone on the others."""
    return lambda t, w, grad: (rule if start <= t < end else plain)(t, w, grad)


def m_sam(rho, groups, examples=BATCH):
    """The batch in groups of consecutive examples, an ascent for each; the mean of their g_ε."""
    size = examples // groups
    parts = [slice(i * size, (i + 1) * size) for i in range(groups)]

    def rule(t, w, grad):
        clean = [grad(w, rows) for rows in parts]
        there = [grad(w + rho * unit(g), rows) for g, rows in zip(clean, parts)]
        return np.mean(there, axis=0), 0.0

    return rule


def gsam(rho, alpha):
    """GSAM 2203.08065: the part of g across g_ε is climbed."""

    def rule(t, w, grad):
        g = grad(w)
        there = grad(w + value(rho, t) * unit(g))
        across = g - (g @ there / (there @ there)) * there
        return there - alpha * across, 0.0

    return rule


def looksam(rho, k, alpha):
    """LookSAM 2203.02714: every k-th step is SAM's, and its part across g serves until the next."""
    v = None

    def rule(t, w, grad):
        nonlocal v
        g = grad(w)
        if t % k:
            return g + alpha * np.linalg.norm(g) * unit(v), 0.0
        there = grad(w + rho * unit(g))
        v = there - (there @ g / (g @ g)) * g
        return there, 0.0

    return rule


def fsam(rho, sigma, lam):
    """F-SAM 2403.12350: climbs g less σ times its moving average, which then takes in g itself."""
    m = None

    def rule(t, w, grad):
        nonlocal m
        g = grad(w)
        if m is None:
            d = m = g
        else:
            d = g - sigma * m
            m = lam * m + (1 - lam) * g
        return grad(w + rho * unit(d)), 0.0

    return rule


def vasso(rho, theta):
    """VASSO 2509.02433: climbs a moving average of the gradients, this one among them."""
    d = 0.0

    def rule(t, w, grad):
        nonlocal d
        d = (1 - theta) * d + theta * grad(w)
        return grad(w + rho * unit(d)), 0.0

    return rule


def esam(rho, beta, masks):
    """ESAM 2110.03141, its weight part: a random share β of SAM's ε, over β; the norm is whole."""
    masks = iter(masks)

    def rule(t, w, grad):
        return grad(w + rho / beta * next(masks) * unit(grad(w))), 0.0

    return rule


def wsam(rho, gamma, learning_rate=None):
    """WSAM 2305.15817: sharpness weighs a = γ/(1−γ); given a rate, it passes the base by."""
    a = gamma / (1 - gamma)

    def rule(t, w, grad):
        g = grad(w)
        there = grad(w + rho * unit(g))
        if learning_rate is None:
            return (1 - a) * g + a * there, 0.0
        return g, -value(learning_rate, t) * a * (there - g)

    return rule


def gnp(rho, alpha):
    """The gradient-norm penalty 2202.03599 by a finite difference of step r = ρ; α = λ/r."""

    def rule(t, w, grad):
        g = grad(w)
        return (1 - alpha) * g + alpha * grad(w + rho * unit(g)), 0.0

    return rule


def stablesam(rho, reverse=False):
    """StableSAM 2401.07250: g_ε at the length of g; reversed, g at the length of g_ε."""

    def rule(t, w, grad):
        g = grad(w)
        there = grad(w + rho * unit(g))
        ratio = np.linalg.norm(g) / np.linalg.norm(there)
        return (g / ratio if reverse else there * ratio), 0.0

    return rule


def train_msam(rho, rate, momentum, decay, w, batches):
    """MSAM 2401.12033: gradients and decay at w̃ = w − ρ n(v), v the momentum; v starts at 0."""
    v = np.zeros_like(w)
    clean, path, points = [w], [w], []
    for batch in batches:
        there = path[-1]
        v = momentum * v + _on(batch, points)(there) + decay * there
        w = w - rate * v
        clean.append(w)
        path.append(w - rho * unit(v))
    return Run(np.array(path), np.array(points), np.array(clean))
