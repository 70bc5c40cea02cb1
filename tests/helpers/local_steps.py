"""What clients hold at the end of their local steps, before anything is sent."""

from typing import Any

from helpers.deployment import nothing
from helpers.runs import small, told
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build


def after_local_steps(*settings: str) -> tuple[list[Any], list[float]]:
    """What each of three clients holds at the end of a round's local steps, and its loss in the record of the round."""
    session, found = build(small("fedavg_lora", *settings)), list[Any]()
    outcome = train_round(session, 0, nothing, lambda: found.extend(session.cohort.bank.copies(k) for k in range(3)))
    return found, told(outcome)["train_loss_K"]
