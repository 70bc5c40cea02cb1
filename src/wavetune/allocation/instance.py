"""Read and write the JSON formats of a plan instance and of a plan.

SI units and linear powers and gains throughout; indices start at 0. Unknown keys are ignored; what is missing or out of
range raises InstanceError, its message starting with the JSON path of the culprit.
Shape suffixes: K clients, M subchannels, L layers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from wavetune.allocation.plan import Allocation, Plan
from wavetune.allocation.problem import Problem, RadioBand
from wavetune.costs.layer_costs import LayerCosts
from wavetune.errors import ConfigError, InstanceError, JsonError, NotJsonError
from wavetune.json_reader import read_json
from wavetune.parts import named
from wavetune.units import Array
from wavetune.wireless.rate_models import RateModel, Shannon

Json = dict[str, Any]
_MOST_RANK_DIGITS, _LARGEST = 15, sys.float_info.max
_OWN_RATE = "wavetune:rate"  # of a band whose subchannels do not carry Shannon's rate
_OWN_ADAPTER_BITS = "wavetune:adapter_bits"  # of adapters without a rank, which the format does not have
_DOWNLINK, _INTERFERENCE = "wavetune:downlink", "wavetune:interference_w"  # of a band, where the way back takes time
_BATCH_SIZE = "wavetune:batch_size"  # of a client that takes fewer rows in a step
_GRADIENT_BITS, _DOWNLOAD_SHARE = "wavetune:gradient_bits", "wavetune:download_share"  # of what comes back on it
_CARRIES = "wavetune:carries"  # a rate other than Shannon's in numbers, for whoever does not know its kind; not read
_MOST_NOISE_W = 1e-6  # that a subchannel of a receiver can have
_MOST = 1e200  # of what is computed from several numbers; a few factors more stay finite


def read_instance(path: Path | str) -> Problem:
    """Read a plan instance from a file.

    Raises:
        InstanceError: the file cannot be read, is not JSON, or is malformed; names the file and the JSON path.
    """
    try:
        data = read_json(path, most_bytes=2**30)
    except NotJsonError as error:
        raise InstanceError(f"{path} is {error.reason}; give a plan instance") from error
    except JsonError as error:
        raise InstanceError(f"{error}; give the path of a plan instance") from error
    try:
        return problem_from_json(data)
    except InstanceError as error:
        raise InstanceError(f"plan instance {path}: {error}") from None


def problem_from_json(data: object) -> Problem:
    """Problem of a decoded plan instance.

    Raises:
        InstanceError: a key is missing, of the wrong type or out of range; names the JSON path.
    """
    try:
        problem = _problem(data)
    except ConfigError as error:
        raise InstanceError(str(error)) from None
    _require_computable(problem)
    return problem


def _problem(data: object) -> Problem:
    root = _object(data, "$")
    costs = _layer_costs(_object(_get(root, "costs", "$"), "$.costs"))
    clients = [_object(c, f"$.clients[{k}]") for k, c in enumerate(_list(_get(root, "clients", "$"), "$.clients"))]
    server = _object(_get(root, "server", "$"), "$.server")
    listed = _object(_get(root, "bands", "$"), "$.bands")
    bands = {name: _band(_get(listed, name, "$.bands"), f"$.bands.{name}", len(clients)) for name in ("main", "fed")}
    priced = {name: band.downlink_gain_KM is not None for name, band in bands.items()}
    if priced["main"] != priced["fed"]:
        raise InstanceError(f"$.bands: one has {_DOWNLINK}, the other has not; give it to both or to neither")
    return Problem(
        local_steps=_integer(_get(root, "local_steps", "$"), "$.local_steps", least=1),
        batch_size=_integer(_get(root, "batch_size", "$"), "$.batch_size", least=1),
        rounds_to_target=_rounds(_get(root, "rounds_to_target", "$")),
        cuts=_cuts(_get(root, "cuts", "$"), costs.num_layers),
        costs=costs,
        server_flop_per_s=_number(_get(server, "flop_per_s", "$.server"), "$.server.flop_per_s", positive=True),
        client_flop_per_s_K=_per_client(clients, "flop_per_s", positive=True),
        num_samples_K=_per_client(clients, "num_samples"),
        tx_power_max_w_K=_per_client(clients, "tx_power_max_w"),
        memory_bytes_K=_per_client(clients, "memory_bytes", default=np.inf),
        main=bands["main"],
        fed=bands["fed"],
        price_downlink=priced["main"],
        batch_size_K=_batch_sizes(clients, _get(root, "batch_size", "$")),
    )


def problem_to_json(problem: Problem) -> Json:
    """The plan instance of a problem (energies, and clients that may differ, have no place in the format)."""
    kept = {f.name: getattr(problem.costs, f.name) for f in fields(LayerCosts) if f.name != "download_share"}
    costs = {name.removesuffix("_L"): value.tolist() for name, value in kept.items() if value is not None}
    for name, own in (("adapter_bits", _OWN_ADAPTER_BITS), ("gradient_bits", _GRADIENT_BITS)):
        if name in costs:
            costs[own] = costs.pop(name)
    if problem.costs.download_share != 1.0:
        costs[_DOWNLOAD_SHARE] = problem.costs.download_share
    clients = [
        {
            "flop_per_s": float(problem.client_flop_per_s_K[k]),
            "num_samples": float(problem.num_samples_K[k]),
            "tx_power_max_w": float(problem.tx_power_max_w_K[k]),
        }
        | ({"memory_bytes": float(m)} if np.isfinite(m := problem.memory_bytes_K[k]) else {})
        | ({} if problem.batch_size_K is None else {_BATCH_SIZE: int(problem.batch_size_K[k])})
        for k in range(problem.num_clients)
    ]
    return {
        "local_steps": problem.local_steps,
        "batch_size": problem.batch_size,
        "rounds_to_target": {str(rank): problem.rounds_to_target[rank] for rank in problem.ranks},
        "cuts": list(problem.cuts),
        "costs": costs,
        "server": {"flop_per_s": problem.server_flop_per_s},
        "clients": clients,
        "bands": {
            "main": _band_json(problem.main, problem.price_downlink),
            "fed": _band_json(problem.fed, problem.price_downlink),
        },
    }


def plan_to_json(plan: Plan) -> Json:
    """The plan in its JSON format; a cut or rank that differs between clients is written as a list.

    Where the clients share the server, the plan has a list `server_share`, and the server's phases are lists too; where
    clients were selected, it has a list `active`.
    """
    if plan.status == "infeasible":
        return {"status": "infeasible", "reason": plan.reason}
    phases = plan.phases
    return {
        "status": "ok",
        "delay_s": plan.delay_s,
        "lower_bound_s": plan.lower_bound_s,
        "cut": _common(plan.cut_K),
        "rank": _common(plan.rank_K),
        "bands": {"main": _allocation_json(plan.main), "fed": _allocation_json(plan.fed)},
        "phases": {
            "client_forward_s": phases.client_forward_s[0].tolist(),
            "uplink_s": phases.uplink_s[0].tolist(),
            "server_forward_s": phases.server_forward_s[0].tolist(),
            "server_backward_s": phases.server_backward_s[0].tolist(),
            "client_backward_s": phases.client_backward_s[0].tolist(),
            "fed_upload_s": phases.fed_upload_s.tolist(),
        },
        **({} if plan.server_share_K is None else {"server_share": plan.server_share_K.tolist()}),
        **({} if plan.active_K is None else {"active": plan.active_K.tolist()}),
    }


def allocation_from_json(data: Json) -> tuple[int, int, Allocation, Allocation]:
    """Cut, rank and both bands' allocations of a plan in its JSON format (an "ok" one)."""
    main, fed = (
        Allocation(np.array(band["owner"], dtype=np.int64), np.array(band["power_w"], dtype=np.float64))
        for band in (data["bands"]["main"], data["bands"]["fed"])
    )
    return data["cut"], data["rank"], main, fed


