"""Strict settings for every test: eight simulated devices, no rank promotion, no user's cache."""

import os
import tempfile

# Before anything computes; the commands that tests start, and xdist's workers, inherit it.
os.environ.setdefault("SAMOP_CACHE", tempfile.mkdtemp(prefix="samop-tests-"))
# Many tests train the same small networks: compile each program once a session.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.environ["SAMOP_CACHE"], "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Small networks run a moment and compile for long, so that XLA is to think little about each. With
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 the suite takes longer and tests what users get.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"

import jax
import pytest
from offered import hermetic as hermetic
from offered import offer as offer

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimized(monkeypatch):
    """Compiles with XLA's optimisations: where what they make of a program is what is tested.

    Commands that a test starts have no flags either; this process keeps those it began with.
    """
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
