"""The end of a round for the nodes that live in this process: all of them, one device, or the servers.

Every message passes the door: declared, encoded, metered, carried to where its receiver lives, decoded.
Legend: K clients.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch leave parts of their types open)

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from wavetune.costs.adapter import AdapterSite
from wavetune.errors import NumericsError
from wavetune.federation.codecs import Chain, Context, Fp32, Tensors
from wavetune.federation.codecs.codec import on_the_wire, receive, send, specs
from wavetune.federation.codecs.precision import way_back
from wavetune.federation.door import Door
from wavetune.federation.exchanges.exchange import SERVER, Exchange, Held, Hop
from wavetune.federation.exchanges.star import Star
from wavetune.federation.filters.filter import Filter
from wavetune.federation.messages import EVERYTHING, Agenda, Field, adapter_spec, beside, server_bits
from wavetune.federation.mixing import Mixing
from wavetune.federation.placement import WHOLE, Half
from wavetune.federation.run_folder import fitting
from wavetune.federation.sharing import Sharing
from wavetune.federation.updates import MAIN, Inbox, Node, RoundEnd, Update
from wavetune.models.lora import AdapterBank, Matrices, named_matrices

_EXCHANGE = "exchange"  # whose state this is, among those of parts
_UNHEARD = "what it tells beside its update is not finite"
PLAUSIBLE = 10.0  # trained adapters stay far below; above it a mixture is tried out


@dataclass(frozen=True)
class Mixed:
    """The global adapters, matrices by site, and the mixing rule's relative aggregation error.

    `rejected` says of whom an update was not taken, and why.
    """

    factors: dict[str, Matrices]
    error: float
    rejected: dict[int, str] = field(default_factory=dict[int, str])


class Transport(Protocol):
    """What says which clients are there, where these are elsewhere."""

    def took_part(self, client: int) -> bool:
        """Whether a client trained in the round."""
        ...

    def can_send(self, client: int) -> bool:
        """Whether a client's message can be had."""
        ...

    def end_round(self) -> None:
        """Nothing more is broadcast in this round."""


