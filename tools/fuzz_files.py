"""Damaged files through the commands that read them, none of which may end in a traceback: --seed N --count N."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz

from wavetune.data_plane.certificates import write_certificates
from wavetune.models.resolve import resolve_model

SMALL = (
    "world.model=tiny", "world.data.train_samples=60", "world.data.validation_samples=8", "world.data.max_tokens=96",
    "world.data.batching.batch_size=2", "world.scenario.population.num_clients=3", "run.rounds=2",
    "run.local_steps=1", "run.samples=1", "run.sample_tokens=2", "run.device=cpu",
)  # fmt: skip
PLAN = ("plan", "sflllm", "--model", "tiny", "--time-limit", "1", "--json", "-")
STRAYS = (
    "round--1", "round-", "round-x", "round-000009", "round-99999999999999999999", "round-1e3", "round-٣", "round-\n",
    "round-000001.part", "client--1", "client-x", "client-99", "global", "\x1b[31m", "a" * 200,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Files as they should be, which of them are damaged, and a command that reads them from `{}`."""

    whole: Path
    damaged: tuple[str, ...]
    command: tuple[str, ...]
    weight: int = 1


def commands(seed: int, count: int) -> Iterator[list[str]]:
    """`count` commands of a seed, each on files of which one or two were just damaged."""
    os.environ |= {"HF_HUB_OFFLINE": "1"}  # a damaged name is looked for nowhere else
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as work:
        found = list(cases(Path(work) / "whole"))
        weights = [case.weight for case in found]
        for number in range(count):
            case = rng.choices(found, weights)[0]
            place = Path(work) / f"{number}"
            shutil.copytree(case.whole, place)
            for _ in range(rng.choice([1, 1, 1, 2])):
                _damage(
                    rng, place, rng.choice([f for name in case.damaged for f in sorted(case.whole.glob(name))]), case
                )
            yield [word.replace("{}", str(place)) for word in case.command]
            shutil.rmtree(place)


