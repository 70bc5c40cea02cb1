"""What a checkpoint holds of a session, and a session restored from it."""

from collections.abc import Callable

import torch

from wavetune.federation.run_folder import RunFolder, fits, fitting, part_of
from wavetune.models.lora import named_matrices
from wavetune.runtimes.session import Session


def state_of(session: Session) -> dict[str, torch.Tensor]:
    """All that a session goes on from, as named tensors: adapters, optimisers, servers, schedule."""
    bank, state = session.cohort.bank, dict[str, torch.Tensor]()
    for side, stacks in (("clients", bank.local), ("server", bank.shared)):
        state |= {f"adapter.{side}.{name}": stack for name, stack in named_matrices(stacks)}
    optimiser, server = session.cohort.optimiser.state(), session.server.state()
    state |= {f"optimiser.{name}": value for name, value in optimiser.items()}
    if session.training is not None:
        own = session.training.cohort.optimiser.state()
        state |= {f"server_optimiser.{name}": value for name, value in own.items()}
    schedule = {f"schedule.{name}": torch.from_numpy(values) for name, values in session.schedule.items()}
    return state | {f"server.{name}": value for name, value in server.items()} | schedule


@torch.no_grad()
def restore(
    folder: RunFolder, session: Session, say: Callable[[str], None], recorded: int
) -> tuple[int, dict[str, torch.Tensor]]:
    """Load the newest checkpoint of no more than the `recorded` rounds of all phases; returns its rounds, and it."""
    checkpoint = folder.load_checkpoint(say, recorded)
    done, saved = checkpoint if checkpoint is not None else (0, {})
    for name, tensor in state_of(session).items() if done else ():
        if name.startswith(("adapter.", "server.held.")):
            found = fitting(saved, name, tensor, copied=name.startswith("adapter."))
            if name.startswith("adapter."):
                tensor.copy_(found)
    targets = {"optimiser.": session.cohort.optimiser, "server.": session.server}
    if session.training is not None:
        targets["server_optimiser."] = session.training.cohort.optimiser
    with fits():
        for part, target in targets.items():
            target.load_state(part_of(saved, part))
        schedule = part_of(saved, "schedule.")
        session.schedule |= {name: schedule[name].numpy() for name in session.schedule.keys() & schedule.keys()}
    return done, saved
