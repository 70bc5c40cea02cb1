"""Machine code is not used after a source of what it was made from has changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import __version__, config

from wavetune.allocation import dual_bound, water_filling
from wavetune.allocation.kernel_cache import _BY_CONTENT, _common_cache, forget, kept_with_sources, state_of

CALLER = """
import numpy as np
from wavetune.allocation.kernel_cache import compiled

def summed(values):
    return np.array([value * value for value in values])[0]

kernel = compiled(summed)
print("ready", flush=True)
input()
kernel((1.0, 2.0))
print(sum(kernel.stats.cache_misses.values()))
"""
SOURCE = "@kernel\ndef one():\n    pass\n"


def test_a_change_in_any_source_with_kernels_is_another_state(tmp_path):
    (tmp_path / "one.py").write_text(SOURCE)
    (tmp_path / "fedsllm").mkdir()
    (tmp_path / "fedsllm" / "two.py").write_text(SOURCE)
    (tmp_path / "other.py").write_text("")
    states = [state_of(tmp_path)]
    (tmp_path / "fedsllm" / "two.py").write_text(SOURCE + "a = 1\n")
    states.append(state_of(tmp_path))
    (tmp_path / "one.py").rename(tmp_path / "three.py")
    states.append(state_of(tmp_path))
    assert len({*states}) == 3
    (tmp_path / "other.py").write_text("b = 2\n")
    assert state_of(tmp_path) == states[-1]


def test_kernels_are_kept_with_the_state_of_their_sources():
    package = Path(water_filling.__file__).parent
    for kernel in (water_filling.least_power, dual_bound.excess):
        assert f"kernels-{state_of(package)}/numba-{__version__}/" in kernel._cache.cache_path


def test_other_code_is_kept_where_it_would_be():
    usual = config.CACHE_DIR
    with kept_with_sources():
        assert usual != config.CACHE_DIR
    assert usual == config.CACHE_DIR


def test_old_states_are_forgotten_and_nothing_else(tmp_path):
    for name in ("kernels-old", "kernels-new", "other"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / "kernels-old", (0, 0))
    os.utime(tmp_path / "other", (0, 0))
    forget(tmp_path, 1000.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernels-new", "other"]


def compiles(script, cache):
    """Whether a process that calls the kernel of a script compiles it."""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    said = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=True).stdout
    return said.split() == ["ready", "1"]


@pytest.mark.skipif(not _BY_CONTENT, reason="this Numba knows the files of sources by their times")
def test_checkouts_of_the_same_sources_share_what_was_compiled_and_what_is_used_is_not_forgotten(tmp_path):
    cache, alike, other = tmp_path / "cache", CALLER.replace("input()", ""), []
    for name, source in (("one", alike), ("two", alike), ("three", alike.replace("value * value", "value + 1"))):
        (tmp_path / name).mkdir()
        other.append(tmp_path / name / "caller.py")
        other[-1].write_text(source)
    assert [compiles(script, cache) for script in other] == [True, False, True]
    (state,) = cache.iterdir()
    os.utime(state, (0, 0))
    assert [compiles(script, cache) for script in other] == [False] * 3


def test_code_is_kept_in_the_cache_of_all_runs_unless_nothing_can_be_written_there(tmp_path, monkeypatch):
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path / "cache"))
    assert _common_cache() == tmp_path / "cache"
    (tmp_path / "file").touch()
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path / "file"))
    assert _common_cache() is None


def test_of_processes_that_first_call_a_kernel_at_once_one_compiles_it(tmp_path):
    script = tmp_path / "caller.py"
    script.write_text(CALLER)
    callers = [
        subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        )
        for _ in range(2)
    ]
    for caller in callers:
        assert caller.stdout.readline() == "ready\n"
    for caller in callers:
        caller.stdin.write("\n")
        caller.stdin.flush()
    assert sorted(caller.communicate()[0] for caller in callers) == ["0\n", "1\n"]


def test_kept_code_is_read_without_what_only_compiling_needs(tmp_path):
    script = tmp_path / "caller.py"
    declared = "import sys; print(*(f'numba.{name}' in sys.modules for name in ('cpython.setobj', 'cpython.charseq')))"
    script.write_text(CALLER.replace("input()", "") + declared)
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    said = [
        subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert [one.split() for one in said] == [["ready", "1", "True", "True"], ["ready", "0", "False", "False"]]


def test_what_kept_code_is_compiled_into_others_from_is_read_when_another_is_compiled(tmp_path):
    inner, outer = tmp_path / "inner.py", tmp_path / "outer.py"
    form = "print(*(found.library._shared_module is not None for found in kernel.overloads.values()))\n"
    inner.write_text(CALLER.replace("input()", "") + form)
    called = 'outer = compiled(lambda values: kernel(values) + 1.0)\nprint(outer((1.0, 2.0)), "of 2.0")\n'
    outer.write_text(
        f"from inner import compiled, kernel\n{called}print(sum(kernel.stats.cache_misses.values()))\n{form}"
    )
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first, kept, linked = [
        subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=True).stdout.split()
        for script in (inner, inner, outer)
    ]
    assert (first, kept) == (["ready", "1", "True"], ["ready", "0", "False"])
    assert linked == ["ready", "0", "False", "2.0", "of", "2.0", "0", "True"]