def _layer_costs(costs: Json) -> LayerCosts:
    required = (
        "forward_flop",
        "backward_flop",
        "lora_forward_flop_per_rank",
        "lora_backward_flop_per_rank",
        "activation_bits",
        "lora_bits_per_rank",
    )
    arrays = {name: _numbers(_get(costs, name, "$.costs"), f"$.costs.{name}") for name in required}
    num_layers = len(arrays["forward_flop"])
    for name in ("memory_bytes", "memory_bytes_per_rank"):
        arrays[name] = _numbers(costs[name], f"$.costs.{name}") if name in costs else np.zeros(num_layers)
    for name, own in (("adapter_bits", _OWN_ADAPTER_BITS), ("gradient_bits", _GRADIENT_BITS)):
        if own in costs:
            arrays[name] = _numbers(costs[own], f"$.costs.{own}")
    for name, values in arrays.items():
        if len(values) != num_layers:
            raise InstanceError(
                f"$.costs.{name}: has {len(values)} entries, must have {num_layers} as forward_flop; give one per layer"
            )
    by_layer: dict[str, Any] = {f"{name}_L": values for name, values in arrays.items()}
    share = _number(costs.get(_DOWNLOAD_SHARE, 1.0), f"$.costs.{_DOWNLOAD_SHARE}")
    return LayerCosts(**by_layer, download_share=share)


