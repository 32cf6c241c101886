"""What a run was made with, and where compiled programs are kept."""

import jax
import pytest

from samop import environment


@pytest.mark.parametrize("told", ["/somewhere/else", None])
def test_programs_are_kept_where_jax_was_told_to_or_in_the_cache(told):
    before = jax.config.jax_compilation_cache_dir
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        jax.config.update("jax_compilation_cache_dir", told)
        environment.keep_programs()
        kept = jax.config.jax_compilation_cache_dir
        assert kept == (told or str(environment.cache_dir() / "xla"))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


def test_a_description_is_plain_and_names_versions_and_device():
    found = environment.describe()
    assert {type(value) for value in found.values()} <= {str, int}
    assert found["jax"] == jax.__version__
    assert found["platform"] == jax.default_backend()
    assert found["devices"] == jax.device_count()
    assert found["device"]
