"""Supernets end to end: data in, a folder out whose subnets can be judged; a stopped build ends the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from brickyard.core.errors import ArtifactError, ConfigError, DataError, TrainError
from brickyard.core.task import Vocabulary
from brickyard.data.digits import load_digits
from brickyard.data.source import DataSource, load_data
from brickyard.data.texts import Pairs, PairSource, Texts, TextSource
from brickyard.factory.measures import read_measures
from brickyard.factory.searching import SearchSetup, SubnetEvaluator
from brickyard.factory.supernet import load_trained
from brickyard.factory.supernet_build import SupernetBuild, train_supernet
from brickyard.train.supernet import SupernetSettings

NETWORKS = {"pictures": "ofa_mobile_pico", "texts": "text_encoder_pico", "pairs": "translation_pico"}


def silent(stage: str, done: int, total: int, text: str) -> None:
    """Takes no note."""


def sources() -> dict[str, DataSource | TextSource | PairSource]:
    vocabulary, preprocess, train, heldout = load_digits(heldout_share=0.1, seed=0)
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 60)
    texts = tuple(f"{('bad', 'good')[label]} thing {number}" for number, label in enumerate(labels))
    numbers = [f"{one} and {two}" for one, two in rng.integers(0, 6, (60, 2))]
    classes = Texts(texts, labels)
    pairs = Pairs(tuple(numbers), tuple(text.replace("and", "und") for text in numbers))
    return {
        "pictures": DataSource(
            "digits", vocabulary, preprocess, train.subset(slice(300)), heldout.subset(slice(100)), {}
        ),
        "texts": TextSource(
            "texts",
            Vocabulary("classes", {"class": ("neg", "pos")}),
            classes.subset(slice(40)),
            classes.subset(slice(40, 60)),
            {},
        ),
        "pairs": PairSource("pairs", pairs.subset(slice(48)), pairs.subset(slice(48, 60)), {}),
    }


def settings_of(kind: str, **train: object) -> SupernetBuild:
    texts = {} if kind == "pictures" else {"vocab_size": 280, "max_tokens": 12}
    values = {"steps": 6, "batch_size": 16, "random_configs": 1, "checkpoint_every": 2, **train}
    return SupernetBuild(network=NETWORKS[kind], train=SupernetSettings(**values), **texts)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A trained folder of each kind."""
    base = tmp_path_factory.mktemp("supernets")
    for kind, source in sources().items():
        train_supernet(source, settings_of(kind), out=base / kind, progress=silent)
    return {kind: base / kind for kind in NETWORKS}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_folder_gives_subnets_and_their_quality(folders, kind):
    folder = folders[kind]
    trained = load_trained(folder)
    assert "classes" not in trained.space
    quality = json.loads((folder / "quality.json").read_text())
    assert [row["name"] for row in quality["configs"][:2]] == ["largest", "smallest"]
    for row in quality["configs"][:3]:
        assert trained.evaluate(row["config"]) == {trained.metric: row[trained.metric]}
    before = {name: value.clone() for name, value in trained.network.state_dict().items()}
    small, large = (trained.subnet(config) for config in (trained.space.smallest(), trained.space.largest()))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in large.parameters())
    assert all(torch.equal(value, before[name]) for name, value in trained.network.state_dict().items())
    inputs = trained.calibration[0]
    assert large(*inputs).shape[-1] == small(*inputs).shape[-1]
    assert (folder / "training" / "curves.png").stat().st_size > 10_000
    assert (folder / "training" / "log.csv").read_text().startswith("step,loss,accuracy,smallest_loss")
    assert not folder.with_name(f"{kind}.training").exists()


def test_quality_is_that_of_the_examples(folders):
    trained = load_trained(folders["texts"])
    examples = trained.heldout
    config = trained.space.largest()
    model = trained.subnet(config)
    right = [
        int(model(torch.tensor([trained.job.ids(examples.subset([place]))[0]])).argmax()) == label
        for place, label in enumerate(examples.labels)
    ]
    assert trained.evaluate(config, examples)["accuracy"] == pytest.approx(np.mean(right))
    turned = Texts(examples.texts, 1 - examples.labels)
    assert trained.evaluate(config, turned)["accuracy"] == pytest.approx(1 - np.mean(right))


@pytest.mark.parametrize(("kind", "metric"), [("texts", "accuracy"), ("pairs", "bleu")])
def test_a_search_judges_by_as_many_examples_as_wanted(folders, kind, metric):
    objectives = read_measures([metric, "macs"])[0]
    setup = SearchSetup(network=str(folders[kind]), objectives=objectives, pictures=5, seed=2)
    evaluate, trained = SubnetEvaluator(setup), load_trained(folders[kind])
    config, judged = evaluate.space.largest(), evaluate.subnets.labelled
    assert len(judged) == 5 < len(trained.heldout)
    assert evaluate(config)[metric] == pytest.approx(trained.evaluate(config, judged)[metric])


