"""Pairs of texts that belong together, cut from code: docstrings with functions, code with code.

Names of functions are hidden in their code, so that no docstring finds it by the name. Pairs of code with
code come from folders or files that hold the same in two languages, or from a translator.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import inspect
import json
import re
import sysconfig
import tokenize
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

from brickyard.core.errors import ArtifactError, DataError
from brickyard.core.files import write_text

STDLIB = "stdlib"
"""The name under which the standard library of Python is asked for."""

HIDDEN = "f"
"""What functions are called in their code."""

_TESTS = re.compile(r"^(tests?|testing|test_.*|.*_tests?)$")
_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "node_modules"}


@dataclass(frozen=True, kw_only=True)
class CodePair:
    """Two texts that belong together, and where they come from.

    Attributes:
        query: A docstring's first paragraph, or code.
        document: Code.
        source: Repository or package.
        file: Path below the source.
        line: Line at which the code begins, from 1.
        split: `train` or `heldout`.
    """

    query: str
    document: str
    source: str
    file: str
    line: int
    split: str = "train"


@dataclass(frozen=True)
class PythonFiles:
    """The Python files of a package, module or folder.

    Attributes:
        name: Name of the source.
        root: Folder that paths are told from.
        paths: The files, in order.
    """

    name: str
    root: Path
    paths: tuple[Path, ...]


def python_files(source: str) -> PythonFiles:
    """Find the Python files of an installed package or module, of the standard library, or of a folder.

    Files of tests inside a package or folder are left out. Nothing is imported.

    Args:
        source: A folder, `stdlib`, or the name by which an installed package or module is imported, such as
            `json`, `textwrap` or `xml.etree`.

    Raises:
        DataError: There is no such folder, package or module, or it has no Python files.
    """
    root, name = Path(source), source
    if source == STDLIB:
        root = Path(sysconfig.get_path("stdlib"))
    elif root.is_dir():
        name = root.resolve().name
    else:
        found = _module_spec(source)
        if found is None:
            raise DataError(
                f"{source} is neither a folder nor an installed package or module; give the path of a "
                f"folder, the name by which a package or module is imported, or {STDLIB}"
            )
        if not found.submodule_search_locations:
            file = Path(found.origin or "")
            if file.suffix != ".py" or not file.is_file():
                raise DataError(
                    f"{source} is a module without Python source ({found.origin}); give one that is written "
                    "in Python"
                )
            return PythonFiles(name, file.parent, (file,))
        root = Path(next(iter(found.submodule_search_locations)))
    paths = tuple(path for path in sorted(root.rglob("*.py")) if _wanted(path.relative_to(root)))
    if not paths:
        raise DataError(f"{root} has no Python files outside of tests")
    return PythonFiles(name, root, paths)


def _module_spec(name: str) -> ModuleSpec | None:
    """Find a package or module by its dotted name, without importing it or what it is in."""
    first, *inner = name.split(".")
    if first == "__main__" or not all(part.isidentifier() for part in (first, *inner)):
        return None  # what runs now is no package
    try:
        found = PathFinder.find_spec(first) or find_spec(first)  # some modules are frozen and have a file too
    except ValueError:  # a module that was not imported as others are
        return None
    for part in inner:
        places = found.submodule_search_locations if found is not None else None
        found = PathFinder.find_spec(part, places) if places else None
    return found


def _wanted(path: Path) -> bool:
    parts = (*path.parts[:-1], path.stem)
    return not any(part in _SKIPPED or part.startswith(".") or _TESTS.match(part) for part in parts)


def python_pairs(
    files: PythonFiles,
    *,
    min_words: int = 3,
    max_characters: int = 4000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CodePair]:
    """Cut docstrings with their functions and methods out of Python files.

    Args:
        files: The files; those that are no Python of this version are left out.
        min_words: Least words of a docstring's first paragraph.
        max_characters: Most characters of a function.
        progress: Called with the number of the file that is read and that of all.

    Returns:
        Pairs of a docstring's first paragraph with the function without docstring and with its name hidden,
        in the order of the files; functions of which nothing else is left are left out.
    """
    pairs = []
    for number, path in enumerate(files.paths, start=1):
        name = path.relative_to(files.root).as_posix()
        progress(number, len(files.paths))
        try:
            text = _python_text(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of doubtful escapes in the code of others
                tree = ast.parse(text)
        except (SyntaxError, ValueError):  # of another version of Python, or not in the encoding it tells
            continue
        lines = text.split("\n")  # as Python counts them; a page break ends none
        functions = [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        for node in sorted(functions, key=lambda node: node.lineno):
            query, document = _described(node), _without_docstring(node, lines)
            if len(query.split()) >= min_words and document and len(document) <= max_characters:
                place = {"source": files.name, "file": name}
                pairs.append(CodePair(query=query, document=document, line=node.lineno, **place))
    return pairs


def _python_text(path: Path) -> str:
    """Read a file in the encoding that it tells, with one character behind every line."""
    with tokenize.open(path) as file:
        return file.read()


def _described(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the first paragraph of a docstring on one line, empty where there is none."""
    return " ".join(inspect.cleandoc(ast.get_docstring(node) or "").split("\n\n")[0].split())


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    """Return a function's code without docstring, its name hidden; empty where nothing else is left."""
    if len(node.body) < 2:
        return ""
    docstring, follows = node.body[0], node.body[1]
    assert docstring.end_lineno is not None
    if docstring.lineno == node.lineno or follows.lineno <= docstring.end_lineno:
        return ""  # all on one line
    kept = [*lines[node.lineno - 1 : docstring.lineno - 1], *lines[docstring.end_lineno : node.end_lineno]]
    return re.sub(rf"\b{re.escape(node.name)}\b", HIDDEN, dedent("\n".join(kept)).strip())


