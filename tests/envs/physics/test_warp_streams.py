"""On which stream MuJoCo Warp's steps are captured and launched, with stand-ins for Warp and a GPU."""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metarl.envs.physics import warp
from metarl.envs.physics.warp import WarpEngine


class Stand:
    """Warp as far as an engine's graphs need it; it fails as Warp does where torch's stream is captured.

    Attributes:
        events: what happened, in order.
        position: of a world, which a step moves by 1.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.position = torch.zeros(1)
        self._on_torch_stream = False

    @contextlib.contextmanager
    def ScopedDevice(self, device: str) -> Iterator[None]:  # noqa: N802
        """See warp."""
        assert device == "cuda"
        yield

    @contextlib.contextmanager
    def ScopedStream(self, stream: str) -> Iterator[None]:  # noqa: N802
        """See warp."""
        self._on_torch_stream = True
        yield
        self._on_torch_stream = False

    @contextlib.contextmanager
    def ScopedCapture(self) -> Iterator[Any]:  # noqa: N802
        """See warp."""
        if self._on_torch_stream:
            raise RuntimeError("Warp error: unknown stream")
        self.events.append("capture begins")
        yield type("Captured", (), {"graph": "the graph"})
        self.events.append("capture ends")

    def stream_from_torch(self, stream: str) -> str:
        """See warp."""
        return f"warp's name for {stream}"

    def capture_launch(self, graph: str, stream: str) -> None:
        """See warp."""
        self.events.append(f"{graph} on {stream}")

    def synchronize_device(self, device: str) -> None:
        """See warp."""
        self.events.append("warp waits")

    def step(self, model: Any, data: Any) -> None:
        """See mujoco_warp."""
        self.events.append("step")
        self.position += 1


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    stand = Stand()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "torch's stream")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: stand.events.append("torch waits"))
    return stand


def engine_on(stand: Stand) -> WarpEngine:
    """An engine without a robot."""
    engine: Any = WarpEngine.__new__(WarpEngine)
    engine._device = torch.device("cuda")
    engine._warp = engine._mujoco_warp = stand
    engine._model = SimpleNamespace(opt=SimpleNamespace(disableflags=0))
    engine._data = None
    engine._disabled = {"step": 0}
    engine._how = contextlib.nullcontext
    engine._launches = {}
    engine._views = {"qpos": torch.zeros(1)}
    stand.position = engine._views["qpos"]
    return engine  # type: ignore[no-any-return]


def test_steps_are_captured_on_warps_own_stream_and_launched_on_torchs(stand: Stand) -> None:
    run: Callable[[str, int], None] = engine_on(stand)._run
    run("step", 2)
    prepared = ["torch waits", "step", "step", "capture begins", "step", "step", "capture ends", "warp waits"]
    launch = "the graph on warp's name for torch's stream"
    assert stand.events == [*prepared, launch]

    run("step", 2)
    assert stand.events[len(prepared) :] == [launch, launch]


def test_the_minute_that_compiling_takes_is_announced_once(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, since a command may print JSON; by whichever command steps a robot first."""
    warp._say_that_it_compiles.cache_clear()
    for _ in range(2):
        engine_on(stand)._run("step", 2)
    said = capsys.readouterr()
    assert (
        said.err == "the first steps compile the robot's physics: a minute on a machine that has not done so before\n"
    )
    assert not said.out


def test_the_first_graph_starts_where_the_world_is(stand: Stand) -> None:
    """Not where the call has led to that compiles the kernels before the capture."""
    engine = engine_on(stand)
    stand.position.fill_(5.0)
    engine._run("step", 2)
    assert stand.position.item() == 5.0  # the stand-in's graph moves nothing


def test_the_stand_in_refuses_what_warp_refuses(stand: Stand) -> None:
    with pytest.raises(RuntimeError, match="unknown stream"), stand.ScopedStream("torch's"), stand.ScopedCapture():
        pass
