"""Detection data: three formats give the same boxes; what is wrong is named and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brickyard.core.errors import DataError
from brickyard.data.source import load_data

WIDTH, HEIGHT = 64, 48
# Pictures of two kinds of cell: x0, y0, x1, y1 and the kind.
CELLS = {
    "a": [(4, 6, 20, 18, "red"), (30, 10, 50, 40, "white")],
    "b": [(0, 0, 64, 48, "white")],
    "c": [(10, 20, 30, 30, "red")],
    "d": [],
    "e": [(8, 8, 24, 40, "red"), (40, 2, 62, 12, "white")],
    "f": [(2, 30, 14, 46, "white")],
}


def picture(name: str) -> Image.Image:
    pixels = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    for x0, y0, x1, y1, kind in CELLS[name]:
        pixels[y0:y1, x0:x1] = (200, 20, 20) if kind == "red" else (240, 240, 240)
    return Image.fromarray(pixels)


def voc(folder: Path, cells=CELLS, splits=None) -> Path:
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for name, boxes in cells.items():
        picture(name).save(folder / "JPEGImages" / f"{name}.png")
        things = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax>"
            f"<ymax>{y1}</ymax></bndbox></object>"
            for x0, y0, x1, y1, kind in boxes
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{things}</annotation>")
    for part, names in (splits or {}).items():
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names))
    return folder


def coco(path: Path, names="abcdef", pictures="images") -> Path:
    folder = path.parent / pictures
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, name in enumerate(names):
        picture(name).save(folder / f"{name}.png")
        images.append({"id": 10 + number, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT})
        annotations += [
            {
                "id": len(annotations) + place,
                "image_id": 10 + number,
                "category_id": 7 if kind == "red" else 3,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
            }
            for place, (x0, y0, x1, y1, kind) in enumerate(CELLS[name])
        ]
    categories = [{"id": 3, "name": "white"}, {"id": 7, "name": "red"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def parquet(path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [picture(name) for name in CELLS],
        "objects": [
            {
                "bbox": [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1, _ in boxes],
                "category": [("red", "white").index(kind) for *_, kind in boxes],
            }
            for boxes in CELLS.values()
        ],
    }
    label = datasets.ClassLabel(names=["red", "white"])
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
                "category": datasets.List(label),
            },
        }
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def listed(source) -> set[tuple[object, ...]]:
    """All boxes of both parts, with their kind."""
    words = source.vocabulary.words
    found = set()
    for part in (source.train, source.heldout):
        for objects, boxes in zip(part.objects, part.boxes, strict=True):
            there = objects[:, 0] >= 0
            found |= {
                (*map(float, box), words[kind])
                for box, kind in zip(boxes[there], objects[there, 0], strict=True)
            }
    return found


EXPECTED = {
    (float(a), float(b), float(c), float(d), kind) for boxes in CELLS.values() for a, b, c, d, kind in boxes
}


@pytest.mark.parametrize("kind", ["voc", "coco", "parquet"])
def test_every_format_gives_the_same_boxes(kind, tmp_path):
    makers = {
        "voc": lambda: voc(tmp_path / "voc"),
        "coco": lambda: coco(tmp_path / "boxes.json"),
        "parquet": lambda: parquet(tmp_path / "boxes.parquet"),
    }
    source = load_data(makers[kind](), job="detect", heldout_share=0.4)
    assert source.vocabulary.words == ("red", "white")
    assert source.preprocess.shape == (3, HEIGHT, WIDTH)
    assert len(source.train) + len(source.heldout) == len(CELLS)
    assert min(len(source.train), len(source.heldout)) >= 1
    assert listed(source) == EXPECTED
    json.dumps(dict(source.spec))


@pytest.mark.parametrize("crop", ["squash", "letterbox"])
def test_boxes_follow_the_new_size(crop, tmp_path):
    source = load_data(
        coco(tmp_path / "boxes.json"), job="detect", size=(96, 96), crop=crop, heldout_share=0.4
    )
    for part in (source.train, source.heldout):
        for image, objects, boxes in zip(part.images, part.objects, part.boxes, strict=True):
            for kind, box in zip(objects[:, 0], boxes, strict=True):
                if kind >= 0:
                    x0, y0, x1, y1 = (round(float(side)) for side in box)
                    inner = image[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3].reshape(-1, 3).mean(0)
                    assert (inner[1] > 200) == (source.vocabulary.words[kind] == "white")
    assert source.train.boxes.max() == 96
    tall = [box for box in listed(source) if box[2] - box[0] == 96]
    assert [box[3] - box[1] for box in tall] == [96 if crop == "squash" else 72]
    with pytest.raises(DataError, match="would cut objects"):
        load_data(tmp_path / "boxes.json", job="detect", crop="center")


def test_splits_of_voc_are_kept(tmp_path):
    splits = {"train": ["a", "b"], "val": ["c"], "test": ["e", "f"]}
    source = load_data(voc(tmp_path / "three", splits=splits), job="detect")
    assert (len(source.train), len(source.heldout)) == (3, 2)
    assert source.heldout.objects[:, :, 0].max(0).tolist()[0] >= 0
    two = load_data(voc(tmp_path / "two", splits={"train": ["a", "c", "b"], "val": ["e"]}), job="detect")
    assert (len(two.train), len(two.heldout)) == (3, 1)


def test_corners_counted_from_zero_are_told_from_those_from_one(tmp_path):
    folder = voc(tmp_path / "voc")
    for path in (folder / "Annotations").glob("*.xml"):
        text = path.read_text()
        for value in range(1, 64):  # ascending: each is lowered once
            text = text.replace(f"min>{value}<", f"min>{value - 1}<")
        path.write_text(text)
    assert listed(load_data(folder, job="detect", heldout_share=0.4)) == EXPECTED


def test_folders_of_coco_files_have_their_own_split(tmp_path):
    coco(
        tmp_path / "train" / "_annotations.json" if (tmp_path / "train").mkdir() is None else tmp_path,
        "abc",
        ".",
    )
    (tmp_path / "valid").mkdir()
    coco(tmp_path / "valid" / "_annotations.json", "ef", ".")
    source = load_data(tmp_path, job="detect")
    assert (len(source.train), len(source.heldout)) == (3, 2)
    (tmp_path / "train" / "more.json").write_text("{}")
    with pytest.raises(DataError, match=r"both .* look like 'train'"):
        load_data(tmp_path, job="detect")


def edited(tmp_path: Path, change) -> Path:
    path = coco(tmp_path / "boxes.json")
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return path


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r["annotations"][0].update(bbox=[60, 2, 10, 5]), r"a.png: box 0 .* lies outside"),
        (lambda r: r["annotations"][0].update(bbox=[-1, 2, 10, 5]), "lies outside"),
        (lambda r: r["annotations"][0].update(bbox=[5, 5, 0, 5]), r"a.png: box 0 has no size"),
        (lambda r: r["annotations"][0].update(bbox=[5, 5, float("nan"), 5]), "has no size"),
        (lambda r: r["annotations"][0].update(bbox=[5, 5]), "expected x, y, width, height"),
        (lambda r: r["annotations"][1].update(category_id=99), r"annotation 1 has category 99; known"),
        (lambda r: r["annotations"][1].update(image_id=99), "image 99, which is not listed"),
        (lambda r: r["categories"].append({"id": 8, "name": "blue"}), "'blue' has no box"),
        (lambda r: r["categories"].append({"id": 8, "name": "red"}), "category name 'red' occurs twice"),
        (lambda r: r["images"].append(dict(r["images"][0])), "image id 10 occurs twice"),
        (lambda r: r["images"].append({**r["images"][0], "id": 99}), r"a.png stands twice in 'train'"),
        (lambda r: r["images"][0].update(file_name="z.png"), "z.png does not exist"),
        (lambda r: r["images"][0].update(width=99), "its annotation says 99 x 48"),
        (lambda r: r["annotations"][0].update(bbox=["a", 2, 10, 5]), "is no COCO json of boxes: ValueError"),
        (lambda r: r["annotations"][0].update(bbox=None), "is no COCO json of boxes: TypeError"),
        (lambda r: r["images"][0].update(width="wide"), "is no COCO json of boxes: ValueError"),
        (lambda r: r["images"][0].update(id=[1]), "is no COCO json of boxes: TypeError"),
        (lambda r: r.pop("categories"), "is no COCO json of boxes: KeyError"),
        (lambda r: r.update(annotations=[]), "'red' has no box"),
    ],
)
def test_malformed_coco_is_refused(change, text, tmp_path):
    with pytest.raises(DataError, match=text):
        load_data(edited(tmp_path, change), job="detect")


def test_other_malformed_data_are_refused(tmp_path):
    folder = voc(tmp_path / "voc", splits={"train": ["a", "b"], "test": ["b", "e"]})
    with pytest.raises(DataError, match=r"b.png stands in 'train' and 'test'"):
        load_data(folder, job="detect")
    (folder / "ImageSets" / "Main" / "test.txt").write_text("nobody")
    with pytest.raises(DataError, match=r"nobody\.xml does not exist"):
        load_data(folder, job="detect")
    (folder / "ImageSets" / "Main" / "test.txt").write_text("e")
    (folder / "JPEGImages" / "e.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"e.png cannot be read"):
        load_data(folder, job="detect")
    (folder / "JPEGImages" / "e.png").unlink()
    with pytest.raises(DataError, match="no picture named 'e'"):
        load_data(folder, job="detect")
    (folder / "Annotations" / "e.xml").write_text("<annotation><object>")
    with pytest.raises(DataError, match=r"e.xml is no annotation of Pascal VOC"):
        load_data(folder, job="detect")
    with pytest.raises(DataError, match="is no detection data set"):
        load_data(folder / "JPEGImages", job="detect")
    with pytest.raises(DataError, match="takes no option 'label'"):
        load_data(folder, job="detect", label="x")
    with pytest.raises(DataError, match="takes no option 'objects'"):
        load_data("digits", objects="x")


def test_files_that_are_no_json_and_pictures_of_one_name_are_refused(tmp_path):
    path = tmp_path / "boxes.json"
    for content, text in ((b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"[1]", "is no COCO json")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=text):
            load_data(path, job="detect")
    folder = voc(tmp_path / "voc")
    picture("a").save(folder / "JPEGImages" / "a.bmp")
    with pytest.raises(DataError, match=r"a\.bmp and .*a\.png have one name"):
        load_data(folder, job="detect")


def test_a_category_of_the_heldout_part_alone_is_refused(tmp_path):
    folder = voc(tmp_path / "voc", splits={"train": ["c"], "test": ["e"]})
    with pytest.raises(DataError, match=r"e.png: category 'white' is only in the held-out part"):
        load_data(folder, job="detect")


def test_the_row_of_a_bad_table_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    picture("a").save(tmp_path / "a.png")
    good = {"image": "a.png", "objects": {"bbox": [[1, 1, 5, 5]], "category": ["red"]}}
    bad = {"image": "a.png", "objects": {"bbox": [[1, 1, 5, 5], [2, 2, 3, 3]], "category": ["red"]}}
    path.write_text("\n".join(json.dumps(row) for row in (good, bad)))
    with pytest.raises(DataError, match=r"row 1 of 'train' has 2 boxes and 1 categories"):
        load_data(path, job="detect")
    with pytest.raises(DataError, match=r"column 'things' does not exist.*Columns: image, objects"):
        load_data(path, job="detect", objects="things")