def parallel_pairs(one: str | Path, other: str | Path) -> list[CodePair]:
    """Pair code in one language with the same code in another.

    Args:
        one: A folder; or a file with a piece of code in every line, which may be compressed (.gz).
        other: A folder whose files have the same paths but for what follows the first dot of their names; or
            a file with as many lines.

    Returns:
        Pairs in order; files without a counterpart and empty lines are left out.

    Raises:
        DataError: Nothing matches, or a file or folder cannot be read.
    """
    first, second = Path(one), Path(other)
    if first.is_dir() != second.is_dir():
        raise DataError(f"{first} and {second} must both be folders or both be files")
    if not first.is_dir():
        texts, others = (_lines(path) for path in (first, second))
        if len(texts) != len(others):
            raise DataError(f"{first} has {len(texts)} lines, {second} has {len(others)}; lines must match")
        rows = [(first.name, line, *row) for line, row in enumerate(zip(texts, others, strict=True), start=1)]
        name = first.resolve().parent.name
    else:
        files, partners = (_by_stem(folder) for folder in (first, second))
        rows = [
            (path.relative_to(first).as_posix(), 1, _read(path), _read(partners[stem]))
            for stem, path in files.items()
            if stem in partners
        ]
        name = first.resolve().name
    pairs = [
        CodePair(query=text.strip(), document=match.strip(), source=name, file=file, line=line)
        for file, line, text, match in rows
        if text.strip() and match.strip()
    ]
    if not pairs:
        raise DataError(f"no piece of {first} has a counterpart in {second}")
    return pairs


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{path} is not a file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8: {error}") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged, or not compressed by gzip ({error}); copy it again") from None
    return text.replace("\r\n", "\n")


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; nothing but the end of a line ends one, whatever else stands in it."""
    return _read(path).removesuffix("\n").split("\n")


def _by_stem(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by their path without what follows the first dot of their names.

    Raises:
        DataError: Two files have the same.
    """
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."):
        stem = (path.relative_to(folder).parent / path.name.partition(".")[0]).as_posix()
        if stem in found:
            raise DataError(
                f"{path} and {found[stem].name} are alike but for their endings; keep one of them"
            )
        found[stem] = path
    return found


