"""The rules of the house that a linter does not know."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "brickyard"
CODE_FOLDERS = ("src", "tests", "examples", "benchmarks")
MAX_LINES = 500
MAX_BYTES = 4 * 2**20
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MACHINE_FOLDERS = ("work", "root", "home", "Users", "tmp", "opt", "farm", "mnt")
# A path that starts at the root; what precedes must be neither part of a longer path nor base64.
MACHINE_PATH = re.compile(r"(?<![\w.~+/=\-})\]])/(?:" + "|".join(MACHINE_FOLDERS) + r")/\w")
UNFINISHED = re.compile("|".join([rf"\b{word}\b" for word in ("TO" + "DO", "FIX" + "ME", "X" * 3)]))


def tracked_files() -> list[Path]:
    """The files of the repository; outside of git, those of its source folders."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode == 0 and done.stdout:
        found = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    else:
        found = [path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*")]
        found = [path for path in found if "__pycache__" not in path.parts]
    return sorted(path for path in found if path.is_file())


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file; none for a binary one."""
    content = path.read_bytes()
    if b"\0" in content[:8192]:
        return
    try:
        yield from enumerate(content.decode("utf-8").splitlines(), start=1)
    except UnicodeDecodeError:
        return


def code_files() -> list[Path]:
    return [path for folder in CODE_FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def test_nothing_is_unpickled():
    wrong = []
    for path in code_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = path.relative_to(ROOT)
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            bad = [name for name in names if name.split(".")[0] in UNPICKLING]
            wrong += [f"{where}:{node.lineno}: imports {name}" for name in bad]  # type: ignore[attr-defined]
        for call, name in calls(tree):
            arguments = {keyword.arg: keyword.value for keyword in call.keywords}
            allow = arguments.get("allow_pickle")
            if name == "torch.load" or (isinstance(allow, ast.Constant) and allow.value):
                wrong.append(f"{where}:{call.lineno}: {name} may unpickle")
    assert not wrong, "\n".join(wrong)


def test_the_package_does_not_print():
    wrong = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for call, name in calls(ast.parse(path.read_text(encoding="utf-8")))
        if name in {"print", "pprint", "pprint.pprint"}
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_unfinished():
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_files()
        if path.suffix in {".py", ".md", ".toml", ".yml", ".sh", ""}
        for number, line in text_lines(path)
        if UNFINISHED.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_files_stay_short():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in code_files()}
    wrong = [
        f"{path.relative_to(ROOT)}: {length} lines" for path, length in lengths.items() if length > MAX_LINES
    ]
    assert not wrong, f"over {MAX_LINES} lines: " + "; ".join(wrong)


def test_tracked_files_stay_small():
    sizes = {path: path.stat().st_size for path in tracked_files()}
    wrong = [f"{path.relative_to(ROOT)}: {size} bytes" for path, size in sizes.items() if size > MAX_BYTES]
    assert not wrong, "; ".join(wrong)


def test_no_path_of_a_machine():
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_files()
        for number, line in text_lines(path)
        if MACHINE_PATH.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_machine_path_is_told_from_others():
    def path(*parts: str) -> str:
        return "/" + "/".join(parts)

    assert MACHINE_PATH.search(f'folder = "{path("tmp", "x")}"')
    assert MACHINE_PATH.search(path("root", "model.onnx"))
    assert not MACHINE_PATH.search("https://example.org" + path("home", "page"))
    assert not MACHINE_PATH.search("benchmarks" + path("work", "table.csv"))


def test_constraints_are_plain_pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    wrong = [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9_.\-]+==[0-9][A-Za-z0-9.]*", pin)]
    assert not wrong, f"name==version only, no hosts or files: {wrong}"