def test_statistics_belong_to_the_subnet(folders):
    trained = load_trained(folders["pictures"])
    config = trained.whole_config(trained.space.smallest())
    calibrated, plain = trained.subnet(config), trained.network.extract(config)
    means = [
        [part.running_mean for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        for model in (calibrated, plain)
    ]
    assert any(not torch.allclose(one, two) for one, two in zip(*means, strict=True))


def test_as_many_held_out_examples_are_kept_as_wanted(tmp_path):
    settings = replace(settings_of("texts", steps=2), heldout_count=7)
    out = train_supernet(sources()["texts"], settings, out=tmp_path / "few", progress=silent)
    assert len(load_trained(out).heldout) == 7
    with pytest.raises(TrainError, match="heldout_count = 1 must be at least 2"):
        replace(settings, heldout_count=1)


def test_translations_end_and_read_as_text(folders):
    trained = load_trained(folders["pairs"])
    model = trained.subnet(trained.space.largest())
    sources = ("1 and 2", "5 and 5 and 5 and 5 and 5 and 5")
    written = trained.job.translate(model, sources)
    assert [trained.job.translate(model, (text,))[0] for text in sources] == written
    perfect = Pairs(sources, tuple(text or "nothing" for text in written))
    if all(written):
        assert trained.job.evaluate(model, perfect) == pytest.approx(100)


def test_tied_weights_are_kept_once(folders):
    state = load_file(folders["pairs"] / "model.safetensors")
    assert "target.tokens.weight" in state
    assert "output.weight" not in state
    root = load_trained(folders["pairs"]).network.root
    assert root.output.weight is root.target.tokens.weight


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_build_that_was_stopped_ends_as_one_that_was_not(folders, kind, tmp_path):
    class Stopped(Exception):
        pass

    def stop(stage: str, done: int, total: int, text: str) -> None:
        raise Stopped

    source, settings = sources()[kind], settings_of(kind)
    with pytest.MonkeyPatch.context() as patch:
        from brickyard.train import supernet

        one_step = supernet.SupernetTraining._one_step

        def three(self, step):
            if step == 3:
                raise Stopped
            return one_step(self, step)

        patch.setattr(supernet.SupernetTraining, "_one_step", three)
        with pytest.raises(Stopped):
            train_supernet(source, settings, out=tmp_path / "s", progress=stop)
    assert not (tmp_path / "s").exists()
    train_supernet(source, settings, out=tmp_path / "s", progress=silent)
    one, two = (load_file(path / "model.safetensors") for path in (folders[kind], tmp_path / "s"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    records = [json.loads((path / "quality.json").read_text()) for path in (folders[kind], tmp_path / "s")]
    metric = records[0]["metric"]
    assert [row[metric] for row in records[0]["configs"]] == [row[metric] for row in records[1]["configs"]]


def test_other_settings_of_the_same_folder_are_refused(tmp_path):
    source = sources()["texts"]
    (tmp_path / "s.training").mkdir()
    with pytest.raises(RuntimeError, match="stop"):
        train_supernet(source, settings_of("texts"), out=tmp_path / "s", progress=_raise)
    with pytest.raises(TrainError, match=r"other settings \(distill differ\)"):
        train_supernet(source, settings_of("texts", distill=0.1), out=tmp_path / "s", progress=silent)


def _raise(stage: str, done: int, total: int, text: str) -> None:
    raise RuntimeError("stop")


def test_an_altered_or_strange_folder_is_refused(folders, tmp_path):
    with pytest.raises(ArtifactError, match="is not a folder"):
        load_trained(tmp_path / "none")
    with pytest.raises(ConfigError, match="is not in the space"):
        load_trained(folders["texts"]).evaluate({"dept": 1})
    with pytest.raises(ArtifactError, match="already exists"):
        train_supernet(sources()["texts"], settings_of("texts"), out=folders["texts"], progress=silent)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("texts", {"network": "ofa_mobile_pico"}, "ofa_mobile_pico is for pictures; the data are texts"),
        ("pictures", {"network": "translation_pico"}, "translation_pico is for translations; the data are"),
        ("pictures", {"network": "center_pico"}, "center_pico detects"),
        ("pictures", {"network": "ofa_mobile_pico", "max_tokens": 9}, "max_tokens = 9 is for texts"),
        ("texts", {"network": "text_encoder_pico", "augment": "shift"}, "is for pictures"),
        (
            "pictures",
            {"network": "ofa_mobile_pico", "train": SupernetSettings(widen=("span",))},
            "widen names 'span'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(kind, changes, message, tmp_path):
    with pytest.raises((TrainError, DataError), match=message):
        train_supernet(sources()[kind], SupernetBuild(**changes), out=tmp_path / "s", progress=silent)
    assert list(tmp_path.iterdir()) == []


def test_properties_are_refused(tmp_path):
    source = load_data("geometry:size=32,train=8,heldout=8")
    with pytest.raises(DataError, match="has properties"):
        train_supernet(source, settings_of("pictures"), out=tmp_path / "s", progress=silent)


def test_unknown_names_are_refused():
    with pytest.raises(TrainError, match="augment = 'blur' is unknown; known: none"):
        SupernetBuild(network="ofa_mobile_pico", augment="blur")
    with pytest.raises(TrainError, match="max_tokens = 1"):
        SupernetBuild(network="text_encoder_pico", max_tokens=1)
