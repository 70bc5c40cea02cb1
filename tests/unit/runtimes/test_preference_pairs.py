from types import SimpleNamespace

from wavetune.data.preferences import PreferencePair
from wavetune.data.settings import DataSettings
from wavetune.runtimes.alignment import task


def test_clients_learn_from_pairs_of_their_own_alone(monkeypatch):
    pairs = {
        kind: tuple(PreferencePair(f"{kind} {i}", "yes", "no", kind, f"d{i % 3}") for i in range(60))
        for kind in ("helpful", "harmless")
    }
    read = lambda _source, kind, *_: SimpleNamespace(train=pairs[kind])  # noqa: E731
    monkeypatch.setattr(task, "load_preferences", read)
    held_K = [{"d0": 5, "d1": 1}, {"d1": 3}, {"d0": 5, "d2": 9}]
    data = SimpleNamespace(rows_by_client=held_K, domains_of=lambda client: held_K[client])
    found = task.pairs_of(data, range(3), DataSettings(), seed=4)
    for part in ("helpful", "harmless"):
        prompts_K = [{pair.prompt for pair in getattr(own, part)} for own in found]
        assert sum(map(len, prompts_K)) == len(set().union(*prompts_K)) == 60
        domains_K = [{pair.domain for pair in getattr(own, part)} for own in found]
        assert domains_K == [set(held) for held in held_K]
    assert task.pairs_of(data, [2], DataSettings(), seed=4) == found[2:]  # on a device of its own
