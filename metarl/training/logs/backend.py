"""Backend: where the curves and figures of a run are shown."""

from collections.abc import Collection, Mapping
from typing import Protocol

from metarl.run.checkpoint import Progress


class Backend(Protocol):
    """Shows what `RunLog` hands it; made by its `open` for a training, or `of_test` for the evaluation at the end."""

    def hyper_parameters(self, settings: Mapping[str, int | float | str | bool], results: Collection[str]) -> None:
        """Write the settings of a run that begins.

        Args:
            settings: name of the flag → value.
            results: tags of the values that are shown beside them.
        """
        ...

    def charts(self, charts: Mapping[str, str]) -> None:
        """Lay out the charts that show the curves of all k in one.

        Args:
            charts: title → tag, which ends in _k and is followed by the number of adaptation steps.
        """
        ...

    def image(self, tag: str, png: bytes, progress: Progress) -> None:
        """Show a PNG file."""
        ...

    def row(self, row: Mapping[str, float], progress: Progress) -> None:
        """Show the values of one meta-iteration, so that a kill loses nothing of what the next checkpoint holds."""
        ...

    def close(self) -> None:
        """Nothing follows."""
        ...