@dataclass
class Nodes:
    """The nodes of an exchange that live here, with what they hold and what their parts remember.

    Clients' adapters are in the bank; a client of rank r holds the first r components of what it was sent. A block that
    some clients leave to the main server is mixed from the copies of its holders and the main server's, the latter with
    the weight of the clients it serves. `half` says whose side is computed here: of the
    others the bank has what they were sent. `agenda` is what the round under way is about. `client_ids` are
    who the bank's clients are. `holds` tries a mixture out, where the model is at hand; `refine` makes what the
    server broadcasts of a round's and of what the server had. `tell` has a client remember what came beside that, and
    `ask` has it say what goes up beside its adapters.
    """

    bank: AdapterBank
    rank_K: Sequence[int]
    mixing: Mixing
    chain: Chain = (Fp32(),)
    sharing: Sharing = field(default_factory=Sharing)
    filters: tuple[Filter, ...] = ()
    exchange_part: Exchange = field(default_factory=Star)
    seed: int = 0
    client_ids: Sequence[int] = ()
    half: Half = WHOLE
    holds: Callable[[Mapping[str, Matrices]], bool] | None = None
    refine: Callable[[int, Tensors, Tensors], Tensors] | None = None
    tell: Callable[[int, Tensors], None] | None = None
    ask: Callable[[int], Tensors] | None = None
    transport: Transport | None = None
    agenda: Agenda = EVERYTHING
    held: dict[Node, Held] = field(init=False)
    states: dict[str, Tensors] = field(default_factory=dict[str, Tensors])
    mixed_by_round: list[int] = field(default_factory=list[int])
    _starts: dict[int, Tensors] = field(default_factory=dict[int, Tensors])  # where changes are sent

    def __post_init__(self) -> None:
        names = self.sharing.names(self.bank.sites, self.num_layers, "shared")
        self.sites = tuple(site for site in self.bank.sites if site.name in names)
        self.client_ids = self.client_ids or range(len(self.rank_K))
        start = {name: t for site in self.sites for name, t in self._widest(site).items()}
        self.held = {node: Held(dict(start), 1.0) for node in self.exchange_part.servers}
        self.broadcast_chain = way_back(self.chain)
        self.of_changes = any(one.of_changes for one in self.chain)
        matrices = [(site, matrix) for site in self.sites for matrix in site.matrices]
        columns = {f"{site.name}.{matrix.name}" for site, matrix in matrices if matrix.columns}
        aside = (*self.mixing.beside, *self.mixing.hears)
        self._columns = columns | {f"{what}.{name}" for what in aside for name in columns}

    @property
    def unsent(self) -> frozenset[str]:
        """The factors of shared LoRA that do not cross in the round under way."""
        return self.sharing.unsent(self.mixing) | self.agenda.frozen

    @property
    def num_layers(self) -> int:
        """Number of the model's blocks."""
        return self.bank.local_LK.shape[0]

    @property
    def names(self) -> frozenset[str]:
        """The sites whose adapters are exchanged."""
        return frozenset(site.name for site in self.sites)

    @property
    def current(self) -> dict[str, Matrices]:
        """The adapters that all clients together have. Only where all nodes are: a device has but what it was sent."""
        return _by_site(self.exchange_part.common(self.held, self._clients))

    def begin(self, round_index: int) -> Agenda:
        """Settle what a round is about, from the rounds before it, and what changes of clients start from."""
        state = self.states.get(_EXCHANGE, {})
        self.agenda = self.exchange_part.agenda(state, self.num_layers, round_index)
        for k in range(len(self.rank_K) if self.of_changes else 0):
            crossing = self._spec(k)  # as the broadcast came, which may have been rounded on its way
            self._starts[k] = {name: t for name, t in self.bank.copies(k, self.sites).items() if name in crossing}
        return self.agenda

    @property
    def due(self) -> tuple[AdapterSite, ...]:
        """The shared sites that the round under way is about."""
        return tuple(site for site in self.sites if self.agenda.has(site.layer))

    def _clients(self) -> list[Held]:
        """What every client here holds."""
        return [Held(self.bank.copies(k, self.sites)) for k in range(len(self.rank_K))]

    @torch.no_grad()
    def exchange(
        self,
        weight_K: Sequence[float],
        door: Door | None,
        active_K: Sequence[bool] | None = None,
        sent_K: Sequence[bool] | None = None,
        delivered_K: Sequence[bool] | None = None,
        round_index: int = 0,
        losses: Mapping[int, float] | None = None,
        rates_K: Sequence[tuple[float, ...]] = (),
    ) -> Mixed:
        """End a round: all messages of the exchange, hop by hop. Without a door nothing crosses the air.

        Whose update makes the mixture one that nothing can be computed with is rejected. Raises NumericsError if that
        holds for all.

        Args:
            weight_K: weights of the clients, any positive scale.
            door: what the adapters cross.
            active_K: who trained this round; all if None.
            sent_K: whose uploads were sent; those of all active clients if None.
            delivered_K: whose uploads arrived; those sent if None.
            round_index: which round of the run this ends.
            losses: mean training losses of the round, of those clients whose is known.
            rates_K: learning rates of each client's local steps.
        """
        everyone = [True] * len(weight_K)
        active_K = everyone if active_K is None else active_K
        sent_K = active_K if sent_K is None else sent_K
        delivered_K = sent_K if delivered_K is None else delivered_K
        if (there := self.transport) is not None:
            active_K = [there.took_part(k) for k in range(len(weight_K))]
            sent_K = [on and there.can_send(k) for k, on in enumerate(sent_K)]
            delivered_K = [on and there.can_send(k) for k, on in enumerate(delivered_K)]
        who = active_K, sent_K, delivered_K
        ending, before = _Ending(self, weight_K, door, *who, round_index, losses or {}, rates_K), dict(self.held)
        for hop in self.exchange_part.hops(range(len(weight_K)), np.flatnonzero(active_K).tolist(), round_index):
            ending.run(hop)
        if there is not None:
            there.end_round()
        self.mixed_by_round.append(len(ending.mixed))
        state = self.exchange_part.settle(self.states.get(_EXCHANGE, {}), self.sites, before, self.held)
        self.states |= {_EXCHANGE: state} if state else {}
        for site in self.sites:
            for name, stored in self.bank.shared.get(site.name, {}).items():
                stored[0].copy_(self.current[site.name][name])
        return Mixed(self.current, ending.error, ending.rejected)

    @torch.no_grad()
    def upload(self, client: int, door: Door | None, round_index: int, kind: str = "adapters_up") -> Tensors | None:
        """One client's message to its server, as this decodes it, with what is beside its adapters; None where that is
        elsewhere.
        """
        start, own, adapters = self.start_of(client), self.own(client), self._spec(client)
        spec, told = beside(adapters, self.mixing.hears), {} if self.ask is None else self.ask(client)
        for name in (name for name in spec if name not in adapters):
            start[name] = torch.zeros_like(start[name.partition(".")[2]])
            own[name] = told.get(name, start[name])
        if door is None or not spec:
            return own
        context = Context(self.seed, round_index, self.client_ids[client])
        payload = Tensors()
        if self.half.clients:
            base = {name: t - start[name] for name, t in own.items()} if self.of_changes else own
            message = self._message(spec, base)
            payload = self._encoded(f"{self.client_ids[client]}|{kind}", message, spec, context)
        payload = door.pass_on(kind, client, payload, on_the_wire(self.chain, spec))
        if not self.half.servers:
            return None
        came = receive(self.chain, payload, spec, context)
        found = {name: t.clone() for name, t in start.items()}
        for name, tensor in came.items():
            rows, view = len(tensor), self._by_component(name, found[name])
            view[:rows] = tensor.to(view) + view[:rows] if self.of_changes else tensor.to(view)
        return found

    @torch.no_grad()
    def download(self, client: int, door: Door | None) -> None:
        """The broadcast to one client, loaded as it decodes it."""
        spec, chain = beside(self._spec(client), self.mixing.beside), self.broadcast_chain
        received = self._held_for(client) | self._beside_for(client)
        if door is not None and spec:
            context = Context(self.seed, 0, self.client_ids[client])
            states = [one.start(before) for one, before in zip(chain, specs(chain, spec), strict=False)]
            payload = send(chain, self._message(spec, received), states, context)[0]
            payload = door.pass_on("adapters_down", client, payload, on_the_wire(chain, spec))
            for name, tensor in receive(chain, payload, spec, context).items():
                self._by_component(name, received[name])[: len(tensor)] = tensor.to(received[name])
        self.store(client, received)
        if self.mixing.beside and self.tell is not None:
            self.tell(client, {name: received[name] for name in spec})

    @torch.no_grad()
    def remember_broadcast(self) -> None:
        """What the one client of this device has now is what it was last sent."""
        self.held = {self.exchange_part.server_of(self.client_ids[0]): Held(self.bank.copies(0, self.sites), 1.0)}

    @torch.no_grad()
    def show(self, uploads: Mapping[int, Tensors]) -> None:
        """Put clients' uploads into their slots, before they are mixed."""
        for client, tensors in uploads.items():
            self.store(client, tensors)

    def start_of(self, client: int) -> Tensors:
        """Copies of what a client started the round from, padded to the common rank."""
        found = self._held_for(client)
        own = self._starts.get(client, {})
        return {name: own[name].clone() if name in own else t for name, t in found.items()}

    def _held_for(self, client: int) -> Tensors:
        """The first components of what a client's server holds, copied."""
        return self._of_rank(client, self.held[self.exchange_part.server_of(self.client_ids[client])].tensors)

    def _of_rank(self, client: int, tensors: Tensors) -> Tensors:
        """Copies of a client's matrices, without what is beyond its rank."""
        found = Tensors()
        for site in self._sites_of(client):
            for matrix in site.matrices:
                name = f"{site.name}.{matrix.name}"
                found[name] = tensors[name].clone()
                self._by_component(name, found[name])[matrix.rows(self.rank_K[client]) :] = 0
        return found

    def _beside_for(self, client: int) -> Tensors:
        """What a client's server sends beside its adapters, padded to the common rank."""
        server = self.exchange_part.server_of(self.client_ids[client])
        state, held = self.states.get(f"{server}|mixing", {}), self.held[server].tensors
        found = Tensors()
        for what in self.mixing.beside:
            known = {name: state.get(f"{what}.{name}", torch.zeros_like(t)) for name, t in held.items()}
            found |= {f"{what}.{name}": t for name, t in self._of_rank(client, known).items()}
        return found

    def _by_component(self, name: str, matrix: Tensor) -> Tensor:
        """A view of a matrix whose rows are its components."""
        return matrix.t() if name in self._columns else matrix

    @property
    def norms(self) -> dict[int, float]:
        """Norms of clients' latest updates before they were clipped, of those that clip here."""
        found = {key: state["norm"] for key, state in self.states.items() if "norm" in state}
        return {int(key.partition("|")[0]): float(norm) for key, norm in found.items()}

    def state(self) -> dict[str, Tensor]:
        """What these nodes must remember between rounds, as named tensors."""
        found = {f"held.{node}.{name}": t for node, held in self.held.items() for name, t in held.tensors.items()}
        found |= {f"part.{key}.{name}": t for key, state in self.states.items() for name, t in state.items()}
        found |= {f"weight.{node}": torch.tensor(held.weight, dtype=torch.float64) for node, held in self.held.items()}
        found |= {} if self.agenda.blocks is None else {"agenda": torch.tensor(self.agenda.blocks)}
        found |= {f"frozen.{factor}": torch.tensor(True) for factor in self.agenda.frozen}
        return found | ({"mixed_by_round": torch.tensor(self.mixed_by_round)} if self.mixed_by_round else {})

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned. Raises RunFolderError where what codecs remember is of other shapes."""
        device = next((stack.device for _, stack in named_matrices(self.bank.local | self.bank.shared)), "cpu")
        self.mixed_by_round = [int(count) for count in state["mixed_by_round"]] if "mixed_by_round" in state else []
        blocks = tuple(state["agenda"].tolist()) if "agenda" in state else None
        self.agenda = Agenda(blocks, frozenset(factor for factor in "AB" if f"frozen.{factor}" in state))
        held, self.states = dict[str, Tensors](), {}
        for full, tensor in state.items():
            what, _, rest = full.partition(".")
            owner, _, name = rest.partition(".")
            if what in ("held", "part"):
                (held if what == "held" else self.states).setdefault(owner, {})[name] = tensor.to(device, copy=True)
        weight = {node: float(state.get(f"weight.{node}", 1.0)) for node in held}
        self.held = {node: Held(tensors, weight[node]) for node, tensors in held.items()} or self.held
        for k, client in enumerate(self.client_ids):
            starts = self._unsent_yet(self._spec(k))
            for key in (key for key in self.states if key.startswith(f"{client}|")):
                for name, place in starts[int(key.rpartition("|")[2])].items():
                    if name in self.states[key]:
                        fitting(self.states[key], name, place)

    def _unsent_yet(self, spec: Mapping[str, Field]) -> list[Tensors]:
        """What the chain's parts remember before the first message."""
        return [one.start(before) for one, before in zip(self.chain, specs(self.chain, spec), strict=False)]

    def _encoded(self, key: str, message: Tensors, spec: Mapping[str, Field], context: Context) -> Tensors:
        """A message as it goes on the wire; what the chain's parts remember is kept."""
        keys = [f"{key}|{i}" for i in range(len(self.chain))]
        states = [{**start, **self.states.get(k, {})} for k, start in zip(keys, self._unsent_yet(spec), strict=True)]
        payload, after = send(self.chain, message, states, context)
        kept = ({**old, **new} for old, new in zip(states, after, strict=True))  # of what is not sent, too
        self.states |= {k: state for k, state in zip(keys, kept, strict=True) if state}
        return payload

    def _sites_of(self, client: int) -> list[AdapterSite]:
        """The sites of a client's blocks that the round is about."""
        return [site for site in self.due if self.bank.slots(site.layer)[client] >= 0]

    def _spec(self, client: int) -> dict[str, Field]:
        return adapter_spec(self._sites_of(client), self.rank_K[client], self.unsent)

    def own(self, client: int) -> Tensors:
        """A copy of those of a client's adapters that the round is about, padded to the common rank."""
        return self.bank.copies(client, self.due)

    def _message(self, spec: Mapping[str, Field], tensors: Mapping[str, Tensor]) -> Tensors:
        """What is declared of these tensors: the components of a client's rank."""
        rows = {name: int(each.shape[0]) for name, each in spec.items()}
        return {name: self._by_component(name, tensors[name])[:n].contiguous() for name, n in rows.items()}

    def store(self, client: int, tensors: Mapping[str, Tensor]) -> None:
        """Load those of a client's shared adapters that cross in the round."""
        crossing = self._spec(client)
        for site in self._sites_of(client):
            slot = int(self.bank.slots(site.layer)[client])
            for name, stack in named_matrices({site.name: self.bank.local[site.name]}):
                if name in crossing:
                    stack[slot].copy_(tensors[name])

    def _widest(self, site: AdapterSite) -> Tensors:
        """The start that all copies share, from the copy of the largest rank."""
        if site.name in self.bank.shared:
            stack, slot = self.bank.shared[site.name], 0
        else:
            owners = np.flatnonzero(self.bank.local_LK[site.layer]).tolist()
            stack, slot = self.bank.local[site.name], int(np.argmax([self.rank_K[k] for k in owners]))
        return {name: t[slot].detach().clone() for name, t in named_matrices({site.name: stack})}


