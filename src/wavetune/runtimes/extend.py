"""More rounds for a run that was planned for fewer. Needs no torch."""

from dataclasses import replace
from pathlib import Path

from wavetune.errors import ConfigError
from wavetune.federation.run_folder import RunFolder
from wavetune.recipe import load


def extend(path: Path, rounds: int) -> list[str]:
    """Let the run of a folder end after so many rounds in all; what is to be said about it.

    With a constant learning rate it ends as a run of so many rounds would have. Another schedule knew of fewer rounds
    so far. Raises ConfigError where rounds can no longer follow on what was trained.
    """
    folder, recipe = RunFolder.open(path), load(path / "recipe.json")
    done, before = len(folder.read_rounds()), recipe.run.rounds
    if rounds == before:
        return []
    if rounds <= done:
        raise ConfigError(f"--rounds is {rounds} but the run in {path} has done {done}; give more")
    if folder.read_rounds("alignment.jsonl"):
        raise ConfigError(
            f"--rounds cannot change: the alignment of the run in {path} has begun, which stands on its {before} "
            "rounds; start a new run"
        )
    longer = replace(recipe, run=replace(recipe.run, rounds=rounds))
    folder.write_json("recipe.json", longer.to_dict())
    (path / "summary.json").unlink(missing_ok=True)
    said = [f"the run in {path} goes on from round {done} to {rounds} rounds, where it was to end after {before}"]
    schedule = recipe.method.optimiser.schedule
    if schedule != "constant" and done:
        said.append(
            f"the learning rate of what is done followed a {schedule} schedule of {before} rounds and now follows one "
            f"of {rounds}: the end is not that of a run of {rounds} rounds from the start"
        )
    return said
