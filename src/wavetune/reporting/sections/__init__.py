"""The sections of one run's report, one file a subject."""

from wavetune.records.reading import Run
from wavetune.reporting.sections.alignment import alignment
from wavetune.reporting.sections.cell import cell
from wavetune.reporting.sections.clients import clients
from wavetune.reporting.sections.delay import delay
from wavetune.reporting.sections.learning import learning
from wavetune.reporting.sections.measured import measured
from wavetune.reporting.sections.personal import personal
from wavetune.reporting.sections.plan import plan
from wavetune.reporting.sections.privacy import privacy
from wavetune.reporting.sections.scores import scores
from wavetune.reporting.sections.section import Section
from wavetune.reporting.sections.traffic import accounts, traffic

__all__ = ["Section", "run_sections"]


def run_sections(run: Run) -> list[Section]:
    """Sections that this run has records for, in the order of the page."""
    made = (
        learning(run),
        scores(run),
        personal(run),
        alignment(run),
        privacy(run),
        delay(run),
        cell(run),
        plan(run),
        traffic(run),
        accounts(run),
        measured(run),
        clients(run),
    )
    return [section for section in made if section.figures or section.tables]
