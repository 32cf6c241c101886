"""The built package: what a wheel and an archive hold, and that an installed one needs no checkout.

The wheel is installed into an environment of its own, which has the tests' one for dependencies.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import samop
from samop import cli, main, shipped
from samop.errors import UserError

ROOT = Path(__file__).parent.parent
FOLDERS = ("configs", "tests", "experiments", "colab")
CONFIGS = {path.name for path in (ROOT / "configs").glob("*.py")}


def run(*words, cwd, **env):
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | env,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, archive), of what git would track, without a repository: as CI's copy has it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("samop", *filter(lambda name: (ROOT / name).is_dir(), FOLDERS)):
        left_out = shutil.ignore_patterns("__pycache__", "*.png", "*.csv")
        shutil.copytree(ROOT / name, source / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, source / name)
    done = run(
        sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", out,
        cwd=source,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def python(built, tmp_path_factory):
    """The interpreter of an environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("venv")
    made = run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    assert made.returncode == 0, made.stderr
    site = next((folder / "lib").glob("python3*")) / "site-packages"
    with zipfile.ZipFile(built[0]) as wheel:  # which is how a wheel of pure Python is installed
        wheel.extractall(site)
    # A .pth within this one is not read, so that an editable samop there is not found.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin" / "python"


def test_the_wheel_holds_the_package_its_types_and_every_config(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(f"samop-{samop.__version__}.dist-info/METADATA").decode()
    assert names >= {f"samop/configs/{name}" for name in CONFIGS}
    files = [f for f in (ROOT / "samop").rglob("*") if f.is_file() and f.suffix != ".pyc"]
    assert names >= {str(f.relative_to(ROOT)) for f in files} | {"samop/py.typed"}
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"samop", f"samop-{samop.__version__}.dist-info"}
    assert "Classifier: Typing :: Typed" in metadata
    assert f"\nVersion: {samop.__version__}\n" in metadata


def test_the_archive_holds_what_it_takes_to_test_and_cite(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"}
    assert names >= {f"configs/{name}" for name in CONFIGS}
    for folder in FOLDERS:
        assert names >= {str(f.relative_to(ROOT)) for f in (ROOT / folder).rglob("*.py")}
        assert names >= {str(f.relative_to(ROOT)) for f in (ROOT / folder).rglob("*.ipynb")}


def test_an_installed_samop_finds_its_configs_anywhere(python, tmp_path):
    words = ("--dry_run", "--config=configs/digits_width.py:smoke")
    done = run(python, "-m", "samop.main", *words, cwd=tmp_path, PYTHONWARNINGS="error")
    assert done.returncode == 0, done.stderr
    assert "16 runs, 0 of them done" in done.stdout
    installed = python.parent.parent
    note = done.stdout.splitlines()[0]
    assert note.startswith(f"--config=configs/digits_width.py is {installed}")
    assert note.endswith("samop/configs/digits_width.py")
    assert not list(tmp_path.iterdir())


# A user's program; what others' packages say of themselves is left out, which takes a minute.
PROGRAM = """
from pathlib import Path

import optax

import samop
from samop import hessian

def loss_fn(params: object, batch: object) -> float:
    return 0.0

tx = samop.sam(optax.sgd(0.1), rho=0.05, groups=2)
grads = samop.sam_gradient(loss_fn, m=4)
eigenvalues: samop.hessian.Eigenvalues = hessian.top_eigenvalues(loss_fn, {}, {}, k=2, key=0)
sure: bool = eigenvalues.converged
error: float = hessian.trace(loss_fn, {}, {}, key=0).std_error
network: dict[str, object] = samop.checkpoint.load("runs/digits_width/points/a")
runs = samop.results.load("runs/digits_width", allow_incomplete=True)
paths: list[Path] = samop.figures.save(samop.figures.width_gap(runs), "figures/width_gap")
"""
WRONG = {  # a line of such a program, and what should be said of it
    "samop.sam(optax.sgd(0.1), radius=0.05)": 'Unexpected keyword argument "radius" for "sam"',
    "samop.sma": 'Module has no attribute "sma"',
    "eigenvalues.value": '"Eigenvalues" has no attribute "value"',
    'samop.results.load("a", every=3)': 'Argument "every" to "load" has incompatible type "int"',
    "hessian.trace(loss_fn, {}, {})": 'Missing named argument "key" for "trace"',
}


def test_a_users_program_is_checked_against_the_installed_types(python, tmp_path):
    others = ("absl", "flax", "jax", "matfree", "matplotlib", "ml_collections", "numpy", "optax",
              "orbax", "pandas", "scipy")  # fmt: skip
    skipped = "".join(f"[mypy-{name},{name}.*]\nfollow_imports = skip\n" for name in others)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nignore_missing_imports = True\n{skipped}")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + "\n".join(WRONG) + "\n")
    words = ("--config-file=mypy.ini", f"--python-executable={python}", "program.py")
    done = run(sys.executable, "-m", "mypy", *words, cwd=tmp_path)
    first = PROGRAM.count("\n") + 1
    said = re.findall(r"^program.py:(\d+): error: (.*)", done.stdout, re.M)
    assert [int(line) for line, _ in said] == [first + i for i in range(len(WRONG))], done.stdout
    for (_, text), words in zip(said, WRONG.values(), strict=True):
        assert words in text


def test_a_checkout_has_its_own_configs():
    assert shipped.folder() == ROOT / "configs"
    assert {f"{name}.py" for name in shipped.names()} == CONFIGS


NAMES = ("digits_width", "digits_width.py", "configs/digits_width", "configs/digits_width.py")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_means_the_file_that_comes_with_samop(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped.find(name) == ROOT / "configs" / "digits_width.py"
    request = cli.parse([f"--config={name}:smoke", "--dry_run"])
    assert request.config.experiment == "digits_width_smoke"
    assert request.notes == [f"--config={name} is {ROOT / 'configs' / 'digits_width.py'}"]
    assert f"--config={name}:smoke" in request.command  # as typed: others repeat it elsewhere


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_users_goes_before(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = Path(name).with_suffix(".py")
    own.parent.mkdir(exist_ok=True)
    own.write_text("")
    assert shipped.find(name) == own


@pytest.mark.parametrize(
    ("name", "close"), [("digit_width", "digits_width"), ("configs/cifar_widht.py", "cifar_width")]
)
def test_an_unknown_config_is_answered_by_those_there_are(name, close, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"did you mean '{close}'") as caught:
        cli.parse([f"--config={name}"])
    assert ", ".join(sorted(n.removesuffix(".py") for n in CONFIGS)) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["elsewhere/digits_width.py", "../configs/digits_width.py", "x.json"]
)
def test_a_path_to_elsewhere_means_nothing_else(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no such file"):
        shipped.find(name)


def test_help_names_the_configs(capsys):
    assert main.main(["--help"]) == 0
    assert set(shipped.names()) <= set(re.findall(r"\w+", capsys.readouterr().out))


def test_one_place_says_the_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert re.fullmatch(r"\d+\.\d+\.\d+", samop.__version__)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == samop.__version__
    assert f"## {samop.__version__} – " in (ROOT / "CHANGELOG.md").read_text()