def cases(folder: Path) -> Iterator[Case]:
    """Whole files of every kind, made under a folder."""
    run, tables, data, model, certificates = (folder / n for n in ("run", "tables", "data", "model", "certificates"))
    settings = [word for assignment in SMALL for word in ("--set", assignment)]
    code, wrong = fuzz.attempt(["run", "sflllm", *settings, "--out", str(run)])
    if code != "0":
        raise SystemExit(f"the run to be damaged ended with {code}: {wrong}")
    (run / "summary.json").rename(folder / "summary.json")
    (run / "report.html").unlink()
    unfinished = ("*.json", "*.jsonl", "checkpoints/*/*")
    yield Case(run, unfinished, ("run", "--resume", "--out", "{}"), 3)
    finished = folder / "finished"
    shutil.copytree(run, finished)
    (folder / "summary.json").rename(finished / "summary.json")
    yield Case(finished, ("*.json", "*.jsonl"), ("report", "{}", "--out", "{}/page.html"), 6)
    yield Case(finished, ("*.json", "*.jsonl"), ("report", "{}", "{}", "--out", "{}/page.html"))
    yield Case(finished, ("*.json", "*.jsonl"), ("run", "--resume", "--rounds", "2", "--out", "{}"))
    generated = ("recipe.json", "adapters/*/*", "adapters/*/*")
    yield Case(finished, generated, ("generate", "{}", "--prompt", "a", "--max-new-tokens", "1"), 3)
    yield Case(finished, ("recipe.json",), ("show", "{}/recipe.json"), 4)
    yield Case(finished, ("recipe.json",), ("plan", "{}/recipe.json", "--time-limit", "1"), 2)
    yield Case(finished, ("instance.json",), ("plan", "{}/instance.json", "--time-limit", "1"), 4)
    _write(tables / "rank.json", json.dumps({"rounds_to_target": {"1": 60.0, "4": 40, "16": 35.5}}))
    codecs = [{"activation": {"kind": k}, "gradient": {"kind": "bf16"}, "rounds_factor": 1.1} for k in ("fp32", "int8")]
    _write(tables / "codec.json", json.dumps({"candidates": codecs}))
    yield Case(tables, ("rank.json",), (*PLAN, "--rank-table", "{}/rank.json"), 2)
    yield Case(tables, ("codec.json",), (*PLAN, "--codec-table", "{}/codec.json"), 2)
    rows = [{"prompt": f"What is {i}?", "answer": f"It is {i}.", "domain": f"d{i % 3}"} for i in range(40)]
    _write(data / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    _write(data / "rows.json", json.dumps(rows))
    _write(data / "rows.csv", "prompt,answer\n" + "".join(f'"{r["prompt"]}",{r["answer"]}\n' for r in rows))
    _write(data / "rows.txt", "".join(f"{r['prompt']} {r['answer']}\n\n" for r in rows))
    for name in ("rows.jsonl", "rows.json", "rows.csv", "rows.txt"):
        yield Case(data, (name,), (*PLAN, "--data", f"{{}}/{name}"))
    shutil.copytree(resolve_model("tiny").folder, model)
    yield Case(
        model, ("*.json", "*.json", "*.safetensors"), ("plan", "sflllm", "--model", "{}", "--time-limit", "1"), 3
    )
    write_certificates(certificates, 1)
    damaged = ("authority/*.pem", "authority/issued/*", "server/*", "device-00/*")
    yield Case(certificates, damaged, ("certificates", "{}", "--add", "1"))
    yield Case(certificates, damaged, ("certificates", "{}", "--renew", "server"))
    at_nobody = ("device", "127.0.0.1:9", "--certificates", "{}/device-00", "--patience", "1")
    yield Case(certificates, ("device-00/*",), at_nobody)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _damage(rng: random.Random, place: Path, whole: Path, case: Case) -> None:
    """Damage the copy of a file: its place in the folder, its JSON, or its bytes."""
    path, chance = place / whole.relative_to(case.whole), rng.random()
    if not path.is_file():
        return
    if chance < 0.15:
        _replace(rng, path)
    elif chance < 0.7 and path.suffix in (".json", ".jsonl", ".safetensors"):
        _damage_json(rng, path)
    else:
        path.write_bytes(_damaged_bytes(rng, path.read_bytes()))


def _replace(rng: random.Random, path: Path) -> None:
    """Something else in the place of a file, or beside it."""
    kind = rng.choice(["missing", "folder", "pipe", "link", "stray", "stray"])
    if kind == "stray":
        beside = path.parent.parent if path.parent.parent.name in ("checkpoints", "adapters") else path.parent
        name = rng.choice(STRAYS)
        if not (beside / name).exists():
            shutil.copytree(path.parent, beside / name) if rng.random() < 0.5 else _write(beside / name, "x")
        return
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(path)


def _damage_json(rng: random.Random, path: Path) -> None:
    """Another value, a missing key or one too many, in a document, a line of one, or the header of tensors."""
    found, tail = path.read_bytes(), b""
    if path.suffix == ".safetensors":
        end = 8 + int.from_bytes(found[:8], "little")
        found, tail = found[8:end], found[end:]
    lines = found.decode(errors="replace").split("\n") if path.suffix == ".jsonl" else [found.decode(errors="replace")]
    number = rng.randrange(len(lines))
    try:
        lines[number] = _changed(rng, json.loads(lines[number]))
    except (ValueError, RecursionError):  # it was damaged before
        lines[number] = rng.choice(fuzz.HOSTILE)
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    path.write_bytes((len(text).to_bytes(8, "little") if tail else b"") + text + tail)


def _changed(rng: random.Random, document: Any) -> str:
    """The text of a document with one of its values changed."""
    holder: Any = [document]
    places = list(_places(holder))
    parent, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.2 and parent is not holder:
        del parent[key]
    elif kind < 0.3 and isinstance(parent, dict):
        parent[rng.choice(["", "x", key + " ", "\x1b", "8" * 30])] = parent[key]
    elif kind < 0.5 and isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
        parent[key] *= rng.choice([-1, 0, 1.5, 1e-9, 1e9, 1e300])
    else:
        parent[key] = "@@"
    return json.dumps(holder[0]).replace('"@@"', rng.choice(fuzz.HOSTILE))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield value, key
        yield from _places(inner)


def _damaged_bytes(rng: random.Random, found: bytes) -> bytes:
    """Bits flipped, a piece missing, repeated or exchanged, or the end cut off."""
    start = rng.randrange(len(found) + 1)
    if rng.random() < 0.5:  # where the headers are
        start = min(start, rng.randrange(64))
    end = start + rng.choice([1, 2, 8, 100, len(found)])
    piece = rng.choice(
        [b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[31m", b"\n", b"{", b'"', b"9" * 400, b"\0" * 100]
    )
    kind = rng.choice(["flip", "flip", "cut", "exchange", "insert", "repeat", "nothing"])
    if kind == "flip" and found:
        flipped = bytearray(found)
        for _ in range(rng.choice([1, 1, 8, 64])):
            flipped[rng.randrange(len(found)) if rng.random() < 0.5 else start % len(found)] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    damaged = {"cut": found[:start], "exchange": found[:start] + piece + found[end:], "nothing": b""}
    damaged |= {"insert": found[:start] + piece + found[start:], "repeat": found[:end] + found[start:]}
    return damaged.get(kind, found)


if __name__ == "__main__":
    fuzz.command("Damaged files through the commands that read them.", commands)
