"""Arrays of numbers in files of NumPy (NPY, NPZ) and MATLAB (MAT), within bounds; nothing in them is run."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavetune.errors import DataError, one_line

MOST_VALUES = 2**26
ENDINGS = (".npz", ".npy", ".mat")


def read_arrays(file: Path, name: str) -> dict[str, NDArray[Any]]:
    """The arrays of a file by their names; the one of an NPY file is called `name`.

    Raises: DataError naming the file if it holds something else, or arrays too large for it.
    """
    try:
        if file.suffix.lower() == ".mat":
            return _mat(file)
        if file.suffix.lower() == ".npy":
            with file.open("rb") as stream:
                _require_numbers(file, stream, file.stat().st_size)
            return {name: np.load(file, allow_pickle=False)}
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    _require_numbers(file, stream, member.file_size)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except DataError:
        raise
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{file}: cannot be read as {file.suffix[1:].upper()} ({one_line(error, 120)}); save it again"
        ) from None


def _mat(file: Path) -> dict[str, NDArray[Any]]:
    import scipy.io

    try:
        sizes = {name: shape for name, shape, _ in scipy.io.whosmat(file)}
        found = {} if any(math.prod(shape) > MOST_VALUES for shape in sizes.values()) else scipy.io.loadmat(file)
    except NotImplementedError:
        raise DataError(f"{file}: is of MATLAB 7.3; save it with save(..., '-v7')") from None
    except Exception as error:  # the library raises many types; the sentence is what helps
        raise ValueError(error) from None
    if not found:
        raise DataError(f"{file}: holds an array of more than {MOST_VALUES} values; cut it into shorter files")
    return {name: values for name, values in found.items() if name in sizes and isinstance(values, np.ndarray)}


def _require_numbers(file: Path, stream: Any, size: int) -> None:
    """Refuse, before it is loaded, an array of objects or one that says to be larger than what there is of it."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.kind not in "fiucb":
        raise DataError(f"{file}: holds something else than numbers, which is not loaded; save arrays of numbers")
    if math.prod(shape) > MOST_VALUES or math.prod(shape) * dtype.itemsize > size:
        raise DataError(f"{file}: an array of shape {list(shape)} is larger than its file or than {MOST_VALUES} values")
