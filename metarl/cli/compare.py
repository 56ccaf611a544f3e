"""`metarl compare`: trained runs and baselines on the same held-out tasks."""

import dataclasses
from dataclasses import dataclass

from rich.console import Console

from metarl.comparison import report as comparison_report
from metarl.comparison.comparer import Comparer
from metarl.comparison.config import CompareConfig
from metarl.console import print_json, say, shell_command, show_table
from metarl.errors import EXIT_INTERRUPTED, TrainingError, UserError, what_happened


@dataclass(frozen=True)
class Compare(CompareConfig):
    """Compare trained runs with baselines on the same held-out tasks, counted in the same environment steps.

    Attributes:
        json: print one JSON object and nothing else; progress goes to standard error.
    """

    json: bool = False

    @property
    def config(self) -> CompareConfig:
        """The settings of the comparison."""
        return CompareConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(CompareConfig)})

    def execute(self, console: Console) -> int:
        """Compare; print the table and the headlines, and write data, figures and TensorBoard events."""
        # With --json, standard output holds the JSON object and nothing else.
        progress = Console(stderr=True) if self.json else console
        comparer = Comparer.prepare(self.config, progress)
        kept = f"what is done is kept in {comparer.path}; the same command goes on"
        try:
            comparison = comparer.compare()
            written = comparison_report.write(comparison, comparer.path)
        except KeyboardInterrupt:
            say(progress, f"stopped; {kept}")
            return EXIT_INTERRUPTED
        except UserError:
            raise
        except BaseException as error:
            reason = str(error) if isinstance(error, TrainingError) else what_happened(error)
            raise TrainingError(f"{comparer.doing}: {reason}; {kept}") from error

        if self.json:
            print_json(comparison.to_json())
            return 0

        show_table(console, comparison_report.table(comparison))
        for line in (*comparison_report.reservations(comparison), *comparison_report.headlines(comparison)):
            say(console, line)
        say(console, f"written to {comparer.path}: {', '.join(path.name for path in written)}")
        show = shell_command("metarl", "tensorboard", comparer.path)
        say(console, f"curves and figures in TensorBoard: {show}")
        return 0
