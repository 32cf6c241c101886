"""What a run was made with: versions, device, git state. Saved beside its config."""

import importlib.metadata
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jax

PACKAGES = (
    "samop",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "orbax-checkpoint",
    "ml-collections",
)


def describe() -> dict[str, str | int]:
    """Plain values for a record."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": device.platform,
        "device": processor() if device.platform == "cpu" else device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cores": cores(),
        "git": git_state(),
    }


def keep_programs() -> None:
    """Keeps compiled programs for the next command: where JAX has been told to, or in our cache."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The CPU's own name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def free_bytes(devices: Sequence[jax.Device]) -> float:
    """Memory that may still be taken on these devices together; infinite where nobody tells.

    Of several processes each knows its own devices, and takes the others to be alike.
    """
    count = len(devices)
    devices = [device for device in devices if device.process_index == jax.process_index()]
    if devices[0].platform == "cpu":
        free = math.inf
        meminfo = Path("/proc/meminfo")
        if meminfo.exists():
            for line in meminfo.read_text().splitlines():
                if line.startswith("MemAvailable:"):
                    free = float(line.split()[1]) * 1024
        # A container's limit, where there is one.
        return min(free, container_free_bytes(Path("/sys/fs/cgroup")))
    free = 0.0
    for device in devices:
        stats = device.memory_stats() or {}
        free += stats.get("bytes_limit", math.inf) - stats.get("bytes_in_use", 0)
    return free * count / len(devices)


def container_free_bytes(cgroup: Path) -> float:
    """What a control group's limit leaves; infinite without one. Cached files can be dropped."""
    limit = cgroup / "memory.max"
    if not limit.exists() or not limit.read_text().strip().isdecimal():
        return math.inf
    statistics = dict(map(str.split, (cgroup / "memory.stat").read_text().splitlines()))
    used = float((cgroup / "memory.current").read_text())
    return float(limit.read_text()) - used + float(statistics.get("inactive_file", 0))


def git_state() -> str:
    """Commit of the checkout that samop is imported from, "-dirty" if changed, "" if none."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return out.stdout.strip()

    try:
        # A wheel may lie inside somebody else's repository: then this file is not tracked.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return ""  # an installed wheel, or no git: the version says what it is


def cache_dir() -> Path:
    """Where samop keeps what it can make again: $SAMOP_CACHE or the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SAMOP_CACHE") or Path(home) / "samop")
