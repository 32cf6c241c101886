"""Molecules as graphs: atoms with nine properties, bonds with three, and binary labels.

Two sources give the same arrays: tables of SMILES strings, read through rdkit (the extra
`molecules`), and ogbg-molpcba, whose graphs TFDS holds ready-made. The properties are those of the
Open Graph Benchmark (arXiv 2005.00687): each is the place of a value in a fixed list, and what the
list lacks gets its last place.

Arrays, with n molecules in the order of the source:
  atom: uint8 [atoms, 9], `ATOM_FEATURES`; atom_start: int64 [n + 1], where a molecule's begin.
  bond: uint8 [bonds, 3], `BOND_FEATURES`, each bond once; bond_start: int64 [n + 1].
  bond_ends: int16 [bonds, 2], its two atoms, numbered within their molecule, the smaller first.
  label: int8 [n, tasks]: 0 or 1, −1 where it was not measured.
  part: uint8 [n]: 0 training, 1 validation, 2 test; only of a source with splits of its own.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from samop.errors import UserError

Arrays = dict[str, np.ndarray]
About = dict[str, Any]

_OTHER = "other"
ATOM_FEATURES: dict[str, tuple[Any, ...]] = {
    "atomic_number": (*range(1, 119), _OTHER),
    "chirality": (
        "CHI_UNSPECIFIED",
        "CHI_TETRAHEDRAL_CW",
        "CHI_TETRAHEDRAL_CCW",
        "CHI_OTHER",
        _OTHER,
    ),
    "degree": (*range(11), _OTHER),  # bonds, those to hydrogens included
    "charge": (*range(-5, 6), _OTHER),
    "hydrogens": (*range(9), _OTHER),
    "radical_electrons": (*range(5), _OTHER),
    "hybridisation": ("SP", "SP2", "SP3", "SP3D", "SP3D2", _OTHER),
    "aromatic": (False, True),
    "in_ring": (False, True),
}
BOND_FEATURES: dict[str, tuple[Any, ...]] = {
    "type": ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC", _OTHER),
    "stereo": (
        "STEREONONE",
        "STEREOZ",
        "STEREOE",
        "STEREOCIS",
        "STEREOTRANS",
        "STEREOANY",
    ),
    "conjugated": (False, True),
}
_ATOM_PLACES, _BOND_PLACES = (
    [{value: place for place, value in enumerate(values)} for values in table.values()]
    for table in (ATOM_FEATURES, BOND_FEATURES)
)
ACTIVE = 7.0  # −log10 of a concentration in mol/l: 100 nM or less is active
MISSING = -1


class Graph(NamedTuple):
    """One molecule: atom [atoms, 9], bond [bonds, 3], ends [bonds, 2], as in the module's head."""

    atom: np.ndarray
    bond: np.ndarray
    ends: np.ndarray


def _places(places: list[dict[Any, int]], values: tuple[Any, ...]) -> list[int]:
    return [table.get(value, len(table) - 1) for table, value in zip(places, values)]


def _graph(atom: Any, bond: Any, ends: Any) -> tuple[Graph, int]:
    """A graph with each pair of atoms joined once, and how many bonds repeated another."""
    atom = np.asarray(atom, np.uint8).reshape(-1, len(ATOM_FEATURES))
    bond = np.asarray(bond, np.uint8).reshape(-1, len(BOND_FEATURES))
    ends = np.sort(np.asarray(ends, np.int16).reshape(-1, 2), axis=1)
    pair = ends[:, 0].astype(np.int32) << 16 | ends[:, 1]
    first = np.sort(np.unique(pair, return_index=True)[1])
    return Graph(atom, bond[first], ends[first]), len(ends) - len(first)


