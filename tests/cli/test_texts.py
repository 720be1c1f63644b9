"""Commands with networks that read texts: search, make, evaluate, report."""

import json

import pytest


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """The folder of a made classifier, its search beside it."""
    base = tmp_path_factory.mktemp("texts")
    rows = [f"{('bad', 'good')[i % 2]} thing {i},{'ab'[i % 2]}\n" for i in range(40)]
    (base / "t.csv").write_text("text,label\n" + "".join(rows))
    texts = ("--data", base / "t.csv", "--vocab-size", 270, "--max-tokens", 10)
    quick = ("--steps", 4, "--batch-size", 8, "--random-configs", 1)
    for command in (
        ("train", "supernet", "text_encoder_pico", *texts, *quick, "--out", base / "net"),
        (
            "search",
            base / "net",
            "--objectives",
            "accuracy",
            "macs",
            "--evaluations",
            2,
            "--out",
            base / "found",
        ),
        ("make", base / "found", "--from-front", 0, "--out", base / "model"),
    ):
        done = run(*command)
        assert done.exit_code == 0, done.output
    assert done.stdout.startswith("texts into 2 classes\n  quality    accuracy ")
    assert "judge 6/6" in done.stderr
    return base / "model"


def test_make_tells_the_report_as_json(run, made, tmp_path):
    done = run("make", made.parent / "found", "--from-front", 0, "--out", tmp_path / "m", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "m" / "report.json").read_text())


def test_other_formats_are_refused(run, made, tmp_path):
    arguments = ("--from-front", 0, "--format", "openvino", "--out", tmp_path / "m")
    done = run("make", made.parent / "found", *arguments)
    assert done.exit_code == 1
    assert "in the format 'onnx' alone" in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_evaluated(run, made):
    table = made.parent / "t.csv"
    done = run("evaluate", made, "--data", table, "--part", "all", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["metric"], answer["counts"]) == ("accuracy", {"a": 20, "b": 20})
    told = run("evaluate", made, "--data", table, "--part", "all").stdout
    assert told.startswith(f"texts into 2 classes: accuracy {answer['value']:.4f} on 40 texts (all of 40)")


@pytest.mark.parametrize("option", ["--image", "--attributes", "--source"])
def test_options_for_others_are_refused(run, made, option):
    done = run("evaluate", made, "--data", made.parent / "t.csv", option, "text")
    assert done.exit_code == 1
    assert f"{option} is not for this model, which is for texts" in " ".join(done.stderr.split())


def test_models_that_read_pictures_have_no_columns_of_text(run, model):
    done = run("evaluate", model, "--data", "digits", "--text", "x")
    assert done.exit_code == 1
    assert "this model reads pictures" in " ".join(done.stderr.split())


def test_report_writes_the_page_again(run, made):
    page = (made / "report.html").read_text()
    (made / "report.html").unlink()
    done = run("report", made)
    assert done.exit_code == 0, done.output
    assert str(made / "report.html") in done.stdout
    assert (made / "report.html").read_text() == page