@dataclass
class _Ending:
    """One round's end under way."""

    nodes: Nodes
    weight_K: Sequence[float]
    door: Door | None
    active_K: Sequence[bool]
    sent_K: Sequence[bool]
    delivered_K: Sequence[bool]
    round_index: int
    losses: Mapping[int, float]
    rates_K: Sequence[tuple[float, ...]]
    error: float = 0.0
    mixed: set[Node] = field(default_factory=set[Node])
    rejected: dict[int, str] = field(default_factory=dict[int, str])

    def run(self, hop: Hop) -> None:
        """Carry a hop's messages; every receiver takes what came."""
        inboxes = dict[Node, list[Update]]()
        missing = dict[Node, list[Update]]()
        for sender, receivers in hop.ways:
            arrived, update = self._crossed(hop, sender, receivers)
            for receiver in receivers:
                if update is not None:
                    (inboxes if arrived else missing).setdefault(receiver, []).append(update)
        nodes, taken = self.nodes, dict[Node, Held]()
        for node in {receiver: None for _, receivers in hop.ways for receiver in receivers}:
            if isinstance(node, str) or node in inboxes:
                inbox = Inbox(tuple(inboxes.get(node, ())), tuple(missing.get(node, ())))
                taken[node] = self._taken(hop, node, inbox)
        if nodes.refine is not None and SERVER in taken:
            found = nodes.refine(self.round_index, taken[SERVER].tensors, nodes.held[SERVER].tensors)
            taken[SERVER] = replace(taken[SERVER], tensors=found)
        nodes.held |= {node: held for node, held in taken.items() if isinstance(node, str)}
        for node, held in taken.items():
            if isinstance(node, int):
                nodes.store(node, held.tensors)

    def _taken(self, hop: Hop, node: Node, inbox: Inbox) -> Held:
        nodes, number = self.nodes, node if isinstance(node, int) else self.nodes.exchange_part.servers.index(node)
        own = nodes.held[node] if isinstance(node, str) else Held(nodes.own(node))
        mix = _Mixer(self, str(node)).mixture
        return nodes.exchange_part.take(hop, node, own, inbox, mix, Context(nodes.seed, self.round_index, number))

    def _crossed(self, hop: Hop, sender: Node, receivers: Sequence[Node]) -> tuple[bool, Update | None]:
        """One sender's message, and whether it arrived; None where its receivers have taken it already."""
        nodes = self.nodes
        if isinstance(sender, int):
            start = nodes.start_of(sender)
            if not start:
                return False, None
            sent = nodes.upload(sender, self.door, self.round_index, hop.kind) if self.sent_K[sender] else None
            arrived = sent is not None and self.delivered_K[sender]
            came, loss = sent if arrived and sent else start, self.losses.get(sender, math.nan)
            own, told = ({n: t for n, t in came.items() if (n in start) == mine} for mine in (True, False))
            rates = self.rates_K[sender] if self.rates_K else ()
            return arrived, Update(sender, self.weight_K[sender], own, start, loss, told, rates)
        servers = [receiver for receiver in receivers if isinstance(receiver, str)]
        for receiver in receivers:
            if isinstance(receiver, int):
                nodes.download(receiver, self.door)
        if not servers:
            return True, None
        if self.door is not None:
            number = nodes.exchange_part.servers.index(sender)
            bits = server_bits(nodes.due, max(nodes.rank_K), nodes.unsent)
            self.door.bits[hop.kind, number] += round(bits) * len(servers)
        held = nodes.held[sender]
        return True, Update(sender, held.weight, held.tensors, held.tensors)

    def of_the_main_server(self) -> list[Update]:
        """The main server's copies, each with the weight of the active clients that leave the block to it."""
        by_weight = dict[float, Tensors]()
        for site in self.nodes.sites:
            own_K = self.nodes.bank.local_LK[site.layer]
            pairs = zip(self.weight_K, own_K, self.active_K, strict=True)
            served = sum(w for w, own, active in pairs if active and not own)
            if served:
                copies = named_matrices({site.name: self.nodes.bank.shared[site.name]})
                tensors = {name: t[0].detach() for name, t in copies}
                by_weight[served] = by_weight.get(served, {}) | tensors
        return [Update(MAIN, weight, tensors, tensors) for weight, tensors in by_weight.items()]


