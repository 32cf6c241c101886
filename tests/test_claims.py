"""Claims: one owner each, whatever is killed, paused or has a wrong clock."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small import small_plan

from samop import claims, groups, loop, plans, records, sweep
from samop.errors import UserError

ROOT = Path(__file__).parent.parent
LONG = 60.0


def take(workdir, seconds=LONG):
    return claims.take(workdir, "it", seconds)


def files(workdir):
    return sorted(p.name for p in (workdir / claims.FOLDER).iterdir())


@contextlib.contextmanager
def process(code, *arguments):
    """Another worker: a process that runs this code and answers on its standard output."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    kwargs = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    worker = subprocess.Popen(command, cwd=ROOT, **kwargs)
    try:
        yield worker
    finally:
        worker.send_signal(signal.SIGCONT)
        worker.kill()
        worker.communicate()


OWNER = """
import sys, time
from pathlib import Path
from samop import claims
workdir, seconds, boot = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
if boot:
    claims._boot = lambda: boot
claim = claims.take(workdir, "it", seconds)
print(type(claim).__name__, flush=True)
for line in sys.stdin:
    try:
        claim.check()
        print("in force", flush=True)
    except claims.LostClaim as error:
        print(f"lost: {error}", flush=True)
"""


def asked(worker):
    worker.stdin.write("\n")
    worker.stdin.flush()
    return worker.stdout.readline()


def test_one_owner_at_a_time(tmp_path):
    claim = take(tmp_path)
    assert isinstance(claim, claims.Claim)
    other = take(tmp_path)
    assert isinstance(other, claims.Holder)
    assert other.pid == os.getpid()
    assert claims.holder(tmp_path, "it", LONG) == other
    assert isinstance(claims.take(tmp_path, "another", LONG), claims.Claim)
    claim.check()
    claim.release()
    claim.release()
    assert claims.holder(tmp_path, "it", LONG) is None
    again = take(tmp_path)
    assert isinstance(again, claims.Claim)
    again.release()
    assert [name for name in files(tmp_path) if name.startswith("it.")] == []


RACER = """
import os, sys, time
from pathlib import Path
from samop import claims
workdir, turns = Path(sys.argv[1]), int(sys.argv[2])
for turn in range(turns):
    sys.stdin.readline()
    got = claims.take(workdir, f"race{turn // 4}", 60.0)
    if isinstance(got, claims.Claim):
        # Whoever is second to be here has broken in.
        os.close(os.open(workdir / "inside", os.O_CREAT | os.O_EXCL))
        print("won", flush=True)
        sys.stdin.readline()
        os.unlink(workdir / "inside")
        got.release() if turn % 4 else os.close(got._file)  # now and then as if it had died
    else:
        print("lost", flush=True)
        sys.stdin.readline()
"""


def test_two_processes_that_race_have_one_owner_each_time(tmp_path):
    turns = 120
    with process(RACER, tmp_path, turns) as a, process(RACER, tmp_path, turns) as b:
        for _ in range(turns):
            for begin in (True, False):
                for worker in random.sample([a, b], 2):
                    worker.stdin.write("\n")
                    worker.stdin.flush()
                if begin:
                    got = sorted(worker.stdout.readline().strip() for worker in (a, b))
                    assert got == ["lost", "won"]
                    assert len(list(tmp_path.glob("inside"))) == 1
            deadline = time.monotonic() + 10
            while (tmp_path / "inside").exists():
                assert time.monotonic() < deadline
            time.sleep(0.002)


def test_threads_that_race_without_turns(tmp_path):
    """Takes and releases overlap in every way: nobody is ever inside with somebody else."""
    inside, most, count = [], [], []

    def work():
        for _ in range(60):
            got = take(tmp_path)
            if isinstance(got, claims.Claim):
                inside.append(1)
                most.append(len(inside))
                got.check()
                inside.pop()
                count.append(1)
                got.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(count) > 4
    assert [name for name in files(tmp_path) if name.startswith("it.")] == []


