"""The table of exits: ranks by hand, costs that grow, the pick under a limit, files and picture."""

import csv
import json

import pytest
import torch

from brickyard.core.errors import ArtifactError, DataError, DeviceError, InfeasibleError
from brickyard.factory.exit_records import ExitChoice
from brickyard.factory.exit_table import ExitRow, ExitTable, evaluate_exits, pick_exit, ranks_of
from brickyard.modularize import add_exits

transformers = pytest.importorskip("transformers")


class Letters:
    """A tokenizer of letters."""

    pad_token_id = 0

    def __call__(self, texts, *, truncation, max_length):
        assert truncation
        return {"input_ids": [[ord(letter) - 94 for letter in text][:max_length] for text in texts]}


PAIRS = [("abc", "bcde"), ("ab", "gh"), ("cde", "bcde"), ("h", "abcabc")]
ROWS = (
    ExitRow(1, 0.5, 0.25, 2.0, 1000),
    ExitRow(2, 0.75, 0.5, 3.0, 2000),
    ExitRow(4, 0.7, 0.5, 5.0, 4000),
)
TABLE = ExitTable(ROWS, 10, 9, 32, 1, "onnxruntime 1", "a processor")


@pytest.fixture(scope="module")
def encoder():
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 20}
    torch.manual_seed(0)
    config = transformers.BertConfig(**sizes, num_hidden_layers=6, max_position_embeddings=64)
    model = transformers.BertModel(config).eval()
    return add_exits(model, exits=(1, 6), tokenizer=Letters(), max_tokens=64)


def test_ranks():
    documents = torch.eye(3)
    queries = torch.tensor([[0.9, 0.3, 0.1], [0.5, 0.4, 0.8], [0.6, 0.1, 0.6]])
    assert ranks_of(queries, documents, torch.tensor([0, 1, 2])).tolist() == [1, 3, 2]


def test_all_exits_are_measured(encoder):
    told = []
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    table = evaluate_exits(encoder, PAIRS, tokens=60, seconds=0.1, progress=lambda *step: told.append(step))
    assert (table.queries, table.documents, table.tokens) == (4, 3, 60)
    first, last = table.rows
    assert (first.exit, last.exit) == (1, 6)
    assert last.latency_ms > 2 * first.latency_ms
    layer = sum(p.numel() for p in encoder.backbone.encoder.layer[0].parameters())
    assert last.parameters - first.parameters == 5 * layer
    documents = ["bcde", "gh", "abcabc"]
    for row in table.rows:
        scores = (
            encoder.encode([query for query, _ in PAIRS], exit=row.exit)
            @ encoder.encode(documents, exit=row.exit).T
        )
        order = scores.argsort(1, descending=True).tolist()
        ranks = [
            ranked.index(documents.index(document)) + 1
            for ranked, (_, document) in zip(order, PAIRS, strict=True)
        ]
        assert row.mrr == pytest.approx(sum(1 / rank for rank in ranks) / 4)
        assert row.recall_at_1 == ranks.count(1) / 4
    assert told[0] == ("texts", 4, 7)
    assert ("texts", 7, 7) in told
    assert told[-1][0] == "latency"
    assert all(torch.equal(before[name], value) for name, value in encoder.network.state_dict().items())


def test_texts_of_the_queries_median_length_are_timed(encoder):
    assert evaluate_exits(encoder, PAIRS, seconds=0.1).tokens == 2


def test_what_cannot_be_measured_is_refused(encoder):
    with pytest.raises(DataError, match="1 different documents came; a query needs at least 2"):
        evaluate_exits(encoder, [("ab", "c"), ("b", "c")])
    with pytest.raises(DataError, match="tokens = 65 is not allowed; allowed: 1 to max_tokens = 64"):
        evaluate_exits(encoder, PAIRS, tokens=65)
    with pytest.raises(DeviceError, match="threads = 0"):
        evaluate_exits(encoder, PAIRS, threads=0)


def test_the_best_exit_within_a_limit():
    assert [TABLE.pick(latency_ms=limit) for limit in (2.0, 2.9, 3.0, 100.0)] == [1, 1, 2, 2]
    with pytest.raises(
        InfeasibleError, match="no exit takes at most 1 ms; the quickest takes 2 ms"
    ) as caught:
        TABLE.pick(latency_ms=1)
    assert caught.value.smallest == 2.0


def test_files(tmp_path):
    TABLE.write(tmp_path)
    assert json.loads((tmp_path / "exits.json").read_text()) == TABLE.to_json()
    with (tmp_path / "exits.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["mrr"] for row in rows] == ["0.5", "0.75", "0.7"]
    lines = (tmp_path / "exits.md").read_text().splitlines()
    assert lines[2] == "| 1 | 0.500 | 0.250 | 2 | 1,000 |"
    assert (
        lines[-1] == "10 queries, 9 documents; one text of 32 tokens, 1 thread(s), onnxruntime 1, a processor"
    )
    assert (tmp_path / "exits.png").read_bytes().startswith(b"\x89PNG")


def test_limits_of_parameters_and_exits_without_a_judgement():
    assert pick_exit(ROWS, max_parameters=1999) == 1
    assert pick_exit(ROWS) == 2
    unknown = [
        ExitChoice(exit=row.exit, mrr=None, latency_ms=row.latency_ms, parameters=row.parameters)
        for row in ROWS
    ]
    assert pick_exit(unknown) == 4
    assert pick_exit(unknown, latency_ms=4) == 2
    with pytest.raises(
        InfeasibleError, match="no exit has at most 999 parameters; the smallest has 1,000"
    ) as caught:
        pick_exit(ROWS, latency_ms=9, max_parameters=999)
    assert caught.value.limit == "parameters"


def test_a_table_comes_back_from_json():
    assert ExitTable.from_json(json.loads(json.dumps(TABLE.to_json()))) == TABLE
    for wrong in ({}, [], {**TABLE.to_json(), "more": 1}, {**TABLE.to_json(), "rows": [{"exit": 1}]}):
        with pytest.raises(ArtifactError, match=r"some\.json is no table of exits"):
            ExitTable.from_json(wrong, name="some.json")
    for name, value in (
        *(("latency_ms", value) for value in (-5, 0, True, float("nan"), float("inf"), "2", None)),
        *(("mrr", value) for value in (-0.1, 1.1, float("nan"))),
        *(("exit", value) for value in (0, 1.5, "1")),
        ("parameters", 0),
    ):
        rows = [{**TABLE.to_json()["rows"][0], name: value}]
        with pytest.raises(ArtifactError, match=rf"the table is no table of exits, .* \(rows\.0\.{name}: "):
            ExitTable.from_json({**TABLE.to_json(), "rows": rows})
    for name, value in (("rows", []), ("tokens", "many"), ("threads", 0), ("runtime", 1)):
        with pytest.raises(ArtifactError, match=rf"the table is no table of exits, .* \({name}: "):
            ExitTable.from_json({**TABLE.to_json(), name: value})
