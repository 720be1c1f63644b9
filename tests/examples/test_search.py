"""The examples of foreign networks run as they are."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def lines(tmp_path, monkeypatch, capsys) -> Callable[..., list[str]]:
    """Runs an example in a folder of its own and gives the lines that it prints."""
    monkeypatch.chdir(tmp_path)

    def of(script: str, *arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return of


def test_a_table(lines, tmp_path: Path):
    assert len(lines("search_table.py")) >= 5
    ops = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    np.savez(tmp_path / "own.npz", ops=ops, wrong=[3.0, 1.0, 2.0, 4.0], ms=[1.0, 2.0, 3.0, 4.0])
    found = lines("search_table.py", "own.npz", "wrong", "ms")
    assert sorted(found) == ["error 1.00, cost 2.00: ['0', '1']", "error 3.00, cost 1.00: ['0', '0']"]


@pytest.mark.slow
def test_a_module_with_active_subnets(lines):
    found = lines("search_ofa.py")
    assert sum("parameters" in line for line in found) >= 3
    assert found[-1] == "the smallest is a Sequential: {'e': [1, 1, 1, 1, 1, 1], 'd': [1, 1]}"


@pytest.mark.slow
def test_an_encoder(lines, tmp_path: Path):
    pytest.importorskip("transformers")
    assert lines("search_encoder.py")[-1] == "small_encoder/ gives [4, 16, 24]"
    assert (tmp_path / "small_encoder" / "config.json").is_file()


@pytest.mark.slow
def test_experts_and_exits(lines, tmp_path: Path):
    pytest.importorskip("transformers")
    found = lines("modular_encoder.py")
    assert "reverted: every bit is as it was" in found
    assert found[-1] == "cut_encoder/ has 1 layer"
    assert (tmp_path / "cut_encoder" / "model.safetensors").is_file()


@pytest.mark.slow
def test_bits(lines, tmp_path: Path):
    assert "layer0" in lines("search_bits.py")[-1]
    onnxruntime.InferenceSession(tmp_path / "quantised.onnx", providers=["CPUExecutionProvider"])
