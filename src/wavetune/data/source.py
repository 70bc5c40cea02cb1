"""What the name of a data source means, without reading anything."""

import re
from typing import Literal

from wavetune.errors import DataError
from wavetune.given import at_home, folder_of, is_given

_FUNCTION = re.compile(r"([^\W\d][\w.]*|.*\.py):[^\W\d]\w*")
_FILES = re.compile(r"\.(jsonl?|csv|tsv|parquet|arrow|txt|gz|zip|zst|xz|bz2)$", re.IGNORECASE)
EMBEDDED = ("restaurants", "concierge", "movie-reviews")


def is_function(source: str) -> bool:
    """Whether a source names a function that returns rows, and nothing that is here.

    >>> is_function("theirs.rows:sums"), is_function("reader.py:rows"), is_function("owner/name:config")
    (True, True, False)
    """
    return bool(_FUNCTION.fullmatch(source)) and not is_given(source) and not at_home(source).exists()


def kind_of(source: str) -> Literal["embedded", "path", "function", "hub"]:
    """Whether a source is embedded, a file or folder here, a function that returns rows, or a Hugging Face id.

    Raises: DataError for anything else.
    """
    if source in EMBEDDED:
        return "embedded"
    if is_given(source):
        folder_of(source)  # which says what to do where it is not at hand
        return "path"
    if at_home(source).exists():
        return "path"
    if is_function(source):
        return "function"
    looks_like_an_id = re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", source) and not source.startswith(".")
    if looks_like_an_id and not _FILES.search(source):
        return "hub"
    raise DataError(
        f"data source {source!r} is neither 'restaurants', 'concierge', 'movie-reviews', an existing folder or file, "
        "a function 'module:function' that returns rows, nor a Hugging Face id 'owner/name'"
    )
