"""Maps: neurons located on one half of the texts, and what switching them off changes on the other."""

import pytest
import torch
from torch import nn

from brickyard.core.errors import DataError, ModularizeError
from brickyard.modularize.brick_map import LOCATE, Changes, map_bricks, random_neurons
from brickyard.modularize.function_scores import function_scores, split_texts
from brickyard.modularize.map_folder import map_record
from brickyard.modularize.neurons import NeuronProbe
from brickyard.modularize.text_encoder import Tokens

from .encoders import TEXTS, letters
from .mapped import FUNCTIONS, labelled, mapped, probe_of
from .transformers_zoo import Block


@pytest.mark.parametrize(("kind", "measure"), [("bert", "embedding"), ("llama", "perplexity")])
def test_a_map_is_made_of_held_out_texts(kind, measure):
    steps = []
    probe, found = mapped(kind, progress=lambda *step: steps.append(step), seed=3)
    texts, labels = labelled()
    first, heldout = split_texts(labels, seed=3)
    assert found.measure == measure
    assert found.texts == ((4, 4),) * 3
    values = probe.activity(texts)[1]
    layer = found.layers[1]
    for half, scores in ((first, layer.first_scores), (heldout, layer.scores)):
        own = [labels[place] for place in half]
        torch.testing.assert_close(scores, function_scores(values[half], own, 3))
    changes = Changes(probe, [texts[place] for place in heldout], [labels[place] for place in heldout])
    sets = [layer.located[1] for layer in found.layers]
    torch.testing.assert_close(changes.without(sets), found.change[1])
    drawn = random_neurons([3] * 3, probe, seed=4)
    torch.testing.assert_close(changes.without(drawn), found.random[1])
    assert found.sparsity[0].abs().max() < 1e-6
    assert found.sparsity[1].abs().min() > 0
    assert {stage for stage, *_ in steps} == {"activity", "scores", "perturbation"}
    assert steps[-1][1] == steps[-1][2] == 3 + 3 + 2


