"""Networks are measured subnet by subnet, here or by a kit; a stopped measurement goes on."""

import json
import zipfile
from functools import cache

import numpy as np
import onnx
import pytest

from brickyard.core.errors import DeviceError
from brickyard.core.task import Vocabulary
from brickyard.data.texts import Texts, TextSource
from brickyard.devices import kit_run
from brickyard.devices.runtimes import RUNTIMES
from brickyard.devices.runtimes.ort import ORT
from brickyard.factory import subnet_timing
from brickyard.factory.measures import read_measures
from brickyard.factory.searching import SearchSetup, SubnetEvaluator, told_errors
from brickyard.factory.subnet_profile import SubnetProfile, structure_sha256
from brickyard.factory.subnet_timing import draw_subnets, plan_of, profile_subnets, write_subnet_kit
from brickyard.factory.supernet_build import SupernetBuild, train_supernet
from brickyard.factory.timable import TimablePictures, TimableTexts, open_timable
from brickyard.train.supernet import SupernetSettings

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def pictures(supernet):
    return open_timable(supernet)


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    """The folder of a supernet that reads tokens, trained for a step."""
    pytest.importorskip("tokenizers")
    labels = np.arange(48) % 2
    texts = Texts(
        tuple(f"{('bad', 'good')[label]} thing {number}" for number, label in enumerate(labels)), labels
    )
    source = TextSource("texts", Vocabulary("classes", {"class": ("neg", "pos")}), texts, texts, {})
    out = tmp_path_factory.mktemp("text") / "encoder"
    settings = SupernetBuild(
        network="text_encoder_pico",
        max_tokens=12,
        vocab_size=280,
        train=SupernetSettings(steps=1, batch_size=4, random_configs=1),
    )
    train_supernet(source, settings, out=out, progress=lambda *_: None)
    return out


@pytest.fixture(scope="module")
def texts(text_folder):
    """The same opened; each subnet is exported once for all tests."""
    network = open_timable(text_folder)
    network.content = cache(network.content)
    return network


def made_up(monkeypatch, network):
    """Let a subnet take as long as its file has bytes."""
    sizes = []
    real = network.content

    def content(config):
        found = real(config)
        sizes.append(len(found))
        return found

    def measured(sessions, *, keep, earlier=None, **options):
        times = [[[size / 1e5] * 3] * 4 for size in sizes]
        keep(times)
        return [np.array(rows) for rows in times]

    monkeypatch.setattr(network, "content", content, raising=False)
    monkeypatch.setattr(subnet_timing, "round_robin", measured)


def search_by(folder, *objectives):
    wanted, _ = read_measures(objectives, ())
    return SearchSetup(network=str(folder), objectives=wanted, pictures=30)


def test_a_search_of_pictures_takes_the_profile(pictures, supernet, monkeypatch, tmp_path):
    made_up(monkeypatch, pictures)
    steps = []
    profile = profile_subnets(
        pictures,
        subnets=48,
        runtime=ORT,
        name="board",
        state=tmp_path / "state",
        progress=lambda *step: steps.append(step[:3]),
    )
    assert ("subnets", 48, 48) in steps
    assert (profile.name, profile.fitted, len(profile.ms)) == ("board", 36, 48)
    assert profile.error.mape < 0.05
    file = tmp_path / "board.json"
    profile.save(file)
    setup = search_by(supernet, "accuracy", f"latency_ms@{file}")
    assert told_errors(setup) == [f"device board: error of latencies {profile.error}"]
    evaluate = SubnetEvaluator(setup)
    evaluate.prepare()
    small = evaluate(evaluate.space.smallest())
    assert small["latency_ms@board"] == pytest.approx(small["file_bytes"] / 1e5, rel=0.05)
    depths = [part for part in evaluate.space if part.name.endswith("depth")]
    config = evaluate.space.largest().replace({depths[0].name: depths[0].smallest()})
    same = evaluate.space.smallest().replace({part.name: config[part.name] for part in depths})
    same = config.replace(
        {
            name: same[name]
            for name in config
            if evaluate.canonical(config.replace({name: same[name]})) == config
        }
    )
    assert same != config
    assert evaluate(same)["latency_ms@board"] == evaluate(config)["latency_ms@board"]
    with pytest.raises(DeviceError, match=r"says nothing of energy; take energy_mj"):
        SubnetEvaluator(search_by(supernet, "accuracy", f"energy_mj@{file}")).prepare()
    profile.model_copy(update={"network_sha256": "0" * 64}).save(file)
    with pytest.raises(DeviceError, match="was measured for another network"):
        SubnetEvaluator(setup).prepare()


def test_a_search_of_texts_takes_the_profile(texts, text_folder, monkeypatch, tmp_path):
    assert isinstance(texts, TimableTexts)
    made_up(monkeypatch, texts)
    profile = profile_subnets(texts, subnets=16, runtime=ORT, name="board", state=tmp_path / "state")
    file = tmp_path / "board.json"
    profile.save(file)
    evaluate = SubnetEvaluator(search_by(text_folder, "accuracy", f"latency_ms@{file}"))
    evaluate.prepare()
    small, large = (
        evaluate(c)["latency_ms@board"] for c in (evaluate.space.smallest(), evaluate.space.largest())
    )
    assert 0 < small < large
    file.write_text('{"format_version": 1, "blocks": {}}')
    with pytest.raises(DeviceError, match="tells times of blocks of pictures' networks"):
        SubnetEvaluator(search_by(text_folder, "accuracy", f"latency_ms@{file}")).prepare()


