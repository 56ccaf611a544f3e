"""Damage to files, drawn from a seed: bits flipped, ends cut off, and contents that are well formed but wrong."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import torch
import yaml
from safetensors.torch import load as read_tensors
from safetensors.torch import save as serialize_tensors
from torch import Tensor

from metarl.run.checkpoint import FORMAT, _digest

Damage = Callable[[bytes, random.Random], bytes]

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    5,
    0.5,
    1e308,
    10**30,
    -(10**400),
    float("nan"),
    float("-inf"),
    "",
    "x",
    "\x1b[31m\n",
    "é" * 300,
    [],
    [[]],
    [None],
    [1, "a", {}],
    {},
    {"a": {}},
    {"": 1},
)
"""What stands in the place of a value."""


# ---------------------------------------------------------------------- bytes


def flip(content: bytes, random: random.Random) -> bytes:
    """A few bits flipped."""
    damaged = bytearray(content)
    for _ in range(random.choice((1, 2, 9))):
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def truncate(content: bytes, random: random.Random) -> bytes:
    """The end cut off."""
    return content[: random.randrange(len(content))]


def replace_whole(content: bytes, random: random.Random) -> bytes:
    """Something else altogether."""
    whole = (b"", b"\0" * 100, b"\xff\xfe" * 40, b"null", b"5\n", b"[" * 3000, b'{"a":' * 3000, b"PK\3\4" + content[4:])
    return random.choice(whole)


def splice(content: bytes, random: random.Random) -> bytes:
    """A piece of it repeated somewhere else."""
    start, place = random.randrange(len(content)), random.randrange(len(content))
    return content[:place] + content[start : start + 50] + content[place:]


BYTES: tuple[Damage, ...] = (flip, truncate, replace_whole, splice)


# ---------------------------------------------------------------------- contents


def rewrite(data: Any, random: random.Random) -> Any:
    """Plain data with one value changed, taken out or added, anywhere in it."""
    data = copy.deepcopy(data)
    places = _places(data)
    if not places:
        return random.choice(VALUES)

    owner, key = random.choice(places)
    kind = random.choice(("change", "change", "change", "remove", "add", "deep"))
    if kind == "remove":
        del owner[key]
    elif kind == "add" and isinstance(owner, dict):
        owner[random.choice(("new", "__class__", ""))] = random.choice(VALUES)
    elif kind == "add":
        owner.insert(key, random.choice(VALUES))
    elif kind == "deep":
        owner[key] = _deep(random.choice((50, 3000)))
    else:
        owner[key] = copy.deepcopy(random.choice(VALUES))
    return data


def rewrite_json(content: bytes, random: random.Random) -> bytes:
    """JSON, well formed, with other values."""
    return _json(rewrite(json.loads(content), random))


def rewrite_json_lines(content: bytes, random: random.Random) -> bytes:
    """One line of several rewritten."""
    lines = content.decode().splitlines()
    place = random.randrange(len(lines))
    lines[place] = _json(rewrite(json.loads(lines[place]), random)).decode()
    if random.random() < 0.3:
        lines[place] = _json(random.choice(VALUES)).decode()
    return "".join(f"{line}\n" for line in lines).encode()


def rewrite_yaml(content: bytes, random: random.Random) -> bytes:
    """YAML, well formed, with other values."""
    return _json(rewrite(yaml.safe_load(content), random))  # JSON is YAML


def rewrite_tensors(content: bytes, random: random.Random) -> bytes:
    """Tensors of other types, shapes or values, without a checksum."""
    return serialize_tensors(_other_tensors(read_tensors(content), random))


def rewrite_checkpoint(content: bytes, random: random.Random) -> bytes:
    """A checkpoint with other tensors, another progress or configuration, and a checksum that is right."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])["__metadata__"]
    tensors = read_tensors(content)
    texts = {name: header.get(name, "") for name in ("progress", "config")}

    changed = random.choice(["tensors", *(name for name, text in texts.items() if text)])
    if changed == "tensors":
        tensors = _other_tensors(tensors, random)
    else:
        texts[changed] = _json(rewrite(json.loads(texts[changed]), random)).decode()

    metadata = {"format": FORMAT, **texts, "sha256": _digest(tensors, texts["progress"], texts["config"])}
    return serialize_tensors(tensors, metadata)


def _other_tensors(tensors: dict[str, Tensor], random: random.Random) -> dict[str, Tensor]:
    """One of them changed, taken out or added."""
    name = random.choice(sorted(tensors))
    value = tensors[name]
    others: list[Tensor | None] = [
        None,
        value.to(torch.int64),
        value.to(torch.float64),
        value.to(torch.float32).flatten()[:1],
        torch.zeros(0),
        torch.zeros(()),
        value.unsqueeze(0).contiguous(),
        torch.full_like(value.float(), torch.nan),
        torch.full(value.shape, True),
    ]
    chosen = random.choice(others)
    changed = {other: tensor for other, tensor in tensors.items() if other != name}
    if chosen is not None:
        changed[random.choice((name, name, "learner.meta.new", "new"))] = chosen
    return changed


def _places(data: Any) -> list[tuple[Any, Any]]:
    """Every (mapping, key) and (list, index) in nested data."""
    places: list[tuple[Any, Any]] = []
    if isinstance(data, dict):
        for key, value in data.items():
            places += [(data, key), *_places(value)]
    elif isinstance(data, list):
        for index, value in enumerate(data):
            places += [(data, index), *_places(value)]
    return places


def _deep(levels: int) -> Any:
    data: Any = 1
    for _ in range(levels):
        data = [data]
    return data


def _json(data: Any) -> bytes:
    """As text, however deep it is."""
    if isinstance(data, dict):
        inside = b",".join(json.dumps(str(key)).encode() + b":" + _json(value) for key, value in data.items())
        return b"{" + inside + b"}"
    if isinstance(data, list):
        levels = 0
        while isinstance(data, list) and len(data) == 1:
            data, levels = data[0], levels + 1
        inside = b",".join(map(_json, data)) if isinstance(data, list) else _json(data)
        if isinstance(data, list):
            inside = b"[" + inside + b"]"
        return b"[" * levels + inside + b"]" * levels
    if isinstance(data, int) and not isinstance(data, bool) and abs(data) > 10**100:
        return b"9" * 401
    return json.dumps(data).encode()
