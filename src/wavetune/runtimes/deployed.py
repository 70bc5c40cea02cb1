"""The servers of a deployed run: a run in one process whose clients' halves are on devices.

Rounds, plans, accounts, records and checkpoints are those of `wavetune.runtimes.inprocess`; what is exchanged for the
parts that run here are the cohort and the federated server, whose counterparts answer over the data plane.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from cryptography.x509 import load_pem_x509_certificate

from wavetune.allocation.plan import speeds_of
from wavetune.data_plane import messages_pb2
from wavetune.data_plane.bounds import far_below, out_of_proportion
from wavetune.data_plane.certificates import Identity, Revoked, device_name
from wavetune.data_plane.contract import Contract
from wavetune.data_plane.control import Control, Coordinator, claimed
from wavetune.data_plane.diagnosis import require_listenable
from wavetune.data_plane.messages_pb2 import RoundReport
from wavetune.data_plane.places import PER_PARTY, Places
from wavetune.data_plane.refusal import Reason, quoted
from wavetune.data_plane.served_steps import CutSteps, ReportedSteps
from wavetune.data_plane.server import DataPlane, serve
from wavetune.data_plane.wires import ServerWire
from wavetune.errors import ConfigError, DeploymentError
from wavetune.federation.door import Door
from wavetune.federation.messages import adapter_spec, beside
from wavetune.federation.placement import OF_SERVERS
from wavetune.federation.run_folder import RunFolder, write_whole
from wavetune.records.fields import OPTIONAL
from wavetune.records.rounds import BIT_KINDS, Lost, Measured, Phases, Refused
from wavetune.runtimes.alignment import devices
from wavetune.runtimes.engine import Engine, Trainer
from wavetune.runtimes.evaluation import Score
from wavetune.runtimes.orders import Orders
from wavetune.runtimes.outcome import RoundOutcome, Witness
from wavetune.runtimes.roster import Roster, Sight
from wavetune.runtimes.round import Prepared, StepDone, not_finite, prepare, train_round
from wavetune.runtimes.saved import Deployed
from wavetune.runtimes.session import Session

_CLOSING_S = 10.0  # for streams to end; what a party sent in masses would take gRPC longer to read
_ANSWER_S = 1.0  # for an answer that is there already, or will not come
_REFUSALS = 3  # of all devices, one after the other: a network that was cut for a moment is back by then
_LONGEST_REST = 64  # rounds, of a device that is always too late
_RESTS = "client {} was too late {} times in a row; rounds until it is asked again: {}"


@dataclass(frozen=True)
class Deployment:
    """How a run's servers meet its devices.

    `address` is where they listen; devices open their streams at `public_address` (None: where they attend). All are
    waited for `patience_s` before the first round; later rounds go on with those that attend. A device that does not
    answer within `deadline_s` is lost for the round. With `emulate` every stream is paced to the rates of the plan.
    Devices on the list of revoked certificates in the folder `certificates` are refused, the list read as it changes.
    """

    address: str
    identity: Identity
    public_address: str | None = None
    patience_s: float = 300.0
    deadline_s: float = 120.0
    emulate: bool = False
    certificates: Path | None = None


@dataclass
class Servers:
    """The main and the federated server of one run, listening."""

    session: Session
    deployment: Deployment
    run: str
    say: Callable[[str], None]
    plane: DataPlane
    coordinator: Control
    address: str
    wire: ServerWire = field(init=False)
    orders: Orders = field(init=False)
    places: Places = field(default_factory=Places)
    known: set[int] = field(default_factory=set[int])  # devices that were asked before
    claims: dict[int, str] = field(default_factory=dict[int, str])  # what devices say of a round that failed
    doubted: set[int] = field(default_factory=set[int])  # whose losses of the round before were far below the others'
    late: dict[int, int] = field(default_factory=dict[int, int])  # rounds in a row in which a device was too late
    asked_from: dict[int, int] = field(default_factory=dict[int, int])  # the round from which it is asked again
    round: int | None = None  # that goes on, or is the latest

    def __post_init__(self) -> None:
        answers = 1 if self._cut else self.session.recipe.run.local_steps  # for which one frame is awaited
        self.wire = ServerWire(answers * self.deployment.deadline_s, self.plane.stream)
        self.session.door.carry, self.session.on_devices = self.wire.carry, True
        if self._cut:
            self.session.cohort.half = OF_SERVERS
        self.session.place = (CutSteps if self._cut else ReportedSteps)(self.session.cohort, self.wire)
        self._nodes = self.session.server
        self._nodes.half, self._nodes.transport = OF_SERVERS, self.wire
        given = self.deployment
        at, patience_s, deadline_s = given.public_address or "", given.patience_s, given.deadline_s
        self.orders = Orders(self.session, self.coordinator, self.run, at, patience_s, deadline_s)

    def train_round(
        self, session: Session, index: int, on_step: StepDone, before_mixing: Callable[[], None] | None = None
    ) -> RoundOutcome:
        """Order a round, train it with whoever is there, and say what was seen of them."""
        self.round, everyone = index, prepare(session, index)
        present = self._assemble(index, everyone)
        ready = everyone.among([k in present for k in range(session.cohort.placement.num_clients)])
        session.cohort.seconds.clear()
        if session.training is not None:
            session.training.cohort.seconds.clear()

        def see_uploads() -> None:
            self._show_uploads(index)
            if before_mixing is not None:
                before_mixing()

        started = time.perf_counter()
        outcome = train_round(session, index, on_step, see_uploads if before_mixing else None, ready)
        wall_s = time.perf_counter() - started
        reports = self._reports(index, present)
        self._count_late(index, present - reports.keys())
        self._require_finite(index, present, reports)
        if not self._cut and session.recipe.run.evaluates_after(index):
            for client, told in self._catch_up(index, self._without_end(index, reports)).items():
                told.seconds.update(reports[client].seconds if client in reports else {})
                reports[client] = told
        scores = {k: (_score(r.own), _score(r.foreign)) for k, r in reports.items() if r.HasField("own")}
        unbelieved = out_of_proportion("training loss", outcome.losses())
        misjudged = _of_scores(out_of_proportion, scores)
        doubted = far_below("training loss", outcome.losses()) | _of_scores(far_below, scores)
        told = (*unbelieved.items(), *misjudged.items(), *doubted.items())
        for client, why in told:
            if client not in self.doubted:
                self.say(f"{device_name(client)}: {why}")
        self.doubted = {*doubted}
        refused = [Refused(device_name(client), why) for client, why in told]
        witness = Witness(
            heard_K=[self.wire.took_part(k) for k in range(session.cohort.placement.num_clients)],
            lost=tuple(self._why(k, seen) for k, seen in sorted(self.wire.lost.items())),
            refused=(*self.places.take_refused(), *refused),
            unbelieved=unbelieved.keys(),
            measured=self._measured(wall_s, present, reports),
            scores={k: told for k, told in scores.items() if k not in misjudged} if session.personal else None,
        )
        self.plane.close_round("the round is over")
        return replace(outcome, witness=witness)

    def sight(self) -> Sight:
        """What is seen of the devices now."""
        return Sight(frozenset(self.coordinator.present()), self.round, self.wire.lost.copy(), self.places.refusals())

    def _show_uploads(self, index: int) -> None:
        """Put what the devices sent into their slots, before it is mixed."""
        came, door = sorted(filter(self.wire.can_send, self.wire.present)), Door(self.wire.carry)
        uploads = {client: self._nodes.upload(client, door, index) for client in came}
        self._nodes.show({client: tensors for client, tensors in uploads.items() if tensors is not None})

    def _require_finite(self, index: int, present: set[int], reports: Mapping[int, RoundReport]) -> None:
        """Raise NumericsError if the losses of all of several devices are not finite: then none is at fault."""
        few = len(present) < min(2, self.session.cohort.placement.num_clients)
        if not (few or self.wire.trained) and all(k in reports and reports[k].not_finite for k in present):
            raise not_finite(f"round {index}", self.claims[min(present)])

    @property
    def _cut(self) -> bool:
        return self.session.cohort.placement.split

    def _assemble(self, index: int, ready: Prepared) -> set[int]:
        """Order the round and wait for the streams; returns whose came.

        Nobody's, where others sit the round out and none of those whom it is for comes within the deadline, or can take
        part. Raises DeploymentError where it is for all, and none comes in time or all say again that they cannot.
        """
        chosen, deployment = {k for k, active in enumerate(ready.active_K) if active}, self.deployment
        some, started = len(chosen) < len(ready.active_K), time.monotonic()
        wait_s, tries = (deployment.deadline_s, 1) if some else (deployment.patience_s, _REFUSALS)
        while True:
            here = self._present(index, started + deployment.patience_s) & chosen
            if present := self._ask(index, here, chosen, ready):
                return present
            tries -= self._hear(index, here) == chosen
            if tries and time.monotonic() < started + wait_s:
                continue
            if some:
                return set()
            why = "none of its devices came back in time" if tries else f"no device can take part; {self._said()}"
            raise DeploymentError(f"round {index} at {self.address}: {why}")

    def _ask(self, index: int, here: set[int], chosen: set[int], ready: Prepared) -> set[int]:
        """Order the round from those who are here, but for who rests; whose streams came. Others are `lost`."""
        asked = {k for k in here if self.asked_from.get(k, 0) <= index} or here
        lost, first_s, later_s = self.wire.lost, self.deployment.patience_s, self.deployment.deadline_s
        self.wire.begin_round()
        self.claims.clear()
        self._order(index, asked, ready)
        self.plane.wait_for({k: later_s if k in self.known else first_s for k in sorted(asked)})
        self.known |= asked
        lost.update({k: f"client {k} is away" for k in chosen - here})
        lost.update({k: _RESTS.format(k, self.late[k], self.asked_from[k] - index) for k in here - asked})
        lost.update({k: failure for k in asked if (failure := self.plane.stream(k).failure)})
        self.wire.present |= asked - lost.keys()
        return set(self.wire.present)

    def _hear(self, index: int, here: set[int]) -> set[int]:
        """Of devices whose streams did not come, who say that they cannot take part; their words are their claims."""
        until = time.monotonic() + _ANSWER_S
        for client in sorted(here):
            report = self.orders.report(client, index, max(0.0, until - time.monotonic()))
            if report is not None:
                self.claims[client] = quoted(report.failure)
        if not here:
            time.sleep(_ANSWER_S)
        return set(self.claims)

    def _said(self) -> str:
        """What devices say, those together who say the same."""
        clients = dict[str, list[str]]()
        for client, words in self.claims.items():
            clients.setdefault(words, []).append(str(client))
        return "; ".join(f"device {', '.join(own)}: {words}" for words, own in clients.items())

    def _count_late(self, index: int, silent: set[int]) -> None:
        """Ask less often who is too late again, as everybody waits for it; who is `silent` gave no report."""
        for client in self.known:
            stream = self.plane.find(client)
            if stream is None:
                continue
            if (stream.failure and stream.reason is Reason.LATE) or client in silent & self.coordinator.present():
                self.late[client] = self.late.get(client, 0) + 1
                self.asked_from[client] = index + min(2 ** (self.late[client] - 1), _LONGEST_REST)
            else:
                self.late.pop(client, None)

    def _present(self, index: int, until: float) -> set[int]:
        """Who attends: at first all, later whoever is there. Raises DeploymentError after `until`."""
        num_clients = self.session.cohort.placement.num_clients
        everyone, present = set(range(num_clients)), self.coordinator.present()
        if present < everyone and not self.known:
            self.say(f"waiting for {num_clients} devices at {self.address}")
            present = self.coordinator.wait_for(everyone, until - time.monotonic())
            if present < everyone and index == 0:
                missing = ", ".join(str(k) for k in sorted(everyone - present))
                raise DeploymentError(f"devices {missing} did not come to {self.address} in time")
        while not present:
            if time.monotonic() > until:
                raise DeploymentError(f"round {index}: no device came back to {self.address} in time")
            self.coordinator.wait_for(everyone, _ANSWER_S)
            present = self.coordinator.present()
        return present

    def _order(self, index: int, present: set[int], ready: Prepared) -> None:
        session, emulate = self.session, self.deployment.emulate
        speeds = speeds_of(ready.problem, ready.plan.main, ready.plan.fed)
        self.wire.without_upload = {k for k in present if not ready.sent_K[k]}
        contracts = [contract_of(session, client, ready.sent_K[client]) for client in sorted(present)]
        pace = {k: _pace(speeds.downlink_bit_per_s_K[k]) for k in present} if emulate else {}
        tokens = self.plane.open_round(index, contracts, pace)
        for client in sorted(present):
            known = index == 0 or self.orders.knows(client, index)
            order = self.orders.order(
                index,
                token=tokens[client],
                adapters=b"" if known else self.orders.adapters_of(client),
                main_bit_per_s=_pace(speeds.uplink_bit_per_s_K[client]) if emulate else 0.0,
                fed_bit_per_s=_pace(speeds.fed_up_bit_per_s_K[client]) if emulate else 0.0,
                outage=not ready.sent_K[client],
                blocks=session.server.agenda.blocks or (),
                frozen=sorted(session.server.agenda.frozen),
            )
            order.local_steps, order.batch_size = session.steps_K[client], session.batch_size_K[client]
            self.coordinator.order(client, order)

    def _without_end(self, index: int, reports: Mapping[int, RoundReport]) -> set[int]:
        """Whom no report shows at the end of an evaluated round: not there, not judged, or without the last mixture."""
        last = index + 1 == self.session.recipe.run.rounds

        def ended(client: int) -> bool:
            if self.session.personal:
                return reports[client].HasField("own")
            return not (reports[client].failure or (last and self.coordinator.has_broadcast_to_come(client)))

        awake = {k for k in self.coordinator.present() if last or self.late.get(k, 0) < 2}
        return {k for k in awake if k not in reports or not ended(k)}

    def _catch_up(self, index: int, absent: set[int]) -> dict[int, RoundReport]:
        """Let those who had no part in a round, or have not seen its end, have what came of it; returns who answers."""
        orders = self.orders
        return orders.ask(absent, lambda k: orders.order(index, listen=True, adapters=orders.adapters_of(k)))[0]

    def _reports(self, index: int, present: set[int]) -> dict[int, RoundReport]:
        found: dict[int, RoundReport] = {}
        now = time.monotonic()
        lost_s, until = now + _ANSWER_S, now + self.deployment.deadline_s
        for client in sorted(present):
            patience_s = max(0.0, (lost_s if client in self.wire.lost else until) - time.monotonic())
            report = self.orders.report(client, index, patience_s)
            if report is None:
                self.wire.lost.setdefault(client, f"client {client} did not report on the end of the round")
                continue
            if report.failure:
                self.wire.lost.setdefault(client, claimed(client, report.failure))
                self.claims[client] = quoted(report.failure)
            found[client] = report
        return found

    def _why(self, client: int, seen: str) -> Lost:
        """A lost device in the record: what the servers saw, and beside it what the device says, if that is more."""
        claim = self.claims.get(client, "")
        return Lost(client, seen, "" if claim in seen else claim)

    def _measured(self, wall_s: float, present: set[int], reports: Mapping[int, RoundReport]) -> Measured:
        """Seconds and bytes that the round really took, named like those that are charged; clients apart."""
        clients = range(self.session.cohort.placement.num_clients)
        streams, spent_s = {k: self.plane.stream(k).measured for k in present}, self.session.cohort.seconds

        def seconds_K(phase: str) -> tuple[float, ...]:
            return tuple(
                float(streams[k].seconds.get(phase, 0.0) if k in streams else 0.0)
                + (reports[k].seconds.get(phase, 0.0) if k in reports else 0.0)
                for k in clients
            )

        seconds: dict[str, Any] = {
            f.name: spent_s[f.name.removeprefix("server_")] if f.name.startswith("server") else seconds_K(f.name)
            for f in fields(Phases)
            if f.metadata != OPTIONAL
        }
        if self.session.training is not None:
            seconds["server_steps_s"] = sum(self.session.training.cohort.seconds.values())
        payload = {kind: sum(m.payload_bytes[kind] for m in streams.values()) for kind in BIT_KINDS}
        up_K, down_K = (
            tuple(streams[k].frame_bytes[way] if k in streams else 0 for k in clients) for way in ("up", "down")
        )
        return Measured(
            wall_s=wall_s,
            phases=Phases(**seconds),
            payload_bytes={kind: count for kind, count in payload.items() if count},
            framing_bytes=sum(up_K) + sum(down_K) - sum(payload.values()),
            frame_bytes_up_K=up_K,
            frame_bytes_down_K=down_K,
        )


@contextmanager
def opened(
    session: Session,
    deployment: Deployment,
    run: str,
    say: Callable[[str], None],
    control: Callable[[DataPlane], Control] | None = None,
) -> Iterator[Servers]:
    """The servers of a session, listening for as long as the context lasts. Raises ConfigError, DeploymentError.

    Without another `control` devices attend where they open their streams.
    """
    check_deployable(session)
    num_clients = session.cohort.placement.num_clients
    plane = DataPlane(run)
    if control is None:
        coordinator = Coordinator(num_clients, plane.give_up)
        handlers = [plane.handler(), coordinator.handler()]
    else:
        coordinator, handlers = control(plane), [plane.handler()] if session.cohort.placement.split else []
    places = Places(_revoked(deployment), say)
    with ExitStack() as stack:
        address = _listen(session, deployment, handlers, places, stack) if handlers else deployment.address
        servers = Servers(session, deployment, run, say, plane, coordinator, address, places)
        try:
            yield servers
            coordinator.dismiss("the run is finished")
        finally:
            plane.close_round("the server stops")


def _listen(
    session: Session,
    deployment: Deployment,
    handlers: Sequence[grpc.GenericRpcHandler],
    places: Places,
    stack: ExitStack,
) -> str:
    """Serve until the stack unwinds; returns the address with the port that was taken."""
    num_clients = session.cohort.placement.num_clients
    largest = max(contract_of(session, client).max_frame_bytes for client in range(num_clients))
    try:
        streams = len(handlers) * PER_PARTY * num_clients + 4
        server, port = serve(deployment.address, deployment.identity, handlers, streams, largest, places)
    except RuntimeError as error:
        require_listenable(deployment.address)
        raise DeploymentError(f"cannot listen at {deployment.address}; choose another --address") from error
    stack.callback(lambda: server.stop(1.0).wait(_CLOSING_S))
    return f"{deployment.address.rpartition(':')[0]}:{port}"


def _revoked(deployment: Deployment) -> Callable[[int], bool]:
    if deployment.certificates is None:
        return lambda _serial: False
    revoked = Revoked(deployment.certificates, load_pem_x509_certificate(deployment.identity.authority))
    revoked.serials()  # a list that cannot be read is told at once
    return revoked


def engine(
    deployment: Deployment,
    out: Path,
    port_file: Path | None = None,
    control: Callable[[DataPlane], Control] | None = None,
    roster: Roster | None = None,
) -> Engine:
    """What trains a run's rounds on devices. Where given, the port is written to a file once devices can come.

    Where devices attend here, and not by another `control`, the roster and its file say who does.
    """

    kept = (roster or Roster()).kept

    @contextmanager
    def opened_in(session: Session, say: Callable[[str], None]) -> Iterator[Trainer]:
        known = RunFolder(out).read_json("deployment.json", Deployed)
        run = secrets.token_hex(8) if known is None else str(known["run"])  # so that devices never mix up two runs
        with opened(session, deployment, run, say, control) as servers:
            RunFolder(out).write_json("deployment.json", {"run": run})
            if port_file is not None:
                write_whole(port_file, servers.address.rpartition(":")[2])
            size = session.cohort.placement.num_clients, session.recipe.run.rounds
            with nullcontext() if control else kept(out, servers.address, *size, servers.sight):
                yield Trainer(servers.train_round, partial(devices.begin, servers.orders))

    return opened_in


def check_deployable(session: Session) -> None:
    """Raise ConfigError for what devices cannot do yet."""
    method = session.recipe.method
    if session.central:
        raise ConfigError(
            "method.topology central has one trainer and no devices; set method.topology.kind to split or federated, "
            "or use `wavetune run`"
        )
    if why := method.simulated_only:
        raise ConfigError(f"{why}; choose another, or use `wavetune run`")
    if method.topology.is_split and session.data.classes:
        raise ConfigError(
            "wavetune deploy cuts models that learn the next token; where rows have classes set "
            "method.topology.kind=federated, or use `wavetune run`"
        )
    if method.topology.is_split and session.personal:
        raise ConfigError(
            "with personal adapters in front of a cut and the servers' blocks behind it nobody has a whole model to "
            "evaluate; set method.topology.kind=federated or share all adapters, or use `wavetune run`"
        )


def contract_of(session: Session, client: int, sends: bool = True) -> Contract:
    """What a client may send in a round; no adapters unless it `sends` them."""
    placement, method = session.cohort.placement, session.recipe.method
    config = session.cohort.backbone.model.config.get_text_config()
    own = [site for site in session.server.due if placement.local_LK()[site.layer, client]]
    adapters = adapter_spec(own, session.rank_K[client], session.server.unsent) if sends else {}
    adapters = beside(adapters, method.mixing.hears)
    return Contract(
        client=client,
        u_shape=placement.tail_K[client] is not None,
        local_steps=session.steps_K[client],
        width=config.hidden_size,
        cut=placement.cut_K[client],
        batch_size=session.batch_size_K[client],
        max_row_tokens=session.recipe.world.data.max_tokens + method.prompt_tokens,
        vocabulary=config.vocab_size,
        activation_codec=session.cohort.link.activation_codec,
        gradient_codec=session.cohort.link.gradient_codec,
        chain=session.server.chain,
        adapters=adapters,
        uncut=not placement.split,
    )


def _of_scores(
    judge: Callable[[str, Mapping[int, float]], dict[int, str]], scores: Mapping[int, tuple[Score, Score]]
) -> dict[int, str]:
    """What is said of validation losses, on rows of a client's own or on foreign ones, by client."""
    found = ({k: loss for k, pair in scores.items() if (loss := pair[i].loss) is not None} for i in (0, 1))
    return {k: why for losses in found for k, why in judge("validation loss", losses).items()}


def _score(told: messages_pb2.Score) -> Score:
    return Score(told.nll, told.positions, told.correct)


def _pace(rate_bit_per_s: float) -> float:
    return 0.0 if rate_bit_per_s == float("inf") else float(rate_bit_per_s)
