import pytest

from wavetune.errors import ConfigError
from wavetune.federation.method import Central, Federated, Lora, Method, Split

FITS = {"num_clients": 3, "num_layers": 4, "width": 32}
TABLE = {1: 10.0, 4: 8.0}


@pytest.mark.parametrize(
    "method",
    [
        Method("", Split(), Lora(), rounds_to_target=TABLE),
        Method("", Split(cut=4), Lora(rank=32)),
        Method("", Split(cut=(1, 2, 4)), Lora(rank=(1, 32, 5))),
        Method("", Split(cuts=(1, 4)), Lora(rank=2)),
        Method("", Federated(), Lora(rank=8)),
        Method("", Central(), Lora(rank=8)),
    ],
)
def test_parts_that_fit_pass(method):
    method.check(**FITS)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Method("", Split(cut=5), Lora(rank=2)), r"topology\.cut is 5 but must be between 1 and 4"),
        (Method("", Split(cut=(1, 2)), Lora(rank=2)), r"topology\.cut has 2 entries for 3 clients"),
        (Method("", Split(cut=(1, 2, 0)), Lora(rank=2)), r"topology\.cut is 0"),
        (Method("", Split(cuts=(1, 9)), Lora(rank=2)), r"topology\.cuts is 9"),
        (Method("", Split(), Lora(rank=33)), r"lora\.rank is 33 but must be between 1 and 32"),
        (Method("", Split(), Lora(rank=(1, 2, 3, 4))), r"lora\.rank has 4 entries for 3 clients"),
        (Method("", Split(), Lora(rank=(1, 2, 64))), r"lora\.rank is 64"),
        (Method("", Split(), Lora()), r"rounds_to_target is empty.*measure-ranks"),
        (Method("", Split(), Lora(), rounds_to_target={64: 2.0}), r"rounds_to_target is 64"),
        (Method("", Federated(), Lora(rank=(1, 2))), r"lora\.rank has 2 entries"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_field_value_and_range(method, message):
    with pytest.raises(ConfigError, match=message):
        method.check(**FITS)


@pytest.mark.parametrize("table", [{0: 5.0}, {2: 0.0}, {2: -1.0}, {2: float("nan")}])
def test_impossible_rank_tables_are_refused_when_built(table):
    with pytest.raises(ConfigError, match="rounds_to_target has"):
        Method("", rounds_to_target=table)


def test_a_rank_given_makes_the_table_optional_and_unchecked():
    Method("", Split(), Lora(rank=2), rounds_to_target={64: 2.0}).check(**FITS)
