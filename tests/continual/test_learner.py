"""Tasks are learned, nothing is forgotten, and a task that fails leaves no trace."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from brickyard.continual import Learner, accuracy, masked
from brickyard.continual.layers import HEAD_WEIGHTS
from brickyard.continual.optimizer import one_cycle
from brickyard.core.errors import ConfigError, DataError, TrainError


def state_of(network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.network.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(second[name], first[name]) for name in first)


@pytest.mark.parametrize("arm", ["exssnet", "ssnet", "supsup"])
def test_every_arm_learns(arm, mlp, blobs, quick):
    network = mlp()
    learned = Learner(network, settings=quick(arm=arm)).learn("first", blobs(), num_classes=4)
    assert accuracy(network, "first", blobs(seed=1)) > 0.9
    assert learned.losses[-1] < 0.5 * learned.losses[0]
    assert len(learned.losses) == (6 if arm == "supsup" else 12)
    assert learned.record.free_share == 1


def test_exclusive_training_changes_no_answer_and_no_weight_of_an_earlier_task(mlp, blobs, quick):
    network = mlp(density=0.4, bias=True)
    learner = Learner(network, settings=quick())
    x, answers, held = blobs().tensors[0], {}, {}
    for number in range(4):
        name = f"task{number}"
        pools = {path: layer.pool.clone() for path, layer in network.layers.items()}
        before = {path: layer.taken.clone() for path, layer in network.layers.items()}
        learner.learn(name, blobs(number), num_classes=4)
        for path, layer in network.layers.items():
            changed = layer.pool != pools[path]
            assert changed.any()
            assert not (changed & before[path]).any()
            assert not (changed & ~layer.mask(number)).any()
        answers[name] = network.scores(name, x)
        held[name] = {path: layer.mask(number) for path, layer in network.layers.items()}
        for name, scores in answers.items():
            assert torch.equal(network.scores(name, x).view(torch.int32), scores.view(torch.int32))
    for number, masks in enumerate(held.values()):
        assert all(torch.equal(layer.mask(number), masks[path]) for path, layer in network.layers.items())


def test_overlapping_training_forgets(mlp, blobs, quick):
    network = mlp(density=0.4)
    learner = Learner(network, settings=quick(arm="ssnet"))
    learner.learn("first", blobs(0), num_classes=4)
    x = blobs().tensors[0]
    before = network.scores("first", x)
    learner.learn("second", blobs(1), num_classes=4)
    assert not torch.equal(network.scores("first", x), before)


@pytest.mark.parametrize("weight_epochs", [0, 2])
def test_weights_trained_with_the_mask_change_nothing_but_free_weights_under_it(
    weight_epochs, mlp, blobs, quick
):
    network, x = mlp(), blobs().tensors[0]
    learner = Learner(network, settings=quick(joint=True, mask_epochs=6, weight_epochs=weight_epochs))
    learner.learn("first", blobs(), num_classes=4)
    answers = network.scores("first", x)
    pools = {path: layer.pool.clone() for path, layer in network.layers.items()}
    taken = {path: layer.taken.clone() for path, layer in network.layers.items()}
    learner.learn("second", blobs(1), num_classes=4)
    assert torch.equal(network.scores("first", x), answers)
    assert accuracy(network, "first", blobs(seed=1)) > 0.9
    assert accuracy(network, "second", blobs(1, seed=1)) > 0.9
    for path, layer in network.layers.items():
        changed = layer.pool != pools[path]
        assert changed.any()
        assert not (changed & ~(layer.mask(1) & ~taken[path])).any()


@pytest.mark.parametrize("joint", [False, True])
def test_what_a_task_has_of_its_own_learns_by_its_own_rate(joint, blobs, quick):
    heads, pools = [], []
    for own_rate in (1e-9, None, 1e-2):
        plain = nn.Sequential(nn.Linear(16, 12, bias=False), nn.ReLU(), nn.Linear(12, 4))
        torch.nn.init.constant_(plain[0].weight, 0.1)
        network = masked(plain, input_shape=(16,), density=0.3, heads="own", weights="kept")
        settings = quick(joint=joint, mask_epochs=1, weight_epochs=1, weight_rate=1e-9, own_rate=own_rate)
        Learner(network, settings=settings).learn("first", blobs(), num_classes=4)
        heads.append(network.extract("first")[2].weight.clone())
        pools.append(network.layers["0"].pool)
    assert all(torch.allclose(pool, torch.tensor(0.1), atol=1e-6) for pool in pools)
    assert torch.equal(heads[0], heads[1])
    assert (heads[2] - heads[0]).abs().max() > 0.01


@pytest.mark.parametrize("more", [{}, {"arm": "supsup"}, {"joint": True, "weight_epochs": 0}])
def test_normalisation_has_the_statistics_of_the_last_weights(more, blobs, quick):
    """Running ones lag behind, and after the few steps that this makes they are far off."""
    plain = nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))
    network, data = masked(plain, input_shape=(16,), density=0.3), blobs(count=64)
    settings = quick(batch_size=64, mask_epochs=3, **{"weight_epochs": 3, **more})
    Learner(network, settings=settings).learn("first", data, num_classes=4)
    cut = network.extract("first")
    norm = next(part for part in cut.modules() if isinstance(part, nn.BatchNorm1d))
    with torch.no_grad():
        inner = cut[0](data.tensors[0])
    assert torch.allclose(norm.running_mean, inner.mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, inner.var(0), rtol=1e-4)
    assert not network.network.training


def test_masks_alone_leave_the_weights(mlp, blobs, quick):
    network = mlp()
    pools = {path: layer.pool.clone() for path, layer in network.layers.items()}
    Learner(network, settings=quick(arm="supsup", mask_epochs=2)).learn("first", blobs(), num_classes=4)
    assert all(torch.equal(layer.pool, pools[path]) for path, layer in network.layers.items())


def test_every_mask_has_exactly_the_weights_of_its_density(mlp, blobs, quick):
    network = mlp(density=0.1)
    Learner(network, settings=quick(mask_epochs=1)).learn("first", blobs(), num_classes=4)
    assert len(network.layers) > 1
    for layer in network.layers.values():
        least = HEAD_WEIGHTS * layer.pool.shape[0] if layer.is_head else 1
        assert int(layer.mask(0).sum()) == max(round(0.1 * layer.pool.numel()), least)


@pytest.mark.parametrize(("inputs", "density", "kept"), [(100, 0.02, 40), (100, 0.5, 200), (6, 0.1, 24)])
def test_a_shared_head_keeps_at_least_ten_weights_for_each_class(inputs, density, kept):
    module = nn.Sequential(nn.Linear(8, inputs), nn.ReLU(), nn.Linear(inputs, 4))
    assert masked(module, input_shape=(8,), density=density).layers["2"].keep == kept


def test_the_same_seed_gives_the_same_network_whatever_was_drawn_before(mlp, blobs, quick):
    states = []
    for number in range(2):
        torch.rand(number)
        network = mlp(bias=True, heads="own", weights="signed")
        for part in network.layers.values():
            part.fresh_bias.data.zero_()
        learner = Learner(network, settings=quick(mask_epochs=1, weight_epochs=1))
        drawn = torch.get_rng_state()
        learner.learn("first", blobs(), num_classes=4)
        assert torch.equal(torch.get_rng_state(), drawn)
        states.append({name: t for name, t in state_of(network).items() if "fresh" not in name})
    assert equal(*states)


def test_tasks_start_from_scores_of_their_own(mlp, blobs, quick):
    network = mlp()
    learner = Learner(network, settings=quick(mask_epochs=1, mask_rate=1e-9, arm="supsup"))
    for name in ("first", "second"):
        learner.learn(name, blobs(), num_classes=4)
    assert float(network.overlap()[0, 1]) < 0.5


class _Fails(Dataset):
    """Examples of which one cannot be read once it is due."""

    def __init__(self, data: TensorDataset, *, after: int, error: type[BaseException]) -> None:
        self.data, self.after, self.error, self.read = data, after, error, 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int):
        self.read += 1
        if self.read > self.after:
            raise self.error
        return self.data[place]


@pytest.mark.parametrize("after", [5, 256 * 2 + 40])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_task_that_fails_leaves_the_network_as_it_was(after, error, blobs, quick):
    plain = nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))
    network = masked(plain, input_shape=(16,), density=0.3)
    learner = Learner(network, settings=quick(mask_epochs=2, weight_epochs=2))
    learner.learn("first", blobs(), num_classes=4)
    learner.learn("other", blobs(2), num_classes=4)
    network.network.configure({"task": "first"})
    before, x = state_of(network), blobs().tensors[0]
    answers = network.scores("first", x)
    with pytest.raises(error):
        learner.learn("second", _Fails(blobs(1), after=after, error=error), num_classes=4)
    assert equal(before, state_of(network))
    assert (network.tasks.values, network.tasks.value) == (("first", "other"), "first")
    assert len(network.records) == 2
    assert not network.network.training
    assert torch.equal(network.scores("first", x), answers)
    learner.learn("second", blobs(1), num_classes=4)
    assert network.tasks.values == ("first", "other", "second")


def test_a_dataset_item_by_item_is_read_like_tensors(mlp, blobs, quick):
    networks = []
    for data in (blobs(), _Fails(blobs(), after=10**6, error=OSError)):
        networks.append(mlp())
        settings = quick(mask_epochs=1, weight_epochs=1)
        for part in networks[-1].layers.values():
            if part.fresh_bias is not None:
                part.fresh_bias.data.zero_()
        Learner(networks[-1], settings=settings).learn("first", data, num_classes=4)
    assert equal(state_of(networks[0]), state_of(networks[1]))


def test_progress_counts_every_step_and_may_look_at_the_task(mlp, blobs, quick):
    network, seen = mlp(), []

    def watch(done: int, steps: int, loss: float) -> None:
        seen.append((done, steps))
        assert loss > 0
        network.scores("first", blobs().tensors[0][:2])

    settings = quick(mask_epochs=2, weight_epochs=1, batch_size=100)
    Learner(network, settings=settings).learn("first", blobs(count=201), num_classes=4, progress=watch)
    assert seen == [(step, 6) for step in range(1, 7)]  # the last example joins the batch before it


def test_bad_input_is_refused_before_anything_changes(mlp, blobs, quick):
    network = mlp()
    learner = Learner(network, settings=quick(mask_epochs=1, weight_epochs=1))
    with pytest.raises(ConfigError, match="num_classes = 5 must be at least 1 and at most 4, the rows"):
        learner.learn("first", blobs(), num_classes=5)
    with pytest.raises(DataError, match="class indices from 0 to 3 came; a task of 2 classes has 0 to 1"):
        learner.learn("first", blobs(), num_classes=2)
    with pytest.raises(DataError, match="the dataset has no examples"):
        learner.learn("first", TensorDataset(torch.zeros(0, 16), torch.zeros(0).long()), num_classes=4)
    with pytest.raises(DataError, match="must be a class index"):
        learner.learn("first", TensorDataset(torch.zeros(4, 16), torch.zeros(4)), num_classes=4)
    with pytest.raises(DataError, match="must be pairs"):
        learner.learn("first", TensorDataset(torch.zeros(4, 16)), num_classes=4)
    assert network.tasks.values == ()
    learner.learn("first", blobs(), num_classes=4)
    with pytest.raises(ConfigError, match="'first' is there already"):
        learner.learn("first", blobs(), num_classes=4)
    with pytest.raises(ConfigError, match="'third' is not among the tasks; known: first"):
        network.scores("third", blobs().tensors[0])


def test_a_loss_that_is_not_finite_ends_the_task(mlp, blobs, quick):
    network = mlp()
    inputs, labels = blobs().tensors
    with pytest.raises(TrainError, match="the loss is nan; lower"):
        Learner(network, settings=quick()).learn(
            "first", TensorDataset(inputs * float("nan"), labels), num_classes=4
        )
    assert network.tasks.values == ()


@pytest.mark.parametrize("arm", ["exssnet", "supsup"])
@pytest.mark.parametrize("rate", [1e38, 3e38])
def test_scores_that_are_not_finite_end_the_task(arm, rate, mlp, blobs, quick):
    network = mlp()
    before = state_of(network)
    with pytest.raises(TrainError, match="not all scores are finite; lower mask_rate, weight_rate"):
        Learner(network, settings=quick(arm=arm, mask_rate=rate)).learn("first", blobs(), num_classes=4)
    assert network.tasks.values == ()
    assert equal(before, state_of(network))


def test_what_a_killed_process_left_of_a_checkpoint_is_swept(mlp, blobs, quick, tmp_path):
    left, other = tmp_path / ".k.ck.abcd1234.part", tmp_path / ".k.ck.mine"
    for file in (left, other):
        file.write_bytes(b"half")
    learner = Learner(mlp(), settings=quick(mask_epochs=1, weight_epochs=1))
    learner.learn("first", blobs(), num_classes=4, checkpoint=tmp_path / "k.ck")
    assert list(tmp_path.iterdir()) == [other]


def test_rates_rise_over_a_tenth_and_fall_to_nothing():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule, rates = one_cycle(optimizer, 100), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(2.0, rel=0.01)
    assert 8 <= rates.index(max(rates)) <= 11
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.01
