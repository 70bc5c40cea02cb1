"""Which adapters answer, found without torch."""

import json

import pytest

from wavetune import recipes
from wavetune.errors import RunFolderError
from wavetune.recipe import save
from wavetune.runtimes.adapters import adapter_of


@pytest.fixture
def classifier(tmp_path):
    """A run whose clients share adapters and keep their heads."""
    save(recipes.get("pwff_task"), tmp_path / "recipe.json")
    for name, head in (("global", None), ("client-00", {"outputs": 2}), ("client-03", {"outputs": 2})):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        (tmp_path / "adapters" / name / "wavetune_adapter.json").write_text(json.dumps({"head": head}))
    return tmp_path


def test_a_personal_classifier_answers_for_a_client_and_says_which_there_are(classifier):
    assert adapter_of(classifier, 3, False) == classifier / "adapters" / "client-03"
    with pytest.raises(RunFolderError, match="name one of them with --client: 0, 3"):
        adapter_of(classifier, None, False)
    with pytest.raises(RunFolderError, match="has no adapter client-01: there are client-00, client-03"):
        adapter_of(classifier, 1, False)
    with pytest.raises(RunFolderError, match="knows no classes"):
        adapter_of(classifier, None, True)


def test_a_shared_head_answers_for_all(classifier):
    (classifier / "adapters" / "global" / "wavetune_adapter.json").write_text(json.dumps({"head": {"outputs": 2}}))
    assert adapter_of(classifier, None, False) == classifier / "adapters" / "global"


def test_text_needs_no_head_and_no_adapter(tmp_path):
    save(recipes.get("pwff"), tmp_path / "recipe.json")
    assert adapter_of(tmp_path, None, True) is None
    with pytest.raises(RunFolderError, match="the run has not finished"):
        adapter_of(tmp_path, None, False)
