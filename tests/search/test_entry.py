"""A whole search: finds the front, goes on, repeats nothing, keeps limits, writes its folder."""

import itertools
import json

import numpy as np
import optuna
import pytest

from brickyard.core.config import Config
from brickyard.core.decision import Choice
from brickyard.core.errors import ArtifactError, ConfigError
from brickyard.core.space import Space
from brickyard.search import Result, Search, run
from brickyard.search.fronts import hypervolume


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(optuna.logging.INFO)


def every(space: Space) -> list[Config]:
    parts = [tuple(c) for n in range(5) for c in itertools.combinations(range(4), n)]
    lists = [(1, 2, 3), (8, 16, 32), ("relu", "gelu"), parts]
    names = [decision.name for decision in space]
    return [Config(dict(zip(names, values, strict=True))) for values in itertools.product(*lists)]


def share(result: Result, space: Space, measure) -> float:
    """Hypervolume of what was found over that of the whole space."""
    all_values = np.array([list(measure(config).values()) for config in every(space)])
    reference = all_values.max(0) + 1
    return hypervolume(result.values(result.points), reference) / hypervolume(all_values, reference)


def test_finds_nearly_the_whole_front_in_a_sixth_of_the_space(space, measure):
    shares = {
        sampler: [
            share(
                run(
                    space=space,
                    evaluate=measure,
                    objectives=["error", "macs"],
                    evaluations=48,
                    sampler=sampler,
                    seed=seed,
                ),
                space,
                measure,
            )
            for seed in range(2)
        ]
        for sampler in ("linas", "random")
    }
    assert min(shares["linas"]) > 0.95
    assert np.mean(shares["linas"]) > np.mean(shares["random"])


@pytest.mark.parametrize("sampler", ["linas", "nsga2", "random", "exhaustive"])
def test_no_point_is_evaluated_twice(space, measure, sampler):
    seen: list[Config] = []

    def evaluate(config):
        seen.append(config)
        return measure(config)

    result = run(
        space=space, evaluate=evaluate, objectives=["error", "macs"], evaluations=30, sampler=sampler
    )
    assert len(result.points) == 30
    assert len(set(seen)) == len(seen) == 30
    assert seen[0] == space.largest()
    assert seen[1] == space.smallest()


def test_a_small_space_is_searched_to_its_end():
    space = Space([Choice("depth", [1, 2]), Choice("width", [1, 2, 3])])
    result = run(
        space=space,
        evaluate=lambda c: {"error": -c["depth"] * c["width"]},
        objectives=["error"],
        evaluations=50,
    )
    assert len(result.points) == 6
    assert [point.config for point in result.front] == [space.largest()]


def test_goes_on_where_it_was_stopped_and_repeats_the_point_that_failed(space, measure, tmp_path):
    failing: list[Config] = []

    def broken(config):
        if len(failing) == 0 and config not in (space.largest(), space.smallest()):
            failing.append(config)
            raise OSError("the device is gone")
        return measure(config)

    more = {"space": space, "objectives": ["error", "macs"], "storage": tmp_path / "study.db"}
    with pytest.raises(OSError, match="the device is gone"):
        run(**more, evaluate=broken, evaluations=8)
    half = run(**more, evaluate=broken, evaluations=8)
    assert half.points[2].config == failing[0]
    whole = run(**more, evaluate=broken, evaluations=12)
    assert whole.points[:8] == half.points
    assert len(whole.points) == 12


def test_the_same_seed_finds_the_same_points(space, measure):
    runs = [
        run(space=space, evaluate=measure, objectives=["error", "macs"], evaluations=30, seed=4)
        for _ in range(2)
    ]
    assert runs[0].points == runs[1].points


def test_equal_points_are_evaluated_once(space, measure):
    seen: list[Config] = []

    def evaluate(config):
        seen.append(config)
        return measure(config)

    run(
        space=space,
        evaluate=evaluate,
        objectives=["error", "macs"],
        evaluations=25,
        canonical=lambda config: config.replace({"act": "relu"}),
    )
    assert len({config.replace({"act": "relu"}) for config in seen}) == len(seen)


