"""The planner of a small world's rounds, without a model or data on disk."""

from __future__ import annotations

from typing import Any

from wavetune.costs.architecture import Architecture
from wavetune.costs.table import CostTable
from wavetune.federation.codecs import Fp32
from wavetune.federation.method import Lora, Method
from wavetune.federation.planning import PaperGreedy
from wavetune.federation.round_planner import RoundPlanner, SampleStatistics
from wavetune.federation.topology import Split
from wavetune.wireless.channel import draw_devices
from wavetune.wireless.scenario import Band, Bands, Population, Scenario

SCENARIO = Scenario(population=Population(num_clients=3), bands=Bands(Band(num_subchannels=6), Band(num_subchannels=4)))
ARCHITECTURE = Architecture.from_config(
    {
        "model_type": "llama",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
)
METHOD = Method("", Split(), Lora(), activation_codec=Fp32(), gradient_codec=Fp32(), planner=PaperGreedy(),
                rounds_to_target={1: 30.0, 4: 20.0, 8: 18.0})  # fmt: skip


def planner(method: Method = METHOD, scenario: Scenario = SCENARIO, **changes: Any) -> RoundPlanner:
    """A planner of three clients, with fields changed."""
    values: dict[str, Any] = {
        "scenario": scenario,
        "devices": draw_devices(scenario, 0),
        "table": CostTable(ARCHITECTURE, ("q_proj", "v_proj")),
        "method": method,
        "statistics": SampleStatistics(50.0, 2600.0, 20.0),
        "num_samples_K": (10, 20, 30),
        "local_steps": 2,
        "batch_size": 4,
        "rounds": 12,
        "seed": 0,
    }
    return RoundPlanner(**{**values, **changes})