def test_a_killed_owner_is_followed_at_once_on_the_same_machine(tmp_path):
    with process(OWNER, tmp_path, LONG, "") as owner:
        assert owner.stdout.readline() == "Claim\n"
        found = take(tmp_path)
        assert isinstance(found, claims.Holder)
        assert found.pid == owner.pid
        assert str(owner.pid) in str(found)
        owner.kill()
        owner.wait()
        claim = take(tmp_path)
        assert isinstance(claim, claims.Claim)
        assert files(tmp_path) == ["it.claim.0", "it.claim.1"]
        claim.check()
        claim.release()
        assert files(tmp_path) == []


def test_an_owner_elsewhere_lives_as_long_as_it_renews(tmp_path):
    seconds = 1.0
    with process(OWNER, tmp_path, seconds, "another boot") as owner:
        assert owner.stdout.readline() == "Claim\n"
        for _ in range(15):
            time.sleep(0.1)
            assert isinstance(take(tmp_path, seconds), claims.Holder)
        assert asked(owner) == "in force\n"


def test_an_owner_elsewhere_that_no_longer_renews_is_dead(tmp_path):
    with process(OWNER, tmp_path, LONG, "another boot") as owner:
        assert owner.stdout.readline() == "Claim\n"
        assert isinstance(take(tmp_path), claims.Holder)
        file = tmp_path / claims.FOLDER / "it.claim.0"
        back = file.stat().st_mtime - LONG - 1
        os.utime(file, (back, back))
        claim = take(tmp_path)
        assert isinstance(claim, claims.Claim)
        assert asked(owner).startswith("lost: ")
        claim.check()


def test_a_killed_owner_elsewhere_is_waited_for(tmp_path):
    with process(OWNER, tmp_path, LONG, "another boot") as owner:
        assert owner.stdout.readline() == "Claim\n"
    assert isinstance(take(tmp_path), claims.Holder)
    time.sleep(0.3)
    assert isinstance(take(tmp_path, 0.2), claims.Claim)


def test_a_paused_owner_elsewhere_notices_that_it_was_followed(tmp_path):
    seconds = 0.4
    with process(OWNER, tmp_path, seconds, "another boot") as owner:
        assert owner.stdout.readline() == "Claim\n"
        owner.send_signal(signal.SIGSTOP)
        time.sleep(2 * seconds)
        claim = take(tmp_path, seconds)
        assert isinstance(claim, claims.Claim)
        owner.send_signal(signal.SIGCONT)
        answer = asked(owner)
        assert answer.startswith("lost: ")
        assert "run.claim_seconds" in answer
        claim.check()
        claim.release()
        assert asked(owner).startswith("lost: ")
    assert files(tmp_path) == []


def test_a_paused_owner_on_the_same_machine_is_not_followed(tmp_path):
    with process(OWNER, tmp_path, 0.2, "") as owner:
        assert owner.stdout.readline() == "Claim\n"
        owner.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        assert isinstance(take(tmp_path, 0.2), claims.Holder)
        owner.send_signal(signal.SIGCONT)
        assert asked(owner) == "in force\n"


@pytest.mark.parametrize("days", [-1, 1])
@pytest.mark.parametrize("boot", ["", "another boot"])
def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch, days, boot):
    with process(OWNER, tmp_path, LONG, boot) as owner:
        assert owner.stdout.readline() == "Claim\n"
        for name in ("time", "monotonic", "time_ns", "monotonic_ns"):
            now, off = getattr(time, name), days * 86400 * (10**9 if name.endswith("ns") else 1)
            monkeypatch.setattr(time, name, lambda now=now, off=off: now() + off)
        mine = claims.take(tmp_path, "mine", LONG)
        assert isinstance(take(tmp_path), claims.Holder)
        mine.check()
        monkeypatch.setattr(claims, "_boot", lambda: "a third boot")
        assert isinstance(take(tmp_path), claims.Holder)
        assert isinstance(claims.take(tmp_path, "mine", LONG), claims.Holder)
        mine.check()
        mine.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"host": "there"}'])
def test_a_claim_of_which_little_was_written_counts_by_its_time(tmp_path, text):
    (tmp_path / claims.FOLDER).mkdir()
    file = tmp_path / claims.FOLDER / "it.claim.3"
    file.write_text(text)
    found = take(tmp_path)
    assert isinstance(found, claims.Holder)
    assert str(found) == "another process"
    back = file.stat().st_mtime - LONG - 1
    os.utime(file, (back, back))
    claim = take(tmp_path)
    assert isinstance(claim, claims.Claim)
    assert files(tmp_path) == ["it.claim.3", "it.claim.4"]
    claim.release()