def test_limits_keep_the_front_within_them(space, measure):
    result = run(
        space=space, evaluate=measure, objectives=["error"], limits={"macs": 60.0}, evaluations=40, seed=1
    )
    best = min(measure(config)["error"] for config in every(space) if measure(config)["macs"] <= 60)
    assert all(point.metrics["macs"] <= 60 for point in result.front)
    assert result.front[0].metrics["error"] == pytest.approx(best)


def test_ask_and_tell(space, measure):
    search = Search(space=space, objectives=["max:quality_of_parts", "macs"], name="mine")
    for _ in range(5):
        trial, config = search.ask()
        search.tell(trial, {"quality_of_parts": len(config["parts"]), **measure(config)})
    assert len(search.found()) == 5
    assert set(search.found()[0].metrics) == {"quality_of_parts", "error", "macs"}
    with pytest.raises(ConfigError, match=r"the evaluation gave \['macs'\]; 'quality_of_parts' is missing"):
        search.tell(search.ask()[0], {"macs": 1.0})


@pytest.mark.parametrize("wrong", [{"error": float("nan")}, {"error": float("inf")}, {}])
def test_numbers_that_mean_nothing_stop_the_search_and_lose_no_point(space, measure, wrong):
    from optuna.storages import InMemoryStorage

    more = {"space": space, "objectives": ["error"], "storage": InMemoryStorage(), "evaluations": 4}
    with pytest.raises(ConfigError, match=r"the evaluation gave"):
        run(**more, evaluate=lambda config: wrong)
    result = run(**more, evaluate=measure)
    assert [point.config for point in result.points[:2]] == [space.smallest(), space.largest()]
    assert len(result.points) == 4


def test_a_study_of_another_space_is_refused(space, measure, tmp_path):
    run(space=space, evaluate=measure, objectives=["error"], evaluations=2, storage=tmp_path / "a.db")
    with pytest.raises(ConfigError, match=r"study 'search' in this storage has other objectives"):
        Search(space=space, objectives=["macs"], storage=tmp_path / "a.db")
    other = Space([Choice("depth", [1, 2])])
    with pytest.raises(ConfigError, match=r"study 'search' in this storage has other space"):
        Search(space=other, objectives=["error"], storage=tmp_path / "a.db")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objectives": ["speed"]}, r"objective 'speed': write max:speed if more is better"),
        ({"objectives": []}, r"give one to four different ones"),
        ({"objectives": ["error", "error"]}, r"give one to four different ones"),
        ({"objectives": ["error"], "evaluations": 0}, r"evaluations = 0 must be at least 1"),
        (
            {"objectives": ["error"], "sampler": "linus"},
            r"'linus' is not among the samplers; nearest: \['linas'",
        ),
        ({"objectives": ["error"], "startup": 1}, r"startup = 1 must be at least 2"),
        ({"objectives": ["error"], "limits": {"watts": 3.0}}, r"'watts' is missing"),
    ],
)
def test_what_is_wrong_is_said(space, measure, arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(**{"space": space, "evaluate": measure, "evaluations": 3, **arguments})


def test_the_folder_of_a_result(space, measure, tmp_path):
    result = run(space=space, evaluate=measure, objectives=["error", "macs"], evaluations=25)
    result.write(tmp_path / "front")
    names = {path.name for path in (tmp_path / "front").iterdir()}
    assert names == {
        "front.csv",
        "front.json",
        "evaluations.csv",
        "front.png",
        "hypervolume.png",
        "predictions.png",
    }
    record = json.loads((tmp_path / "front" / "front.json").read_text())
    assert [entry["number"] for entry in record["front"]] == [point.number for point in result.front]
    assert space.check(record["front"][0]["config"]) == result.front[0].config
    assert {entry["objective"] for entry in record["predictors"]} == {"error", "macs"}
    lines = (tmp_path / "front" / "evaluations.csv").read_text().splitlines()
    assert len(lines) == 26
    assert lines[0] == "place,number,feasible,error,macs,depth,width,act,parts"
    volumes = result.hypervolumes()
    assert (np.diff(volumes) >= 0).all()
    with pytest.raises(ArtifactError, match="already exists"):
        result.write(tmp_path / "front")
