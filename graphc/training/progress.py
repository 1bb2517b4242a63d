"""Where training is: epochs and batches done, and the sums of the epoch that is under way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from graphc.errors import ArtifactError


@dataclass
class Progress:
    """epoch: how many are done; batch: how many batches of the next; batches, samples: of all epochs together.

    loss_sum, loss_samples, metric_sums: of the epoch under way, each batch weighted by its samples. stopped: why training
    ended before its last epoch.
    """

    epoch: int = 0
    batch: int = 0
    batches: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    loss_samples: int = 0
    metric_sums: dict[str, list[float]] = field(default_factory=dict)
    stopped: str | None = None

    @property
    def mean_loss(self) -> float:
        """The mean loss of the epoch under way; NaN before its first batch."""
        return self.loss_sum / self.loss_samples if self.loss_samples else float("nan")

    def add_batch(self, loss: float, rows: int, sums: Mapping[str, np.ndarray]) -> None:
        """Counts a batch."""
        self.batch, self.batches, self.samples = self.batch + 1, self.batches + 1, self.samples + rows
        self.loss_sum, self.loss_samples = self.loss_sum + loss * rows, self.loss_samples + rows
        for name, values in sums.items():
            self.metric_sums[name] = add_sums(self.metric_sums.get(name), values)

    def end_epoch(self) -> None:
        """Counts an epoch, and begins the next."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum, self.loss_samples, self.metric_sums = 0.0, 0, {}

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Progress:
        """Raises ArtifactError for what `to_json` didn't write."""
        try:
            return Progress(**json.loads(text))
        except (TypeError, ValueError) as e:
            raise ArtifactError("the checkpoint's progress can't be read", seen=str(e)) from e


def add_sums(total: list[float] | None, values: np.ndarray) -> list[float]:
    """Sums of metrics so far, and those of another batch, in f64."""
    wide = values.astype(np.float64)
    return (wide if total is None else np.asarray(total) + wide).tolist()  # type: ignore[no-any-return]
