"""Warm start: what another study measured makes a search quicker, and nothing of it is taken on trust."""

import numpy as np
import pytest
from optuna.storages import InMemoryStorage

from brickyard.core.decision import Choice
from brickyard.core.errors import ConfigError
from brickyard.core.space import Space
from brickyard.search import Search, WarmStart, run
from brickyard.search.encodings import ordinal
from brickyard.search.fronts import hypervolume, non_dominated
from brickyard.search.genes import Genes
from brickyard.search.model import Model
from brickyard.search.objective import limits_of, objectives_of
from brickyard.search.params import distributions
from brickyard.search.transfer import Earlier, Lesson, lesson_of, told_first

SPACE = Space([Choice(f"layer{place}", [1, 2, 3, 4]) for place in range(6)])
GENES = Genes(distributions(SPACE))


def device(first: float, power: float):
    """An error that is the same on each device, and a latency that is merely alike."""

    def evaluate(config):
        sizes = np.array(list(config.values()), dtype=float)
        error = 20.0 - (np.log(sizes) * [3, 1, 2, 1, 3, 1]).sum() - 2 * (sizes[0] == sizes[5])
        return {"error": error, "latency_ms": 1.0 + first * sizes[0] + (sizes[1:] ** power).sum()}

    return evaluate


OBJECTIVES = ["error", "latency_ms"]


@pytest.fixture(scope="module")
def earlier():
    storage = InMemoryStorage()
    evaluate, names = device(2.0, 1.5), ["error", "min:latency_ms@first"]
    run(
        space=SPACE,
        evaluate=lambda c: {"latency_ms@first": evaluate(c)["latency_ms"], **evaluate(c)},
        objectives=names,
        evaluations=80,
        storage=storage,
    )
    return WarmStart(storage=storage)


def volume(result):
    return hypervolume(result.values(result.points), np.array([20.0, 60.0]))


def test_a_warm_search_is_quicker_than_a_cold_one(earlier):
    more = {"space": SPACE, "evaluate": device(5.0, 1.7), "objectives": OBJECTIVES, "evaluations": 35}
    cold, warm = run(**more), run(**more, warm_start=earlier)
    known = Search.stored(earlier.storage, "search", SPACE)
    assert {point.config for point in warm.points[:15]} <= {point.config for point in known.found()}
    assert volume(warm) > volume(cold)
    assert len({point.config for point in warm.points}) == 35


def test_models_use_what_is_alike_and_forget_what_is_not(rng):
    rows = np.unique(GENES.draw(150, rng), axis=0)
    truth = np.sin(rows @ [1.0, 0.3, 0.7, 1.1, 0.2, 0.5]) + rows[:, 0]
    other = np.unique(GENES.draw(300, rng), axis=0)
    expected = np.sin(other @ [1.0, 0.3, 0.7, 1.1, 0.2, 0.5]) + other[:, 0]

    def off(told):
        model = Model(GENES, encodings={"ordinal": ordinal}, predictors=("gaussian",), seed=0, earlier=told)
        model.fit(rows[:25], truth[:25])
        return np.corrcoef(model.predict(other)[0], model.warp(expected))[0, 1]

    alone = off(None)
    assert off(Earlier(rows=rows, values=3.0 * truth - 7.0)) > 0.9 > alone
    assert off(Earlier(rows=rows, values=rng.normal(size=len(rows)))) > alone - 0.25


def test_what_both_measure_alike_is_known_and_the_rest_brought_to_scale(rng):
    rows = np.unique(GENES.draw(30, rng), axis=0)
    values = rows.sum(1)
    same = Earlier(rows=rows, values=values).bridge(rows[:6], values[:6])
    assert same.same
    known, certain = same.known(rows[4:8])
    assert known.all()
    assert certain.tolist() == values[4:8].tolist()
    assert len(same.joined(rows[:6], values[:6])[0]) == len(rows)
    told = Earlier(rows=rows, values=10.0 * values + 3.0).bridge(rows[:6], values[:6])
    assert not told.same
    assert not told.known(rows)[0].any()
    both, brought = told.joined(rows[:6], values[:6])
    assert len(both) == len(rows) + 6
    assert brought == pytest.approx(np.concatenate([values[:6], values]))
    assert told.features(both, 6)[:, -1].tolist() == [1.0] * 6 + [0.0] * len(rows)


def test_too_few_shared_points_tell_nothing(rng):
    rows = np.unique(GENES.draw(30, rng), axis=0)
    told = Earlier(rows=rows[5:], values=rows[5:].sum(1))
    assert told.bridge(rows[:8], rows[:8].sum(1)) is None
    assert told.bridge(rows[:9], rows[:9].sum(1)) is not None


def test_known_points_are_predicted_as_they_were_measured(rng):
    rows = np.unique(GENES.draw(60, rng), axis=0)
    values = rng.normal(size=len(rows))
    told = Earlier(rows=rows, values=values)
    model = Model(GENES, encodings={"ordinal": ordinal}, predictors=("gaussian",), seed=0, earlier=told)
    model.fit(rows[:8], values[:8])
    mean, deviation = model.predict(rows[8:])
    assert mean == pytest.approx(model.warp(values[8:]))
    assert deviation.max() < 1e-6
    new = GENES.draw(5, rng)
    joint = model.together(np.vstack([rows[8:10], new]))[0]
    before = joint.deviation
    joint.suppose(0)
    assert joint.deviation == pytest.approx(before)
    joint.suppose(2)
    assert (joint.deviation[2:] < before[2:]).any()


