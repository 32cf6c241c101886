"""Activities of molecules, see `samop.workloads.molecules`."""

from collections.abc import Mapping
from typing import Any

from samop.errors import UserError

FIELDS = {
    "row": 0,  # atoms of one example, which holds several molecules; 0: as many as the largest has
}


def check(config: Mapping[str, Any]) -> None:
    """See `samop.tasks.Task`."""
    row = config["task"]["row"]
    if not 0 <= row <= 32767:
        raise UserError(f"task.row={row!r} is not allowed: it should be a whole number 0 to 32767")
    for field, allowed in (("augment", ("none",)), ("normalize", ("none", "standardize"))):
        if config["data"][field] not in allowed:
            raise UserError(
                f"data.{field}={config['data'][field]!r} is for images; with "
                f"workload='molecules' use {' or '.join(map(repr, allowed))}"
            )
