"""Where the numbers of a page or figure are from that plans and trains nothing."""

from collections.abc import Mapping, Sequence

from wavetune.models.resolve import note_of
from wavetune.recipe import Recipe


def origin_of(recipe: Recipe, seeds: Sequence[int]) -> dict[str, str]:
    """Seeds, model with the origin of its weights, and data, in words.

    >>> from wavetune import recipes
    >>> origin_of(recipes.get("sflllm"), (0, 1, 2))["Model"]
    'smollm2-135m: SmolLM2-135M-Instruct, dequantised from Q4_1 GGUF: not the original checkpoint'
    """
    data = recipe.world.data
    rows = "all training rows" if data.train_samples is None else f"{data.train_samples} training rows"
    clients = recipe.world.scenario.population.num_clients
    return {
        "Seeds": str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}",
        "Model": f"{recipe.world.model}: {note_of(recipe.world.model)}",
        "Data": f"{data.source}, {rows}, {data.partition.kind} over {clients} clients",
    }


def footnote(origin: Mapping[str, str], command: str) -> str:
    """The same in two lines for the foot of a figure, whose dollars are no formulas.

    >>> footnote({"Seeds": "0"}, "wavetune plan '$a$'").splitlines()
    ['seeds 0', "wavetune plan '\\\\$a\\\\$'"]
    """
    words = "; ".join(f"{name.lower()} {words}" for name, words in origin.items())
    return f"{words}\n{command}".replace("$", r"\$")
