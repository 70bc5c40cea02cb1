"""Where lines of the logger go."""

import io
import json
import logging
import os
from datetime import datetime

from helpers.command_line import assert_refused, wavetune
from wavetune.cli import app
from wavetune.cli.grouped import set_format
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


def test_a_link_in_the_place_of_the_log_is_not_written_through(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "log.txt").symlink_to(tmp_path / "elsewhere")
    with kept_in(tmp_path):
        LOG.info("round 1")
    assert not (tmp_path / "elsewhere").exists()


def test_lines_of_json_hold_time_level_message_and_what_was_given_beside():
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


def test_a_mistake_is_a_line_of_json_too_where_lines_are(tmp_path, monkeypatch):
    told = wavetune("runs", tmp_path / "none", "--log-format", "json")
    assert told.code == 2
    line = json.loads(told.err)
    assert (line["level"], "is no folder" in line["message"]) == ("error", True)
    monkeypatch.setenv("WAVETUNE_LOG_FORMAT", "json")
    assert json.loads(wavetune("runs", tmp_path / "none").err)["level"] == "error"
    assert wavetune("runs", tmp_path / "none", "--log-format", "text").err.startswith("wavetune: ")
    monkeypatch.setenv("WAVETUNE_LOG_FORMAT", "xml")
    assert_refused(wavetune("runs", tmp_path), "is 'xml'", "WAVETUNE_LOG_FORMAT")


def test_a_librarys_handler_of_the_root_logger_says_no_line_of_a_command_once_more(monkeypatch):
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logging.getLogger().addHandler(handler)
    monkeypatch.setattr(LOG, "propagate", True)
    for module, name in ((app.signal, "signal"), (app.light_imports, "install"), (app.warnings, "filterwarnings")):
        monkeypatch.setattr(module, name, lambda *_: None)  # this process goes on with other tests
    monkeypatch.setattr(app, "_run", lambda: LOG.warning("once"))
    try:
        app.main()
    finally:
        logging.getLogger().removeHandler(handler)
    assert heard.getvalue() == ""
