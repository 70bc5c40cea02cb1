"""FedsLLM: split federated LoRA over FDMA, learning accuracy and bandwidths chosen for the least delay.

Source: arXiv 2407.09250. Model, solution and defaults are our reconstruction (docs/fedsllm.md).
"""

from wavetune.federation.method import Lora, Method
from wavetune.federation.planning import Fedsllm
from wavetune.federation.topology import Split
from wavetune.recipe import Recipe, RunSettings, World
from wavetune.recipes.sflllm import DATA, OPTIMISER
from wavetune.wireless.fading import Rayleigh
from wavetune.wireless.scenario import Band, Bands, Scenario

# The bands of `sflllm` in slices of 25 kHz, so that whole slices come close to any bandwidth. FDMA knows one gain a
# client.
BAND = Band(num_subchannels=400, subchannel_hz=25e3)


def recipe() -> Recipe:
    """Three blocks on the clients, in the world of `sflllm` but for flat fading and the slices of the bands."""
    method = Method(
        "FedsLLM: split federated LoRA with jointly planned learning accuracy and bandwidth",
        topology=Split(cut=3),
        lora=Lora(rank=8),
        optimiser=OPTIMISER,
        planner=Fedsllm(),
    )
    scenario = Scenario(bands=Bands(main=BAND, fed=BAND), fading=Rayleigh(frequency_selective=False))
    return Recipe("fedsllm", World(scenario=scenario, data=DATA), method, RunSettings(rounds=15, local_steps=0))
