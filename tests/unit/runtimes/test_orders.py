"""Orders that take no stream: who leaves is ordered again, who stays away is not waited for twice, others go on."""

from collections import defaultdict
from types import SimpleNamespace

import pytest

from wavetune.data_plane.messages_pb2 import RoundOrder, RoundReport
from wavetune.runtimes import orders as given
from wavetune.runtimes.orders import Orders

LEAVES, SILENT = "leaves", "silent"
CLOCK = SimpleNamespace(now_s=0.0)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time passes only where somebody waits."""
    CLOCK.now_s = 0.0
    monkeypatch.setattr(given, "time", SimpleNamespace(monotonic=lambda: CLOCK.now_s))


class Devices:
    """Devices as the servers reach them: each answers an order with the next thing in its list, the last one for ever.

    A device that leaves is back as soon as it is waited for; one without a list never came.
    """

    def __init__(self, **answers):
        self.answers = {int(name[1:]): list(own) for name, own in answers.items()}
        self.here, self.ordered, self.waited, self.due = set(self.answers), defaultdict(int), [], {}
        self.patience_s = 0.0  # that they were given, all together

    def present(self):
        return set(self.here)

    def wait_for(self, clients, patience_s):
        self.waited.append(set(clients))
        self.here = set(self.answers)
        CLOCK.now_s += 0.0 if set(clients) <= self.here else patience_s
        return self.here & set(clients)

    def order(self, client, _order):
        self.ordered[client] += 1
        own = self.answers[client]
        answer = own.pop(0) if len(own) > 1 else own[0]
        self.due[client] = list(answer) if isinstance(answer, list) else [answer]
        if answer == LEAVES:
            self.here.discard(client)

    def report(self, client, index, patience_s):
        answer = self.due[client].pop(0)
        if answer == SILENT:
            CLOCK.now_s += patience_s
            self.patience_s += patience_s
        return None if answer in (LEAVES, SILENT) else RoundReport(round=index, **answer)


def ask(devices, clients=(0, 1), patience_s=20.0, deadline_s=20.0, orders=None):
    orders = orders or Orders(None, devices, "a run", "", patience_s, deadline_s)
    judge = lambda client, report: None if report.round != 7 else "odd" if report.not_finite else ""  # noqa: E731
    return orders.ask(clients, lambda client: RoundOrder(round=7), judge, patience_s=patience_s)


def test_a_device_that_leaves_is_ordered_again_once_it_is_back():
    devices = Devices(k0=[{}], k1=[LEAVES, LEAVES, {}])
    reports, lost = ask(devices)
    assert (set(reports), lost) == ({0, 1}, {})
    assert devices.ordered == {0: 1, 1: 3}


def test_a_report_that_does_not_answer_or_tells_of_a_failure_is_no_answer():
    devices = Devices(k0=[{"failure": "no room"}], k1=[{"not_finite": True}], k2=[{}])
    reports, lost = ask(devices, (0, 1, 2))
    assert (set(reports), lost) == ({2}, {0: "no room", 1: "odd"})


def test_reports_on_something_else_are_passed_over():
    devices = Devices(k0=[[{"seconds": {"number": i}} for i in range(3)]])
    judge = lambda _client, report: None if report.seconds["number"] < 2 else ""  # noqa: E731
    reports, lost = Orders(None, devices, "", "", 1.0, 20.0).ask([0], lambda _k: RoundOrder(round=7), judge)
    assert (reports[0].seconds["number"], lost) == (2, {})


def test_a_device_that_is_silent_is_lost_after_its_deadline():
    reports, lost = ask(Devices(k0=[SILENT], k1=[{}]), deadline_s=0.05)
    assert (set(reports), lost) == ({1}, {0: "client 0 did not answer within 0.05 s"})


def test_a_device_that_stays_away_is_waited_for_once_and_asked_when_it_is_there():
    devices = Devices(k0=[{}])
    orders = Orders(None, devices, "a run", "", 0.05, 20.0)
    reports, lost = ask(devices, patience_s=0.05, orders=orders)
    assert (set(reports), lost) == ({0}, {1: "client 1 is away"})
    waited = len(devices.waited)
    assert waited > 0
    assert ask(devices, orders=orders)[1] == {1: "client 1 is away"}
    assert len(devices.waited) == waited
    devices.answers[1] = [{}]
    devices.here.add(1)
    assert set(ask(devices, orders=orders)[0]) == {0, 1}


def test_without_patience_nobody_is_waited_for():
    devices = Devices(k0=[{}])
    assert ask(devices, patience_s=0.0)[1] == {1: "client 1 is away"}
    assert devices.waited == []
    with pytest.raises(KeyError):
        devices.report(1, 7, 0.0)  # it was not ordered anything


def test_many_who_are_silent_have_one_deadline_together():
    devices = Devices(k0=[SILENT], k1=[SILENT], k2=[{}], k3=[SILENT])
    reports, lost = ask(devices, (0, 1, 2, 3), deadline_s=0.05)
    assert (set(reports), set(lost)) == ({2}, {0, 1, 3})
    assert devices.patience_s == 0.05
