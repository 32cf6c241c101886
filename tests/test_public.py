"""What others call is described and typed: read from the source, nothing imported but names."""

import ast
import re
from pathlib import Path

import pytest

import samop

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "samop").rglob("*.py"))
# What people call from their own programs; each function says what it takes, one by one.
DOORS = {
    "samop/__init__.py": (),
    "samop/transforms/__init__.py": (),
    "samop/hessian/__init__.py": (),
    "samop/figures/__init__.py": (),
    "samop/results.py": ("load", "completeness"),
    "samop/checkpoint.py": ("load", "save", "restore_host"),
    "samop/diagnostics.py": ("diagnose",),
    "samop/ascents.py": (
        "adaptive",
        "sign",
        "bernoulli",
        "friendly",
        "smoothed",
        "masked",
        "where",
    ),
}
SHORT = {"count_label", "examples", "grad_evals", "check_rho"}  # one argument: the line says it


def definitions(body, within=""):
    """(dotted name, node) of public functions, classes and methods."""
    for node in body:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield within + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{within}{node.name}.")


def arguments(node):
    args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    rest = [arg for arg in (node.args.vararg, node.args.kwarg) if arg]
    return [arg for arg in (*args, *rest) if arg.arg not in ("self", "cls")]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_everything_public_is_described_and_typed(file):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    for name, node in definitions(tree.body):
        assert ast.get_docstring(node), f"{name} has no docstring"
        if not isinstance(node, ast.ClassDef):
            bare = [arg.arg for arg in arguments(node) if arg.annotation is None]
            assert not bare, f"{name}: no type of {bare}"
            assert node.returns is not None, f"{name}: no type of what it returns"


def door_functions():
    """(file, name, node) of the functions behind the doors."""
    for place, own in DOORS.items():
        wanted = [(ROOT / place, name) for name in own]
        for node in ast.walk(ast.parse((ROOT / place).read_text())):
            if not own and isinstance(node, ast.ImportFrom) and node.module.startswith("samop."):
                path = (ROOT / node.module.replace(".", "/")).with_suffix(".py")
                wanted += [(path, alias.name) for alias in node.names if path.is_file()]
        for path, name in wanted:
            found = [n for full, n in definitions(ast.parse(path.read_text()).body) if full == name]
            assert found, f"{path} has no {name}"
            if isinstance(found[0], ast.FunctionDef):
                yield str(path.relative_to(ROOT)), name, found[0]


FUNCTIONS = sorted({(path, name): node for path, name, node in door_functions()}.items())


def test_the_doors_are_many():
    assert len(FUNCTIONS) > 40
    assert {name for (_, name), _ in FUNCTIONS} >= {"sam", "top_eigenvalues", "load", "width_gap"}


@pytest.mark.parametrize(
    ("key", "node"), FUNCTIONS, ids=[":".join(map(str, key)) for key, _ in FUNCTIONS]
)
def test_a_door_says_what_it_takes(key, node):
    """Every argument by its name in a section Args; what can be refused in a section Raises."""
    name, text = key[1], ast.get_docstring(node)
    if name in SHORT:
        assert len(arguments(node)) <= 2
        return
    assert "Args:" in text, f"{key}: no section Args"
    section = text.partition("Args:")[2]
    section = re.split(r"\n(?:Returns|Raises|Source|Example|Yields):", section)[0]
    missing = [a.arg for a in arguments(node) if not re.search(rf"\b{a.arg}\b", section)]
    assert not missing, f"{key}: Args does not name {missing}"


def test_every_public_name_is_there():
    listed = {name for name in dir(samop) if not name.startswith("_")}
    for name in listed:
        assert getattr(samop, name) is not None
    tree = ast.parse((ROOT / "samop" / "__init__.py").read_text())
    # What type checkers are told is what there is.
    told = {
        alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names
    }
    assert told - {"TYPE_CHECKING", "Any"} == {*samop._NAMES, *samop._MODULES}
