"""What a live adaptation has collected, on disk as it comes, so that a failure costs one episode at most.

OUT.unfinished/
adaptation.json             what was asked for: environment, checkpoint, episodes, steps, seed, …
episode-0001.safetensors    one episode as it was acted, with the random generator's state after it
policy-k1.safetensors       the parameters after an adaptation step
"""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as serialize_tensors
from torch import Tensor

from metarl.agents.policies.parameters import Parameters
from metarl.envs.rollout import Episodes
from metarl.errors import UserError
from metarl.run.files import new_directory, read_file, write_atomically
from metarl.run.schema import load_json

FORMAT = "metarl-live-adaptation-1"
ASKED_FILE = "adaptation.json"


class LiveRecordError(UserError):
    """The directory of an adaptation cannot be begun, or cannot be taken up."""


_GENERATOR = "generator"
_BEHAVIOUR = "behaviour."


class LiveRecord:
    """The episodes and policies of one live adaptation, in a directory.

    Args:
        path: the directory; made by `begin`, taken up by `resume`.

    Attributes:
        path: as above.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def begin(cls, path: Path, asked: dict[str, Any]) -> "LiveRecord":
        """Make the directory of a new adaptation.

        Args:
            path: it must not exist.
            asked: what was asked for, plain data; `resume` compares it.

        Raises:
            UserError: the directory exists, or cannot be written.
        """
        record = cls(path)
        record.check_new()
        try:
            with new_directory(path) as directory:
                write_atomically(directory / ASKED_FILE, json.dumps({"format": FORMAT, **asked}, indent=1).encode())
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
        return record

    @classmethod
    def resume(cls, path: Path, asked: dict[str, Any]) -> "LiveRecord":
        """Take up an adaptation that was interrupted.

        Raises:
            UserError: there is none, or something else was asked for then; names every difference.
        """
        file = path / ASKED_FILE
        try:
            before = load_json(read_file(file).decode())
        except (OSError, ValueError) as error:
            raise LiveRecordError(f"there is no adaptation to resume: {file} cannot be read: {error}") from None
        if not isinstance(before, dict) or before.pop("format", None) != FORMAT:
            raise LiveRecordError(f"{file} does not describe a live adaptation of this program")

        wanted = json.loads(json.dumps(asked))
        different = [name for name in sorted({*before, *wanted}) if before.get(name) != wanted.get(name)]
        if different:
            said = "; ".join(
                f"{name:.40} was {before.get(name)!r:.200}, not {wanted.get(name)!r:.200}" for name in different
            )
            raise LiveRecordError(f"{path} is of another adaptation: {said}")

        record = cls(path)
        record._check_no_gap()
        return record

    def check_new(self) -> None:
        """Refuse to begin where an adaptation was interrupted.

        Raises:
            UserError: the directory exists.
        """
        if self.path.exists() or self.path.is_symlink():
            raise LiveRecordError(
                f"{self.path} exists: an adaptation was interrupted there; go on with --resume, or remove it"
            )

    def _check_no_gap(self) -> None:
        """Refuse a record in which an episode is missing between others.

        Raises:
            LiveRecordError: names it.
        """
        number = self.num_episodes
        later = [file.name for file in self.path.glob("episode-*.safetensors")]
        if len(later) > number:
            missing = self._episode_file(number + 1).name
            raise LiveRecordError(
                f"{self.path} lacks {missing}, but holds {max(later)}; put it back, or remove those after it"
            )

    @property
    def num_episodes(self) -> int:
        """Episodes that are saved, without a gap."""
        number = 0
        while self._episode_file(number + 1).is_file():
            number += 1
        return number

    def save_episode(self, number: int, episode: Episodes, generator: torch.Generator) -> None:
        """Write an episode, leaves (1, 1, …), and the generator's state after it.

        Args:
            number: counts all episodes of the adaptation, from 1.
            episode: as it was acted.
            generator: drives the rollouts.
        """
        tensors = {_GENERATOR: generator.get_state()}
        for field in fields(Episodes):
            value = getattr(episode, field.name)
            if field.name == "behaviour":
                tensors |= {_BEHAVIOUR + name: leaf for name, leaf in value.items()}
            elif value is not None and field.name != "memory":
                tensors[field.name] = value
        self._write(self._episode_file(number), tensors)

    def load_episode(self, number: int, generator: torch.Generator) -> Episodes:
        """Read an episode back, and set the generator to its state after it.

        Raises:
            UserError: the file is missing, corrupt or foreign; names it.
        """
        file = self._episode_file(number)
        try:
            tensors = read_tensors(read_file(file))
            generator.set_state(tensors.pop(_GENERATOR))

            behaviour = {}
            for name in [name for name in tensors if name.startswith(_BEHAVIOUR)]:
                behaviour[name.removeprefix(_BEHAVIOUR)] = tensors.pop(name)

            _require_one_episode(tensors | behaviour)
            return Episodes(**tensors, behaviour=behaviour).to(generator.device)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, MemoryError) as error:
            raise LiveRecordError(
                f"episode {file} is truncated or corrupt: {error}; without it and those after it they are played again"
            ) from None

    def save_policy(self, steps: int, params: Parameters) -> None:
        """Write the policy after k adaptation steps, shared P."""
        self._write(self.path / f"policy-k{steps}.safetensors", params)

    def summary(self) -> str:
        """What is saved, as part of a sentence."""
        policies = len(list(self.path.glob("policy-k*.safetensors")))
        return f"{_count(self.num_episodes, 'episode')} and {_count(policies, 'policy')} are saved in {self.path}"

    def discard(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _episode_file(self, number: int) -> Path:
        return self.path / f"episode-{number:04d}.safetensors"

    def _write(self, file: Path, tensors: dict[str, Tensor]) -> None:
        """Write tensors atomically; an error names the file."""
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        try:
            write_atomically(file, serialize_tensors(plain, {"format": FORMAT}))
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror or error}") from None


def _require_one_episode(tensors: dict[str, Tensor]) -> None:
    """Refuse leaves that are not those of 1 task × 1 episode of H steps.

    Raises:
        ValueError: names the tensor.
    """
    horizon = tensors["mask"].shape[2:3]
    for name, value in tensors.items():
        of_steps = name not in ("terminated", "last_obs", "success")
        leading = (1, 1, *horizon) if of_steps and value.ndim > 2 else (1, 1)
        if tuple(value.shape[: len(leading)]) != leading or (name == "mask" and value.ndim != 3):
            raise ValueError(f"{name} is of shape {tuple(value.shape)}, not {leading}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{name} holds a number that is not finite")


def _count(number: int, what: str) -> str:
    """E.g. "1 episode", "3 policies"."""
    if number == 1:
        return f"1 {what}"
    return f"{number} {what.removesuffix('y')}ies" if what.endswith("y") else f"{number} {what}s"
