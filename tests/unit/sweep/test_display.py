import io

from rich.console import Console

from wavetune.sweep.display import SweepDisplay


def shown(is_terminal):
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=80)
    with SweepDisplay(console) as display:
        for done in range(1, 41):
            display.progress("cells", done, 40)
    return console.file.getvalue()


def test_plain_output_is_a_line_every_tenth_of_the_way():
    assert shown(False).splitlines() == [f"cells {done}/40" for done in range(4, 41, 4)]


def test_terminal_shows_a_bar():
    assert "━" in shown(True)
    assert "40/40" in shown(True)
