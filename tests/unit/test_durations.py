"""The page of the slowest tests says what took how long, in tests and in files."""

import list_durations

WRITTEN = "   31.50 s  tests/b.py::test_two[1]\n    2.00 s  tests/a.py::test_one\n    1.50 s  tests/b.py::test_three\n"


def test_the_slowest_tests_and_files_come_first_with_their_seconds():
    page = list_durations.page_of(WRITTEN, cores=2)
    assert "3 tests in 2\nfiles, 35 s" in page
    rows = [line for line in page.splitlines() if line.startswith("| ") and "`" in line]
    assert rows == [
        "| 31.5 | `tests/b.py::test_two[1]` |",
        "| 2.0 | `tests/a.py::test_one` |",
        "| 1.5 | `tests/b.py::test_three` |",
        "| 33.0 | 2 | `tests/b.py` |",
        "| 2.0 | 1 | `tests/a.py` |",
    ]


def test_no_more_than_so_many_are_listed():
    page = list_durations.page_of("".join(f"{n:8.2f} s  tests/t{n}.py::test\n" for n in range(100)), cores=2)
    assert page.count("::test` |") == list_durations.TESTS
    assert page.count(".py` |") == list_durations.FILES
