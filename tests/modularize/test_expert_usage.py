"""Tokens are counted where they go, and Trainer logs it."""

import pytest
import torch

from brickyard.core.errors import ModularizeError
from brickyard.modularize import ExpertUsage, modularize_transformer, usage_callback
from brickyard.modularize.intake import example_inputs

from .transformers_zoo import tiny, transformers


def experts(model, **settings):
    return modularize_transformer(
        model, **{"experts": 4, "top_k": 2, "layers": "all", "cache": False, **settings}
    )


@pytest.mark.parametrize("mode", ["masked", "sparse", "dense"])
@pytest.mark.parametrize("kind", ["bert-classifier", "gpt2"])
def test_shares_are_those_of_the_choice_by_mean_keys(kind, mode):
    model = tiny(kind)
    modular = experts(model)
    modular.use(mode)
    inputs, seen = example_inputs(model), {}
    path, brick = next(iter(modular.experts.items()))
    brick.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    with torch.no_grad():
        expected = model(**inputs)[0]
        with ExpertUsage(modular) as usage:
            assert torch.equal(model(**inputs)[0], expected)
        model(**inputs)  # is not counted
    keys = brick.weight.T if brick.split.transposed else brick.weight
    scores = seen["x"].reshape(-1, keys.shape[1]) @ keys.detach().unflatten(0, (4, -1)).mean(1).T
    count = torch.zeros(4)
    for row in scores:
        count[row.argsort(descending=True)[:2]] += 1
    shares = usage.shares()
    assert list(shares) == list(modular.experts)
    assert torch.allclose(shares[path], count / len(scores))
    assert float(shares[path].sum()) == pytest.approx(2)
    numbers = usage.summary()
    assert numbers[f"experts/{path}/idle"] == float((count == 0).float().mean())
    assert numbers[f"experts/{path}/most"] == pytest.approx(float(count.max() / count.mean()))
    usage.reset()
    assert usage.summary() == {}


def test_experts_keep_their_numbers_where_some_are_gone():
    model = tiny("bert-classifier")
    modular = experts(model, top_k=1)
    config = dict.fromkeys(modular.experts, (1, 3))
    with modular.network.configured(config), ExpertUsage(modular) as usage, torch.no_grad():
        model(**example_inputs(model))
    for share in usage.shares().values():
        assert float(share[1] + share[3]) == pytest.approx(1)


def test_a_dense_model_has_nothing_to_count():
    modular = experts(tiny("bert-classifier"))
    modular.revert()
    for count in (ExpertUsage, usage_callback):
        with pytest.raises(ModularizeError, match=r"this model is dense again; modularize it anew"):
            count(modular)


def test_trainer_logs_usage(tmp_path):
    pytest.importorskip("accelerate")
    model = tiny("bert-classifier")
    modular = experts(model)
    rows = [{"input_ids": [2, 5, 7, 3], "labels": number % 2} for number in range(8)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=2,
        logging_steps=2,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, callbacks=[usage_callback(modular)]
    )
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == [2, 4]
    for entry in entries:
        for path in modular.experts:
            assert entry[f"experts/{path}/most"] >= 1
            assert 0 <= entry[f"experts/{path}/idle"] <= 0.5
    assert not any(brick._forward_pre_hooks for brick in modular.experts.values())
