"""What `wavetune evaluate` found of a run's models."""

from wavetune.records.reading import Run
from wavetune.records.scores import Scored
from wavetune.reporting import format as fmt
from wavetune.reporting.chart import Table
from wavetune.reporting.sections.section import Section, make_section


def scores(run: Run) -> Section:
    """Section with a line for each evaluation."""
    metrics = list(dict.fromkeys(name for one in run.scored for name in one.scores))
    head = ("Model", "Rows", "Prompts", "Answers", *metrics)
    rows = tuple(
        (one.adapters or "untouched", f"{one.data}, {one.part}", str(one.prompts), _how(one), *_values(one, metrics))
        for one in run.scored
    )
    libraries = dict(pair for one in run.scored for pair in one.libraries.items())
    by = f" Computed by {', '.join(dict.fromkeys(libraries.values()))}." if libraries else ""
    words = "Answers beside the references of held-out or other rows; only lines with the same rows compare." + by
    return make_section("Scores", "Scores", [], [Table("Scores of wavetune evaluate", head, rows)], words)


def _how(scored: Scored) -> str:
    if scored.decoding is None:
        return "classes"
    how = scored.decoding
    drawn = f"temperature {fmt.number(how.temperature)}" if how.temperature else f"{how.beams} beams"
    return f"{'greedy' if drawn == '1 beams' else drawn}, {how.max_new_tokens} tokens"


def _values(scored: Scored, metrics: list[str]) -> list[str]:
    """A score that was not asked for, or is undefined, stays empty."""
    return [fmt.number(scored.scores[name]) if name in scored.scores else "" for name in metrics]
