"""Where lines of the logger go."""

import io
import json
import logging
import os
from datetime import datetime

import pytest

from wavetune.cli.grouped import set_format
from wavetune.console import Console
from wavetune.errors import ConfigError
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


def test_lines_of_json_hold_time_level_message_and_what_was_given_beside(monkeypatch):
    out = io.StringIO()
    with shown_on(Console(file=out)):
        set_format("json")
        LOG.info("a \x1b[31m line\nof two", extra={"device": "device-01"})
        with shown_on(Console(file=out)):
            LOG.warning("from within")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["level"], first["message"], first["device"]) == ("info", "a \x1b[31m line\nof two", "device-01")
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    assert (second["level"], second["message"]) == ("warning", "from within")
    monkeypatch.setenv("WAVETUNE_LOG_FORMAT", "xml")
    with pytest.raises(ConfigError, match="WAVETUNE_LOG_FORMAT is 'xml'"), shown_on(Console(file=out)):
        pass
