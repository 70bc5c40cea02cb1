"""Nothing that data, files or models hold steers the terminal."""

import io
import json

import pytest
from rich.table import Table

from helpers.command_line import assert_refused, wavetune
from wavetune.console import Console, echo_answer, visible

HOSTILE = "\x1b[31mred\x1b]0;owned\x07\x00\x9b2J\u202eevil\u2066\r\udcff\x7f"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def assert_harmless(text: str) -> None:
    assert not any((ord(c) < 32 and c not in "\n\t") or (c in HOSTILE and not c.isprintable()) for c in text)


def test_controls_are_shown_and_everything_else_stays():
    assert_harmless(visible(HOSTILE))
    assert visible("tab\tline\né 😀 \u200d שלום") == "tab\tline\né 😀 \u200d שלום"


@pytest.mark.parametrize("soft_wrap", [True, False])
def test_the_console_sends_rich_styles_and_no_escape_of_a_text(soft_wrap):
    out = Terminal()
    console = Console(file=out, force_terminal=True, color_system="standard", legacy_windows=False, highlight=False)
    console.print("[bold]ok[/bold]", HOSTILE, soft_wrap=soft_wrap)
    assert "\x1b[1mok\x1b[0m" in out.getvalue()
    assert_harmless(out.getvalue().replace("\x1b[1mok\x1b[0m", ""))
    assert "\\x1b]0;owned" in out.getvalue().replace("\n", "")


@pytest.mark.parametrize("terminal", [False, True])
def test_no_cell_of_a_table_is_cut_off(terminal):
    table, file = Table(), io.StringIO()
    for name in ("client", "mW", "J"):
        table.add_column(name, no_wrap=True)
    table.add_row("0", "0.00228", "0.194")
    console = Console(file=file, force_terminal=terminal, width=12)
    console.print_table(table)
    assert all(cell in file.getvalue() for cell in ("client", "0.00228", "0.194"))
    assert console.width == 12


def test_an_answer_is_raw_in_a_pipe_and_visible_on_a_terminal(monkeypatch, capsys):
    echo_answer("a\x1bb\0")
    assert capsys.readouterr().out == "a\x1bb\0\n"
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    echo_answer("a\x1bb\0")
    assert terminal.getvalue() == "a\\x1bb\\x00\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", HOSTILE),
        ("show", "sflllm", "--set", f"world.{HOSTILE}=1"),
        ("show", "sflllm", "--set", f"world.data.batching.kind={HOSTILE}"),
        ("plan", f"{HOSTILE}.json"),
        ("report", HOSTILE.replace("\0", "")),
        (HOSTILE,),
        ("show", f"--{HOSTILE}"),
        ("show", "sflllm", HOSTILE),
        ("plan", "sflllm", "--time-limit", HOSTILE),
    ],
)
def test_errors_show_hostile_arguments(arguments):
    answer = wavetune(*arguments)
    assert_refused(answer)
    assert_harmless(answer.err + answer.out)


def test_errors_show_hostile_files_and_keys(tmp_path):
    file = tmp_path / "\x1b[31m.jsonl"
    file.write_text(json.dumps({"\x1b[31mkey": 1}) + "\n")
    answer = wavetune("plan", "sflllm", "--model", "tiny", "--data", file)
    assert_refused(answer, "\\x1b[31m.jsonl", "\\x1b[31mkey")
    assert_harmless(answer.err + answer.out)


@pytest.mark.parametrize("arguments", [("plan", "sflllm", "--time-limit", "0"), ("pln",), ("plan",), ("run", "--outt")])
def test_mistakes_of_usage_are_refused_like_all_others(arguments):
    assert_refused(wavetune(*arguments), "wavetune: ", "--help")


def test_a_refusal_stays_short():
    answer = wavetune("show", "sflllm", "--set", "a" * 100_000 + "=1")
    assert_refused(answer)
    assert len(answer.err) < 3000
