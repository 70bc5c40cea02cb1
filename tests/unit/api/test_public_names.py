"""The names and signatures that `import wavetune` promises; a change here is a change for everybody's scripts."""

import inspect
import subprocess
import sys

import wavetune as wt

SIGNATURES = {
    "compare": (
        "(recipe, other=None, *, seeds=3, methods=None, target=None, budgets=None, under='nothing', out=None, jobs=1, "
        "callbacks=(), display=None)"
    ),
    "deploy": (
        "(recipe, out=None, callbacks=(), *, devices=None, resume=False, rounds=None, emulate=False, deadline_s=120.0)"
    ),
    "load_run": "(folder)",
    "plan": "(what, *, time_limit_s=None, certificate=False)",
    "rank": (
        "(chosen=None, *, world=None, seeds=3, target=None, budgets=None, under='outage,lost_devices', "
        "evaluate_every=1, leave_out=False, out=None, jobs=1, callbacks=(), display=None)"
    ),
    "recipe": (
        "(name, *settings, data=None, model=None, tokenizer=None, rewards=None, seed=None, device=None, "
        "rank_table=None, codec_table=None)"
    ),
    "run": "(recipe, out=None, callbacks=(), *, resume=False, rounds=None, workers=None, ray=None)",
    "sweep": "(recipe, over, *, seeds=10, methods=None, out=None, jobs=1, progress=None)",
}
MEMBERS = {
    "Callback": ["aligned", "closed", "finished", "round", "started"],
    "Planned": [
        "delay_s", "lower_bound_s", "minds_energy", "note", "plan", "problem", "proof", "reason", "search_s",
        "sentences", "status", "to_dict", "what_helps",
    ],
    "Ranking": ["folder", "report", "rows", "run", "table"],
    "Recipe": ["method", "name", "run", "to_dict", "with_settings", "world"],
    "Run": [
        "adapter", "alignment", "evaluate", "folder", "generate", "plan", "recipe", "records", "report", "rounds",
        "status", "summary",
    ],
    "Swept": ["feasible", "folder", "points", "reading", "summary", "to_dict"],
}  # fmt: skip


def test_the_public_names_are_these():
    assert wt.__all__ == sorted([*SIGNATURES, *MEMBERS, "WavetuneError"])
    assert set(wt.__all__) <= set(dir(wt))


def test_the_public_functions_take_these_arguments():
    found = {}
    for name in SIGNATURES:
        signature = inspect.signature(getattr(wt, name))
        bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
        found[name] = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    assert found == SIGNATURES


def test_the_public_classes_have_these_members():
    found = {name: {*dir(getattr(wt, name)), *getattr(getattr(wt, name), "__annotations__", {})} for name in MEMBERS}
    assert {name: sorted(own for own in names if not own.startswith("_")) for name, names in found.items()} == MEMBERS


def test_everything_public_says_what_it_does_and_is_typed():
    for name in wt.__all__:
        assert inspect.getdoc(getattr(wt, name))
    for name in SIGNATURES:
        signature = inspect.signature(getattr(wt, name))
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(one.annotation is not inspect.Parameter.empty for one in signature.parameters.values())


def test_the_stub_for_type_checkers_names_what_the_package_offers():
    stub = (wt.__file__ or "") + "i"
    with open(stub) as file:
        lines = [line.split() for line in file if line.startswith("from")]
    assert {line[-1]: line[1] for line in lines} == wt._HOMES


def test_functions_stay_functions_when_modules_of_their_names_are_imported():
    import wavetune.recipe
    import wavetune.sweep.run  # noqa: F401

    assert callable(wt.recipe)
    assert callable(wt.sweep)
    assert sys.modules["wavetune.recipe"].Recipe is wt.Recipe


def test_importing_the_package_and_making_a_recipe_needs_no_torch():
    script = "import wavetune as wt, sys; wt.recipe('sflllm', 'run.rounds=2'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
