"""Examples of rows in any known form, as readers of files make them."""

from wavetune.data.examples import Example
from wavetune.data.rows import Row, form_of


def example_of(row: Row, where: str) -> Example:
    """The example that a row becomes, whichever form it has."""
    return form_of(row, where).example(row, where)