def test_without_a_boot_id_the_machine_s_name_stands_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BOOT_ID", tmp_path / "none")
    claim = take(tmp_path)
    record = json.loads((tmp_path / claims.FOLDER / "it.claim.0").read_text())
    assert record["boot"] == ""
    assert isinstance(take(tmp_path, 0.0), claims.Holder)  # by its lock
    monkeypatch.setattr(claims.socket, "gethostname", lambda: "elsewhere")
    time.sleep(0.05)
    assert isinstance(take(tmp_path, 0.0), claims.Claim)  # by its time
    with pytest.raises(claims.LostClaim):
        claim.check()


def test_a_file_system_without_locks_goes_by_times(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(claims.fcntl, "flock", refuse)
        take(tmp_path)
    assert isinstance(take(tmp_path), claims.Holder)
    time.sleep(0.05)
    assert isinstance(take(tmp_path, 0.01), claims.Claim)


def test_an_owner_whose_file_is_gone_notices(tmp_path):
    claim = take(tmp_path)
    (tmp_path / claims.FOLDER / "it.claim.0").unlink()
    successor = take(tmp_path)
    with pytest.raises(claims.LostClaim, match="took over"):
        claim.check()
    claim.release()  # leaves the successor's file of the same name alone
    successor.check()
    successor.release()


def test_who_waits_says_for_whom(tmp_path, capsys):
    claim = take(tmp_path)
    threading.Timer(1.6, claim.release).start()
    with claims.hold(tmp_path, "it", LONG, "plans") as own:
        own.check()
    err = capsys.readouterr().err
    assert f"waiting: process {os.getpid()} on " in err
    assert f"plans in {tmp_path}" in err
    assert err.count("\n") == 1


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(claims.os, "open", refuse)
    words = rf"--workdir={tmp_path} cannot be written: Permission denied; choose"
    with pytest.raises(UserError, match=words) as caught:
        take(tmp_path)
    assert "\n" not in str(caught.value)


# Sweeps.


def record_of(workdir):
    found = sorted((workdir / "points").glob("*/metrics.jsonl"))
    return {file.parent.name: file.read_bytes() for file in found}


def times_trained(workdir):
    return {p.parent.name: p.read_text().count("\n") for p in workdir.glob("points/*/timing.jsonl")}


AXES = {"model.hidden": ((4, 4), (5, 5)), "optimizer.name": ("base", "sam"), "seed": (0, 1)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The sweep as one worker trains it."""
    workdir = tmp_path_factory.mktemp("alone")
    assert sweep.run(small_plan(AXES, run__devices=1), workdir) == []
    return workdir


def test_nothing_of_the_claims_is_left_and_an_old_lock_does_no_harm(alone, tmp_path):
    assert files(alone) == []
    (tmp_path / ".lock").write_text("12345")
    plan = small_plan({"seed": (0,)})
    assert sweep.run(plan, tmp_path) == []
    assert all(sweep.is_done(tmp_path, name) for name in plan.points)


def test_a_group_that_another_worker_trains_is_left_to_it(alone, tmp_path):
    plan = small_plan(AXES, run__devices=1)
    group = sweep.pending_groups(plan, tmp_path)[2]
    with process(OWNER.replace('"it"', repr(group.name)), tmp_path, LONG, "another boot") as owner:
        assert owner.stdout.readline() == "Claim\n"
        others = sweep.run(plan, tmp_path)
        (other,) = others
        assert f"process {owner.pid} on " in other
        assert not any(sweep.is_done(tmp_path, name) for name in group.names)
        assert set(record_of(tmp_path)) == set(plan.points) - set(group.names)
        said = plans.unfinished(plan, tmp_path, others)
        assert said.startswith(f"6 of 8 runs are done; still training: {other}: 1 group")
        assert "\n" not in said
        # It stopped renewing: the same command takes over.
        file = tmp_path / claims.FOLDER / f"{group.name}.claim.0"
        os.utime(file, (file.stat().st_mtime - LONG - 1,) * 2)
        assert sweep.run(plan, tmp_path) == []
        assert asked(owner).startswith("lost: ")
    assert plans.unfinished(plan, tmp_path, []) == ""
    assert record_of(tmp_path) == record_of(alone)
    assert set(times_trained(tmp_path).values()) == {1}


def test_what_a_worker_left_is_looked_at_again_at_the_end(alone, tmp_path, monkeypatch):
    """Another worker fails while this one trains: its group is trained in the same call."""
    plan = small_plan(AXES, run__devices=1)
    group = sweep.pending_groups(plan, tmp_path)[0]
    other = claims.take(tmp_path, group.name, LONG)
    original, seen = loop.train, []

    def train(ready, *args, **kwargs):
        seen.append(ready.group.name)
        if len(seen) == 3:
            other.release()
        return original(ready, *args, **kwargs)

    monkeypatch.setattr(loop, "train", train)
    assert sweep.run(plan, tmp_path) == []
    assert seen[-1] == group.name
    assert len(seen) == len(set(seen)) == 4
    assert record_of(tmp_path) == record_of(alone)


def test_a_lost_claim_ends_the_command_before_it_writes(tmp_path, monkeypatch):
    plan = small_plan({"seed": (0, 1)}, train__epochs=4)
    (group,) = sweep.pending_groups(plan, tmp_path)
    original, others = loop.resume, []

    def resume(ready, workdir):
        found = original(ready, workdir)
        file = workdir / claims.FOLDER / f"{group.name}.claim.0"
        file.unlink()
        others.append(claims.take(workdir, group.name, LONG))
        return found

    monkeypatch.setattr(loop, "resume", resume)
    with pytest.raises(claims.LostClaim):
        sweep.run(plan, tmp_path)
    assert record_of(tmp_path) == {}
    assert not (tmp_path / "groups" / group.name / "final").exists()
    others[0].check()
    others[0].release()
    monkeypatch.undo()
    assert sweep.run(plan, tmp_path) == []


def test_what_another_worker_divided_meanwhile_is_not_trained_whole(tmp_path, monkeypatch):
    plan = small_plan({"seed": (0, 1, 2, 3)}, run__devices=1)
    original = sweep._prepared

    def prepared(todo, *args):
        monkeypatch.undo()
        for group in todo:
            halves = groups.form(group.points, 1, lambda _: 2)
            for half in halves:
                sweep.freeze(half, plan, tmp_path, replaces=group.name)
        return original(todo, *args)

    monkeypatch.setattr(sweep, "_prepared", prepared)
    assert sweep.run(plan, tmp_path) == []
    assert set(times_trained(tmp_path).values()) == {1}
    done = [json.loads(p.read_text())["group"] for p in tmp_path.glob("points/*/DONE")]
    assert len(done) == 4
    assert len(set(done)) == 2


def test_two_commands_in_one_folder_at_the_same_time(tmp_path):
    """As users on two machines start them: all runs once, the records those of one command."""
    config = [
        f"--config={ROOT / 'configs' / 'digits_width.py'}:smoke,width=4-4+5-5",
        "--config.train.epochs=12",
        "--config.sweep.seeds=2",
        "--config.run.mode=vmap",
        "--config.run.tensorboard=False",
    ]

    def start(folder):
        command = [sys.executable, "-m", "samop.main", *config, f"--workdir={tmp_path / folder}"]
        kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, **kwargs)

    one = start("one")
    out, err = one.communicate(timeout=300)
    assert one.returncode == 0, err
    both = [start("two"), start("two")]
    told = [worker.communicate(timeout=300) for worker in both]
    assert [worker.returncode for worker in both] == [0, 0], told
    records_alone = record_of(tmp_path / "one")
    assert record_of(tmp_path / "two") == records_alone
    assert set(times_trained(tmp_path / "two").values()) == {1}
    assert sum("results.csv" in out for out, _ in told) >= 1
    for out, _ in told:
        assert "results.csv" in out or "the last writes the report" in out or "ends last" in out
    results = [(tmp_path / w / "results.csv").read_bytes() for w in ("one", "two")]
    assert results[0] == results[1]
    assert files(tmp_path / "two") == []
    for name in records_alone:
        rows = records.read_rows(tmp_path / "two" / "points" / name / "metrics.jsonl")
        assert [row["epoch"] for row in rows] == list(range(1, 13))
