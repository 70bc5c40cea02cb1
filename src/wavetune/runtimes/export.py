"""The models that a run leaves behind: adapters as files, of what all share and of each client."""

from __future__ import annotations

from collections.abc import Mapping

from wavetune.federation.run_folder import RunFolder, explained
from wavetune.models.adapter_folder import save_adapter_folder
from wavetune.models.lora import LoraPair
from wavetune.runtimes.session import Session, client_factors


def adapter_name(client: int | None) -> str:
    """Folder under `adapters` of a client's model, or of the one that all share."""
    return "global" if client is None else f"client-{client:02d}"


def clients_models(session: Session) -> dict[int, dict[str, LoraPair]]:
    """Every client's adapters as they stand now."""
    return {
        client: client_factors(session.cohort.bank, client) for client in range(session.cohort.placement.num_clients)
    }


def export(
    folder: RunFolder, session: Session, factors: dict[str, LoraPair], personal: Mapping[int, dict[str, LoraPair]]
) -> None:
    """Write what all share (nothing, where there is none) and these clients' own adapters into a run's folder."""
    bank, base = session.cohort.bank, str(session.model.folder)
    adapters = folder.path / "adapters"
    named = {"global": factors} if factors else {}
    named |= {adapter_name(client): own for client, own in personal.items()}
    backbone, data = session.cohort.backbone, session.data
    with explained(adapters):
        for name, own in named.items():
            save_adapter_folder(adapters / name, own, backbone, bank.scale, base, data.classes, ends=data.ends)
