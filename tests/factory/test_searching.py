"""A folder is searched by numbers that its models really have; searches go on, and others are refused."""

import copy

import pytest

from brickyard.core.errors import ArtifactError, ConfigError, DeviceError
from brickyard.factory.earlier import find_earlier
from brickyard.factory.factory import Factory
from brickyard.factory.measures import read_measures
from brickyard.factory.searching import SearchSetup, SubnetEvaluator, read_setup, search_network


def setup_of(folder, *objectives, limits=(), **more):
    wanted, bounds = read_measures(objectives, limits)
    return SearchSetup(network=str(folder), objectives=wanted, limits=bounds, pictures=30, **more)


def quiet_search(*arguments, **more):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return search_network(*arguments, **more)


def test_an_evaluation_counts_and_measures(supernet):
    evaluate = SubnetEvaluator(setup_of(supernet, "accuracy", "latency_ms"))
    evaluate.prepare()
    found = evaluate(evaluate.space.smallest())
    full = evaluate.subnets.config(evaluate.space.smallest())
    assert found["macs"] == evaluate.subnets.blueprint.count(full).macs
    assert found["file_bytes"] == evaluate.subnets.blueprint.file_bytes(full)
    assert found["latency_ms"] > 0
    assert 0 <= found["accuracy"] <= 1
    assert set(found) == {
        *("macs", "parameters", "file_bytes", "peak_memory_bytes"),
        *("accuracy", "balanced_accuracy", "latency_ms"),
    }


def test_a_copy_opens_the_folder_itself(supernet):
    evaluate = SubnetEvaluator(setup_of(supernet, "accuracy", "macs"))
    config = evaluate.space.smallest()
    expected = evaluate(config)
    other = copy.copy(evaluate)
    assert vars(other) == {"setup": evaluate.setup}
    assert other(config) == expected


@pytest.mark.slow
def test_processes_share_a_search(supernet, tmp_path):
    setup = setup_of(supernet, "accuracy", "macs")
    found = quiet_search(setup, out=tmp_path / "found", evaluations=6, workers=2)
    assert len({point.config for point in found.points}) == 6
    evaluate = SubnetEvaluator(setup)
    assert all(evaluate(point.config) == point.metrics for point in found.points)


def test_a_device_predicts(pico, board, tmp_path):
    file = tmp_path / "board.json"
    profile = board(Factory.load(pico))
    profile.save(file)
    evaluate = SubnetEvaluator(setup_of(pico, "accuracy", f"latency_ms@{file}", task="red"))
    evaluate.prepare()
    config = evaluate.space.largest()
    found = evaluate(config)
    assert found["latency_ms@board"] == pytest.approx(profile.predict(evaluate.subnets.config(config)))
    assert "latency_ms" not in found
    with pytest.raises(DeviceError, match="says nothing of energy"):
        SubnetEvaluator(setup_of(pico, "accuracy", f"energy_mj@{file}", task="red")).prepare()


def test_a_device_that_cannot_tell_subnets_apart_is_refused(supernet, board, tmp_path):
    from brickyard.factory.network_folder import JudgedFolder

    file = tmp_path / "board.json"
    board(Factory(JudgedFolder.open_with(supernet, None))).save(file)
    with pytest.raises(DeviceError, match=r"'stage0\.depth' is none of them"):
        SubnetEvaluator(setup_of(supernet, "accuracy", f"latency_ms@{file}")).prepare()


def test_a_search_goes_on_and_keeps_limits(supernet, tmp_path):
    setup, out = setup_of(supernet, "accuracy", "macs", limits=["macs=60%"]), tmp_path / "found"
    first = quiet_search(setup, out=out, evaluations=2)
    assert sorted(path.name for path in out.iterdir()) == [
        *("evaluations.csv", "front.csv", "front.json", "front.png", "hypervolume.png"),
        *("search.db", "search.json"),
    ]
    second = quiet_search(setup, out=out, evaluations=3)
    assert second.points[:2] == first.points
    assert len(second.points) == 3
    largest = max(point.metrics["macs"] for point in second.points)
    assert all(point.metrics["macs"] <= 0.6 * largest for point in second.front)
    assert read_setup(out).task is None


def test_what_is_another_search_is_refused(supernet, tmp_path):
    setup, out = setup_of(supernet, "accuracy", "macs"), tmp_path / "found"
    quiet_search(setup, out=out, evaluations=1)
    with pytest.raises(ConfigError, match="holds a search with other objectives"):
        search_network(setup_of(supernet, "accuracy", "parameters"), out=out)
    with pytest.raises(ConfigError, match="judges subnets of another network, task, data, device or seed"):
        quiet_search(
            setup.model_copy(update={"pictures": 20}),
            out=tmp_path / "other",
            storage=str(out / "search.db"),
        )
    with pytest.raises(ArtifactError, match="already exists and holds no search"):
        search_network(setup, out=supernet)
    with pytest.raises(ArtifactError, match="did not write it"):
        read_setup(supernet)


