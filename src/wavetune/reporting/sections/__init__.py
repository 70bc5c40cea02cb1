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
from wavetune.reporting.story import is_central

__all__ = ["Section", "run_sections"]


def run_sections(run: Run) -> list[Section]:
    """Sections that this run has records for, in the order of the page."""
    kinds = (learning, scores, personal, alignment, privacy, delay, cell, plan, traffic, accounts, measured, clients)
    alone = (delay, cell, plan, clients) if is_central(run) else ()  # one trainer held all data, and nobody waited
    made = (kind(run) for kind in kinds if kind not in alone)
    return [section for section in made if section.figures or section.tables]
