"""A stopped training of exits goes on exactly; more in tests/cli/test_train_exits.py."""

from dataclasses import replace

import pytest
import torch

from brickyard.core.errors import ArtifactError, DataError, TrainError
from brickyard.data.code_pairs import CodePair
from brickyard.factory.exit_train import ExitBuild, train_exits
from brickyard.modularize import load_exits
from brickyard.train.exits import ExitSettings

from ..modularize.encoders import backbone, letters

PAIRS = [
    CodePair(query=f"{one} {two}", document=f"{two} {one} {one}", source=one, file=f"{one}.py", line=1)
    for one in "abcd"
    for two in "efgh"
]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "pico"
    backbone().save_pretrained(folder)
    letters().save_pretrained(folder)
    settings = ExitSettings(steps=4, learning_rate=1e-2, checkpoint_every=2)
    return ExitBuild(model=str(folder), exits=(1, 3), max_tokens=16, batch_size=4, train=settings)


def silent(*step):
    pass


def test_a_stopped_run_goes_on_exactly(build, tmp_path, monkeypatch):
    from brickyard.factory import exit_train

    assert train_exits(PAIRS, build, out=tmp_path / "whole", progress=silent) is None  # nothing is held out

    class StoppedError(Exception):
        pass

    def stop(*step):
        raise StoppedError

    run = exit_train.ExitTraining.run
    monkeypatch.setattr(exit_train.ExitTraining, "run", lambda self: run(self, record_every=2))
    with pytest.raises(StoppedError):
        train_exits(PAIRS, build, out=tmp_path / "halves", progress=stop)
    assert (tmp_path / "halves.training" / "exits.safetensors").is_file()
    with pytest.raises(TrainError, match=r"pairs differ"):
        train_exits(PAIRS[:-1], build, out=tmp_path / "halves", progress=silent)
    told = []
    train_exits(PAIRS, build, out=tmp_path / "halves", progress=lambda *step: told.append(step[:3]))
    assert told == [("train", 4, 4)]
    whole, halves = (load_exits(tmp_path / name).network.state_dict() for name in ("whole", "halves"))
    assert all(torch.equal(value, halves[name]) for name, value in whole.items())
    assert not (tmp_path / "halves.training").exists()


def test_where_there_is_one_source_files_are_the_context(build, tmp_path, monkeypatch):
    from brickyard.factory import exit_train

    seen = []

    class StoppedError(Exception):
        pass

    def context(texts, sources, *more, **settings):
        seen.append(sources)
        raise StoppedError

    monkeypatch.setattr(exit_train, "ContextTexts", context)
    settings = replace(build, train=replace(build.train, mlm=1.0))
    for pairs in (PAIRS, [replace(pair, source="one") for pair in PAIRS]):
        with pytest.raises(StoppedError):
            train_exits(pairs, settings, out=tmp_path / "out", progress=silent)
    assert seen == [[pair.source for pair in PAIRS], [pair.file for pair in PAIRS]]


def test_what_does_not_fit_is_told(build, tmp_path):
    with pytest.raises(DataError, match=r"3 pairs to train on came, fewer than a batch of 4"):
        train_exits(PAIRS[:3], build, out=tmp_path / "out", progress=silent)
    with pytest.raises(ArtifactError, match=r"already exists"):
        train_exits(PAIRS, build, out=tmp_path, progress=silent)
    assert not (tmp_path / "out").exists()
