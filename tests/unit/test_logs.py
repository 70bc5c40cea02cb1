"""Where lines of the logger go."""

import io
import logging
import os

from wavetune.console import Console
from wavetune.logs import LOG, is_quiet, kept_in, shown_on


def console():
    return Console(file=io.StringIO(), width=20)


def test_lines_go_to_the_innermost_console_alone_and_are_not_wrapped():
    outer, inner = console(), console()
    with shown_on(outer):
        with shown_on(inner):
            LOG.info("a line that is longer than twenty columns, [not] markup")
        LOG.debug("details")
        LOG.info("after")
    LOG.info("nowhere")
    assert inner.file.getvalue() == "a line that is longer than twenty columns, [not] markup\n"
    assert outer.file.getvalue() == "after\n"


def test_a_console_shows_what_its_level_asks_for():
    quiet = console()
    with shown_on(quiet, logging.WARNING):
        assert is_quiet()
        LOG.info("progress")
        LOG.warning("stopped")
    assert not is_quiet()
    assert quiet.file.getvalue() == "stopped\n"


def test_a_run_folder_keeps_the_lines_from_before_it_held_a_run(tmp_path):
    with kept_in(tmp_path / "run"):
        LOG.info("loading")
        assert not (tmp_path / "run").exists()
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "recipe.json").write_text("{}")
        LOG.info("round 1")
        LOG.debug("details")
    LOG.info("afterwards")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [line.split(" INFO ")[1] for line in lines] == ["loading", "round 1"]


def test_a_pipe_in_the_place_of_the_log_is_not_waited_for(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    os.mkfifo(tmp_path / "log.txt")
    with kept_in(tmp_path):
        LOG.info("round 1")
