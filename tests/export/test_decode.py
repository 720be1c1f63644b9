"""Decoding: planted boxes come back; inside and outside of the graph give the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from brickyard.core.errors import ArtifactError, ConfigError
from brickyard.export.decode import Decode, append_decode, decode, overlaps, read_detections

SETTINGS = Decode(height=32, width=64, top_k=20, threshold=0.3)


def maps(labels: int) -> onnx.ModelProto:
    """A graph that gives its input back as the two maps of a detector."""
    info = helper.make_tensor_value_info
    shapes = {"heat": [1, labels, 8, 16], "boxes": [1, 4, 8, 16]}
    names = {"heat": "maps.heat", "boxes": "maps.boxes"}
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", [names[name]], [name]) for name in shapes],
            "maps",
            [info(names[name], onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            [info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


def test_a_planted_box_comes_back():
    heat = np.full((2, 8, 16), 0.01, dtype=np.float32)
    boxes = np.zeros((4, 8, 16), dtype=np.float32)
    heat[1, 3, 5], boxes[:, 3, 5] = 0.9, (2.0, 1.0, 0.25, 0.5)
    heat[1, 3, 6] = 0.8  # a neighbour is no peak
    found = decode(heat, boxes, SETTINGS)
    assert found.labels.tolist() == [1]
    assert found.scores.tolist() == [np.float32(0.9)]
    assert found.boxes.tolist() == [[17.0, 12.0, 25.0, 16.0]]


def test_boxes_end_at_the_picture_and_the_best_come_first():
    heat, boxes = np.zeros((1, 8, 16), dtype=np.float32), np.full((4, 8, 16), 6.0, dtype=np.float32)
    boxes[2:] = 0
    heat[0, 0, 0], heat[0, 7, 15], heat[0, 4, 4] = 0.5, 0.7, 0.29
    found = decode(heat, boxes, SETTINGS)
    assert found.scores.tolist() == [np.float32(0.7), np.float32(0.5)]
    assert found.boxes.tolist() == [[48.0, 16.0, 64.0, 32.0], [0.0, 0.0, 12.0, 12.0]]
    assert len(found.above(0.6).scores) == 1


def test_suppression_drops_the_worse_of_one_label_alone():
    heat, boxes = np.zeros((2, 8, 16), dtype=np.float32), np.full((4, 8, 16), 8.0, dtype=np.float32)
    boxes[2:] = 0
    heat[0, 3, 5], heat[0, 3, 7], heat[1, 3, 7] = 0.9, 0.8, 0.7
    assert decode(heat, boxes, SETTINGS).labels.tolist() == [0, 0, 1]
    kept = decode(heat, boxes, Decode(height=32, width=64, nms_iou=0.4))
    assert kept.labels.tolist() == [0, 1]
    assert kept.scores.tolist() == [np.float32(0.9), np.float32(0.7)]


def test_overlaps_are_those_of_counted_pixels():
    box, others = np.array([2, 3, 9, 8], np.float32), np.array([[4, 1, 12, 6], [20, 20, 22, 24]], np.float32)
    canvas = np.zeros((2, 30, 30), dtype=bool)
    canvas[0, 3:8, 2:9] = canvas[1, 1:6, 4:12] = True
    expected = (canvas[0] & canvas[1]).sum() / (canvas[0] | canvas[1]).sum()
    assert overlaps(box, others).tolist() == pytest.approx([expected, 0])


@pytest.mark.parametrize("nms_iou", [None, 0.3])
@pytest.mark.parametrize("labels", [1, 3])
def test_inside_and_outside_agree(labels, nms_iou, rng):
    settings = Decode(height=32, width=64, top_k=20, threshold=0.3, nms_iou=nms_iou)
    model = append_decode(maps(labels), settings)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [entry.shape for entry in session.get_outputs()] == [[1, 20, 6]]
    counts = []
    for _ in range(6):
        heat = (rng.random((1, labels, 8, 16)) ** 2).astype(np.float32)
        boxes = (6 * rng.random((1, 4, 8, 16))).astype(np.float32)
        boxes[:, 2:] /= 6
        given = session.run(None, {"maps.heat": heat, "maps.boxes": boxes})[0]
        inside, outside = read_detections(given), decode(heat[0], boxes[0], settings)
        assert inside.labels.tolist() == outside.labels.tolist()
        np.testing.assert_allclose(inside.scores, outside.scores)
        np.testing.assert_allclose(inside.boxes, outside.boxes, atol=1e-4)
        counts.append(len(inside.scores))
    assert min(counts) > 0
    assert (min(counts) < 20) is (nms_iou is not None or labels == 1)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [({"top_k": 0}, "top_k = 0"), ({"threshold": 1.0}, "threshold"), ({"nms_iou": 0.0}, "nms_iou")],
)
def test_settings_out_of_range_are_refused(wrong, text):
    with pytest.raises(ConfigError, match=text):
        Decode(height=8, width=8, **wrong)


def test_settings_survive_json_and_unknown_keys_are_refused():
    assert Decode.from_json(SETTINGS.to_json()) == SETTINGS
    with pytest.raises(ArtifactError, match="expected"):
        Decode.from_json({**SETTINGS.to_json(), "speed": 3})