def test_first_proposals_are_points_of_the_earlier_study(rng):
    rows = np.unique(GENES.draw(40, rng), axis=0)
    told = [Earlier(rows=rows, values=rows.sum(1))]
    assert len(told_first(told, 9)) == len(rows)
    assert len(told_first(told, 10)) == 0
    assert len(told_first([], 3)) == 0


def test_the_front_to_start_from_dominates_most():
    values = np.array([[0.0, 10.0], [1.0, 9.9], [2.0, 5.0], [3.0, 4.9], [9.0, 0.0]])
    lesson = Lesson(params=tuple({} for _ in values), values=tuple(values.T))
    assert lesson.front(2, 5, [20.0, 20.0])[0] == 2
    assert set(lesson.front(2, 3)) == {0, 2, 4}
    assert sorted(lesson.front(2, 9)) == [0, 1, 2, 3, 4]
    assert sorted(lesson.front(2, 9, [8.0, None])) == [0, 1, 2, 3]
    assert sorted(lesson.front(2, 9, [-1.0, None])) == [0, 1, 2, 3, 4]  # none is so good


@pytest.mark.parametrize("width", [2, 3])
def test_chosen_points_dominate_as_much_as_if_all_were_looked_at(rng, width):
    values = rng.random((40, width))
    front = values[non_dominated(values)]
    reference = np.full(width, 1.1)
    plain: list[int] = []
    for _ in range(5):
        rest = [place for place in range(len(front)) if place not in plain]
        plain.append(max(rest, key=lambda place: hypervolume(front[[*plain, place]], reference)))
    lesson = Lesson(params=tuple({} for _ in front), values=tuple(front.T))
    assert lesson.front(width, 5, list(reference)) == plain


def test_names_are_matched_up_to_the_device():
    objectives = objectives_of(["accuracy", "min:latency_ms@new", "min:energy_mj"])
    limits = limits_of({"macs": 5.0}, objectives)
    metrics = [
        {"accuracy": 0.5, "latency_ms@old": 3.0, "macs": 7.0},
        {"accuracy": 0.7, "latency_ms@old": 4.0},
    ]
    known = lesson_of([{}, {}], metrics, objectives=objectives, limits=limits)
    assert [None if part is None else part.tolist() for part in known.values] == [
        [-0.5, -0.7],
        [3.0, 4.0],
        None,
        None,  # not every point has it
    ]
    assert known.front(3, 5) == [0, 1]


def test_points_out_of_the_limits_are_no_front():
    objectives = objectives_of(["error"])
    limits = limits_of({"macs": 5.0}, objectives)
    metrics = [{"error": 1.0, "macs": 9.0}, {"error": 2.0, "macs": 4.0}]
    assert lesson_of([{}, {}], metrics, objectives=objectives, limits=limits).front(1, 5) == [1]


def test_where_all_points_break_the_limits_the_front_is_that_of_all():
    objectives = objectives_of(["min:error", "min:latency_ms@fast"])
    limits = limits_of({"latency_ms@fast": 1.0}, objectives)
    metrics = [{"error": e, "latency_ms@slow": t} for e, t in ((1.0, 9.0), (2.0, 4.0), (3.0, 5.0))]
    assert sorted(lesson_of([{}] * 3, metrics, objectives=objectives, limits=limits).front(2, 5)) == [0, 1]


@pytest.mark.parametrize("warm", [True, False])
def test_a_reference_of_another_length_is_refused_before_anything_is_evaluated(earlier, warm):
    with pytest.raises(ConfigError, match="reference has 1 values; the search has 2 objectives"):
        run(
            space=SPACE,
            evaluate=lambda config: pytest.fail("evaluated"),
            objectives=OBJECTIVES,
            evaluations=3,
            reference=[1.0],
            warm_start=earlier if warm else None,
        )


def test_a_study_that_cannot_teach_is_refused(earlier):
    more = {"objectives": OBJECTIVES, "warm_start": earlier}
    with pytest.raises(ConfigError, match="study 'search' is of another space"):
        Search(space=Space([Choice("layer0", [1, 2])]), **more)
    with pytest.raises(
        ConfigError, match=r"there is no study 'other' in the storage; there are \['search'\]"
    ):
        Search(
            space=SPACE, objectives=OBJECTIVES, warm_start=WarmStart(storage=earlier.storage, name="other")
        )
    with pytest.raises(ConfigError, match=r"none of the objectives \['bleu'\]"):
        Search(space=SPACE, objectives=["bleu"], warm_start=earlier)
    with pytest.raises(ConfigError, match="this search itself; give the search another name"):
        Search(space=SPACE, objectives=OBJECTIVES, storage=earlier.storage, warm_start=earlier)
    empty = InMemoryStorage()
    Search(space=SPACE, objectives=OBJECTIVES, storage=empty)
    with pytest.raises(ConfigError, match=r"the earlier study measured \[\], none of"):
        Search(space=SPACE, objectives=OBJECTIVES, warm_start=WarmStart(storage=empty))
