"""Which files of a folder are train, validation and test, by what their names say."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wavetune.csv_files import in_order
from wavetune.data.row_files import TABLES, TEXTS, kind_of
from wavetune.errors import DataError
from wavetune.json_reader import packing

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
WORDS = tuple(word for words in SPLITS.values() for word in words)
_PART = r"[-_. ]*\d[-_.\d]*(of[-_.]*\d+)?"  # what tells the parts of one file apart: -00000-of-00002, _1, .3


@dataclass(frozen=True)
class Splits:
    """Files of each split, in order, and those with rows that are not read."""

    train: tuple[Path, ...]
    validation: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    unread: tuple[Path, ...] = ()


def splits_of(folder: Path, files: Sequence[Path] | None = None) -> Splits:
    """The files of a folder, of its folder `data`, or of folders named as splits are.

    A file is of the split that its name is (`train.csv`, `train-00000-of-00002.parquet`) or, where there is none, has
    as a word (`my_train.csv`). Without any, the only file or set of numbered files (`part-1.jsonl`) is train.

    Args:
        folder: where they are looked for.
        files: those to choose among; by default all with rows.
    Raises: DataError if there is no train file, or it is not clear which it is.
    """
    files = data_files(folder) if files is None else list(files)
    by_split = {split: named(folder, files, words) for split, words in SPLITS.items()}
    told = [file for found in by_split.values() for file in found]
    train = by_split["train"] or ([] if told else one_set(folder, files))
    if not train:
        raise DataError(f"{folder}: no training file: name it train (train.jsonl, train.csv, ...); {found(folder)}")
    for split, chosen in (*by_split.items(), ("train", train)):
        require_clear(folder, split, chosen)
    read = (train, by_split["validation"], by_split["test"])
    unread = tuple(file for file in files if not any(file in chosen for chosen in read))
    return Splits(tuple(train), tuple(read[1]), tuple(read[2]), unread)


def data_files(folder: Path) -> list[Path]:
    """Files with rows in a folder or, where there are none, in its folders `data` or those named as splits are."""
    here = _rows_in(folder)
    if here or not folder.is_dir():
        return here
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.lower() in (*WORDS, "data"))
    return [file for path in inside for file in _rows_in(path)]


def named(folder: Path, files: Iterable[Path], words: Sequence[str]) -> list[Path]:
    """The files of a split, named or in a folder named by one of its words: exactly, else as one word among others."""
    exact = [file for file in files if _is(stem(file), words) or inner(folder, file) in words]
    return exact or [file for file in files if has_word(stem(file), words)]


def split_names(names: Iterable[str], where: str) -> dict[str, str]:
    """Which of a data set's own splits is train, validation and test. Raises DataError if train is none, or several."""
    chosen: dict[str, str] = {}
    for split, words in SPLITS.items():
        there = [name for name in names if _is(name.lower(), words)] or [n for n in names if has_word(n.lower(), words)]
        if len(there) > 1:
            raise DataError(
                f"{where}: {' and '.join(there)} could each be the {split} part; save the one you mean alone"
            )
        if there:
            chosen[split] = there[0]
    if "train" not in chosen:
        raise DataError(f"{where} has no train split; found {', '.join(names) or 'none'}")
    return chosen


def _is(name: str, words: Sequence[str]) -> bool:
    return re.fullmatch(rf"({'|'.join(words)})({_PART})?", name) is not None


def has_word(name: str, words: Sequence[str]) -> bool:
    """Whether a name has one of these words, between signs or digits."""
    return re.fullmatch(rf"(.*[^a-z])?({'|'.join(words)})([^a-z].*)?", name) is not None


def one_set(folder: Path, files: Sequence[Path]) -> list[Path]:
    """All files if they are numbered parts of one, else none."""
    return list(files) if len({family(folder, file) for file in files}) == 1 else []


def require_clear(folder: Path, split: str, files: Sequence[Path]) -> None:
    """Raise DataError if files of a split do not belong together: the same name twice, or other words for it."""
    if len({family(folder, file) for file in files}) > 1:
        raise _unclear(folder, split, files)
    require_once(folder, split, files)


def require_once(folder: Path, split: str, files: Sequence[Path]) -> None:
    """Raise DataError if two files of a split have the same name, written in two ways."""
    if len({stem(file) for file in files}) < len(files):
        raise _unclear(folder, split, files)


def _unclear(folder: Path, split: str, files: Sequence[Path]) -> DataError:
    names = " and ".join(file.name for file in files[:3])
    return DataError(f"{folder}: {names} could each be the {split} part; keep one of them, or join them in one file")


def stem(file: Path) -> str:
    """Name of a file without the endings that say how it is written, in lower case."""
    return file.name.lower().removesuffix(packing(file.name)).removesuffix(kind_of(file.name))


def family(folder: Path, file: Path) -> str:
    """Name of a file without its number, or of its folder where that is named as a split: the same for parts of one."""
    if inner(folder, file) in WORDS:
        return inner(folder, file)
    spark = re.sub(r"(part-\d{5})-.*", r"\1", stem(file))  # ... -UUID-c000.snappy
    return re.sub(rf"{_PART}$", "", spark) + kind_of(file.name)


def inner(folder: Path, file: Path) -> str:
    """Name of the folder in `folder` where a file lies, in lower case; empty if it lies in `folder` itself."""
    return "" if file.parent == folder else file.parent.name.lower()


def found(folder: Path) -> str:
    """What a folder holds, for a sentence."""
    if not folder.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"found {', '.join(names[:12]) or 'nothing'}{more}"


def _rows_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    kinds = {*TEXTS, *TABLES}
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    with_rows = [path for path in files if kind_of(path.name) in kinds and _is_data(path)]
    return sorted(with_rows, key=lambda path: in_order(path.name))


def _is_data(path: Path) -> bool:
    """Whether a file is not about the data, as notes and descriptions are."""
    about = path.name in ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
    return not about and (kind_of(path.name) != ".txt" or has_word(stem(path), WORDS))