def test_a_search_for_another_device_begins_with_what_the_first_found(pico, board, tmp_path, monkeypatch):
    from brickyard.search.study import Search

    slow = board(Factory.load(pico))
    slow.save(tmp_path / "slow.json")
    slow.model_copy(update={"affine": (0.5, 0.0, 0.05), "fixed_ms": 0.05}).save(tmp_path / "fast.json")
    names = {name: f"latency_ms@{tmp_path / name}.json" for name in ("slow", "fast")}
    setup = setup_of(pico, "macs", names["slow"], task="red", name="first")
    first = quiet_search(setup, out=tmp_path / "first", evaluations=8, sampler="random")
    lessons = []
    warm = Search._warm

    def noted(self, *arguments):
        settings, front = warm(self, *arguments)
        lessons.append(settings.warm_start)
        return settings, front

    monkeypatch.setattr(Search, "_warm", noted)
    setup = setup_of(pico, "macs", names["fast"], task="red", limits=[f"{names['fast']}=0.000001"])
    second, more = tmp_path / "second", {"warm_start": find_earlier(str(tmp_path / "first"))}
    found = quiet_search(setup, out=second, evaluations=len(first.front), **more)
    assert {point.config for point in found.points} == {point.config for point in first.front}
    known = [[point.metrics[name] for point in first.points] for name in ("macs", "latency_ms@slow")]
    assert [values.tolist() for values in lessons[-1].values[:2]] == known
    shared = {point.config: point.metrics["latency_ms@slow"] for point in first.points}
    assert all(point.metrics["latency_ms@fast"] < shared[point.config] for point in found.points)
    (tmp_path / "first").rename(tmp_path / "moved")
    more = {"warm_start": find_earlier(str(tmp_path / "moved" / "search.db"), "first")}
    assert len(quiet_search(setup, out=second, evaluations=len(first.front) + 1, **more).points) > len(
        first.front
    )
    with pytest.raises(ConfigError, match="holds a search with other warm start; give the same command"):
        quiet_search(setup, out=second)


def test_a_warm_start_that_teaches_nothing_is_refused(supernet, pico, tmp_path):
    setup, first = setup_of(supernet, "accuracy", "macs"), tmp_path / "first"
    quiet_search(setup, out=first, evaluations=2)
    elsewhere = str(tmp_path / "shared.db")
    quiet_search(setup, out=tmp_path / "away", evaluations=1, storage=elsewhere)
    out, before = tmp_path / "out", sorted(tmp_path.rglob("*"))

    def refused(error, message, place, name=None, *, setup=setup, out=out, **more):
        with pytest.raises(error, match=message):
            quiet_search(setup, out=out, warm_start=find_earlier(str(place), name), **more)
        assert sorted(tmp_path.rglob("*")) == before

    of_pico = setup_of(pico, "accuracy", "macs", task="red")
    refused(ConfigError, "warm start: study 'search' is of another space", first, setup=of_pico)
    refused(ConfigError, "study 'search' is this very search", first, out=first)
    refused(ConfigError, "is this very search", elsewhere, storage=f"sqlite:///{elsewhere}")
    refused(ConfigError, "there is no study 'other' in the storage", first / "search.db", "other")
    refused(ConfigError, "a folder, which names its study itself", first, "search")
    refused(
        ArtifactError, "lies elsewhere; .* --warm-start STORAGE --warm-start-name search", tmp_path / "away"
    )
    refused(ArtifactError, r"holds no search\.json", supernet)
    refused(ArtifactError, "is not there", f"sqlite:///{tmp_path / 'none.db'}")
    refused(ArtifactError, "is no file of SQLite", first / "search.json")


def test_options_of_the_sampler_are_handed_on(supernet, tmp_path):
    setup = setup_of(supernet, "latency_ms", "macs")
    more = {"out": tmp_path / "found", "evaluations": 2}
    with pytest.raises(ConfigError, match="sampler random does not narrow"):
        quiet_search(setup, **more, sampler="random", narrow=True)
    with pytest.raises(ConfigError, match="repeats = 0 must be at least 1"):
        quiet_search(setup, **more, repeats=0)
    assert not (tmp_path / "found").exists()
    assert [len(point.measurements) for point in quiet_search(setup, **more).points] == [1, 1]
    again = quiet_search(setup, **more, repeats=3, narrow=True)
    assert all(2 <= len(point.measurements) <= 3 for point in again.front)


def test_a_quality_of_other_networks_is_refused(supernet):
    with pytest.raises(
        ConfigError, match="bleu is not told of this network; it has accuracy, balanced_accuracy"
    ):
        SubnetEvaluator(setup_of(supernet, "bleu", "macs")).prepare()


def test_missing_files_are_told_first(supernet, tmp_path):
    with pytest.raises(DeviceError, match=r"none\.json is not a file"):
        search_network(setup_of(supernet, "accuracy", "latency_ms@none.json"), out=tmp_path / "a")
    with pytest.raises(ArtifactError, match="neither a network nor a factory"):
        search_network(setup_of(tmp_path, "accuracy", "macs"), out=tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
