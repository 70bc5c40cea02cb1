"""What a run folder holds, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wavetune.errors import ConfigError, RunFolderError
from wavetune.json_reader import read_json
from wavetune.logs import LOG
from wavetune.records.fields import as_json, flat
from wavetune.records.reading import FILES, read_run

if TYPE_CHECKING:
    from wavetune.recipe import Recipe
    from wavetune.records.reading import Run as Records


@dataclass(frozen=True)
class Run:
    """A run's folder and what is in it, read when it is asked for. A run that goes on reads as far as it has come."""

    folder: Path

    @property
    def status(self) -> str:
        """`finished`, or `unfinished` where it still runs or was stopped."""
        return "finished" if (self.folder / "summary.json").exists() else "unfinished"

    @property
    def records(self) -> Records:
        """All records, typed; `problems` names what could not be read."""
        return read_run(self.folder)

    @property
    def recipe(self) -> Recipe:
        """The recipe that was run."""
        from wavetune.runtimes.adapters import recipe_of

        return recipe_of(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json: what came out and what it cost. Raises RunFolderError before the run has finished."""
        return self._file("summary.json", "finish it with resume")

    @property
    def plan(self) -> dict[str, Any]:
        """plan.json: the first plan."""
        return self._file("plan.json", "the run was stopped before it was planned")

    @property
    def rounds(self) -> Any:
        """A row a round, with columns such as `charged.delay_s`: a pandas frame, or a list of dicts without pandas."""
        return framed([flat(as_json(record)) for record in self.records.rounds])

    @property
    def alignment(self) -> Any:
        """The same of the steps of alignment."""
        return framed([flat(as_json(record)) for record in self.records.alignment])

    def adapter(self, client: int | None = None) -> Path:
        """The folder of a client's adapter, or of that which all share, as `peft.PeftModel.from_pretrained` loads it.

        Raises: RunFolderError with those that there are.
        """
        from wavetune.runtimes.adapters import adapter_of

        found = adapter_of(self.folder, client, base=False)
        assert found is not None  # as it is not the base that is asked for
        return found

    def generate(
        self,
        prompt: str,
        client: int | None = None,
        *,
        base: bool = False,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> str:
        """An answer in the run's own template; of a classifier its classes with their probabilities.

        Args:
            prompt: what the model is given.
            client: whose adapter answers; None: the one that all share.
            base: answer with the untouched model.
            max_new_tokens: longest answer, 64 by default.
            temperature: 0, the default, takes the likeliest token each time.
            seed: of the sampling, 0 by default.
        Raises: ConfigError for what does not go together, RunFolderError where there is no such adapter.
        """
        from wavetune.runtimes.adapters import adapter_of

        if not isinstance(prompt, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"prompt is {type(prompt).__name__}; give one text")
        adapter_of(self.folder, client, base)
        if not self.recipe.world.data.template.writes_text:
            for name, value in {"max-new-tokens": max_new_tokens, "temperature": temperature, "seed": seed}.items():
                if value is not None:
                    raise ConfigError(
                        f"--{name} has no effect: the run in {self.folder} trained a classifier, which writes no text"
                    )
        if seed is not None and not temperature:
            raise ConfigError("--seed has no effect without --temperature above 0: the likeliest token is not drawn")
        LOG.info("loading PyTorch and transformers")
        from wavetune.runtimes.answer import answer

        return answer(self.folder, prompt, client, base, max_new_tokens or 64, temperature or 0.0, seed or 0)

    def evaluate(
        self,
        data: str | Path | None = None,
        metrics: str | Sequence[str] = (),
        client: int | None = None,
        *,
        base: bool = False,
        prompts: int = 256,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        beams: int = 1,
        seed: int = 0,
        batch_size: int = 16,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> dict[str, Any]:
        """Scores of the run's answers, or classes, as `wavetune evaluate` writes them; the report is written anew.

        Args:
            data: a folder, a file or a Hugging Face id; None: the rows that the run kept from training.
            metrics: `bleu`, `rouge_l`, `perplexity` and so on, with commas or as a list; none: all but `meteor`.
            client: whose adapter answers; None: the one that all share.
            base: score the untouched model.
            prompts: distinct prompts to answer at most, drawn at random.
            max_new_tokens: longest answer.
            temperature: 0 takes the likeliest token each time.
            beams: answers followed at once.
            seed: of the draw of prompts and of sampling.
            batch_size: prompts answered at once.
            device: where to compute.
        Returns: `scores` by metric, `prompts`, `rows`, `decoding`, `libraries` and the `folder` with all answers.
        Raises: ConfigError for what does not go together, RunFolderError where there is no such adapter.
        """
        from wavetune.data.source import kind_of
        from wavetune.runtimes.adapters import adapter_of

        if beams > 1 and temperature:
            raise ConfigError("--beams above 1 does not go with --temperature: beams are followed, not drawn")
        adapter_of(self.folder, client, base)
        source = None if data is None else str(data)
        if source is not None:
            kind_of(source)
        LOG.info("loading PyTorch and transformers")
        from wavetune.records.scores import Decoding
        from wavetune.runtimes.scoring import Asked, evaluate_run

        named = metrics.split(",") if isinstance(metrics, str) else metrics
        names = tuple(dict.fromkeys(name.strip() for name in named if name.strip()))
        decoding = Decoding(max_new_tokens, temperature, beams, seed, batch_size)
        found = evaluate_run(self.folder, Asked(source, client, base, names, prompts), decoding, device)
        self.report()
        return found

    def report(self, out: str | Path | None = None) -> Path:
        """Write the report, `report.html` in the run's folder by default; returns its path."""
        from wavetune.reporting.html import write_report

        return write_report([self.folder], self.folder / "report.html" if out is None else Path(out))

    def _file(self, name: str, remedy: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.exists():
            raise RunFolderError(f"{self.folder} has no {name}; {remedy}")
        return read_json(path)


def load_run(folder: str | Path) -> Run:
    """The run in a folder, finished or not. Raises RunFolderError where there is none.

    >>> load_run("runs/of-nobody")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    wavetune.errors.RunFolderError: runs/of-nobody holds no run records; expected at least one of ...
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in FILES):
        raise RunFolderError(f"{folder} holds no run records; expected at least one of {', '.join(FILES)}")
    return Run(folder)


def framed(rows: list[dict[str, Any]]) -> Any:
    """A pandas frame of rows, or the rows themselves where pandas is not installed."""
    try:
        import pandas as pd
    except ImportError:
        return rows
    return pd.DataFrame(rows)