def _rounds(value: object) -> dict[int, float]:
    table = _object(value, "$.rounds_to_target")
    rounds: dict[int, float] = {}
    for key, count in table.items():
        path = f"$.rounds_to_target.{_short(key)}"
        if not key.isascii() or not key.isdigit() or len(key) > _MOST_RANK_DIGITS or int(key) < 1:
            raise InstanceError(
                f"{path}: the rank {_short(key)!r} must be an integer from 1 to {'9' * _MOST_RANK_DIGITS}; write it "
                "as a string"
            )
        if int(key) in rounds:
            raise InstanceError(f"{path}: the rank {int(key)} stands there twice; keep one")
        rounds[int(key)] = _number(count, path, positive=True)
    if not rounds:
        raise InstanceError("$.rounds_to_target: is empty, must name at least one rank; give its rounds")
    return rounds


def _cuts(value: object, num_layers: int) -> tuple[int, ...]:
    cuts = [_integer(cut, f"$.cuts[{i}]", least=1) for i, cut in enumerate(_list(value, "$.cuts"))]
    for i, cut in enumerate(cuts):
        if cut > num_layers:
            raise InstanceError(f"$.cuts[{i}]: is {cut}, must be 1 to {num_layers}, the number of layers; lower it")
    return tuple(sorted(set(cuts)))


def _per_client(clients: list[Json], key: str, positive: bool = False, default: float | None = None) -> Array:
    def value(k: int, client: Json) -> float:
        path = f"$.clients[{k}]"
        if default is not None and client.get(key) is None:
            return default
        return _number(_get(client, key, path), f"{path}.{key}", positive=positive)

    return np.array([value(k, client) for k, client in enumerate(clients)])


def _batch_sizes(clients: list[Json], largest: Any) -> Array | None:
    """Rows of each client's step, at most the `largest`; None where no client says its own."""
    if all(client.get(_BATCH_SIZE) is None for client in clients):
        return None
    found = list[int]()
    for k, client in enumerate(clients):
        own = client.get(_BATCH_SIZE)
        path = f"$.clients[{k}].{_BATCH_SIZE}"
        found.append(_integer(largest if own is None else own, path, least=1))
        if found[-1] > largest:
            raise InstanceError(
                f"{path}: {found[-1]} is more than $.batch_size, {largest}, of which clients take as many or fewer"
            )
    return np.array(found, dtype=np.float64)


def _band(value: object, path: str, num_clients: int) -> RadioBand:
    band = _object(value, path)
    gain_KM = _matrix(band, "gain", path, num_clients)
    others_M = np.array(0.0)
    if band.get(_INTERFERENCE) is not None:
        others_M = _numbers(band[_INTERFERENCE], f"{path}.{_INTERFERENCE}")
        if len(others_M) != gain_KM.shape[1]:
            raise InstanceError(
                f"{path}.{_INTERFERENCE}: has {len(others_M)} entries, must have "
                f"{gain_KM.shape[1]}; give one per subchannel"
            )
    rate: RateModel = Shannon()
    if (own := band.get(_OWN_RATE)) is not None:
        rate = _rate(_object(own, f"{path}.{_OWN_RATE}"), f"{path}.{_OWN_RATE}")
    read = RadioBand(
        gain_KM=gain_KM,
        subchannel_hz=_number(_get(band, "subchannel_hz", path), f"{path}.subchannel_hz", positive=True),
        noise_psd_w_per_hz=_number(_get(band, "noise_psd_w_per_hz", path), f"{path}.noise_psd_w_per_hz", positive=True),
        total_power_max_w=_number(_get(band, "total_power_max_w", path), f"{path}.total_power_max_w"),
        interference_w_M=others_M,
        rate=rate,
    )
    rate.require_width(path, read.subchannel_hz)
    _require_linear_gains(read, path)
    return read if band.get(_DOWNLINK) is None else _with_way_back(read, band[_DOWNLINK], f"{path}.{_DOWNLINK}")


