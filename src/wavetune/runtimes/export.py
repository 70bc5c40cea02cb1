"""The models that a run leaves behind: adapters as files, of what all share and of each client."""

from collections.abc import Mapping
from pathlib import Path

from wavetune.data.settings import PreparedData
from wavetune.federation.cohort import Cohort
from wavetune.federation.run_folder import RunFolder, explained
from wavetune.models.adapter_folder import save_adapter_folder
from wavetune.models.lora import Matrices
from wavetune.runtimes.session import Session, client_factors


def adapter_name(client: int | None) -> str:
    """Folder under `adapters` of a client's model, or of the one that all share."""
    return "global" if client is None else f"client-{client:02d}"


def clients_models(session: Session) -> dict[int, dict[str, Matrices]]:
    """Every client's adapters as they stand now."""
    return {
        client: client_factors(session.cohort.bank, client) for client in range(session.cohort.placement.num_clients)
    }


def export(
    folder: RunFolder, session: Session, factors: dict[str, Matrices], personal: Mapping[int, dict[str, Matrices]]
) -> None:
    """Write what all share (nothing, where there is none) and these clients' own adapters into a run's folder.

    Adapters of another model than the servers' are not for its folder, and are none of `personal`.
    """
    shared: dict[int | None, dict[str, Matrices]] = {None: factors} if factors else {}
    write_models(folder.path, {**shared, **personal}, session.serving, session.data, session.model.folder)


def write_models(
    folder: Path, models: Mapping[int | None, Mapping[str, Matrices]], cohort: Cohort, data: PreparedData, base: Path
) -> None:
    """Write adapters on a base model into a folder, of clients or, under None, of what all share."""
    adapters, backbone, scale = folder / "adapters", cohort.backbone, cohort.bank.scale
    with explained(adapters):
        for client, own in models.items():
            path = adapters / adapter_name(client)
            save_adapter_folder(path, own, backbone, scale, str(base), data.classes, ends=data.ends)
