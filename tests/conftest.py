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


@pytest.fixture(scope="module")
def unoptimized():
    """Compiles without XLA's optimisations, in commands that a test starts too.

    For modules that are about who trains what and when: small networks compile for long and run a
    moment. What is equal to the last bit is equal under either.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)