def graph_of(molecule: Any) -> Graph:
    """The graph of an rdkit molecule; its hydrogens are counted at their atoms, not drawn."""
    atoms = [
        _places(
            _ATOM_PLACES,
            (
                atom.GetAtomicNum(),
                str(atom.GetChiralTag()),
                atom.GetTotalDegree(),
                atom.GetFormalCharge(),
                atom.GetTotalNumHs(),
                atom.GetNumRadicalElectrons(),
                str(atom.GetHybridization()),
                atom.GetIsAromatic(),
                atom.IsInRing(),
            ),
        )
        for atom in molecule.GetAtoms()
    ]
    bonds = [
        _places(_BOND_PLACES, (str(b.GetBondType()), str(b.GetStereo()), b.GetIsConjugated()))
        for b in molecule.GetBonds()
    ]
    ends = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()]
    return _graph(atoms, bonds, ends)[0]


def _stacked(graphs: list[Graph]) -> Arrays:
    def start(counts: list[int]) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)

    def all_of(field: str, width: int, dtype: Any) -> np.ndarray:
        parts = [np.empty((0, width), dtype), *(getattr(g, field) for g in graphs)]
        return np.concatenate(parts)

    return {
        "atom": all_of("atom", len(ATOM_FEATURES), np.uint8),
        "atom_start": start([len(g.atom) for g in graphs]),
        "bond": all_of("bond", len(BOND_FEATURES), np.uint8),
        "bond_ends": all_of("ends", 2, np.int16),
        "bond_start": start([len(g.bond) for g in graphs]),
    }


def _lonely(graphs: list[Graph]) -> int:
    return sum(len(g.atom) - len(np.unique(g.ends)) for g in graphs)


def _rows(name: str, content: bytes) -> Iterator[tuple[str, float]]:
    """(SMILES, y) of every row of a table."""
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        missing = {"smiles", "y"} - set(reader.fieldnames or ())
        if missing:
            raise UserError(f"{name}: has no column {', '.join(sorted(missing))}")
        for row in reader:
            try:
                value = float(row["y"])
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{name}: line {reader.line_num} has y={row['y']!r}, expected a number; "
                    "is the file truncated?"
                ) from error
            if not np.isfinite(value):
                raise UserError(f"{name}: line {reader.line_num} has y={row['y']}, not finite")
            yield row["smiles"], value
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name}: cannot be read as a table of UTF-8 text ({error})") from error