def translated_pairs(
    pairs: Iterable[CodePair],
    translate: Callable[[str], str],
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> list[CodePair]:
    """Pair the code of pairs with its translation to another language.

    Args:
        pairs: Their documents are translated.
        translate: From code to code; an empty answer leaves a piece out.
        progress: Called with the pieces that are done.

    Raises:
        DataError: The translator fails, or gives no text; the message tells at which pair.
    """
    found = []
    for number, pair in enumerate(pairs, start=1):
        place = f"{pair.source}, {pair.file}, line {pair.line}"
        try:
            answer = translate(pair.document)
        except Exception as error:  # whatever the user's code raises
            raise DataError(
                f"{place}: the translator fails with {type(error).__name__}: {error}; mend it, or let it "
                "give an empty text to leave the piece out"
            ) from error
        if not isinstance(answer, str):
            raise DataError(f"{place}: the translator gives a {type(answer).__name__}; it must give a text")
        if answer.strip():
            found.append(replace(pair, query=pair.document, document=answer.strip()))
        progress(number)
    return found


def first_of_each(pairs: Iterable[CodePair]) -> list[CodePair]:
    """Drop pairs whose query or document stands in a pair before them that is kept."""
    kept, queries, documents = [], set(), set()
    for pair in pairs:
        if pair.query not in queries and pair.document not in documents:
            kept.append(pair)
            queries.add(pair.query)
            documents.add(pair.document)
    return kept


def split_by_file(
    pairs: Iterable[CodePair], *, heldout_share: float, seed: int = 0, by_line: bool = False
) -> list[CodePair]:
    """Say which pairs are held out; those of a file stay together, whatever other files there are.

    Args:
        pairs: The pairs.
        heldout_share: About what share of the files is held out, in [0, 1).
        seed: Seed of the split.
        by_line: Whether the lines of a file are split too, as in files that hold a piece in every line.

    Raises:
        DataError: The share is out of range.
    """
    if not 0 <= heldout_share < 1:
        raise DataError(f"heldout_share = {heldout_share} must lie in [0, 1)")
    found = []
    for pair in pairs:
        name = f"{seed}/{pair.source}/{pair.file}" + (f":{pair.line}" if by_line else "")
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
        found.append(replace(pair, split="heldout" if number < heldout_share else "train"))
    return found


def require_folder_of(path: str | Path) -> None:
    """Refuse a file to write whose folder does not exist.

    Raises:
        ArtifactError: There is no such folder.
    """
    folder = Path(path).parent
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder, so {path} cannot be written; make the folder first")


def write_code_pairs(path: str | Path, pairs: Sequence[CodePair]) -> None:
    """Write pairs as JSON lines, whole or not at all.

    Raises:
        ArtifactError: The folder of the file does not exist.
    """
    require_folder_of(path)
    lines = [json.dumps(asdict(pair), ensure_ascii=False) for pair in pairs]
    write_text(Path(path), "\n".join([*lines, ""]))


def read_code_pairs(path: str | Path) -> list[CodePair]:
    """Read JSON lines with `query` and `document`; what else `write_code_pairs` writes may be absent.

    Raises:
        DataError: The file is missing or malformed.
    """
    place = Path(path)
    known = {field.name: field.type for field in fields(CodePair)}
    defaults = {"source": place.stem, "file": place.name}
    pairs = []
    for number, line in enumerate(_lines(place), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}, line {number}: no JSON: {error}") from None
        if not isinstance(record, dict) or not {"query", "document"} <= record.keys() <= known.keys():
            raise DataError(
                f"{place}, line {number}: expected an object with query and document, and of other keys only "
                f"{', '.join(name for name in known if name not in ('query', 'document'))}"
            )
        record = {**defaults, "line": number, **record}
        wrong = [name for name, value in record.items() if type(value).__name__ != known[name]]
        if wrong or record.get("split", "train") not in ("train", "heldout"):
            raise DataError(
                f"{place}, line {number}: {wrong[0] if wrong else 'split'} = "
                f"{record[wrong[0] if wrong else 'split']!r}; line is a number, split train or heldout, all "
                "else a text"
            )
        pairs.append(CodePair(**record))
    if not pairs:
        raise DataError(f"{place} has no pairs")
    return pairs
