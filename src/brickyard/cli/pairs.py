"""`brickyard pairs`: code becomes pairs of texts to train and test encoders of code with."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brickyard.cli.talk import Meter, emit
from brickyard.core.errors import ArtifactError, DataError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from brickyard.data.code_pairs import CodePair


def pairs(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Packages or modules by the name they are imported by, `stdlib`, or folders of Python "
            "files. With --parallel one folder, or one file with a piece of code in every line (.gz may be).",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="File to write; must not exist.")],
    parallel: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="The same code in another language: a folder whose files are named alike but for their "
            "endings, or a file with as many lines. Pairs are then code with code.",
        ),
    ] = None,
    translator: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="A function from code to code in another language (the file is run); the pairs are then "
            "functions with their translations.",
        ),
    ] = None,
    similarity: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            help="Pairs whose code shares so many of its runs of 5 letters with code before it (Jaccard, by "
            "MinHash) are left out; 1 leaves out equal code only.",
        ),
    ] = 0.7,
    heldout_share: Annotated[
        float,
        typer.Option(metavar="X", help="About what share of the files (lines, if in lines) is held out."),
    ] = 0.15,
    min_words: Annotated[
        int, typer.Option(metavar="N", min=1, help="Least words of a docstring's first paragraph.")
    ] = 3,
    max_characters: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most characters of a function.")
    ] = 4000,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the split.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print a record instead of a line.")] = False,
) -> None:
    """Cut pairs out of code: docstrings with their functions, or code with the same code in another language.

    Each line of the file has query, document, source, file, line, and split (train or heldout, by file).
    Names of functions are hidden in their code. Of nearly equal code the first piece is kept, and equal
    docstrings are kept once. Files of tests are left out.
    """
    if similarity < 1 and find_spec("datasketch") is None:
        raise MissingExtraError("datasketch", extra="pairs")
    if out.exists():
        raise ArtifactError(f"{out} already exists; choose another file or remove it first")
    from brickyard.data.code_pairs import first_of_each, require_folder_of, split_by_file, write_code_pairs

    require_folder_of(out)
    if parallel is not None and (len(sources) != 1 or translator is not None):
        raise typer.BadParameter(
            "it goes with one SOURCE and without --translator; make one file for each",
            param_hint="--parallel",
        )
    if similarity == 0:
        raise typer.BadParameter("it must be above 0; 1 keeps all but equal code", param_hint="--similarity")
    translate = None if translator is None else _translator(translator)
    from brickyard.data.near_duplicates import distinct

    with Meter() as meter:
        if parallel is None:
            cut = _cut(sources, meter, min_words=min_words, max_characters=max_characters)
        else:
            from brickyard.data.code_pairs import parallel_pairs

            cut = parallel_pairs(sources[0], parallel)
        unique = first_of_each(cut)
        if similarity < 1:
            places = distinct(
                [pair.document for pair in unique],
                similarity=similarity,
                progress=lambda done, total: meter("duplicates", done, total, ""),
            )
            unique = [unique[place] for place in places]
        if translate is not None:
            from brickyard.data.code_pairs import translated_pairs

            total = len(unique)
            unique = translated_pairs(
                unique, translate, progress=lambda done: meter("translate", done, total, "")
            )
    in_lines = parallel is not None and parallel.is_file()
    kept = split_by_file(unique, heldout_share=heldout_share, seed=seed, by_line=in_lines)
    if not kept:
        raise DataError(f"no pairs were found in {', '.join(sources)}")
    write_code_pairs(out, kept)
    heldout = sum(pair.split == "heldout" for pair in kept)
    record = {
        "file": str(out),
        "cut": len(cut),
        "train": len(kept) - heldout,
        "heldout": heldout,
        "sources": len({pair.source for pair in kept}),
    }
    if json:
        emit(record)
    else:
        typer.echo(
            f"{out}: {record['train']} pairs to train on and {heldout} held out, of {len(cut)} that were cut"
        )


def _cut(sources: list[str], meter: Meter, **limits: int) -> list[CodePair]:
    from brickyard.data.code_pairs import python_files, python_pairs

    files = [python_files(source) for source in sources]
    names = [one.name for one in files]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"two sources are named {name}; rename one, so that pairs tell where they are from"
            )
    found: list[CodePair] = []
    for one in files:

        def tell(done: int, total: int, stage: str = f"read {one.name}") -> None:
            meter(stage, done, total, "")

        found += python_pairs(one, **limits, progress=tell)
    return found


def _translator(text: str) -> Callable[[str], str]:
    """Load a function from a file.

    Raises:
        DataError: The file cannot be run, or has no such function.
    """
    name, _, function = text.rpartition(":")
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise DataError(f"{text} is no translator; give FILE.py:FUNCTION with an existing file")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        raise DataError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    found: Any = getattr(module, function, None)
    if not callable(found):
        raise DataError(f"{path} has no function {function}")
    return found  # type: ignore[no-any-return]
