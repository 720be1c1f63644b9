"""Any plain module becomes a network of tasks, is left as it is, and comes out plain again."""

import math

import onnxruntime
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from brickyard.bricks import ElasticLinear
from brickyard.continual import Learner, masked
from brickyard.continual.layers import MaskedLayer, OwnPart
from brickyard.core.errors import ConfigError
from brickyard.core.sequence import Attention, EncoderLayer, Layers, TextClassifier, TokenEmbedding
from brickyard.export import export_plain


def encoder() -> nn.Module:
    """A classifier of token ids with one layer of attention and a feed-forward part."""
    attention = Attention(*(nn.Linear(8, 8) for _ in range(4)), head_dim=4)
    feed_forward = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    layer = EncoderLayer((nn.LayerNorm(8), nn.LayerNorm(8)), attention, feed_forward, dropout=0.1)
    embedding = TokenEmbedding(nn.Embedding(20, 8), nn.Embedding(6, 8), max_tokens=6)
    return TextClassifier(embedding, Layers(layer), nn.LayerNorm(8), nn.Linear(8, 3))


class TextCNN(nn.Module):
    """Convolutions over embedded tokens, the largest of each filter, scores."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.convs = nn.ModuleList([nn.Conv1d(8, 6, size, padding=1) for size in (2, 3)])
        self.head = nn.Linear(12, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids).transpose(1, 2)
        return self.head(torch.cat([conv(x).relu().amax(2) for conv in self.convs], 1))


def cnn() -> nn.Module:
    """Two convolutions with normalisation, pooling, scores."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


KINDS = {
    "encoder": (encoder, {"input_shape": (6,), "vocab_sizes": (20,)}),
    "text cnn": (TextCNN, {"input_shape": (6,), "vocab_sizes": (20,)}),
    "cnn": (cnn, {"input_shape": (1, 8, 8)}),
}


@pytest.mark.parametrize("heads", ["shared", "own"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_without_a_change_of_earlier_answers_and_comes_out_plain(kind, heads, quick):
    make, arguments = KINDS[kind]
    network = masked(make(), density=0.3, heads=heads, **arguments)
    learner = Learner(network, settings=quick(mask_epochs=1, weight_epochs=1))
    x = network.network.example_inputs(batch=24)[0]
    answers = {}
    for number, name in enumerate(("first", "second", "third")):
        data = TensorDataset(x, torch.randint(0, 2, (24,)))
        learner.learn(name, data, num_classes=2 + number % 2)
        answers[name] = network.scores(name, x)
        assert answers[name].shape == (24, 2 + number % 2)
    for name, before in answers.items():
        assert torch.equal(network.scores(name, x), before)
        plain = network.extract(name).eval()
        own = [part for part in plain.modules() if isinstance(part, MaskedLayer | OwnPart)]
        assert not own
        with torch.no_grad():
            assert torch.equal(plain(x), before)


def test_projections_of_attention_are_masked_and_embeddings_are_not():
    network = masked(encoder(), input_shape=(6,), vocab_sizes=(20,))
    masked_names = set(network.layers)
    assert {"layers.0.attention.query", "layers.0.attention.output"} <= masked_names, masked_names
    assert len(masked_names) == 7
    assert all("embedding" in name for name in network.frozen)
    assert len(network.frozen) == 2


def test_the_module_is_left_as_it_is():
    module = cnn()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    masked(module, input_shape=(1, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(tensor.requires_grad for tensor in module.parameters())


def test_a_layer_in_two_places_stays_one():
    layer = nn.Linear(4, 4)
    network = masked(nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 2)), input_shape=(4,))
    root = network.network.root
    assert root[0] is root[2]
    assert len(network.layers) == 2


def test_signed_weights_keep_the_spread_for_the_density():
    network = masked(nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 2)), input_shape=(50,), density=0.1)
    pool = network.layers["0"].pool
    assert pool.abs().unique().tolist() == pytest.approx([math.sqrt(2 / (50 * math.sqrt(0.1)))])
    assert abs(float(pool.sign().mean())) < 0.1
    same = masked(nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 2)), input_shape=(50,), density=0.1)
    assert torch.equal(same.layers["0"].pool, pool)


def test_kept_weights_are_those_of_the_module():
    module = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2))
    network = masked(module, input_shape=(5,), weights="kept")
    assert torch.equal(network.layers["0"].pool, module[0].weight)


def test_a_single_layer_can_be_the_module():
    network = masked(nn.Linear(5, 2), input_shape=(5,))
    assert list(network.layers) == [""]
    assert network.head is network.network.root


def test_shares_and_overlap_count_masks(mlp, blobs, quick):
    network = mlp(density=0.25)
    learner = Learner(network, settings=quick(mask_epochs=1, arm="supsup"))
    for number in range(3):
        learner.learn(f"task{number}", blobs(number), num_classes=4)
    union = sum(
        int((layer.mask(0) | layer.mask(1) | layer.mask(2)).sum()) for layer in network.layers.values()
    )
    assert network.free_share() == pytest.approx(1 - union / network.num_weights)
    overlap = network.overlap()
    assert overlap.diagonal().tolist() == [1, 1, 1]
    both = sum(int((layer.mask(0) & layer.mask(2)).sum()) for layer in network.layers.values())
    assert float(overlap[0, 2]) == float(overlap[2, 0]) == pytest.approx(both / network.num_kept)
    assert network.records[2].free_share < network.records[1].free_share < network.records[0].free_share == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0.0}, r"density = 0.0 must be above 0"),
        ({"density": 1.5}, r"density = 1.5 must be above 0 and at most 1"),
        ({"head": "nothing"}, r"head = 'nothing' is no linear layer of the module; it has: 0, 1"),
        ({"heads": "many"}, r"heads = 'many' is not allowed; allowed: shared, own"),
        ({"weights": "new"}, r"weights = 'new' is not allowed; allowed: signed, kept"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(ConfigError, match=message):
        masked(module, input_shape=(3,), **arguments)


def test_modules_that_read_weights_past_their_layers_are_refused():
    module = nn.Sequential(nn.TransformerEncoderLayer(8, 2, batch_first=True), nn.Linear(8, 2))
    with pytest.raises(ConfigError, match="0 is a TransformerEncoderLayer, which reads the weights"):
        masked(module, input_shape=(4, 8))
    with pytest.raises(ConfigError, match="is a brick of a modular network"):
        masked(nn.Sequential(ElasticLinear(3, 3), nn.Linear(3, 2)), input_shape=(3,))


@pytest.mark.parametrize("kind", ["encoder", "text cnn"])
def test_networks_of_tokens_export_to_onnx(kind, quick, tmp_path):
    make, arguments = KINDS[kind]
    network = masked(make(), density=0.3, **arguments)
    ids = network.network.example_inputs(batch=24)[0]
    learner = Learner(network, settings=quick(mask_epochs=1, weight_epochs=1))
    learner.learn("first", TensorDataset(ids, torch.randint(0, 3, (24,))), num_classes=3)
    path = tmp_path / "first.onnx"
    export_plain(network.extract("first"), (6,), path, tokens=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(["scores"], {"input_ids": ids[:1].numpy()})[0]
    expected = network.scores("first", ids)[:1]
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-5)
