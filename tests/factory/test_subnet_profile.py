"""Times of some subnets tell those of others; the error is that on held-out ones; damage is refused."""

import json
import random

import numpy as np
import pytest

from brickyard.core.config import Config
from brickyard.core.decision import Choice, Option, Subset
from brickyard.core.errors import ConfigError, DeviceError
from brickyard.core.space import Space
from brickyard.devices.profile import DeviceProfile
from brickyard.factory.subnet_profile import SubnetProfile, structure_sha256
from brickyard.factory.subnet_timing import draw_subnets

pytest.importorskip("optuna")

SPACE = Space(
    [
        *(Choice(f"stage{stage}.width", [8, 16, 24, 32]) for stage in range(3)),
        Choice("depth", [1, 2, 3]),
        Option("kernel", ["dense", "sparse"]),
        Subset("bricks", 4),
    ]
)


def milliseconds(config) -> float:
    """A made-up machine: layers add up, wide ones cost by their products."""
    widths = [config[f"stage{stage}.width"] for stage in range(3)]
    layers = sum(a * b for a, b in zip([3, *widths], widths, strict=False)) / 1000
    return (0.1 + config["depth"] * layers + 0.05 * len(config["bricks"])) * (
        1.3 if config["kernel"] == "dense" else 1.0
    )


def record_of(**changes) -> dict:
    configs = draw_subnets(SPACE, 80, seed=0)
    record = {
        "format_version": 1,
        "kind": "subnets",
        "name": "board",
        "machine": "riscv64 Linux",
        "processor": "a board elsewhere",
        "runtime": "onnxruntime 1.0",
        "threads": 1,
        "precision": "fp32",
        "network_sha256": "0" * 64,
        "space": SPACE.to_json(),
        "subnets": [dict(config) for config in configs],
        "ms": [milliseconds(config) for config in configs],
        "fitted": 60,
        "seed": 0,
        "noise": 0.01,
        "slowdown": 0.0,
        "clock_step_ns": 1,
        "created": "2026-01-01T00:00:00+00:00",
    }
    return json.loads(json.dumps({**record, **changes}))


@pytest.fixture(scope="module")
def profile() -> SubnetProfile:
    return SubnetProfile.model_validate(record_of()).judged()


def test_subnets_that_were_not_measured_are_predicted(profile):
    rng = random.Random(99)
    configs = [config for config in (SPACE.sample(rng) for _ in range(60)) if config not in profile._configs]
    predicted = profile.predict_all(configs)
    real = np.array([milliseconds(config) for config in configs])
    assert np.abs(predicted / real - 1).mean() < 0.05
    assert profile.predict({**configs[0], "classes": (0, 1)}) == pytest.approx(predicted[0])


def test_the_error_is_that_of_subnets_held_out(profile):
    error = profile.error
    assert (error.count, profile.fitted) == (20, 60)
    process = profile._process(60, error.encoding)
    features = profile._features(profile._configs[60:], error.encoding)
    predicted, real = np.exp(process.predict(features)[0]), np.array(profile.ms[60:])
    assert error.mape == pytest.approx(np.abs(predicted / real - 1).mean())
    assert error.worst == pytest.approx(np.abs(predicted / real - 1).max())
    assert 0 < error.mape < 0.06
    assert error.rank_correlation > 0.97
    assert "that were held out, worst" in str(error)
    shuffled = record_of()
    random.Random(0).shuffle(shuffled["ms"])
    assert SubnetProfile.model_validate(shuffled).error.mape > 0.3


def test_a_file_predicts_the_same_again(profile, tmp_path):
    file = tmp_path / "board.json"
    profile.save(file)
    again = SubnetProfile.load(file)
    assert again == profile
    configs = [SPACE.smallest(), SPACE.largest()]
    np.testing.assert_array_equal(again.predict_all(configs), profile.predict_all(configs))
    bare = tmp_path / "kit.json"
    bare.write_text(json.dumps(record_of()))
    assert SubnetProfile.load(bare).held_out is None
    assert SubnetProfile.load(bare).error == profile.error
    with pytest.raises(ConfigError, match="lacks a value for 'depth'"):
        again.predict({name: value for name, value in SPACE.largest().items() if name != "depth"})


def test_damage_is_refused(tmp_path):
    file = tmp_path / "board.json"
    with pytest.raises(DeviceError, match="is not a file"):
        SubnetProfile.load(file)
    twice = record_of()
    twice["subnets"][1] = twice["subnets"][0]
    strange = record_of()
    strange["subnets"][1]["depth"] = 9
    for record, message in (
        (record_of(ms=[1.0]), "80 subnets, 1 times"),
        (record_of(ms=[0.0] * 80), "not all finite and above 0"),
        (record_of(fitted=80), "fewer that are fitted"),
        (record_of(more=1), "more: Extra inputs"),
        (twice, "a subnet is there twice"),
        (strange, "depth = 9 is not allowed"),
    ):
        file.write_text(json.dumps(record))
        with pytest.raises(DeviceError, match=message):
            SubnetProfile.load(file)
    file.write_text("{")
    with pytest.raises(DeviceError, match="is malformed as a device profile"):
        SubnetProfile.load(file)


def test_kinds_of_profiles_are_told_apart(profile, tmp_path):
    file = tmp_path / "board.json"
    profile.save(file)
    with pytest.raises(DeviceError, match="tells times of whole subnets of a network"):
        DeviceProfile.load(file)
    file.write_text('{"format_version": 1, "blocks": {}}')
    assert SubnetProfile.load_if(file) is None
    assert SubnetProfile.load_if(file.rename(tmp_path / "board.csv")) is None
    with pytest.raises(DeviceError, match="no profile by whole subnets"):
        SubnetProfile.load(tmp_path / "board.csv")


def test_another_network_is_refused(profile):
    assert profile.fitting("0" * 64, "net") is profile
    with pytest.raises(DeviceError, match="measured for another network; run `brickyard profile net`"):
        profile.fitting("1" * 64, "net")


def test_structure_leaves_provenance_out(tmp_path):
    def digest(**changes):
        record = {"builder": "a", "arguments": {"x": 1}, "space": "s", "provenance": {}}
        (tmp_path / "network.json").write_text(json.dumps({**record, **changes}))
        return structure_sha256(tmp_path)

    assert digest() == digest(provenance={"seed": 3}, metric="accuracy")
    assert len({digest(), digest(builder="b"), digest(arguments={"x": 2}), digest(space="t")}) == 4


def test_configs_without_duplicates_of_all_sizes():
    found = draw_subnets(SPACE, 100, seed=1)
    assert found[:2] == [SPACE.smallest(), SPACE.largest()]
    assert len(set(found)) == 100
    assert found == draw_subnets(SPACE, 100, seed=1) != draw_subnets(SPACE, 100, seed=2)
    times = np.array([milliseconds(config) for config in found])
    assert np.quantile(times, 0.1) < 0.5 * np.median(times)
    few = Space([Choice("a", [1, 2]), Choice("b", [1, 2])])
    assert len(draw_subnets(few, 100, seed=0)) == 4
    folded = draw_subnets(few, 100, seed=0, canonical=lambda config: Config({**config, "b": 2}))
    assert {config["b"] for config in folded} == {2}
    assert len(folded) == 2