def smiles_tables(files: Mapping[str, bytes]) -> tuple[Arrays, About]:
    """Tables of SMILES strings and y = −log10 of nanomoles, one a task, to graphs and labels.

    A molecule is active in a task where 9 + y ≥ 7. Rows are of one molecule where rdkit writes the
    same canonical SMILES for them; its graph is that of the first string met. Rows that agree about
    a molecule and a task count once, a contradiction leaves that label unmeasured. Strings that
    rdkit does not understand, and molecules without atoms, are left out; `about` counts it all:
    rows, unparsed, empty, repeated, contradictions, spellings (further strings of a molecule
    already met) and lonely_atoms (without a bond), beside the names of the tasks.

    Args:
      files: name → content; a task is called by its file, without folder and ending.

    Raises:
      UserError: rdkit is missing, or a file cannot be read; it names the file and the line.
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise UserError(
            "reading SMILES strings needs rdkit: pip install 'samop[molecules]'"
        ) from error
    names = sorted(files)
    about: About = {"tasks": [PurePosixPath(name).stem for name in names]}
    about |= dict.fromkeys(("rows", "unparsed", "empty", "repeated", "contradictions"), 0)
    numbers: dict[str, int | None] = {}  # of molecules, by any string; None: left out
    canonical: dict[str, int] = {}
    reasons: dict[str, str] = {}
    graphs: list[Graph] = []
    labels: list[np.ndarray] = []

    def number_of(text: str) -> int | None:
        molecule = Chem.MolFromSmiles(text)
        if molecule is None or not molecule.GetNumAtoms():
            reasons[text] = "unparsed" if molecule is None else "empty"
            return None
        number = canonical.setdefault(Chem.MolToSmiles(molecule), len(graphs))
        if number == len(graphs):
            graphs.append(graph_of(molecule))
            labels.append(np.full(len(names), MISSING, np.int8))
        return number

    with rdBase.BlockLogs():
        for task, name in enumerate(names):
            seen: dict[int, int] = {}
            for text, y in _rows(name, files[name]):
                about["rows"] += 1
                if text not in numbers:
                    numbers[text] = number_of(text)
                number = numbers[text]
                if number is None:
                    about[reasons[text]] += 1
                    continue
                label = int(9 + y >= ACTIVE)
                if number not in seen:
                    seen[number] = labels[number][task] = label
                elif seen[number] == label:
                    about["repeated"] += 1
                else:
                    about["contradictions"] += 1
                    labels[number][task] = MISSING
    about["spellings"] = sum(n is not None for n in numbers.values()) - len(graphs)
    about["lonely_atoms"] = _lonely(graphs)
    return {**_stacked(graphs), "label": np.stack(labels)} if labels else _nothing(names), about


def _nothing(names: Iterable[str]) -> Arrays:
    raise UserError(f"no molecule can be read from {', '.join(names)}")


def ready_graphs(
    splits: Mapping[str, Iterable[Mapping[str, Any]]], tasks: Iterable[str] = ()
) -> tuple[Arrays, About]:
    """Ready-made graphs of the splits train, validation and test to arrays.

    They keep the order in which TFDS stores them, which is the same for everyone. Molecules without
    atoms are left out. `about` counts molecules (all that were met), empty,
    repeated_bonds (a pair of atoms is joined once, in whichever direction it is given) and
    lonely_atoms.

    Args:
      splits: examples with node_feat [atoms, 9], edge_feat [bonds, 3], edge_index [bonds, 2] and
        labels [tasks], which are 0, 1 or NaN.
      tasks: names of the tasks; numbers where there are none.

    Raises:
      UserError: an example is no such graph; it names the split and the example.
    """
    about: About = {"molecules": 0, "empty": 0, "repeated_bonds": 0}
    graphs: list[Graph] = []
    labels: list[np.ndarray] = []
    part: list[int] = []
    for number, split in enumerate(("train", "validation", "test")):
        for place, example in enumerate(splits[split]):
            about["molecules"] += 1
            label = np.asarray(example["labels"])
            atom, ends = (np.asarray(example[k]) for k in ("node_feat", "edge_index"))
            _check(f"{split} example {place}", atom, np.asarray(example["edge_feat"]), ends, label)
            if not len(atom):
                about["empty"] += 1
                continue
            graph, repeated = _graph(atom, example["edge_feat"], ends)
            about["repeated_bonds"] += repeated
            graphs.append(graph)
            labels.append(np.where(np.isnan(label), MISSING, label).astype(np.int8))
            part.append(number)
    if not labels:
        _nothing(splits)
    about["tasks"] = list(tasks) or [str(i) for i in range(len(labels[0]))]
    about["lonely_atoms"] = _lonely(graphs)
    return {
        **_stacked(graphs),
        "label": np.stack(labels),
        "part": np.asarray(part, np.uint8),
    }, about


def _check(where: str, atom: Any, bond: Any, ends: Any, label: Any) -> None:
    for name, array, table in (
        ("node_feat", atom, ATOM_FEATURES),
        ("edge_feat", bond, BOND_FEATURES),
    ):
        sizes = [len(values) for values in table.values()]
        if array.ndim != 2 or array.shape[1] != len(sizes):
            raise UserError(f"{where}: {name} has shape {list(array.shape)}")
        if len(array) and not ((array >= 0) & (array < sizes) & (array == np.floor(array))).all():
            raise UserError(f"{where}: {name} holds a place outside of {sizes}")
    inside = ends.shape == (len(bond), 2) and ((ends >= 0) & (ends < len(atom))).all()
    if not inside or (ends[:, 0] == ends[:, 1]).any() or len(atom) > np.iinfo(np.int16).max:
        raise UserError(f"{where}: edge_index does not join its {len(atom)} atoms")
    if not np.isin(label[~np.isnan(label)], (0, 1)).all():
        raise UserError(f"{where}: labels should be 0, 1 or NaN")
