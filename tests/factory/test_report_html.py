"""The report page: every number on it, everything escaped, well-formed, quick."""

import time
from xml.etree import ElementTree

import pytest

from brickyard.factory.pictures import bricks_svg, curve_svg, xml_text
from brickyard.factory.records import Block, Budget, Costs, CurvePoint, Latency, Quality, Report
from brickyard.factory.report_html import render


def report(**changes: object) -> Report:
    values: dict[str, object] = {
        "task": "red circle",
        "known_task": False,
        "factory": "geometry",
        "budget": Budget(latency_ms=0.4, max_macs="30%", max_file_mb=0.3),
        "device": "board-4core",
        "binding_limit": "latency_ms",
        "predicted": Costs(
            latency_ms=0.371, macs=2_345_678, parameters=41_234, file_bytes=178_901, peak_memory_bytes=310_004
        ),
        "measured_on": "pi4",
        "measured": Latency(p10=0.362, p50=0.379, p90=0.402, runs=200, warmup=20, threads=2),
        "whole_measured": 1.234,
        "rounds": 2,
        "parameters": 41_234,
        "macs": 2_345_678,
        "macs_share": 0.2513,
        "whole": Costs(
            latency_ms=1.3, macs=9_334_567, parameters=160_321, file_bytes=650_123, peak_memory_bytes=901_234
        ),
        "file_bytes": 178_912,
        "peak_memory_bytes": 310_004,
        "seconds": {"search": 0.0123, "export": 0.0456, "measure": 0.0789, "total": 0.1368},
        "parity_error": 3.21e-7,
        "parity_reference": "reference scores kept in the factory",
        "quality": Quality(
            metric="balanced_accuracy",
            value=0.9432,
            whole=0.9876,
            per_class={"absent": 0.9512, "present": 0.9352},
            examples=2000,
            source="geometry, fresh scenes",
        ),
        "curve": tuple(
            CurvePoint(limit=limit, macs_share=limit * 0.97, quality=quality)
            for limit, quality in [
                (0.125, 0.861),
                (0.25, 0.948),
                (0.35, 0.967),
                (0.5, 0.979),
                (0.75, 0.985),
                (1.0, 0.987),
            ]
        ),
        "blocks": tuple(
            Block(
                name=f"stage{index // 2}.block{index % 2}",
                bricks=tuple((7 * index + 5 * b) % 11 < 4 for b in range(16)),
            )
            for index in range(6)
        ),
        "choices": {"stage0.depth": 2, "activation": "relu"},
        "config_sha256": "0f" * 32,
        "seed": 77,
        "versions": {"brickyard": "0.1.0", "onnx": "1.23.2", "onnxruntime": "1.32.0"},
        "sha256": {"model.onnx": "ab" * 32},
        "files": {"model": "out/model.onnx", "labels": "out/labels.txt"},
        "created": "2026-11-24T00:00:00Z",
    }
    return Report(**{**values, **changes})


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def visible(text: str) -> str:
    return " ".join("\n".join(parsed(text).itertext()).split())


def test_all_numbers_are_on_the_page():
    text = visible(render(report()))
    expected = """
        0.400 ms|0.371 ms|0.379 ms|0.362 ms|0.402 ms|1.234 ms|200 runs|20 warm-up|2 threads|0.943|0.988|0.9432
        |0.9876|2,345,678|9,334,567|41,234|160,321|178,912 B|650,123 B|178,901 B|310,004 B|901,234 B|25.1%
        |0.9512|0.9352|2,000|3.21e-07|Seed 77|0.0123 s|0.0456 s|0.0789 s|0.1368 s|0.14 s|1.32.0|1.23.2
        |stage2.block1
        |activation relu|0.8610|max_macs 30%|board-4core|geometry, fresh scenes|combination never trained
        |all 3 limits met|out/model.onnx|2026-11-24T00:00:00Z|round 2"""
    missing = [part.strip() for part in expected.split("|") if part.strip() not in text]
    assert not missing
    assert "ab" * 32 in text
    assert "0f" * 32 in text


def test_what_users_wrote_is_escaped():
    evil = '<script>alert("x")</script> & \x00'
    page = render(
        report(
            task=evil,
            factory=evil,
            device=evil,
            files={evil: evil},
            versions={evil: evil},
            choices={evil: evil},
        )
    )
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; \ufffd" in page
    assert parsed(page) is not None


def test_nothing_comes_from_elsewhere():
    page = render(report())
    namespaces = ('xmlns="http://www.w3.org/1999/xhtml"', 'xmlns="http://www.w3.org/2000/svg"')
    for name in namespaces:
        page = page.replace(name, "")
    assert not any(part in page for part in ("http", "src=", "url(", "@import", "<link", "<script"))
    assert "prefers-color-scheme:dark" in page


def test_missing_parts_leave_a_page():
    page = render(
        report(
            known_task=None,
            budget=Budget(),
            device=None,
            binding_limit=None,
            predicted=Costs(macs=1, parameters=1, file_bytes=1, peak_memory_bytes=1),
            whole_measured=None,
            quality=None,
            curve=(),
            blocks=(),
            choices={},
        )
    )
    text = visible(page)
    assert "no labelled pictures" in text
    assert "The request set no limits." in text
    assert "no device profile" in text
    assert "From limit to quality" not in text


def test_a_limit_that_is_exceeded_is_said():
    text = visible(render(report(budget=Budget(latency_ms=0.3))))
    assert "over the limit: Latency (p50)" in text
    assert "exceeded" in text


def test_bricks_picture_counts_and_wraps():
    blocks = [Block(name="wide" * 10, bricks=(True, False) * 65), Block(name="none", bricks=(False,) * 3)]
    picture = bricks_svg(blocks)
    text = " ".join(parsed(picture).itertext())
    assert "65/130 · 50%" in text
    assert "0/3 · 0%" in text
    assert "65 of 133 bricks on · 49%" in text
    squares = [
        element.get("d", "").count("M") for element in parsed(picture).iter() if element.tag.endswith("path")
    ]
    assert sorted(squares) == [1, 1, 3, 65, 65]


@pytest.mark.parametrize("marked", [None, (0.24, 0.9), (0.9, None), (1.0, 1.0)])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_curve_picture_is_valid(marked: tuple[float, float | None] | None, count: int):
    points = [
        CurvePoint(limit=(i + 1) / 5, macs_share=(i + 1) / 6, quality=0.9 + i / 50) for i in range(count)
    ]
    picture = parsed(curve_svg(points, marked))
    circles = [element for element in picture.iter() if element.tag.endswith("circle")]
    assert len(circles) == count + (marked is not None and marked[1] is not None)
    for circle in circles:
        assert 0 < float(circle.get("cx", "nan")) < 640
        assert 0 < float(circle.get("cy", "nan")) < 320
    assert ("this model" in " ".join(picture.itertext())) is (marked is not None)


def test_xml_text_replaces_what_xml_cannot_hold():
    assert xml_text("a\x00\ud800<b>\"'") == "a\ufffd\ufffd&lt;b&gt;&quot;'"


def test_rendering_is_quick():
    record = report()
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        render(record)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.003
