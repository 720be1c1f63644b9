"""A CSV table as a device: predictions are its sums, and every mistake is told with its line."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brickyard.core.errors import DeviceError
from brickyard.devices.table import read_table

torch = pytest.importorskip("torch")


def blueprint_of(name):
    from brickyard.export.whole import export_blueprint
    from brickyard.networks import build

    torch.manual_seed(0)
    return export_blueprint(build(name).eval(), samples=1)


@pytest.fixture(scope="module")
def residual():
    return blueprint_of("residual_cnn_pico")


@pytest.fixture(scope="module")
def mobile():
    return blueprint_of("mobile_cnn_pico")


def rows_of(network, ms=lambda kernel, bricks: 0.01 * bricks + 0.1 * kernel):
    """Times of every block at its half and its largest number of bricks."""
    lines = ["fixed,,,0.5"]
    for block in network.blocks:
        choice, count = network.kernel_of(block), network.space[block].count
        for kernel in [""] if choice is None else choice.values:
            lines += [
                f"{block},{kernel},{bricks},{ms(int(kernel or 0), bricks)}" for bricks in (count // 2, count)
            ]
    return lines


def table(path, lines, head="block,kernel,bricks,ms"):
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_a_subnet_costs_the_sum_of_its_blocks(residual, tmp_path):
    profile = read_table(table(tmp_path / "board.csv", rows_of(residual)), residual)
    largest, smallest = residual.space.largest(), residual.space.smallest()
    bricks = sum(len(largest[block]) for block in residual.blocks)
    assert profile.predict(largest) == pytest.approx(0.5 + 0.01 * bricks)
    assert profile.predict(smallest) == pytest.approx(0.51)  # one word of the head is always on
    one = smallest.replace({residual.blocks[0]: (2,)})
    assert profile.predict(one) == pytest.approx(0.52)
    assert (profile.name, profile.held_out_mape) == ("board", None)


def test_kernels_and_depths_are_looked_up(mobile, tmp_path):
    profile = read_table(table(tmp_path / "board.csv", rows_of(mobile)), mobile)
    largest = mobile.space.largest()
    blocks = {block: mobile.kernel_of(block) for block in mobile.blocks}
    expected = 0.5 + sum(
        0.01 * len(largest[block]) + (0 if choice is None else 0.1 * choice.largest())
        for block, choice in blocks.items()
    )
    assert profile.predict(largest) == pytest.approx(expected)
    depth = next(found for block in mobile.blocks if (found := mobile.depth_of(block)) is not None)
    shallow = largest.replace({depth[0]: mobile.space[depth[0]].smallest()})
    assert profile.predict(shallow) < profile.predict(largest)


def test_words_of_the_head_may_be_left_out(residual, tmp_path):
    lines = [line for line in rows_of(residual) if not line.startswith("head.words")]
    profile = read_table(table(tmp_path / "board.csv", lines), residual)
    assert profile.predict(residual.space.smallest()) == pytest.approx(0.5)


def test_it_survives_saving_and_is_a_device_of_its_factory(residual, tmp_path):
    from brickyard.devices import DeviceProfile

    profile = read_table(table(tmp_path / "board.csv", rows_of(residual)), residual)
    profile.save(tmp_path / "board.json")
    assert DeviceProfile.load(tmp_path / "board.json") == profile
    assert profile.blueprint_sha256 == residual.sha256


def test_a_fifth_column_tells_energy(residual, tmp_path):
    head = "block,kernel,bricks,ms,mj"
    lines = [f"{line},{5 * float(line.split(',')[3])}" for line in rows_of(residual)]
    profile = read_table(table(tmp_path / "board.csv", lines, head=head), residual)
    for config in (residual.space.largest(), residual.space.smallest()):
        assert profile.predict_energy(config) == pytest.approx(5 * profile.predict(config))
    assert profile.energy.held_out_mape is None
    plain = read_table(table(tmp_path / "plain.csv", rows_of(residual)), residual)
    assert plain.predict_energy(residual.space.largest()) is None
    for wrong, message in [
        ([*lines[:-1], lines[-1].rpartition(",")[0]], r"mj = None is no number"),
        ([*lines[:-1], lines[-1] + "x"], r"mj = '[\d.]+x' is no number"),
        ([*lines[:-1], lines[-1] + ",1"], "there are more cells than columns"),
    ]:
        with pytest.raises(DeviceError, match=message):
            read_table(table(tmp_path / "board.csv", wrong, head=head), residual)


def test_kernels_and_depths_count_for_energy_too(mobile, tmp_path):
    lines = [f"{line},{3 * float(line.split(',')[3])}" for line in rows_of(mobile)]
    profile = read_table(table(tmp_path / "b.csv", lines, head="block,kernel,bricks,ms,mj"), mobile)
    rng = random.Random(0)
    for _ in range(5):
        config = mobile.space.sample(rng)
        assert profile.predict_energy(config) == pytest.approx(3 * profile.predict(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], r"has no row 'fixed'"),
        (lambda lines: [*lines, "fixed,,,1"], r"line 11: fixed stands there twice"),
        (lambda lines: [*lines, "stage9,,1,1"], r"line 11: 'stage9' is no block .* known: stage0\.block0"),
        (
            lambda lines: [*lines, "stage0.block0,,9,1"],
            r"bricks = 9 of stage0\.block0 is not allowed.*0 to 4",
        ),
        (lambda lines: [*lines, "stage0.block0,3,1,1"], r"kernel = '3' .* allowed: empty, it is fixed"),
        (lambda lines: [*lines, "stage0.block0,,1.5,1"], r"bricks = '1\.5' is no whole number"),
        (lambda lines: [*lines, "stage0.block0,,1,-1"], r"ms = -1 is not allowed; allowed: 0 or more"),
        (lambda lines: [*lines, "stage0.block0,,1,nan"], r"ms = nan is not allowed"),
        (lambda lines: [*lines, lines[1]], r"line 11: stage0\.block0 with 2 bricks stands there twice"),
        (
            lambda lines: [line for line in lines if ",4," not in line],
            r"has times for \[0, 2\] bricks; needed",
        ),
    ],
)
def test_mistakes_are_told_with_their_line(residual, tmp_path, change, message):
    with pytest.raises(DeviceError, match=message):
        read_table(table(tmp_path / "board.csv", change(rows_of(residual))), residual)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    cells=st.lists(
        st.sampled_from(["", ",", "\n", '"', "fixed", "stage0.block0", "4", "-1", "nan", "1e999", "\0", "x"]),
        max_size=8,
    ),
)
def test_a_damaged_table_is_read_or_refused(residual, tmp_path, data, cells):
    text = "\n".join(["block,kernel,bricks,ms", *rows_of(residual)])
    start, stop = sorted(data.draw(st.integers(0, len(text))) for _ in range(2))
    path = tmp_path / "board.csv"
    path.write_text(text[:start] + "".join(cells) + text[stop:])
    try:
        told = f"{read_table(path, residual).predict(residual.space.largest())} ms"
    except DeviceError as error:
        told = str(error)
    assert told.endswith("ms") or str(path) in told


def test_other_files_are_refused(residual, tmp_path):
    with pytest.raises(DeviceError, match="is not a file"):
        read_table(tmp_path / "none.csv", residual)
    (tmp_path / "board.csv").write_bytes(b"block,kernel,bricks,ms\n\xff\xfe,,1,2\n")
    with pytest.raises(DeviceError, match="is not a table in UTF-8"):
        read_table(tmp_path / "board.csv", residual)
    with pytest.raises(DeviceError, match=r"has the columns \['layer', 'ms'\]; expected block"):
        read_table(table(tmp_path / "board.csv", [], head="layer,ms"), residual)
