"""What every transform of samop promises, as functions; `test_contract.py` runs them.

python tests/contract.py      prints the table, transform × property
"""

import pathlib
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    import conftest  # noqa: F401  the tests' strict settings

import contract_compiled
import contract_step
from contract_setting import CASES, NotApplicable

PROPERTIES = {
    f.__name__: f
    for f in (
        contract_step.rho_0_is_the_base,
        contract_step.zero_gradient,
        contract_compiled.jit_and_scan,
        contract_compiled.vmap_over_rho,
        contract_compiled.donated_state,
        contract_compiled.traced_hyperparameters,
        contract_compiled.injected_hyperparameters,
        contract_step.schedule_advances,
        contract_compiled.cond_survives_vmap,
        contract_step.low_precision,
        contract_compiled.sharding,
        contract_step.masks,
        contract_step.any_pytree,
        contract_step.clipping,
        contract_step.bases,
        contract_compiled.orbax_round_trip,
        contract_step.extra_arguments,
        contract_step.counts_gradients,
        contract_step.perturbs_as_it_says,
        contract_compiled.groups,
        contract_step.accumulation_in_the_base,
        contract_step.bad_input,
    )
}


def table() -> str:
    """Markdown: a row a property, a column a transform; ✓, – where it cannot apply, ✗."""
    names = list(CASES)
    rows = ["| property | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    notes = []
    for title, check in PROPERTIES.items():
        cells = []
        for name in names:
            try:
                check(name, CASES[name])
                cells.append("✓")
            except NotApplicable as reason:
                cells.append("–")
                notes.append(f"{title}, {name}: {reason}")
            except Exception as error:  # the table shows what fails, whatever it is
                cells.append("✗")
                notes.append(f"{title}, {name}: {type(error).__name__} {str(error)[:300]}")
        rows.append(f"| {title.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", *notes])


if __name__ == "__main__":
    shown = table()
    print(shown)
    sys.exit("✗" in shown)
