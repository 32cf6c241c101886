"""Claims: one owner each, whatever is killed, paused or has a wrong clock."""

import errno
import json
import os
import random
import signal
import threading
import time

import pytest
from claiming import LONG, OWNER, asked, files, process, take

from samop import claims
from samop.errors import UserError


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


MORTAL = """
import os, signal, sys
from pathlib import Path
from samop import claims
workdir, call, late = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "after"
module = claims.fcntl if call == "flock" else claims.os
true = getattr(module, call)
def last(*args, **kwargs):
    if late:
        true(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, call, last)
claims.take(workdir, "it", float(sys.argv[4]))
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["open", "flock", "write", "link"])
def test_wherever_who_claims_is_killed_the_next_one_need_not_wait(tmp_path, call, when):
    with process(MORTAL, tmp_path, call, when, LONG) as worker:
        assert worker.wait(60) == -signal.SIGKILL
    claim = take(tmp_path)
    assert isinstance(claim, claims.Claim)
    claim.check()
    claim.release()
    assert [name for name in files(tmp_path) if not name.startswith(".draft-")] == []


def test_a_file_system_without_hard_links_has_one_owner_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(claims.os, "link", refuse)
    claim = take(tmp_path)
    assert isinstance(claim, claims.Claim)
    assert isinstance(take(tmp_path), claims.Holder)
    assert files(tmp_path) == ["it.claim.0"]
    claim.check()
    claim.release()
    assert files(tmp_path) == []


def test_a_link_whose_confirmation_was_lost_is_a_claim(tmp_path, monkeypatch):
    """As over a network: the server did what it is asked again, and says that it is there."""
    link = os.link

    def twice(*paths):
        link(*paths)
        link(*paths)

    monkeypatch.setattr(claims.os, "link", twice)
    claim = take(tmp_path)
    assert isinstance(claim, claims.Claim)
    claim.check()
    claim.release()
    assert files(tmp_path) == []