@dataclass
class _Mixer:
    """A server's filters and mixing of one round."""

    ending: _Ending
    node: str

    def mixture(self, inbox: Inbox) -> Tensors:
        """What a server makes of what came: its filters, the mixing rule, and what it held of the rest."""
        nodes, ending = self.ending.nodes, self.ending
        number = nodes.exchange_part.servers.index(self.node)
        context = Context(nodes.seed, ending.round_index, number)
        for i, one in enumerate(nodes.filters):
            inbox, state = one.take(inbox, nodes.states.get(self._key(i), {}), context)
            if state:
                nodes.states[self._key(i)] = state
        self._forget(inbox.rejected)
        mixed, ending.error, broken = self._sound(inbox.updates)
        self._forget(broken)
        ending.rejected |= inbox.rejected | broken
        ending.mixed |= {u.sender for u in inbox.updates} - broken.keys()
        held, key = nodes.held[self.node].tensors, f"{self.node}|mixing"
        crossing = adapter_spec(nodes.due, max(nodes.rank_K), nodes.unsent)
        mixed = {name: t for name, t in mixed.items() if name in crossing}
        taken = tuple(update for update in inbox.updates if update.sender not in broken)
        own = [k for k in nodes.client_ids if nodes.exchange_part.server_of(k) == self.node]
        ended = RoundEnd(nodes.seed, ending.round_index, number, taken, len(own))
        found, state = nodes.mixing.step(mixed, held, nodes.states.get(key, {}), ended)
        nodes.states |= {key: state} if state else {}
        return {**held, **found}

    def _key(self, i: int) -> str:
        return f"{self.node}|filter|{i}"

    def _forget(self, clients: Iterable[int]) -> None:
        for client in clients:
            for i, one in enumerate(self.ending.nodes.filters):
                key = self._key(i)
                if key in self.ending.nodes.states:
                    self.ending.nodes.states[key] = one.forget(self.ending.nodes.states[key], client)

    def _sound(self, updates: Sequence[Update]) -> tuple[Tensors, float, dict[int, str]]:
        """The mixture without those updates under which the model gives no finite numbers, its error, and whose.

        A mixture is tried out where a value of an update is larger than is plausible; if it fails, the update of the
        largest norm is taken out.
        """
        of_server, clients = self.ending.of_the_main_server(), {u.sender for u in updates}
        unheard = [u.sender for u in updates if not all(bool(t.isfinite().all()) for t in u.beside.values())]
        broken: dict[Any, str] = dict.fromkeys(unheard, _UNHEARD)
        sizes = {u.sender: [t.abs().max() for t in u.tensors.values() if t.numel()] for u in updates}
        largest = {k: float(torch.stack(own).max()) for k, own in sizes.items()}  # NaN if there is one
        suspects = [k for k in largest if not largest[k] <= PLAUSIBLE and k not in broken]
        norms = {u.sender: u.norm() for u in updates} if suspects else {}
        while True:
            mixture = self._combined([*(u for u in updates if u.sender not in broken), *of_server])
            if not suspects or (mixture is not None and self._holds(mixture[0])):
                break
            worst = max(suspects, key=lambda k: norms[k] if math.isfinite(norms[k]) else math.inf)
            broken[worst] = f"with a value of {largest[worst]:.3g} in it the mixture gives no finite numbers"
            suspects.remove(worst)
        if mixture is None or (broken.keys() == clients and len(broken) > min(1, len(self.ending.weight_K) - 1)):
            raise NumericsError(next(iter(broken.values()), "the mixture cannot be computed"))
        return *mixture, broken

    def _combined(self, updates: Sequence[Update]) -> tuple[Tensors, float] | None:
        try:
            return self.ending.nodes.mixing.combine(updates, self.ending.nodes.sites)
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            return None  # a decomposition does not converge

    def _holds(self, mixed: Tensors) -> bool:
        """Whether a mixture is finite and, where the model is at hand, gives finite numbers."""
        if not all(bool(torch.isfinite(t).all()) for t in mixed.values()):
            return False
        nodes = self.ending.nodes
        return nodes.holds is None or nodes.holds(_by_site({**nodes.held[self.node].tensors, **mixed}))


def _by_site(tensors: Mapping[str, Tensor]) -> dict[str, Matrices]:
    found = dict[str, Matrices]()
    for full, tensor in tensors.items():
        site, _, name = full.rpartition(".")
        found.setdefault(site, {})[name] = tensor
    return found
