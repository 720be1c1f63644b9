"""Small networks inside a large one are those that the modular network computes, and are drawn as told."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from brickyard.continual import Learner, LearnSettings, TaskFolder
from brickyard.core.decision import Subset
from brickyard.core.errors import ConfigError, TrainError
from brickyard.factory.learn import (
    TaskSettings,
    _headed,
    _modular,
    _Pictures,
    learn_task,
    load_new_task,
    task_network,
)
from brickyard.factory.nested import Nested, draw_nested


def test_the_first_bricks_are_on_in_every_number():
    subsets = [Subset("wide", 4), Subset("needed", 3, minimum=2)]
    gates = draw_nested(subsets, 3000, share=0.5, generator=torch.Generator().manual_seed(0))
    wide, needed = (gates[subset.name] for subset in subsets)
    for part in (wide, needed):
        assert ((part == 0) | (part == 1)).all()
        assert (part[:, :-1] >= part[:, 1:]).all()
    whole = ((wide == 1).all(1) & (needed == 1).all(1)).float().mean()
    assert float(whole) == pytest.approx(0.5 + 0.5 / 4 / 3, abs=0.03)
    counts = torch.bincount(wide.sum(1).long(), minlength=5) / 3000
    assert counts.tolist() == pytest.approx([0, 0.125, 0.125, 0.125, 0.625], abs=0.03)
    assert set(needed.sum(1).tolist()) == {2.0, 3.0}
    again = draw_nested(subsets, 3000, share=0.5, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(again[name], gates[name]) for name in gates)


def test_what_is_computed_is_the_modular_network_with_bricks_off(pico, stripes):
    source = load_new_task(pico, str(stripes), heldout_share=0.2, seed=0)
    network = task_network(pico, 0.4)
    settings = LearnSettings(mask_epochs=1, weight_epochs=1, batch_size=32)
    pictures = _Pictures(source.train, source.preprocess)
    Learner(network, settings=settings).learn("one", pictures, num_classes=3)
    nested = Nested(network, _headed(pico, 2), 1.0)
    images = torch.from_numpy(source.preprocess.apply(source.heldout.images[:9]))
    whole = network.scores("one", images)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        with nested(9, generator.clone_state()):
            found = network.network(images)
        gates = draw_nested(nested.subsets, 9, share=1.0, generator=generator)
        modular = _modular(pico, network.extract("one"), num_outputs=3)
        with modular.gated(gates):
            expected = modular(images)
        assert torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(found, whole, atol=1e-2)
        assert torch.equal(network.scores("one", images), whole)  # all bricks are on again


def test_without_a_share_nothing_is_drawn(pico):
    nested, generator = Nested(task_network(pico, 0.4), _headed(pico, 2), 0.0), torch.Generator()
    before = generator.get_state()
    with nested(5, generator):
        assert all(subset.gates is None for subset in nested.subsets)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_out_of_range_is_refused_before_anything_is_written(share, pico, stripes, tmp_path):
    source = load_new_task(pico, str(stripes), heldout_share=0.2, seed=0)
    with pytest.raises(ConfigError, match=r"small_share = .* must be from 0 to 1"):
        learn_task(pico, "new", source, TaskSettings(small_share=share), progress=lambda *told: None)
    assert not (pico / "learned").exists()


def test_learning_with_another_share_does_not_go_on(taught, stripes, tmp_path):
    class Stopped(Exception):
        """The process ends here."""

    def stop(stage, done, total, text):
        if done == total:
            raise Stopped

    source = load_new_task(taught, str(stripes), heldout_share=0.2, seed=0)
    settings = TaskSettings(learn=LearnSettings(mask_epochs=1, weight_epochs=1, batch_size=32))
    file = taught.with_name(taught.name + ".learning")
    try:
        with pytest.raises(Stopped):
            learn_task(taught, "new", source, settings, progress=stop)
        with pytest.raises(TrainError, match=r"small_share: it has 0\.5, this run 0\.25"):
            learn_task(taught, "new", source, replace(settings, small_share=0.25), progress=stop)
    finally:
        file.unlink()


def test_the_share_decides_what_is_learned_and_is_recorded(pico, stripes, tmp_path):
    learned = {}
    for share in (0.0, 0.5):
        factory = tmp_path / str(share)
        shutil.copytree(pico, factory)
        source = load_new_task(factory, str(stripes), heldout_share=0.3, seed=0)
        settings = TaskSettings(small_share=share, learn=LearnSettings(mask_epochs=1, weight_epochs=1))
        learn_task(factory, "new", source, settings, progress=lambda *told: None)
        place = factory / "learned" / "tasks" / "0000"
        assert json.loads((place / "factory" / "settings.json").read_text())["small_share"] == share
        learned[share] = (place / "masks.bin").read_bytes()
    network = task_network(pico, 0.3)
    alone = Learner(network, settings=settings.learn, folder=TaskFolder.create(tmp_path / "alone", network))
    alone.learn("new", _Pictures(source.train, source.preprocess), num_classes=3)
    assert learned[0.0] == (tmp_path / "alone" / "tasks" / "0000" / "masks.bin").read_bytes()
    assert learned[0.5] != learned[0.0]
