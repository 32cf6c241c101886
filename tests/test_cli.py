"""The command line: what it accepts, and one clear line for what it does not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from samop import __main__ as overview
from samop import cli, curvature, fields, main, report, submit, sweep
from samop import config as configs
from samop.data import __main__ as data_command
from samop.errors import UserError

ROOT = Path(__file__).parent.parent
DIGITS = str(ROOT / "configs" / "digits_width.py")
CIFAR = str(ROOT / "configs" / "cifar_width.py")
SST2 = str(ROOT / "configs" / "sst2_width.py")
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def samop(*arguments, cwd=ROOT, timeout=300):
    """Runs the command in a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "samop.main", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.parametrize("file", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("arg", ["", ":smoke", ":seeds=2,epochs=3"])
def test_every_config_expands_to_valid_runs(file, arg):
    request = cli.parse([f"--config={file}{arg}"])
    points = sweep.expand(request.config, request.axes)
    assert {p["optimizer"]["name"] for p in points} >= {"base", "sam"}
    assert "python -m samop.main --config=configs/" in file.read_text()
    if arg == ":smoke":
        assert request.config.experiment.endswith("_smoke")
        assert len(points) <= 24
    if "seeds" in arg:
        assert {p["seed"] for p in points} == {0, 1}
        assert {p["train"]["epochs"] for p in points} == {3}


def test_the_main_job_is_480_runs():
    request = cli.parse([f"--config={DIGITS}"])
    assert len(sweep.expand(request.config, request.axes)) == 480


def test_overrides_and_widths():
    request = cli.parse(
        [
            f"--config={DIGITS}:width=10-20+64-64,seeds=3",
            "--config.optimizer.lr=1",
            "--config.sweep.rho=(.1,.3)",
            "--workdir=somewhere",
            "--dry_run",
        ]
    )
    assert request.axes[0]["model.hidden"] == ((10, 20), (64, 64))
    assert request.config.optimizer.lr == 1.0
    assert request.axes[0]["optimizer.rho"] == (0.1, 0.3)
    assert str(request.workdir) == "somewhere"
    assert request.dry_run


def test_what_is_said_goes_before_the_smoke_defaults():
    request = cli.parse([f"--config={DIGITS}:smoke,seeds=5,width=16-16"])
    assert request.axes[0]["seed"] == tuple(range(5))
    assert request.axes[0]["model.hidden"] == ((16, 16),)
    assert request.config.train.epochs == 10


def test_overriding_a_swept_field_fixes_its_axis_and_says_so():
    request = cli.parse([f"--config={DIGITS}", "--config.optimizer.rho=0.3"])
    assert request.axes[0]["optimizer.rho"] == (0.3,)
    assert request.notes == ["--config.optimizer.rho fixes a swept field: only 0.3 is run"]


BAD = [
    ([], "--config is missing"),
    (["--workdir=x"], "--config is missing"),
    (["--config.seed=1", f"--config={DIGITS}"], "--config.seed=1 comes before --config=FILE"),
    (["--config=configs/digit_width.py"], "no such file"),
    ([f"--config={DIGITS}:smok"], r"'smok' is unknown \(did you mean 'smoke'\?\)"),
    ([f"--config={DIGITS}:seeds=two"], "seeds='two' should be of type int"),
    ([f"--config={DIGITS}:seeds=3,seeds=4"], "'seeds' is given twice"),
    ([f"--config={CIFAR}:width=64-64"], "should be single sizes"),
    ([f"--config={CIFAR}:width=1.5"], "should be single sizes"),
    ([f"--config={SST2}:cpu,width=37"], "should be embedding and state joined by '-'"),
    ([f"--config={SST2}:cpu,width=1-2-3"], "should be embedding and state joined by '-'"),
    ([f"--config={DIGITS}", "--config.seed=4294967296"], "seed=4294967296 .*≤ 4294967295"),
    ([f"--config={DIGITS}", "--config.model.hidden=()"], "at least one size"),
    ([f"--config={DIGITS}", "--config.optimizer.milestones=('a',)"], "shares of training"),
    ([f"--config={DIGITS}:width=8x8"], "width='8x8' should be layer sizes"),
    (
        [f"--config={DIGITS}", "--config.optimizer.roh=1"],
        r"'optimizer.roh' is unknown \(did you mean 'optimizer.rho'\?\)",
    ),
    ([f"--config={DIGITS}", "--config.optimizer.lr=fast"], "config.optimizer.lr.*fast"),
    ([f"--config={DIGITS}", "--config.train.epochs=1.5"], "config.train.epochs"),
    ([f"--config={DIGITS}", "--config.optimizer.lr=-1"], r"optimizer.lr=-1.0 .*≥ 0"),
    ([f"--config={DIGITS}", "--config.optimizer.lr=nan"], "optimizer.lr=nan is not allowed"),
    ([f"--config={DIGITS}", "--config.optimizer.rho=-0.1"], "optimizer.rho=-0.1 is not allowed"),
    ([f"--config={DIGITS}", "--config.optimizer.rho=nan"], "optimizer.rho=nan is not allowed"),
    ([f"--config={DIGITS}", "--config.data.label_noise=1"], r"label_noise=1.0 .*\[0, 1\)"),
    ([f"--config={DIGITS}", "--config.optimizer.name=sgd"], "allowed: base, sam"),
    ([f"--config={DIGITS}", "--config.model.name=resnet18"], "needs model.filters"),
    ([f"--config={DIGITS}", "--config.model.name=mpl"], r"did you mean 'mlp'"),
    ([f"--config={DIGITS}", "--config.model.hidden=(0,)"], r"hidden=\(0,\) .*≥ 1"),
    ([f"--config={DIGITS}", "--config.train.batch_size=0"], "batch_size=0 .*≥ 1"),
    (
        [f"--config={DIGITS}", "--wrkdir=x"],
        r"option --wrkdir is unknown \(did you mean '--workdir'\?\); allowed: --config, ",
    ),
    ([f"--config={DIGITS}", "--workdir"], "--workdir needs a value, as in --workdir=VALUE"),
    ([f"--config={DIGITS}", "--dry_run=maybe"], "--dry_run=maybe cannot be read: .* true or false"),
    ([f"--config={DIGITS}", "--processes=x"], "--processes=x cannot be read: .* a whole number"),
    ([DIGITS], f"--config is missing: did you mean --config={DIGITS}?"),
    ([f"--config={DIGITS}", "--config.optimizer=sam"], "'optimizer' is a section; its fields: opt"),
    ([f"--config={DIGITS}", "--config.train.zzz=1"], "fields of this section: train.batch_size, "),
    ([f"--config={DIGITS}", "--config.train.lr=1"], "did you mean 'optimizer.lr'"),
    ([f"--config={DIGITS}", "--config.qqq=1"], "'qqq' is unknown; sections: curvature, data, "),
    ([f"--config={DIGITS}", "--config.sweep.rhos=.1"], "'sweep.rhos' .* mean 'sweep.rho'"),
    ([f"--config={DIGITS}", "--config.sweep.seeds=x"], "sweep.seeds=x cannot .* a whole number"),
    (
        [f"--config={DIGITS}", "--config.sweep.rho=(.1,"],
        r'a tuple, as in --config.sweep.rho="\(1,2',
    ),
    ([f"--config={DIGITS}", "--config.train.remat=x"], "train.remat=x cannot .* true or false"),
    ([f"--config={DIGITS}", "stray"], "'stray' is not understood"),
    ([f"--config={ROOT / 'pyproject.toml'}"], "a config is a .py file"),
    ([f"--config={ROOT / 'tests' / 'small.py'}"], "defines no function get_config"),
]


@pytest.mark.parametrize(("argv", "words"), BAD, ids=lambda v: " ".join(v)[-50:] if v else "none")
def test_bad_input_is_one_clear_line(argv, words):
    with pytest.raises(UserError, match=words) as caught:
        cli.parse(argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.train.batch_size=5000", "train.batch_size=5000 is larger than the data"),
        ("--config.data.name=digitz", "did you mean 'digits'"),
        ("--config.data.validation=5000", "validation"),
        ("--config.run.devices=99", "run.devices=99 is more than there are"),
    ],
)
def test_what_only_the_data_or_the_machine_can_tell(override, words, tmp_path):
    request = cli.parse([f"--config={DIGITS}:smoke", override, f"--workdir={tmp_path / 'w'}"])
    with pytest.raises(UserError, match=words):
        main.execute(request)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config.optimizer.rh = 0.1", r"sets config field 'optimizer.rh', .* 'optimizer.rho'"),
        ("config.trian = {'epochs': 3}", r"sets config field 'trian.epochs', .* 'train.epochs'"),
        ("config.train.epochs =", r"mine.py, line 7: invalid syntax"),
    ],
)
def test_a_slip_in_a_config_file(text, words, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from samop import config as configs\n\n\ndef get_config(arg=''):\n"
        f"    config = configs.defaults()\n    config.sweep.mine = 1\n    {text}\n"
        "    return config\n\n\ndef sweep(config):\n    return {'seed': (0,)}\n"
    )
    with pytest.raises(UserError, match=words) as caught:
        cli.parse([f"--config={tmp_path / 'mine.py'}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (data_command, [], "a command is missing; allowed: list, prepare"),
        (data_command, ["lst"], r"command 'lst' is unknown \(did you mean 'list'\?\)"),
        (data_command, ["list", "mnist"], "'mnist' is not understood: `list` takes no names"),
        (data_command, ["prepare"], "`prepare` needs names of data sets; allowed: digits, "),
        (data_command, ["list", "--data_dr=x"], r"--data_dr is unknown .*'--data_dir'"),
        (curvature, [], "--run=DIR is needed"),
        (curvature, ["x"], "argument 'x' is not understood"),
        (curvature, ["--rn=x"], r"option --rn is unknown \(did you mean '--run'\?\); allowed: "),
        (curvature, ["--run=x", "--k=x"], "--k: invalid int value: 'x'"),
        (curvature, ["--run=x", "--what=trce"], r"--what='trce' is .* 'trace'"),
        (curvature, ["--run=x", "--seed=-1"], "--seed=-1 is not allowed"),
        (curvature, ["--run=nowhere"], "--run=nowhere is no run"),
        (report, [], "--workdir=DIR is needed"),
        (report, ["x"], "argument 'x' is not understood"),
        (report, ["--wrkdir=x"], r"option --wrkdir is unknown \(did you mean '--workdir'\?\)"),
        (report, ["--workdir=x", "--follow=no"], "--follow: ignored explicit argument 'no'"),
        (report, ["--workdir=x", "--follow_seconds=x"], "--follow_seconds: invalid float value"),
        (report, ["--workdir=x", "--follow_seconds=0"], "--follow_seconds=0.0 is not allowed"),
        (report, ["--workdir=x", "--follow_seconds=nan"], "--follow_seconds=nan is not allowed"),
        (report, ["--workdir=nowhere"], "workdir='nowhere' does not exist"),
        (submit, [], "the arguments of samop.main come after"),
        (main, ["--config=nowhere.py"], "there is no such file"),
        (fields, ["nothing"], "no field's name holds 'nothing'"),
    ],
)
def test_other_commands_end_in_one_line_and_status_2(module, arguments, words, capsys):
    assert module.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.match(f"error: .*{words}", printed.err)
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "module", [data_command, curvature, report, submit, main, fields, overview]
)
def test_help_is_short_plain_and_on_stdout(module, capsys):
    """One screen; no wall of a library's flags."""
    assert module.main(["--help"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "python -m samop" in printed.out
    assert "--help" in printed.out
    assert len(printed.out.splitlines()) < 60
    assert max(map(len, printed.out.splitlines())) <= 100
    assert "helpfull" not in printed.out
    assert overview.main(["--version"]) == 0


def test_help_explains(capsys):
    assert main.main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in ("--config", "--workdir", "--dry_run", "smoke", "samop.report", "samop.data"):
        assert word in out


def test_a_whole_command(tmp_path, capsys):
    """Dry run, run, run again, replay of one record; what trains in processes of their own."""
    config = f"--config={DIGITS}:smoke"
    fields = ["--config.train.epochs=2", "--config.sweep.seeds=2", "--config.model.hidden=(4,4)"]
    work = f"--workdir={tmp_path / 'w'}"
    assert main.main([config, *fields, work, "--dry_run"]) == 0
    dry = capsys.readouterr().out
    assert "8 runs, 0 of them done" in dry
    assert "4-4: 330" in dry
    assert not (tmp_path / "w").exists()
    first = samop(config, *fields, work)
    assert first.returncode == 0, first.stderr
    assert "Traceback" not in first.stderr
    for file in ("results.csv", "runs.csv", "figures/width_gap.png", "figures/width_gap.pdf"):
        assert (tmp_path / "w" / file).stat().st_size > 500
        assert file in first.stdout
    results = (tmp_path / "w" / "results.csv").read_bytes()
    assert main.main([config, *fields, work]) == 0
    again = capsys.readouterr().out
    assert "8 runs, 8 of them done" in again
    assert "everything is done" in again
    assert (tmp_path / "w" / "results.csv").read_bytes() == results

    record = next((tmp_path / "w" / "points").glob("*sam*"))
    replay = samop(f"--config={record / 'config.json'}", f"--workdir={tmp_path / 'r'}")
    assert replay.returncode == 0, replay.stderr
    twin = tmp_path / "r" / "points" / record.name
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (record, twin)
    )
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert ours[-1]["test_loss"] == pytest.approx(theirs[-1]["test_loss"], rel=1e-4)


def test_errors_reach_the_shell_as_one_line_and_status_2(tmp_path):
    bad = samop(f"--config={DIGITS}:smoke", "--config.data.name=digitz", f"--workdir={tmp_path}")
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.startswith("error: data set 'digitz' is unknown")
    assert bad.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no record of a run"),
        ("{}", "is no record of a run"),
        ('{"config": 5}', "model.name=None is unknown"),
        ('{"config": {"model": 5}}', "model.name=None is unknown"),
        ('{"config": {"model": {"name": "mlp"}, "optimizer": {"rhoo": 1}}}', "did you mean"),
        ('{"config": {"model": {"name": "mlp"}, "seed": "x"}}', "seed='x' should be of type int"),
    ],
)
def test_a_record_that_is_none(tmp_path, text, words):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        cli.parse([f"--config={file}"])


