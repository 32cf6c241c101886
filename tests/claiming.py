"""Claims taken by other processes, for tests of claims and of folders that workers share."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

from samop import claims

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
