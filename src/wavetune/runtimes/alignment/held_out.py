"""Answers to held-out prompts in the files of a run or a device, before its alignment and after it."""

from wavetune.federation.run_folder import RunFolder
from wavetune.records.alignment import HeldOut
from wavetune.records.fields import as_json
from wavetune.records.reading import read_record

BEFORE, AFTER = "alignment_before.json", "alignment_after.json"


def keep(folder: RunFolder, name: str, found: HeldOut) -> None:
    """Write what was answered, for `kept` and whoever reads the folder."""
    folder.write_json(name, as_json(found))


def kept(folder: RunFolder, name: str) -> HeldOut | None:
    """What was answered according to a file; None where there is none. Raises RunFolderError where it is damaged."""
    found = folder.read_json(name, HeldOut)
    return None if found is None else read_record(HeldOut, found)
