"""Tables: rows are found, columns chosen, and what is not a table is refused."""

import itertools

import numpy as np
import pytest

from brickyard.core.errors import ConfigError, DataError
from brickyard.search import run
from brickyard.search.adapters.tabular import Table

OPS = np.array(list(itertools.product(range(3), range(2), [1, 4])), np.int8)
ERROR = 10.0 - OPS[:, 0] * 2 - OPS[:, 1] + 0.1 * OPS[:, 2]
COLUMNS = {
    "err": ERROR.astype(np.float32),
    "ms": OPS.sum(1),
    "name": np.array([f"cell{i}" for i in range(12)]),
}
NAMES = ["none", "skip", "conv", "pool", "other"]


@pytest.fixture
def table(tmp_path):
    np.savez(tmp_path / "table.npz", ops=OPS, op_names=NAMES, edges=np.zeros((3, 2)), **COLUMNS)
    return Table.load(tmp_path / "table.npz")


def test_space_and_rows_are_those_of_the_file(table):
    assert [decision.values for decision in table.space] == [
        ("none", "skip", "conv"),
        ("none", "skip"),
        ("skip", "other"),
    ]
    for row, point in enumerate(OPS):
        config = table.space.check({f"op{i}": NAMES[op] for i, op in enumerate(point)})
        assert table.row(config) == row
        assert table.evaluate(config) == {"err": pytest.approx(ERROR[row]), "ms": float(point.sum())}
        assert table.extract(config)["name"] == f"cell{row}"
        assert table.extract(config)["row"] == row


def test_a_search_finds_the_best_row(table):
    network = table.measuring(error="err", latency_ms="ms")
    result = run(network, objectives=["error"], evaluations=12, sampler="exhaustive")
    assert set(result.front[0].metrics) == {"error", "latency_ms"}
    assert result.front[0].metrics["error"] == pytest.approx(ERROR.min())
    assert network.extract(result.front[0].config)["row"] == ERROR.argmin()


def test_columns_are_checked(table):
    with pytest.raises(ConfigError, match=r"column 'er' is not in the table; nearest: \['err'\]"):
        table.measuring(error="er")
    with pytest.raises(
        ConfigError, match=r"column 'name' holds <U6, no numbers; numbers are in \['err', 'ms'\]"
    ):
        table.measuring(error="name")
    with pytest.raises(ConfigError, match=r"op0 = 'pool' is not allowed"):
        table.evaluate({"op0": "pool", "op1": "none", "op2": "skip"})


@pytest.mark.parametrize(
    ("ops", "columns", "names", "message"),
    [
        (OPS.astype(float), {}, None, r"ops is float64 \[12, 3\]; a table needs integers"),
        (OPS[:, 0], {}, None, r"ops is int8 \[12\]"),
        (OPS, {"ms": np.zeros(11)}, None, r"column 'ms' is \[11\]; this table has 12 rows"),
        (OPS, {}, ["none", "skip"], r"ops go from 0 to 4, but op_names has 2 names"),
        (OPS[[0, 1, 0]], {}, None, r"rows 0 and 2 are both of \('0', '0', '1'\)"),
        (OPS[:-1], {}, None, r"has 11 of the 12 combinations"),
    ],
)
def test_what_is_no_table_is_refused(ops, columns, names, message):
    with pytest.raises(DataError, match=message):
        Table(ops, columns, op_names=names)


def test_files_that_are_no_tables_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"text.npz is not a table"):
        Table.load(tmp_path / "text.npz")
    with pytest.raises(DataError, match=r"absent.npz is not a table"):
        Table.load(tmp_path / "absent.npz")
    np.savez(tmp_path / "other.npz", accuracies=np.zeros(3))
    with pytest.raises(DataError, match=r"has no array ops .* it has \['accuracies'\]"):
        Table.load(tmp_path / "other.npz")
