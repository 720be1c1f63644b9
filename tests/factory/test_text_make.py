"""Points of fronts of networks that read texts become model folders that run without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from brickyard.core.errors import ArtifactError, ConfigError, DataError, ExportError
from brickyard.core.files import read_manifest
from brickyard.core.sequence import pad
from brickyard.core.task import Vocabulary
from brickyard.data.texts import Pairs, PairSource, Texts, TextSource
from brickyard.factory.from_front import make_from_front
from brickyard.factory.measures import read_measures
from brickyard.factory.searching import SearchSetup, search_network
from brickyard.factory.supernet import load_trained
from brickyard.factory.supernet_build import SupernetBuild, train_supernet
from brickyard.factory.text_evaluate import evaluate_text_model
from brickyard.factory.text_export import check_files
from brickyard.factory.text_model import TextModel
from brickyard.factory.text_records import TextReport
from brickyard.factory.twin import load_model
from brickyard.train.supernet import SupernetSettings

NETWORKS = {"texts": "text_encoder_pico", "translation": "translation_pico"}


def quiet(stage: str, done: int, total: int, text: str) -> None:
    """Takes no note."""


def sources() -> dict[str, TextSource | PairSource]:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 80)
    words = [" ".join(["thing"] * int(count)) for count in rng.integers(1, 7, 80)]
    texts = Texts(
        tuple(f"{('bad', 'good')[label]} {word}" for label, word in zip(labels, words, strict=True)), labels
    )
    numbers = [" and ".join(map(str, rng.integers(0, 6, int(count)))) for count in rng.integers(1, 5, 60)]
    pairs = Pairs(tuple(numbers), tuple(text.replace("and", "und") for text in numbers))
    vocabulary = Vocabulary("classes", {"class": ("neg", "pos")})
    return {
        "texts": TextSource("t", vocabulary, texts.subset(slice(60)), texts.subset(slice(60, 80)), {}),
        "translation": PairSource("p", pairs.subset(slice(48)), pairs.subset(slice(48, 60)), {}),
    }


@pytest.fixture(scope="module")
def supernets(tmp_path_factory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("supernets")
    for job, source in sources().items():
        train = SupernetSettings(steps=30, batch_size=16, random_configs=1, checkpoint_every=30)
        settings = SupernetBuild(network=NETWORKS[job], vocab_size=280, max_tokens=12, train=train)
        train_supernet(source, settings, out=base / job, progress=quiet)
    return {job: base / job for job in NETWORKS}


@pytest.fixture(scope="module")
def found(supernets, tmp_path_factory) -> dict[str, Path]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base = tmp_path_factory.mktemp("found")
    for job, folder in supernets.items():
        wanted, _ = read_measures([load_trained(folder).metric, "parameters"])
        setup = SearchSetup(network=str(folder), objectives=wanted)
        search_network(setup, out=base / job, evaluations=3, sampler="random")
    return {job: base / job for job in supernets}


@pytest.fixture(scope="module")
def made(found, tmp_path_factory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    for job, folder in found.items():
        make_from_front(folder, 0, out=base / job)
    return {job: base / job for job in found}


def point(folder: Path) -> dict:
    return json.loads((folder / "front.json").read_text())["front"][0]


@pytest.mark.parametrize("job", NETWORKS)
def test_the_folder_is_whole_and_says_what_it_is(found, made, job):
    folder = made[job]
    files = set(read_manifest(folder, format_version=1, kind="model")["sha256"])
    own = {"texts": {"model.onnx", "labels.txt"}, "translation": {"encoder.onnx", "decoder.onnx"}}[job]
    shared = {"model.safetensors", "config.json", "tokenizer.json", "request.json", "report.json"}
    assert files == own | shared | {"report.html"}
    request = json.loads((folder / "request.json").read_text())
    chosen = point(found[job])
    assert request["front"] == {"study": "search", "place": 0, "metrics": chosen["metrics"]}
    report = TextReport.model_validate(json.loads((folder / "report.json").read_text()))
    assert report.costs.parameters == chosen["metrics"]["parameters"] <= report.whole.parameters
    assert report.costs.macs == chosen["metrics"]["macs"] <= report.whole.macs
    assert report.costs.file_bytes == sum((folder / name).stat().st_size for name in own - {"labels.txt"})
    assert report.parity_error < 1e-4
    assert report.parity_texts > 5
    assert report.quality.texts == report.text_ms.runs
    assert len(report.examples) == 8


@pytest.mark.parametrize("job", NETWORKS)
def test_quality_of_the_files_is_what_was_judged(found, supernets, made, job):
    report = TextReport.model_validate(json.loads((made[job] / "report.json").read_text()))
    trained = load_trained(supernets[job])
    assert report.quality.value == pytest.approx(point(found[job])["metrics"][trained.metric], abs=1e-6)
    whole = trained.evaluate(trained.space.largest())[trained.metric]
    assert report.quality.whole == pytest.approx(whole)
    for example in report.examples:
        model = TextModel.load(made[job])
        answer = model.classify if job == "texts" else model.translate
        assert answer([example.text]) == [example.made]


def test_a_classifier_reads_texts_of_any_length(supernets, made):
    model, twin = TextModel.load(made["texts"]), load_model(made["texts"])
    assert model.labels == ("neg", "pos")
    for text in ("", "good", "bad thing thing", "good thing" * 40):
        with torch.no_grad():
            expected = twin(pad([model.ids(text)]))[0].numpy()
        np.testing.assert_allclose(model.scores(text), expected, atol=1e-4)
    shape = onnxruntime.InferenceSession(made["texts"] / "model.onnx").get_inputs()[0].shape
    assert shape == [1, "tokens"]
    job = load_trained(supernets["texts"]).job
    heldout = load_trained(supernets["texts"]).heldout
    assert [model.ids(text) for text in heldout.texts] == job.ids(heldout)


def test_a_translator_writes_what_torch_writes(supernets, made):
    model, twin = TextModel.load(made["translation"]), load_model(made["translation"])
    trained = load_trained(supernets["translation"])
    for text in trained.heldout.sources:
        assert model.translate([text]) == trained.job.translate(twin, (text,))
    with pytest.raises(ConfigError, match="use translate"):
        model.classify(["1 and 2"])


def test_a_decoder_holds_the_shared_weights_once(made):
    graph = onnx.load(made["translation"] / "decoder.onnx").graph
    shapes = [sorted(part.dims) for part in graph.initializer]
    width = load_model(made["translation"]).target.tokens.weight.shape[1]
    assert shapes.count([width, TextModel.load(made["translation"]).tokenizer.vocab_size]) == 1


@pytest.mark.parametrize("job", NETWORKS)
def test_files_that_differ_are_refused(made, job):
    model, twin = TextModel.load(made[job]), load_model(made[job])
    examples = [([5, 6, 7],) if job == "texts" else ([5, 6, 2], [7, 8])]
    assert check_files(model, twin, examples) < 1e-4
    with torch.no_grad():
        next(part for part in twin.modules() if isinstance(part, nn.LayerNorm)).weight.mul_(1.5)
    with pytest.raises(ExportError, match="differs from the subnet"):
        check_files(model, twin, examples)


def test_nothing_is_written_where_files_differ(found, tmp_path, monkeypatch):
    def refuse(*_arguments: object) -> float:
        raise ExportError("differs")

    monkeypatch.setattr("brickyard.factory.text_make.check_files", refuse)
    with pytest.raises(ExportError, match="differs"):
        make_from_front(found["texts"], 0, out=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_other_formats_are_refused(found, tmp_path):
    with pytest.raises(ExportError, match="in the format 'onnx' alone"):
        make_from_front(found["texts"], 0, out=tmp_path / "model", format="onnx-int8")


@pytest.mark.parametrize("job", NETWORKS)
def test_the_page_shows_the_numbers_and_the_answers(made, job):
    page = (made[job] / "report.html").read_text()
    report = TextReport.model_validate(json.loads((made[job] / "report.json").read_text()))
    ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert report.quality.shown(report.quality.value) in page
    assert f"{report.costs.macs:,}" in page
    for example in report.examples:
        assert example.text in page
    assert ("Quality per class" in page) == (job == "texts")
    assert all(choice.name in page for choice in report.choices)


def test_it_runs_without_torch(made):
    script = (
        "import sys\nfrom brickyard.factory.text_model import TextModel\n"
        f"TextModel.load({str(made['texts'])!r}).classify(['good thing'])\n"
        f"TextModel.load({str(made['translation'])!r}).translate(['1 and 2'])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "torch was loaded"


def test_tables_are_evaluated(made, tmp_path):
    table = tmp_path / "t.csv"
    rows = [
        f"{('bad', 'good')[i % 2]} thing,{('neg', 'pos', 'else')[i % 3 if i > 9 else i % 2]}"
        for i in range(20)
    ]
    table.write_text("text,label\n" + "\n".join(rows) + "\n")
    result = evaluate_text_model(made["texts"], str(table), part="all")
    known = [row.split(",") for row in rows if not row.endswith("else")]
    answers = TextModel.load(made["texts"]).classify([text for text, _ in known])
    right = [answer == label for answer, (_, label) in zip(answers, known, strict=True)]
    assert result.examples == len(known) == sum(result.counts.values())
    assert result.value == pytest.approx(np.mean(right))
    table.write_text("text,label\na,x\nb,y\nc,x\nd,y\n")
    with pytest.raises(DataError, match="no text of the model's classes"):
        evaluate_text_model(made["texts"], str(table), part="all")
    with pytest.raises(DataError, match="--image is not for this model"):
        evaluate_text_model(made["texts"], str(table), image="x")


def test_files_of_lines_are_evaluated(made, tmp_path):
    texts = ["1 and 2", "3", "4 and 5"]
    written = TextModel.load(made["translation"]).translate(texts)
    (tmp_path / "a").write_text("\n".join(texts) + "\n")
    (tmp_path / "b").write_text("\n".join(text or "nothing" for text in written) + "\n")
    result = evaluate_text_model(
        made["translation"], str(tmp_path / "a"), part="all", translations=str(tmp_path / "b")
    )
    assert (result.metric, result.examples) == ("bleu", 3)
    if all(len(text.split()) > 3 for text in written):
        assert result.value == pytest.approx(100)


def test_folders_of_other_models_and_altered_ones_are_refused(supernets, made, tmp_path):
    with pytest.raises(ArtifactError, match="expected a model folder"):
        TextModel.load(supernets["texts"])
    shutil.copytree(made["texts"], tmp_path / "copy")
    (tmp_path / "copy" / "labels.txt").write_text("pos\nneg\n")
    with pytest.raises(ArtifactError, match=r"labels\.txt differs"):
        TextModel.load(tmp_path / "copy")