def _with_way_back(band: RadioBand, value: object, path: str) -> RadioBand:
    """The band whose way back takes time."""
    down = _object(value, path)
    keys = ["gain", *({_INTERFERENCE} & down.keys())]
    tables = {key: _matrix(down, key, path, len(band.gain_KM)) for key in keys}
    for key, table_KM in tables.items():
        if table_KM.shape != band.gain_KM.shape:
            raise InstanceError(
                f"{path}.{key}: has {table_KM.shape[1]} entries a row, must have "
                f"{band.num_subchannels} as the band's gain"
            )
    psd = down.get("noise_psd_w_per_hz")
    return replace(
        band,
        downlink_gain_KM=tables["gain"],
        downlink_power_w=_number(_get(down, "power_w", path), f"{path}.power_w", positive=True),
        downlink_noise_psd_w_per_hz=None if psd is None else _number(psd, f"{path}.noise_psd_w_per_hz", positive=True),
        downlink_interference_w_KM=tables.get(_INTERFERENCE, np.zeros(band.gain_KM.shape)),
    )


def _matrix(parent: Json, key: str, path: str, num_clients: int) -> Array:
    """A row for each client, [K, M]."""
    here = f"{path}.{key}"
    rows = [_numbers(row, f"{here}[{k}]") for k, row in enumerate(_list(_get(parent, key, path), here))]
    if len(rows) != num_clients:
        raise InstanceError(f"{here}: has {len(rows)} rows, must have {num_clients}; give one per client")
    for k, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise InstanceError(f"{here}[{k}]: has {len(row)} entries, must have {len(rows[0])} as the first row has")
    return np.array(rows)


def _rate(values: Json, path: str) -> RateModel:
    """The rate model of its kind and fields."""
    kind = values.get("kind")
    if not isinstance(kind, str):
        raise InstanceError(f"{path}.kind: is {_shown(kind)}, must name a rate such as shannon")
    part, own = named(kind, RateModel, path, packages=()), {n: v for n, v in values.items() if n != "kind"}
    try:
        return part(**own)
    except TypeError:
        known = ", ".join(field.name for field in fields(cast(Any, part)))
        raise InstanceError(f"{path}: has a field that {kind} has not; it has {known}") from None
    except ConfigError as error:
        raise InstanceError(f"{path}: {error}") from None


def _require_linear_gains(band: RadioBand, path: str) -> None:
    """InstanceError for gains above 1 beside a receiver's noise in watts; beside larger noise they are normalised."""
    k, m = np.unravel_index(band.gain_KM.argmax(), band.gain_KM.shape)
    largest = float(band.gain_KM[k, m])
    if largest > 1 and band.noise_psd_w_per_hz * band.subchannel_hz < _MOST_NOISE_W:
        raise InstanceError(
            f"{path}.gain[{k}][{m}]: is {largest:g}, which looks like a loss in dB, as no more is received than was "
            "sent; gains are linear here: give 10^(-loss/10), or scale noise_psd_w_per_hz with gains that are "
            "normalised"
        )