def test_measured_subnets_are_legal_distinct_and_computed(pictures):
    plan = plan_of(pictures, subnets=20, seed=0)
    configs = [pictures.space.check(subnet) for subnet in plan["subnets"]]
    assert len({*configs}) == 20
    assert all(pictures.canonical(config) == config for config in configs)
    assert plan["fitted"] == 15
    sizes = [len(pictures.content(config)) for config in configs]
    assert min(sizes) == sizes[0] < max(sizes) == sizes[1]


def test_a_stopped_measurement_goes_on(pictures, monkeypatch, tmp_path):
    state, real, seen = tmp_path / "board.json.measuring", subnet_timing.round_robin, []

    def stopped(sessions, *, keep, **options):
        def keep_and_stop(times):
            keep(times)
            raise KeyboardInterrupt

        return real(sessions, keep=keep_and_stop, **options)

    def watched(sessions, *, earlier, **options):
        seen.append(earlier)
        return real(sessions, earlier=earlier, **{**options, "passes": 2, "most_seconds": 0.0})

    options = {"subnets": 16, "runtime": ORT, "state": state}
    monkeypatch.setattr(subnet_timing, "round_robin", stopped)
    with pytest.raises(KeyboardInterrupt):
        profile_subnets(pictures, **options)
    kept = json.loads(state.read_text())["times"]
    assert [len(bursts) for bursts in kept] == [1] * 16
    monkeypatch.setattr(subnet_timing, "round_robin", watched)
    profile = profile_subnets(pictures, **options)
    assert seen == [kept]
    assert [bursts[:1] for bursts in json.loads(state.read_text())["times"]] == kept
    assert all(ms > 0 for ms in profile.ms)
    with pytest.raises(DeviceError, match=r"holds times of another network, machine or runtime"):
        profile_subnets(pictures, seed=1, **options)


def test_what_cannot_be_measured_is_refused(pictures, texts, tmp_path):
    options = {"state": tmp_path / "state"}
    with pytest.raises(DeviceError, match="subnets = 15 is not allowed; allowed: 16 or more"):
        profile_subnets(pictures, subnets=15, runtime=ORT, **options)
    with pytest.raises(DeviceError, match="timed with ort, ort-int8, openvino"):
        profile_subnets(pictures, runtime=RUNTIMES["torch"], **options)
    with pytest.raises(DeviceError, match="reads tokens are timed with ort, openvino"):
        profile_subnets(texts, runtime=RUNTIMES["ort-int8"], **options)
    with pytest.raises(DeviceError, match="a kit measures with onnxruntime, not with openvino"):
        write_subnet_kit(pictures, tmp_path / "kit.zip", subnets=16, runtime=RUNTIMES["openvino"], name="n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_a_kit_measures_elsewhere(kind, request, monkeypatch, tmp_path):
    network = request.getfixturevalue(kind)
    assert isinstance(network, TimablePictures) == (kind == "pictures")
    assert write_subnet_kit(network, tmp_path / "kit.zip", subnets=16, runtime=ORT, name="net") == 16
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path)
        real = onnx.load_model_from_string(network.content(network.space.largest()))
        made = onnx.load_model_from_string(archive.read("kit/models/0001.onnx"))
    assert "latency_ms@device.json" in (tmp_path / "kit" / "README.txt").read_text()
    floats = [
        (a, b)
        for a, b in zip(real.graph.initializer, made.graph.initializer, strict=True)
        if a.data_type == onnx.TensorProto.FLOAT and len(a.dims) > 1
    ]
    assert floats
    assert all(a.dims == b.dims and a.raw_data != b.raw_data for a, b in floats)
    for limit in ("_NOISE", "_SLOWDOWN", "_FINEST"):
        monkeypatch.setattr(kit_run, limit, 100.0)
    out = tmp_path / "device.json"
    monkeypatch.setattr(kit_run, "EnergyCounter", lambda place: None)
    with pytest.raises(DeviceError, match="this kit tells no energy"):
        kit_run.run(tmp_path / "kit", out=out, threads=1, name="board", seconds=0.0, energy=True)
    kit_run.main(["--out", str(out), "--name", "board", "--seconds", "0"], folder=tmp_path / "kit")
    profile = SubnetProfile.load(out)
    assert (profile.name, profile.held_out, len(profile.ms)) == ("board", None, 16)
    folder = request.getfixturevalue("supernet" if kind == "pictures" else "text_folder")
    assert profile.network_sha256 == structure_sha256(folder)
    assert profile.judged().error.count == 4


def test_draws_are_those_of_the_seed(pictures):
    draw = {
        seed: draw_subnets(pictures.space, 20, seed=seed, canonical=pictures.canonical) for seed in (0, 1)
    }
    assert draw[0] != draw[1]
    assert plan_of(pictures, subnets=20, seed=1)["subnets"] == [dict(config) for config in draw[1]]
