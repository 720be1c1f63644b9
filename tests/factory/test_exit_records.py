"""Folders of encoders are told from others."""

import json

from brickyard.factory.exit_records import ExitChoice, ExitReport, has_exits, is_cut
from brickyard.factory.records import Budget

CHOICES = tuple(ExitChoice(exit=exit, mrr=None, latency_ms=exit, parameters=exit) for exit in (1, 2))


def test_folders_are_told_apart(tmp_path):
    assert not has_exits(tmp_path)
    assert not is_cut(tmp_path)
    (tmp_path / "network.json").write_text('{"builder": "residual"}')
    (tmp_path / "report.json").write_text('{"task": "red"}')
    assert not has_exits(tmp_path)
    assert not is_cut(tmp_path)
    (tmp_path / "network.json").write_text('{"multi_exit": {}}')
    (tmp_path / "report.json").write_text('{"job": "embed"}')
    assert has_exits(tmp_path)
    assert is_cut(tmp_path)


def test_a_report_survives_json_and_knows_what_was_chosen():
    report = ExitReport(
        factory="exits",
        exit=2,
        budget=Budget(latency_ms=3),
        choices=CHOICES,
        tokens=8,
        threads=1,
        timed_on="here",
        embed_dim=4,
        max_tokens=16,
        file_bytes=10,
        seconds={"total": 1.0},
        versions={},
        sha256={},
        files={},
        created="now",
    )
    assert report.chosen == CHOICES[1]
    assert ExitReport.model_validate(json.loads(report.model_dump_json())) == report