def test_a_record_repeats_exactly_its_run():
    point = configs.defaults("mlp").to_dict()
    point["model"]["hidden"] = (5, 6, 7)
    point["seed"] = 12
    again = configs.from_json(json.loads(json.dumps(configs.to_json(point))))
    assert configs.point_name(again) == configs.point_name(point)


def test_overrides_of_a_sweep_of_several_products():
    variants = f"--config={ROOT}/configs/digits_variants.py:smoke"
    request = cli.parse([variants, "--config.optimizer.rho=0.3"])
    points = sweep.expand(request.config, request.axes)
    names = {p["optimizer"]["name"] for p in points}
    assert names == {"base", "sam", "asam", "gsam", "looksam", "msam"}
    assert {p["optimizer"]["rho"] for p in points} == {0.0, 0.3}
    request = cli.parse([variants, "--config.optimizer.name=looksam"])
    points = sweep.expand(request.config, request.axes)
    assert {p["optimizer"]["name"] for p in points} == {"base", "looksam"}
    assert "beside the base" in request.notes[0]
    request = cli.parse([variants, "--config.optimizer.name=gnp"])
    assert {p["optimizer"]["name"] for p in sweep.expand(request.config, request.axes)} == {
        "base",
        "gnp",
    }
    request = cli.parse([f"--config={DIGITS}:smoke", "--config.optimizer.name=asam"])
    assert request.axes[0]["optimizer.name"] == ("base", "asam")
    request = cli.parse([f"--config={DIGITS}:smoke", "--config.optimizer.name=base"])
    assert request.axes[0]["optimizer.name"] == ("base",)
