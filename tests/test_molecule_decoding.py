"""Molecules read from tables of SMILES strings and from ready-made graphs."""

import sys

import numpy as np
import pytest

from samop.data import load, molecules
from samop.errors import UserError


def test_features_are_those_of_the_definition():
    """The example that the definition's authors give: Cl[C@H](/C=C/C)Br."""
    from rdkit import Chem

    graph = molecules.graph_of(Chem.MolFromSmiles("Cl[C@H](/C=C/C)Br"))
    assert graph.atom[1].tolist() == [5, 2, 4, 5, 1, 0, 2, 0, 0]
    assert graph.bond[2].tolist() == [1, 2, 0]
    assert graph.ends.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [1, 5]]
    benzene = molecules.graph_of(Chem.MolFromSmiles("c1ccccc1"))
    assert benzene.atom.tolist() == [[5, 0, 3, 5, 1, 0, 1, 1, 1]] * 6
    assert benzene.bond.tolist() == [[3, 0, 1]] * 6
    dummy = molecules.graph_of(Chem.MolFromSmiles("*"))
    assert dummy.atom[0, 0] == 118  # no element: the last place


def table(*rows):
    return "\n".join(["smiles,exp_mean [nM],y,cliff_mol,split", *rows, ""]).encode()


def test_tables_become_graphs_and_labels_and_what_is_odd_is_counted():
    files = {
        "in/B.csv": table("CCO,1,-1.0,0,train", "OCC,1,-3.0,0,train", "nonsense,1,0,0,test"),
        "in/A.csv": table(
            "CCO,100,-2.0,0,train",
            "OCC,101,-2.004,0,test",
            "[Na+],1,0.0,0,train",
            ",1,0.0,0,train",
            "C,1,0.0,0,train",
            "C,2,-0.3,0,train",
        ),
    }
    arrays, about = molecules.smiles_tables(files)
    assert about == {
        "tasks": ["A", "B"],
        "rows": 9,
        "unparsed": 1,
        "empty": 1,
        "repeated": 1,  # C twice, active in both
        "contradictions": 2,  # CCO and OCC are one molecule, on either side of 100 nM
        "spellings": 1,
        "lonely_atoms": 2,
    }
    assert arrays["label"].tolist() == [[-1, -1], [1, -1], [1, -1]]
    assert arrays["label"].dtype == np.int8
    assert arrays["atom_start"].tolist() == [0, 3, 4, 5]
    assert arrays["bond_start"].tolist() == [0, 2, 2, 2]
    assert arrays["bond_ends"].tolist() == [[0, 1], [1, 2]]
    assert {k: (v.dtype, v.ndim) for k, v in arrays.items()} == {
        "atom": (np.uint8, 2),
        "atom_start": (np.int64, 1),
        "bond": (np.uint8, 2),
        "bond_ends": (np.int16, 2),
        "bond_start": (np.int64, 1),
        "label": (np.int8, 2),
    }


def test_a_label_is_active_from_100_nanomoles_down():
    files = {"A.csv": table("C,100.0,-2.0,0,t", "CC,100.1,-2.0004,0,t", "CCC,99.9,-1.9996,0,t")}
    assert molecules.smiles_tables(files)[0]["label"].tolist() == [[1], [0], [1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"smiles,value\nC,1\n", r"bad\.csv: has no column y"),
        (table("C,1,-2.0,0,t", "CC,1"), r"bad\.csv: line 3 has y=None.*truncated"),
        (table("C,1,x,0,t"), r"bad\.csv: line 2 has y='x'"),
        (table("C,1,inf,0,t"), r"bad\.csv: line 2 has y=inf, not finite"),
        (b"\xff\xfe\x00", r"bad\.csv: cannot be read as a table"),
        (table("nonsense,1,0,0,t"), r"no molecule can be read from bad\.csv"),
    ],
)
def test_a_damaged_table_names_its_file(content, message):
    with pytest.raises(UserError, match=message):
        molecules.smiles_tables({"bad.csv": content})


def test_without_rdkit_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(UserError, match=r"pip install 'samop\[molecules\]'"):
        molecules.smiles_tables({"A.csv": table("C,1,0,0,t")})


def ready(**fields):
    example = {
        "num_nodes": np.array([3]),
        "num_edges": np.array([2]),
        "node_feat": np.ones((3, 9), np.float32),
        "edge_feat": np.ones((2, 3), np.float32),
        "edge_index": np.array([[2, 0], [1, 0]]),
        "labels": np.array([1, 0, np.nan], np.float32),
    }
    return {**example, **fields}


def test_ready_graphs_keep_their_splits_and_join_each_pair_once():
    both = ready(
        edge_index=np.array([[0, 1], [1, 0], [1, 2]]), edge_feat=np.zeros((3, 3), np.float32)
    )
    none = np.zeros((0, 2), np.int64)
    empty = ready(node_feat=np.zeros((0, 9)), edge_feat=np.zeros((0, 3)), edge_index=none)
    lonely = ready(node_feat=np.ones((1, 9)), edge_feat=np.zeros((0, 3)), edge_index=none)
    arrays, about = molecules.ready_graphs(
        {"train": [ready(), empty], "validation": [both], "test": [lonely]}
    )
    assert arrays["part"].tolist() == [0, 1, 2]
    assert arrays["label"].tolist() == [[1, 0, -1]] * 3
    assert arrays["bond_ends"].tolist() == [[0, 2], [0, 1], [0, 1], [1, 2]]
    assert arrays["bond_start"].tolist() == [0, 2, 4, 4]
    assert arrays["atom_start"].tolist() == [0, 3, 6, 7]
    assert about == {
        "molecules": 4,
        "empty": 1,
        "repeated_bonds": 1,
        "tasks": ["0", "1", "2"],
        "lonely_atoms": 1,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"node_feat": np.ones((3, 8))}, r"train example 0: node_feat has shape \[3, 8\]"),
        ({"node_feat": np.full((3, 9), 119.0)}, "node_feat holds a place outside"),
        ({"edge_index": np.array([[0, 3], [0, 1]])}, "edge_index does not join its 3 atoms"),
        ({"edge_index": np.array([[1, 1], [0, 1]])}, "edge_index does not join its 3 atoms"),
        ({"labels": np.array([2.0])}, "labels should be 0, 1 or NaN"),
    ],
)
def test_what_is_no_graph_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        molecules.ready_graphs({"train": [ready(**fields)], "validation": [], "test": []})


@pytest.mark.slow
def test_the_real_molecules_are_what_they_are_said_to_be():
    found = load("moleculeace")
    label = np.asarray(found.arrays["label"])
    assert label.shape == (35_633, 30)
    assert (label >= 0).sum() == found.about["rows"] == 48_714
    odd = ("unparsed", "empty", "repeated", "contradictions", "spellings", "lonely_atoms")
    assert [found.about[name] for name in odd] == [0] * 6
    assert np.diff(found.arrays["atom_start"]).max() == 316
