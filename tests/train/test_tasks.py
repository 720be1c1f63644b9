"""Questions while training: right labels, near misses, half of them true; pairs that are held out."""

from itertools import combinations

import numpy as np
import pytest

from brickyard.core.errors import TaskError
from brickyard.core.task import Vocabulary
from brickyard.train.tasks import ClassQuestions, PropertyQuestions, object_words, split_tasks

GROUPS = {
    "color": ("red", "green", "blue"),
    "shape": ("circle", "square"),
    "size": ("small", "large", "huge"),
}
VOCABULARY = Vocabulary("properties", GROUPS)


@pytest.fixture
def objects(rng: np.random.Generator) -> np.ndarray:
    """Pictures with one to three objects."""
    drawn = np.stack([rng.integers(0, len(words), (1500, 3)) for words in GROUPS.values()], axis=-1)
    drawn[rng.integers(1, 4, 1500)[:, None] <= np.arange(3)] = -1
    return drawn.astype(np.int16)


def names(values: np.ndarray) -> set[str]:
    """The words of an object."""
    return {words[value] for words, value in zip(GROUPS.values(), values, strict=True) if value >= 0}


def asked(vector: np.ndarray) -> set[str]:
    return {word for word, bit in zip(VOCABULARY.words, vector, strict=True) if bit}


def test_labels_hits_and_words_are_those_of_a_search_through_all_objects(objects, rng):
    tasks = split_tasks(VOCABULARY, unseen_share=0.2, seed=0).trained
    questions = PropertyQuestions(VOCABULARY, tasks)(objects, rng)
    known = {frozenset(task.words) for task in tasks}
    for picture, vector in enumerate(questions.tasks):
        words = asked(vector)
        assert frozenset(words) in known
        hits = [bool(words) and words <= names(values) for values in objects[picture]]
        assert questions.hits[picture].tolist() == hits
        assert questions.labels[picture] == any(hits)
        for values, bits in zip(objects[picture], questions.words[picture], strict=True):
            assert asked(bits) == names(values)
    assert questions.allowed is None
    assert questions.tasks.dtype == np.float32


def test_half_of_the_questions_are_true_and_the_others_near_misses(objects, rng):
    tasks = VOCABULARY.combinations("color", "shape", "size")
    questions = PropertyQuestions(VOCABULARY, tasks, near_share=1.0)(objects, rng)
    assert questions.labels.mean() == pytest.approx(0.5, abs=0.05)
    for picture in np.flatnonzero(questions.labels == 0):
        shared = [len(asked(questions.tasks[picture]) & names(values)) for values in objects[picture]]
        assert max(shared) == 2
    far = PropertyQuestions(VOCABULARY, tasks, near_share=0.0)(objects, rng)
    most = [
        max(len(asked(far.tasks[picture]) & names(values)) for values in objects[picture])
        for picture in np.flatnonzero(far.labels == 0)
    ]
    assert {0, 1, 2} >= set(most) > {2}


def test_a_picture_without_objects_is_asked_what_is_not_there(rng):
    nothing = np.full((40, 3, 3), -1, dtype=np.int16)
    questions = PropertyQuestions(VOCABULARY, VOCABULARY.combinations("color"))(nothing, rng)
    assert (questions.labels == 0).all()
    assert not questions.hits.any()
    assert not object_words(nothing, np.array(VOCABULARY.sizes)).any()


def test_questions_need_tasks():
    with pytest.raises(TaskError, match="no tasks to train; give at least one"):
        PropertyQuestions(VOCABULARY, ())


@pytest.mark.parametrize("share", [0.0, 0.2, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_unseen_pairs_leave_every_word_known_and_stay_out_of_triples(share, seed):
    split = split_tasks(VOCABULARY, unseen_share=share, seed=seed)
    pairs = {pair: VOCABULARY.combinations(*pair) for pair in combinations(GROUPS, 2)}
    assert {*split.known, *split.unseen} == {task for tasks in pairs.values() for task in tasks}
    assert not {*split.known} & {*split.unseen}
    assert not {*split.trained} & {*split.unseen}
    for tasks in pairs.values():
        assert len({*tasks} & {*split.unseen}) == int(np.ceil(share * len(tasks)))
        known = {word for task in tasks if task in split.known for word in task.words}
        assert known == {word for task in tasks for word in task.words}
    barred = [set(task.words) for task in split.unseen]
    triples = [task for task in split.trained if len(task.words) == 3]
    expected = [
        task
        for task in VOCABULARY.combinations(*GROUPS)
        if not any(pair <= set(task.words) for pair in barred)
    ]
    assert triples == expected
    assert {word for task in split.trained if len(task.words) == 1 for word in task.words} == {
        *VOCABULARY.words
    }


def test_the_split_follows_its_seed():
    splits = [split_tasks(VOCABULARY, unseen_share=0.2, seed=seed) for seed in (1, 1, 2)]
    assert splits[0] == splits[1]
    assert splits[0].unseen != splits[2].unseen


def test_shares_that_cannot_be_held_out_are_refused():
    with pytest.raises(TaskError, match=r"unseen_share = 0\.7 must lie in \[0, 0\.5\]"):
        split_tasks(VOCABULARY, unseen_share=0.7, seed=0)
    single = Vocabulary("properties", {"color": ("red", "blue"), "shape": ("circle",)})
    with pytest.raises(TaskError, match="1 of 2 pairs cannot be held out with every word still known"):
        split_tasks(single, unseen_share=0.5, seed=0)


def test_class_questions_contain_the_class(rng):
    labels = rng.integers(0, 6, 2000).astype(np.int16)
    questions = ClassQuestions(6, smallest=2, all_share=0.25)(labels.reshape(-1, 1, 1), rng)
    assert questions.labels.tolist() == labels.tolist()
    assert questions.allowed[np.arange(2000), labels].all()
    assert (questions.tasks == questions.allowed).all()
    sizes = questions.allowed.sum(1)
    assert set(sizes) == {2, 3, 4, 5, 6}
    assert (sizes == 6).mean() == pytest.approx(0.25 + 0.75 / 5, abs=0.04)
    others = questions.allowed.copy()
    others[np.arange(2000), labels] = False
    shares = [others[labels != word, word].mean() for word in range(6)]
    assert max(shares) - min(shares) < 0.1
