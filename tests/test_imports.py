"""Who may import whom; what must not be loaded before it is used."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "samop"
ALLOWED = {"jax", "flax", "optax", "numpy"}
# A module imports modules of its own layer and lower ones; `None`: free of jax.
LAYERS = {
    0: {
        "trees",
        "models",
        "hessian",
        "ascents",
        "transforms",
        "precision",
        "diagnostics",
        "errors",
        "flops",
        "sparsity",
        "records",
        "variants",
        "tasks",
        "division",
    },
    1: {
        "config",
        "validation",
        "limits",
        "commands",
        "overrides",
        "meanings",
        "cadence",
        "theory",
        "data",
        "optim",
        "worlds",
        "ppo",
        "trajectory",
        "piecewise",
        "planes",
        "processes",
        "stopping",
        "shipped",
    },
    2: {"workloads", "step", "running", "train", "playing", "measures", "chunks", "parts"},
    3: {
        "sharding",
        "layouts",
        "checkpoint",
        "metrics",
        "groups",
        "environment",
        "watch",
        "loop",
        "streaming",
        "feeding",
        "scores",
        "progress",
        "memory",
        "remembered",
        "profiling",
        "speed",
        "pauses",
        "claims",
        "divergence",
        "begun",
    },
    4: {"timings", "shards", "modes", "planning", "sweep", "needs", "plans"},
    5: {
        "statistics",
        "pairing",
        "comparison",
        "radius",
        "varying",
        "flatness",
        "wording",
        "results",
        "curves",
        "summary",
        "throughput",
        "figures",
        "report",
        "headline",
        "pages",
        "follow",
        "curvature",
        "cli",
        "main",
        "submit",
        "fields",
        "__main__",
    },
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names}
NO_JAX = (
    "statistics", "pairing", "comparison", "wording", "radius", "varying", "results", "curves",
    "summary", "headline", "figures", "report", "pages", "follow", "records", "cli", "flatness",
    "throughput", "claims", "submit", "shipped", "overrides", "commands", "limits", "meanings",
)  # fmt: skip


def imports(file):
    """(module, whether at the top level) of every import in a file."""
    tree = ast.parse(file.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in top


def own_module(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [f for f in sorted(PACKAGE.rglob("*.py")) if own_module(f) != "__init__"]


def test_every_module_has_a_layer():
    assert {own_module(f) for f in FILES} == set(LAYER)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_layers(file):
    for name, top in imports(file):
        parts = name.split(".")
        if parts[0] == "samop" and len(parts) > 1 and parts[1] in LAYER and top:
            assert LAYER[parts[1]] <= LAYER[own_module(file)], f"{file} imports {name}"
        if parts[0] == "orbax":
            assert own_module(file) == "checkpoint"
        if LAYER[own_module(file)] == 0 and top and parts[0] not in sys.stdlib_module_names:
            assert parts[0] in ALLOWED | {"samop"}, f"{file} imports {name}"


def loaded(statement):
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_results_and_figures_never_load_jax():
    assert "jax" not in loaded("import samop; import samop.results, samop.figures, samop.report")


def test_training_loads_neither_tensorflow_nor_pandas_nor_matplotlib():
    modules = loaded("import samop.sweep, samop.plans, samop.main")
    assert "jax" in modules
    assert modules.isdisjoint({"tensorflow", "pandas", "matplotlib", "tensorflow_datasets"})


def test_public_names():
    import samop

    assert callable(samop.sam)
    assert samop.models.MODELS
    with pytest.raises(AttributeError, match="no attribute 'sma'"):
        _ = samop.sma


def test_the_map_of_the_package_has_every_module():
    text = (PACKAGE / "README.md").read_text()
    named = set(re.findall(r"`([a-z_]+)", text))
    modules = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    modules |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert modules - named == set()
