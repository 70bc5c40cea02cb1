"""Memory that is free is that of the machine, and no more than a container may have."""

import os
import resource
import threading

import pytest

from wavetune import machine_memory
from wavetune.cli import rank
from wavetune.recipes import get

GB = 10**9


def test_a_block_that_takes_too_much_memory_ends_with_the_error_that_was_given_and_later_ones_take_it():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(KeyError, match="too much"), machine_memory.within_memory(1 << 27, KeyError("too much")):
        bytes(1 << 28)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    with machine_memory.within_memory(1 << 28, KeyError("too much")):
        assert len(bytes(1 << 27)) == 1 << 27


def test_a_block_of_another_thread_limits_nobody():
    before, within = resource.getrlimit(resource.RLIMIT_AS), []

    def block():
        with machine_memory.within_memory(1 << 27, KeyError("too much")):
            within.append(resource.getrlimit(resource.RLIMIT_AS))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert within == [before]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of 64 GB, of which 40 are free."""
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": GB, "SC_PHYS_PAGES": 64}[name])
    monkeypatch.setattr(machine_memory, "_CONTAINER_LIMIT", tmp_path / "memory.max")
    monkeypatch.setattr(machine_memory, "_FREE", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(f"MemTotal: {64 * GB // 1024} kB\nMemAvailable:   {40 * GB // 1024} kB\n")
    return tmp_path


@pytest.mark.parametrize(("limit", "free"), [(None, 40), ("max", 40), (str(6 * GB), 6)])
def test_free_memory_is_what_the_machine_has_left_within_its_limit(machine, limit, free):
    if limit is not None:
        (machine / "memory.max").write_text(f"{limit}\n")
    assert machine_memory.free_bytes() == pytest.approx(free * GB, abs=1024)


def test_where_nobody_says_what_is_free_it_is_all(machine):
    (machine / "meminfo").write_text("MemTotal: 5 kB\n")
    assert machine_memory.free_bytes() == 64 * GB


def test_a_ranking_runs_as_many_processes_as_a_container_can_hold(machine, monkeypatch):
    monkeypatch.setattr("wavetune.workers.cores", lambda: 16)
    recipe = get("sflllm").with_settings("run.device=cpu")
    assert rank._processes(None, recipe) == 9
    (machine / "memory.max").write_text(f"{9 * GB}\n")
    assert rank._processes(None, recipe) == 2
