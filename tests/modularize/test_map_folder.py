"""Maps survive their folder, and broken folders are told."""

import json

import pytest
import torch

from brickyard.core.errors import ArtifactError
from brickyard.modularize.map_folder import load_map, map_record, save_map

from .mapped import mapped


@pytest.mark.parametrize("experts", [None, [torch.arange(16) // 4] * 3])
def test_what_is_written_is_read(tmp_path, experts):
    _, found = mapped(experts=experts)
    save_map(found, tmp_path, provenance={"model": "tiny"})
    again = load_map(tmp_path)
    assert map_record(again) == map_record(found)
    for one, other in zip(found.layers, again.layers, strict=True):
        assert torch.equal(one.located, other.located)
        assert torch.equal(one.output, other.output)
        assert (one.experts is None) == (other.experts is None) == (experts is None)
    record = json.loads((tmp_path / "map.json").read_text())
    assert record["provenance"] == {"model": "tiny"}
    assert (record["layers"][0]["best_expert"] is None) == (experts is None)
    lines = (tmp_path / "neurons.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 3 * 3
    neuron = int(found.layers[0].located[0, 0])
    score = float(found.layers[0].scores[0, neuron])
    assert lines[1].startswith(f"0,{found.layers[0].path},front,0,{neuron},")
    assert lines[1].endswith(f"{score:.4f}")


def test_broken_folders_are_told(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        load_map(tmp_path)
    save_map(mapped()[1], tmp_path)
    record = json.loads((tmp_path / "map.json").read_text())
    (tmp_path / "map.json").write_text(json.dumps({**record, "functions": record["functions"][1:]}))
    with pytest.raises(ArtifactError, match=r"map.json tells of 2 functions, other parts of others"):
        load_map(tmp_path)
    (tmp_path / "scores.safetensors").write_bytes(b"none")
    with pytest.raises(ArtifactError, match="is not a whole map"):
        load_map(tmp_path)
    (tmp_path / "map.json").write_text('{"format_version": 99}')
    with pytest.raises(ArtifactError, match="holds no map of version 2"):
        load_map(tmp_path)