class Planted(nn.Module):
    """Neurons 0 to 3 read the letters a to e alone, neurons 4 to 7 the letters k to o, the others all."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.eye(20))
        self.layers = nn.ModuleList([Block(nn.ReLU())])
        block = self.layers[0]
        block.one, block.two = nn.Linear(20, 40, bias=False), nn.Linear(40, 20, bias=False)
        with torch.no_grad():
            block.one.weight.fill_(0.5)
            block.one.weight[:8] = 0
            block.one.weight[:4, 4:9] = 1
            block.one.weight[4:8, 14:19] = 1

    def forward(self, input_ids, attention_mask=None):
        return self.layers[0](self.embedding(input_ids))


def test_planted_neurons_are_found_and_serve_their_function_alone():
    texts, labels = labelled()
    texts, labels = texts[:16], labels[:16]
    inputs = {"input_ids": torch.arange(20)[None]}
    probe = NeuronProbe(Planted().eval(), Tokens(letters(), max_tokens=16), inputs=inputs)
    for locate in LOCATE:
        found = map_bricks(probe, texts, labels, ("front", "back"), share=0.1, locate=locate)
        layer = found.layers[0]
        assert [set(row.tolist()) for row in layer.located] == [{0, 1, 2, 3}, {4, 5, 6, 7}]
        assert (layer.best() == 1).all()
        assert (layer.located_mean() == 1).all()
        assert torch.allclose(found.change - found.change.diag().diag(), torch.zeros(2, 2), atol=1e-6)
        assert found.over_random() > 2
        assert torch.equal(found.overlap(), torch.eye(2))


def test_functions_are_compared_by_name():
    _, found = mapped("bert")
    assert found.best().shape == (3, 3)
    diagonal = found.change.diag()[:2].mean()
    others = (found.change[0, 1] + found.change[1, 0]) / 2
    assert found.diagonal_ratio(("front", "back")) == pytest.approx(float(diagonal / others))
    assert found.over_random(["back"]) == pytest.approx(float(found.change[1, 1] / found.random[:, 1].mean()))
    assert torch.equal(found.overlap().diag(), torch.ones(3))
    with pytest.raises(ModularizeError, match=r"functions \['none'\] are not all on this map; known: front"):
        found.diagonal_ratio(["none"])
    with pytest.raises(ModularizeError, match="cannot be compared; name two or more"):
        found.diagonal_ratio(["front"])


def test_changes_may_be_measured_on_fewer_texts():
    probe, found = mapped(change_texts=2)
    texts, labels = labelled()
    _, heldout = split_texts(labels, seed=0)
    few = [place for label in range(3) for place in [one for one in heldout if labels[one] == label][:2]]
    changes = Changes(probe, [texts[place] for place in few], [labels[place] for place in few])
    torch.testing.assert_close(found.change[0], changes.without([layer.located[0] for layer in found.layers]))
    torch.testing.assert_close(found.layers[0].scores, mapped()[1].layers[0].scores)


def test_neurons_are_located_by_score_alone_or_by_what_they_give():
    _, plain = mapped(locate="score")
    for layer in plain.layers:
        assert torch.equal(layer.first_scores.gather(1, layer.located), layer.first_scores.topk(3).values)
    probe, weighted = mapped(locate="weighted")
    texts, labels = labelled()
    first, _ = split_texts(labels, seed=0)
    given = (probe.activity(texts)[0] * probe.value_norms[0])[first]
    own = torch.tensor([labels[place] for place in first]) == 1
    worth = weighted.layers[0].first_scores[1] * (given[own].mean(0) - given[~own].mean(0))
    assert torch.equal(weighted.layers[0].located[1], worth.topk(3).indices)
    torch.testing.assert_close(weighted.layers[0].output[1], given[own].mean(0))


def test_experts_are_scored_and_tested():
    experts = [torch.arange(16) // 4] * 3
    experts[1] = torch.tensor([-1] * 4 + [0, 1, 2] * 4)
    probe, found = mapped(experts=experts)
    assert [tuple(layer.expert_scores.shape) for layer in found.layers] == [(3, 4), (3, 3), (3, 4)]
    assert set(found.layers[0].enrichment) == {"experts", "random partition"}
    texts, labels = labelled()
    _, heldout = split_texts(labels, seed=0)
    given = (probe.activity(texts)[1] * probe.value_norms[1])[heldout]
    sums = torch.stack([given[:, experts[1] == expert].sum(1) for expert in range(3)], dim=1)
    own = [labels[place] for place in heldout]
    torch.testing.assert_close(found.layers[1].expert_scores, function_scores(sums, own, 3))
    chosen = [scores.argmax() for scores in found.layers[1].expert_first_scores]  # by the other texts
    best = [float(found.layers[1].expert_scores[place, expert]) for place, expert in enumerate(chosen)]
    assert found.layers[1].best_expert().tolist() == pytest.approx(best)
    plain = mapped()[1].layers[0]
    assert plain.expert_scores is None
    assert plain.best_expert() is None


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"functions": ("front", "front", "all")}, DataError, "give different names and texts for each"),
        ({"functions": ("front", "back")}, DataError, r"labels \[0, 1, 2\] do not fit"),
        ({"share": 0.0}, ModularizeError, "share = 0.0 is not allowed"),
        ({"shares": (1.0,)}, ModularizeError, "from 0 to less than 1"),
        ({"random_sets": 0}, ModularizeError, "random_sets = 0"),
        ({"change_texts": 0}, ModularizeError, "change_texts = 0 is not allowed"),
        ({"locate": "best"}, ModularizeError, "locate = 'best' is unknown; known: weighted, score"),
        ({"experts": [torch.zeros(3)]}, ModularizeError, r"experts of \[3\] neurons came"),
    ],
)
def test_what_does_not_fit_is_refused(changed, error, message):
    texts, labels = labelled(2)
    with pytest.raises(error, match=message):
        map_bricks(probe_of("bert"), texts, labels, **{"functions": FUNCTIONS, **changed})


class Stopped(Exception):
    """The process ends here."""


@pytest.mark.parametrize("stage", ["activity", "scores", "perturbation"])
def test_a_map_that_was_stopped_goes_on(stage, tmp_path):
    def stop(at, done, total, text):
        if (at, done) == (stage, total):
            raise Stopped

    file, experts = tmp_path / "work" / "map", [torch.arange(16) // 4, None, torch.arange(16) % 2]
    settings = {"experts": experts, "seed": 2, "checkpoint": file}
    with pytest.raises(Stopped):
        mapped(progress=stop, **settings)
    assert file.exists() == (stage == "perturbation")
    steps = []
    _, found = mapped(progress=lambda *step: steps.append(step), **settings)
    _, whole = mapped(experts=experts, seed=2)
    assert map_record(found) == map_record(whole)
    for one, other in zip(found.layers, whole.layers, strict=True):
        left, right = one.tensors("layer"), other.tensors("layer")
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    again = {"activity", "scores"} & {at for at, *_ in steps}
    assert again == (set() if stage == "perturbation" else {"activity", "scores"})


def test_a_map_stopped_between_changes_makes_those_that_lack(tmp_path):
    def stop(at, done, total, text):
        if (at, done) == ("perturbation", 5):
            raise Stopped

    with pytest.raises(Stopped):
        mapped(progress=stop, checkpoint=tmp_path / "map")
    steps = []
    _, found = mapped(progress=lambda *step: steps.append(step), checkpoint=tmp_path / "map")
    assert [done for at, done, *_ in steps] == [6, 7, 8]
    assert map_record(found) == map_record(mapped()[1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"seed": 1}, "seed: it has 0, this run 1"), ({"shares": (0.0,)}, "shares: it has"), ({}, "model: it")],
)
def test_a_checkpoint_of_another_map_is_refused(changed, message, tmp_path):
    mapped(checkpoint=tmp_path / "map")
    with pytest.raises(ModularizeError, match=message):
        mapped(**({} if changed else {"kind": "llama"}), **changed, checkpoint=tmp_path / "map")


def test_the_change_of_a_language_model_is_that_of_its_perplexity():
    probe = probe_of("gpt2")
    gone = [torch.tensor([1, 2])] * 3
    before = probe.says(TEXTS).double()
    with probe.without(gone):
        after = probe.says(TEXTS).double()
    one, two = (part[:2, 0].sum() / part[:2, 1].sum() for part in (before, after))
    found = Changes(probe, TEXTS, [0, 0, 1]).without(gone)
    torch.testing.assert_close(found[0], (two.exp() / one.exp() - 1).float())
    with pytest.raises(DataError, match="a text has one token"):
        Changes(probe, ["a", "b c"], [0, 1])
