"""What a cell of a study trains: a network with its optimizer and batch size, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbn.models import Sequential
    from fastbn.optimizers import Optimizer

#: Parts of a cell beyond losses: see `_probes`.
PROBES = ("gradient", "recalibration")


@dataclass(frozen=True)
class Variant:
    """A network of `fastbn.networks` and how it is trained. SGD is the article's: momentum 0.9, nesterov."""

    activation: str = "sigmoid"
    batch_norms: int = 0
    hidden: int = 4
    before: bool = False  # batch-norm before the activation
    momentum: float = 0.99  # of the moving statistics
    network: str = "article"
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    batch_size: int = 128
    most_epochs: int | None = None  # fewer than asked for, where a study looks at the first steps
    probes: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: dict[str, Any]) -> Variant:
        """The variant whose `values()` these are."""
        return cls(**{**values, "probes": tuple(values["probes"])})

    def values(self) -> dict[str, Any]:
        """Plain values, as a configuration is written."""
        return {**asdict(self), "probes": list(self.probes)}

    @property
    def images(self) -> bool:
        """Whether the network takes (28, 28, 1) rather than (784,)."""
        return self.network != "article"

    def epochs(self, wanted: int) -> int:
        return wanted if self.most_epochs is None else min(wanted, self.most_epochs)

    def build(self) -> Sequential:
        """The network, not compiled."""
        from fastbn import networks

        if self.network == "article":
            return networks.article(
                self.activation, self.batch_norms, hidden=self.hidden, before=self.before, momentum=self.momentum
            )
        made: Sequential = getattr(networks, self.network)(batch_norm=self.batch_norms > 0)
        return made

    def make_optimizer(self) -> Optimizer:
        from fastbn import optimizers

        if self.optimizer == "sgd":
            return optimizers.SGD(self.learning_rate, momentum=0.9, nesterov=True)
        return {"adam": optimizers.Adam, "rmsprop": optimizers.RMSprop}[self.optimizer](self.learning_rate)

    def compiled(self) -> Sequential:
        """The network with its optimizer, categorical cross-entropy and accuracy."""
        model = self.build()
        model.compile(self.make_optimizer(), "categorical_crossentropy", metrics=["accuracy"])
        return model

    def work(self, samples: int, epochs: int) -> float:
        """Multiply-adds, with the 70 that updating a parameter is worth: what cells' times are guessed from."""
        model = self.build()
        steps = -(-samples // self.batch_size)
        return self.epochs(epochs) * (3.0 * samples * model.count_multiply_adds() + 70.0 * steps * model.count_params())
