"""A device's part of a round without a cut: from an order and what the device keeps to what it sends, and back.

`train` and `receive` are the two halves, with the servers' mixing between them; nothing here knows what carries the
messages. Both leave the device changed, and `Device.state` holds all of it at any time: where the second half runs in
another process, that is what has to be kept between them.
"""

from dataclasses import dataclass
from pathlib import Path

from wavetune.data_plane.messages_pb2 import Frame, Loss, Part, RoundOrder, RoundReport, Score
from wavetune.data_plane.payloads import came_down, pack
from wavetune.federation.codecs import Payload
from wavetune.federation.run_folder import explained
from wavetune.recipe import save
from wavetune.runtimes.device_half import Device
from wavetune.runtimes.evaluation import own_and_foreign
from wavetune.runtimes.export import write_models
from wavetune.runtimes.session import client_factors

UP = "adapters_up"


@dataclass(frozen=True)
class Upload:
    """What a device sends of a round: the loss of every local step, and its shared adapters as the codec wrote them."""

    losses: tuple[Loss, ...]
    payloads: tuple[Payload, ...]

    def frame(self, sequence: int = 1) -> Frame:
        """As a message, which `Contract.accept` takes."""
        parts = [Part(kind=UP, tensors=pack(payload)) for payload in self.payloads]
        return Frame(sequence=sequence, losses=self.losses, parts=parts)


def train(device: Device, order: RoundOrder) -> Upload:
    """The local steps of a round. Raises NumericsError where a loss or gradient is not finite."""
    losses: list[Loss] = []
    for result in device.local_steps(order):
        labelled = int(result.labelled_K[0])
        losses.append(Loss(nll=float(result.loss_K[0]) * labelled, labelled=labelled, tokens=result.tokens))
    payloads: list[Payload] = []

    def keep(_kind: str, _client: int, payload: Payload) -> Payload:
        payloads.append(payload)
        return payload

    device.door.carry = keep
    device.upload(order)
    return Upload(tuple(losses), tuple(payloads))


def receive(device: Device, part: Part | None) -> None:
    """The end of a round: what the servers broadcast takes the place of the shared adapters. Raises RefusedError."""
    device.door.carry = lambda kind, _client, payload: came_down(part, kind, payload)
    device.end_round()


def ended(device: Device, order: RoundOrder, folder: Path | None) -> RoundReport:
    """The report on a round that is over; where it is due and only the device can, it says how good its model is.

    After the run's last round a device that has the whole model writes it into its folder.
    """
    run, report = device.recipe.run, RoundReport(round=order.round)
    if device.personal and run.evaluates_after(order.round):
        found = device.cohort.evaluate(device.data.validation, device.cohort.bank)
        own, foreign = own_and_foreign(device.data, device.client, found)
        report.own.CopyFrom(Score(**own._asdict()))
        report.foreign.CopyFrom(Score(**foreign._asdict()))
    if not device.cut and order.round + 1 == run.rounds and folder is not None:
        export(device, folder)
    return report


def export(device: Device, folder: Path) -> None:
    """Write the device's own model such that `wavetune generate FOLDER --client N` answers with it."""
    with explained(folder):
        save(device.recipe, folder / "recipe.json")
    own = client_factors(device.cohort.bank, 0)
    write_models(folder, {device.client: own}, device.cohort, device.data, Path(device.base))
