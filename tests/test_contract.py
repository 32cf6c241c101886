"""Every transform × every property of `contract.py`; one that cannot apply says why."""

import contract
import pytest


@pytest.mark.parametrize("name", contract.CASES)
@pytest.mark.parametrize("check", contract.PROPERTIES)
def test_contract(name, check):
    try:
        contract.PROPERTIES[check](name, contract.CASES[name])
    except contract.NotApplicable as reason:
        pytest.skip(str(reason))