def _band_json(band: RadioBand, priced: bool) -> Json:
    written: Json = {
        "subchannel_hz": band.subchannel_hz,
        "noise_psd_w_per_hz": band.noise_psd_w_per_hz,
        "total_power_max_w": band.total_power_max_w,
        "gain": band.gain_KM.tolist(),
    }
    if band.rate != Shannon():
        written[_OWN_RATE] = {"kind": band.rate.kind, **asdict(cast(Any, band.rate))}
    if band.rate.kind != Shannon.kind:
        ways = (("uplink", True), ("downlink", False))
        written[_CARRIES] = {way: band.rate.in_numbers(band.subchannel_hz, uplink) for way, uplink in ways}
    if np.any(band.interference_w_M):
        written[_INTERFERENCE] = np.broadcast_to(band.interference_w_M, band.num_subchannels).tolist()
    if priced and band.downlink_gain_KM is not None:
        down: Json = {"gain": band.downlink_gain_KM.tolist(), "power_w": band.downlink_power_w}
        if band.downlink_noise_psd_w_per_hz is not None:
            down["noise_psd_w_per_hz"] = band.downlink_noise_psd_w_per_hz
        if np.any(band.downlink_interference_w):
            others_KM = np.broadcast_to(band.downlink_interference_w, band.gain_KM.shape)
            down[_INTERFERENCE] = others_KM.tolist()
        written[_DOWNLINK] = down
    return written


def _allocation_json(allocation: Allocation) -> Json:
    return {"owner": allocation.owner_M.tolist(), "power_w": allocation.power_w_M.tolist()}


def _common(values_K: np.ndarray) -> int | list[int]:
    values = [int(v) for v in values_K]
    return values[0] if len(set(values)) == 1 else values


def _get(parent: Json, key: str, path: str) -> object:
    if key not in parent:
        raise InstanceError(f"{path}.{key}: is missing; add it")
    return parent[key]


def _object(value: object, path: str) -> Json:
    if not isinstance(value, dict):
        raise InstanceError(f"{path}: is {_shown(value)}, must be an object")
    return cast(Json, value)


def _list(value: object, path: str) -> list[object]:
    if isinstance(value, list) and value:
        return cast(list[object], value)
    raise InstanceError(f"{path}: is {_shown(cast(object, value))}, must be a list of at least one entry")


def _integer(value: object, path: str, least: int) -> int:
    number = _number(value, path)
    if number != int(number) or number < least:
        raise InstanceError(f"{path}: is {_shown(value)}, must be an integer of at least {least}")
    return int(number)


def _number(value: object, path: str, positive: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InstanceError(f"{path}: is {_shown(value)}, must be a number")
    if value < 0 and (".gain[" in path or path.endswith(("noise_psd_w_per_hz", "_power_max_w", "tx_power_max_w"))):
        raise InstanceError(
            f"{path}: is {_shown(value)}, which looks like dB or dBm; powers, densities and gains are linear here: "
            "give 10^(dB/10), with dBm less 30 first"
        )
    if not 0 <= value <= _LARGEST or (positive and value == 0):
        raise InstanceError(f"{path}: is {_shown(value)}, must be {'above 0' if positive else 'at least 0'} and finite")
    return float(value)


def _numbers(value: object, path: str) -> Array:
    return np.array([_number(x, f"{path}[{i}]") for i, x in enumerate(_list(value, path))])


def _shown(value: object) -> str:
    return _short(json.dumps(value))


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _require_computable(problem: Problem) -> None:
    """InstanceError where the numbers are each in the format but their products are beyond what can be computed."""
    costs, rank = problem.costs, max(problem.ranks)
    flop = max(
        float((costs.forward_flop_L + rank * costs.lora_forward_flop_per_rank_L).sum()),
        float((costs.backward_flop_L + rank * costs.lora_backward_flop_per_rank_L).sum()),
    )
    flop_s = flop / float(min(problem.client_flop_per_s_K.min(), problem.server_flop_per_s))
    with np.errstate(all="ignore"):
        rounds = max(problem.rounds_to_target.values()) * problem.local_steps
        found = {
            "the rounds times the local steps": rounds,
            "the computing": rounds * problem.batch_size * flop_s,
        }
        for name, band in (("main", problem.main), ("fed", problem.fed)):
            found[f"the signal-to-noise ratio of the {name} band"] = float(
                (band.snr_per_w_KM * band.total_power_max_w).max()
            )
        bits = problem.batch_size * costs.activation_bits_L.sum() + rank * costs.lora_bits_per_rank_L.sum()
        narrowest = min(problem.main.subchannel_hz, problem.fed.subchannel_hz)
        found["the transfers"] = float(rounds * bits / narrowest)
    for what, value in found.items():
        if not value < _MOST:
            raise InstanceError(f"$: {what} would be beyond {_MOST:g}; check the units of the numbers it comes from")
