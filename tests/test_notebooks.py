"""The notebooks in colab/: each is run whole in a small form, and what it computed is looked at.

A fresh kernel runs a copy in a folder of its own, with small values after the cell of parameters
(papermill's convention) and, at the end, a cell that prints what the test wants to know.
"""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parent.parent
FILES = {path.stem: path for path in sorted((ROOT / "colab").glob("*.ipynb"))}
# Warnings of samop's own, or that a cell is to blame for, are errors.
STRICT = 'import warnings\nwarnings.filterwarnings("error", module=r"(samop|__main__)(\\.|$)")'

# In a process of its own: a client leaves sockets to be collected, in the middle of other tests.
CLIENT = """
import sys
import nbclient, nbformat
from jupyter_client import AsyncKernelManager

file, sockets, folder = sys.argv[1:]
notebook = nbformat.read(file, as_version=4)
manager = AsyncKernelManager(transport="ipc", ip=f"{sockets}/kernel")
resources = {"metadata": {"path": folder}}
options = {"timeout": 900, "startup_timeout": 300, "resources": resources}
nbclient.NotebookClient(notebook, km=manager, **options).execute()
nbformat.write(notebook, file)
"""


def parameters_cell(notebook):
    (number,) = [
        i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    ]
    return number


def defined(source):
    """Names and values of the literals that a cell assigns; it should do nothing else."""
    found = {}
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        (target,) = statement.targets
        assert isinstance(target, ast.Name), ast.unparse(target)
        found[target.id] = ast.literal_eval(statement.value)
    return found


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(name, look, **small) -> values`: `look` is an expression, or several lines that end in
    one, evaluated in the kernel after the last cell; a key "figures" is added."""
    sockets = tempfile.mkdtemp(prefix="nb")  # paths of sockets have to be short
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "jupyter"),
        "JUPYTER_RUNTIME_DIR": sockets,
        "JAX_PLATFORMS": "cpu",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)

    def run(name, look, **small):
        notebook = nbformat.read(FILES[name], as_version=4)
        at = parameters_cell(notebook)
        known = defined(notebook.cells[at].source)
        for key, value in small.items():
            assert type(value) is type(known[key]), f"{key} of {name}"
        lines = [f"{key} = {value!r}" for key, value in small.items()]
        notebook.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(lines)))
        notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
        *before, last = look.strip().splitlines()
        told = f'import json, samop\nprint("LOOK", json.dumps([samop.__file__, {last}]))'
        notebook.cells.append(nbformat.v4.new_code_cell("\n".join([*before, told])))
        folder = tmp_path / "work"
        folder.mkdir()
        file = tmp_path / f"{name}.ipynb"
        nbformat.write(notebook, file)
        command = [sys.executable, "-c", CLIENT, str(file), sockets, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-5000:]
        notebook = nbformat.read(file, as_version=4)
        outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
        shown = [
            "".join(out.text)
            for out in outputs
            if out.output_type == "stream" and out.name == "stdout"
        ]
        (text,) = re.findall(r"^LOOK (.*)$", "".join(shown), re.MULTILINE)
        module, values = json.loads(text)
        assert Path(module).parent == ROOT / "samop"
        values["figures"] = sum("image/png" in out.get("data", {}) for out in outputs)
        values["text"] = "".join(shown)
        return values

    yield run
    shutil.rmtree(sockets)


@pytest.mark.parametrize("name", FILES)
def test_a_notebook_is_stripped_and_whole(name):
    text = FILES[name].read_text()
    raw = json.loads(text)
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert text.rstrip("\n") == nbformat.writes(notebook).rstrip("\n")  # a line of code, a line
    assert raw["metadata"]["kernelspec"]["name"] == "python3"
    assert set(raw["metadata"]) == {"kernelspec", "language_info"}
    ids = [cell["id"] for cell in raw["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in raw["cells"]:
        assert set(cell["metadata"]) <= {"tags"}, cell["id"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], cell["id"]
            assert cell["execution_count"] is None, cell["id"]
    assert defined(notebook.cells[parameters_cell(notebook)].source)


@pytest.mark.parametrize("name", FILES)
def test_a_notebook_says_what_it_takes_and_where_to_go_on(name):
    cells = nbformat.read(FILES[name], as_version=4).cells
    first, last = cells[0], cells[-1]
    assert first.cell_type == last.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert re.search(r"\*Time: about \d+ (s|min)\b.* on two CPU cores", first.source)
    text = FILES[name].read_text()
    assert "TIME_" not in text  # a time that nobody has filled in
    assert "## Where next" in last.source
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    linked = set(re.findall(r"\]\((\w+)\.ipynb\)", prose))
    assert linked == set(FILES) - {name}
    for path in re.findall(r"`((?:configs|experiments)/[\w/.]+)`", prose):
        assert (ROOT / path).exists(), path


def test_all_begin_by_installing_what_is_missing():
    cells = [nbformat.read(path, as_version=4).cells for path in FILES.values()]
    assert len({each[1].source for each in cells}) == 1
    assert 'find_spec("samop") is None' in cells[0][1].source


def test_what_is_missing_is_installed_only_from_where_one_says(monkeypatch):
    (name, *_) = FILES
    cell = nbformat.read(FILES[name], as_version=4).cells[1].source
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "samop" else found(n))
    asked = []

    class Shell:
        def run_line_magic(self, magic, line):
            asked.append((magic, line.format(**scope)))  # as IPython fills in names

    def execute(source):
        scope.clear()
        scope["get_ipython"] = Shell
        exec(TransformerManager().transform_cell(source), scope)

    scope = {}
    with pytest.raises(RuntimeError, match="set SAMOP above to the path or URL"):
        execute(cell)
    assert asked == []
    assert cell.count('SAMOP = ""') == 1
    execute(cell.replace('SAMOP = ""', 'SAMOP = "a folder/samop"'))
    held = f"jax>={importlib.metadata.version('jax')}"
    ((magic, line),) = asked
    assert magic == "pip"
    assert shlex.split(line) == ["install", "-q", "a folder/samop", held]


def test_the_width_figure(run):
    look = """
columns = ["width", "label_noise", "n", "gain", "gain_half95", "base_grad_evals", "sam_grad_evals"]
told = {"before": len(runs), "now": len(wider), "rhos": sorted(set(wider["rho"]))}
{**told, "gains": again[columns].to_dict("list"), "memorised": memorised}
"""
    found = run("quickstart", look, widths="4-4+16-16", seeds=2, epochs=4)
    gains = found["gains"]
    cells = set(zip(gains["width"], gains["label_noise"]))
    assert cells == {(width, noise) for width in ("4-4", "16-16") for noise in (0.0, 0.4)}
    assert len(gains["n"]) == 4
    assert set(gains["n"]) == {2}
    assert np.isfinite([gains["gain"], gains["gain_half95"]]).all()
    assert np.array_equal(2 * np.array(gains["base_grad_evals"]), gains["sam_grad_evals"])
    # Of each cell and seed: SGD, four ρ; then one ρ more.
    assert (found["before"], found["now"]) == (4 * 2 * 5, 4 * 2 * 6)
    assert found["rhos"] == [0.0, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert all(0 < v <= 100 for one in found["memorised"].values() for v in one.values())
    assert found["figures"] == 3


def test_sam_in_three_loops_and_what_goes_wrong(run):
    look = """
told = {"radius": float(d.epsilon_norm), "rise": [float(d.loss_increase), float(d.first_order)]}
told |= {"statistics": largest_moved, "keys": [same, other], "far": list(far.values())}
told |= {"nnx": [float(apart), drawn, float(first), float(last)], "clipped": clipped, "best": best}
told |= {"alone": np.asarray(alone).tolist(), "micro": np.asarray(micro).tolist()}
told |= {"accuracies": [np.asarray(values).tolist() for values in accuracies.values()]}
{**told, "halves": [gain.half for gain in gains.values()]}
"""
    small = {"width": 16, "seeds": 3, "epochs": 3, "rhos": (0.05, 0.1)}
    found = run("your_training_loop", look, **small)
    assert found["radius"] == pytest.approx(0.05, rel=1e-4)
    assert found["rise"][0] == pytest.approx(found["rise"][1], rel=0.3)
    assert found["statistics"] == 0
    assert found["keys"][0] < found["keys"][1] / 2
    moved, drawn, first, last = found["nnx"]
    assert (moved, drawn) == (0, 0)
    assert last < first
    inside, scanned, outside = found["far"]
    assert max(inside, scanned) < 1e-4 < 1e-2 < outside
    fading = 0.2 - 0.025 * np.arange(8)
    np.testing.assert_allclose(found["alone"], fading, rtol=1e-4)
    np.testing.assert_allclose(found["micro"], fading, rtol=1e-4)
    before, within = found["clipped"]
    assert within == pytest.approx(1, rel=1e-4)
    assert before > 2
    accuracies = np.array(found["accuracies"])  # [methods, seeds]
    assert accuracies.shape == (3, 3)
    assert np.all((accuracies >= 0) & (accuracies <= 100))
    assert np.isfinite(found["halves"]).all()
    assert found["best"] in small["rhos"]
    assert found["figures"] == 1


def test_a_spectrum_is_what_the_whole_matrix_says(run):
    look = """
told = {"values": top.values.tolist(), "residuals": top.residuals.tolist(), "ratios": ratios}
told |= {"converged": [bool(each.converged) for each in (top, bottom, ggn_top, moments.s[2])]}
told |= {"pairs": bool(converged), "lowest": float(bottom.values[0]), "exact": exact.tolist()}
told |= {"traces": {method: list(each[:2]) for method, each in traces.items()}}
told |= {"integral": float(np.trapezoid(mean_sgd, grid)), "planted": found_copies}
{**told, "ggn": [float(ggn_low.values[0]), float(ggn_low.residuals[0])]}
"""
    small = {"width": 5, "examples": 200, "seeds": 2, "epochs": 4, "probes": 4, "samples": 24}
    found = run("hessian_spectrum", look, **small)
    assert all(found["converged"])
    assert found["pairs"]
    exact = np.array(found["exact"])
    slack = np.array(found["residuals"]) + 1e-5 * exact[0]
    assert (np.abs(found["values"] - exact[:5]) <= slack).all()
    assert found["lowest"] == pytest.approx(exact[-1], abs=1e-3 * exact[0])
    for method, (value, error) in found["traces"].items():
        assert abs(value - exact.sum()) < 5 * error, method
    assert found["integral"] == pytest.approx(1, abs=0.02)
    assert found["planted"][0] < 3  # what its text says of residuals
    lowest, residual = found["ggn"]
    assert lowest > -residual - 1e-5 * exact[0]
    assert set(found["ratios"]) == {"training loss", "λ_max", "trace", "s₂"}
    assert all(low < of < high for of, low, high in found["ratios"].values())
    _, low, high = found["ratios"]["training loss"]
    assert f"its interval [{low:.2f}, {high:.2f}]" in found["text"]
    undecided = low <= 1 <= high
    assert ("difference of up to" in found["text"]) == undecided
    assert found["figures"] == 2


def test_a_wide_network_has_room_and_a_linear_one_no_choice(run):
    look = """
def out_of_span(vector, rows):
    coefficients = np.linalg.lstsq(rows.T, vector, rcond=None)[0]
    return float(np.linalg.norm(vector - rows.T @ coefficients) / np.linalg.norm(vector))
jacobians = np.asarray(at_points[1])
pairs = [pair for each in moved.values() for pair in zip(np.asarray(each), jacobians)]
outside = [out_of_span(*pair) for pair in pairs]
told = {"room": list(room.items()), "outside": outside, "arms": len(apart)}
{**told, "table": table.to_dict("list"), "slopes": slopes.tolist(), "trend": float(trend)}
"""
    small = {"widths": (10, 60), "seeds": 3, "steps": 1000}
    found = run("why_overparameterization", look, **small)
    room = dict(found["room"])
    assert room[60] == 180 - 12
    assert 18 <= room[10] < room[60]
    # Every step of the linearised network is a combination of the same twelve rows.
    assert len(found["outside"]) == 9
    assert max(found["outside"]) < 1e-9
    table = found["table"]
    assert len(table["loss"]) == 2 * 3 * 3
    for name in ("loss", "total variation", "λ_max", "travel", "variance"):
        assert np.all(np.array(table[name]) > 0), name
    arms, far = np.array(table["arm"]), np.array(table["distance"])
    assert np.all((far == 0) == (arms == "GD"))
    bends = dict(zip(zip(table["width"], arms, table["seed"]), table["total variation"]))
    ratios = [[bends[w, "SAM ρ=0.3", s] / bends[w, "GD", s] for s in range(3)] for w in (10, 60)]
    narrow, wide = np.log(ratios)
    slopes = (wide - narrow) / np.log2(60 / 10)  # through two points there is one line
    np.testing.assert_allclose(found["slopes"], slopes, rtol=1e-6, atol=1e-9)
    assert found["trend"] == pytest.approx(np.exp(slopes.mean()))
    assert found["arms"] == 4
    assert found["figures"] == 4


def test_several_devices_are_one(run):
    look = """
told = {"count": len(devices), "ways": ways, "equal": [own_difference, parts_difference]}
told |= {"mapped": list(differences.values()), "kept": kept}
{**told, "values": [values.tolist(), divided.values.tolist()]}
"""
    found = run("several_devices", look, simulated_devices=4, hidden=64, epochs=1)
    assert found["count"] == 4
    assert set(found["ways"]) == {"jit", "shard_map", "pmap"}
    assert max(max(pair) for pair in found["ways"].values()) < 1e-9
    assert max(found["equal"]) < 1e-9
    within, after, of_groups = found["mapped"]
    assert max(within, of_groups) < 1e-9 < 1e-6 < after
    assert found["text"].count("within roundings (below 1e-09)") == 2
    assert found["kept"] < 0.5
    np.testing.assert_allclose(*found["values"], rtol=1e-6)
    assert found["figures"] == 1


def test_one_device_says_so(run):
    look = "{'ways': ways, 'values': values.tolist(), 'several': several}"
    found = run("several_devices", look, hidden=8, epochs=1)
    assert not found["several"]
    assert found["ways"] == {}
    assert np.isfinite(found["values"]).all()
    assert found["text"].count("One device: nothing to do here") == 7
    assert found["figures"] == 0
