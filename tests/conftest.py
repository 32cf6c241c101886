"""Strict settings for every test: eight simulated devices, no rank promotion, no user's cache."""

import os
import tempfile

# Before anything computes; the commands that tests start, and xdist's workers, inherit it.
os.environ.setdefault("SAMOP_CACHE", tempfile.mkdtemp(prefix="samop-tests-"))

import jax
import pytest
from offered import hermetic as hermetic
from offered import offer as offer

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Many tests train the same small networks: compile each once a session.
jax.config.update("jax_compilation_cache_dir", os.path.join(os.environ["SAMOP_CACHE"], "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def x64():
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield
