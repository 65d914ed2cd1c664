"""The networks that fastbn is measured by, defined once for the demo, the bench and the tests.

`mlp`, `cnn` and `cnn_small` are a question's: why does a convolutional network with six times fewer parameters take
twenty times longer? `article` is the base network of an article on batch normalisation. All classify 28x28 images of
ten classes, end in softmax and are returned uncompiled.
"""

from __future__ import annotations

from fastbn.layers import Activation, BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from fastbn.models import Sequential

__all__ = ["article", "cnn", "cnn_small", "mlp"]


def mlp() -> Sequential:
    """Dense 512 relu - Dropout 0.2 - Dense 512 relu - Dropout 0.2 - Dense 10: 669,706 parameters. Input (784,)."""
    return Sequential(
        [
            Input((784,)),
            Dense(512, activation="relu"),
            Dropout(0.2),
            Dense(512, activation="relu"),
            Dropout(0.2),
            Dense(10, activation="softmax"),
        ],
        name="mlp",
    )


def _two_convolutions(first: int, second: int, name: str, batch_norm: bool) -> Sequential:
    model = Sequential([Input((28, 28, 1))], name=name)
    for filters in (first, second):
        model.add(Conv2D(filters, 3, activation="relu"))
        if batch_norm:
            model.add(BatchNormalization())
    for layer in (MaxPooling2D(2), Dropout(0.25), Flatten(), Dense(10, activation="softmax")):
        model.add(layer)
    return model


def cnn(batch_norm: bool = False) -> Sequential:
    """Conv2D 32 3x3 relu - Conv2D 64 3x3 relu - MaxPool 2x2 - Dropout 0.25 - Dense 10: 110,986 parameters.

    batch_norm: one after the activation of each convolution. Input (28, 28, 1).
    """
    return _two_convolutions(32, 64, "cnn", batch_norm)


def cnn_small(batch_norm: bool = False) -> Sequential:
    """`cnn` with 4 and 4 filters: 5,958 parameters. Input (28, 28, 1)."""
    return _two_convolutions(4, 4, "cnn_small", batch_norm)


def article(
    activation: str = "sigmoid",
    batch_norms: int = 0,
    *,
    hidden: int = 4,
    before: bool = False,
    momentum: float = 0.99,
) -> Sequential:
    """Dense 512 - 256 - 128 - 64 - 10, batch-norm after the first `batch_norms` activations. Input (784,).

    hidden: layers before the last; those behind the fourth have 64 units, too. before: batch-norm goes between the
    dense layer and its activation. momentum: of the moving statistics.

    Raises ValueError where hidden is less than 1 or batch_norms not in 0..hidden.
    """
    if hidden < 1:
        raise ValueError(f"article: hidden must be at least 1. Received: hidden={hidden}")
    if not 0 <= batch_norms <= hidden:
        raise ValueError(f"article: batch_norms must lie in 0..{hidden}. Received: batch_norms={batch_norms}")
    model = Sequential([Input((784,))], name=f"article_{activation}_bn{batch_norms}")
    for i in range(hidden):
        units = max(512 >> i, 64)
        if i >= batch_norms:
            model.add(Dense(units, activation=activation))
        elif before:
            model.add(Dense(units))
            model.add(BatchNormalization(momentum=momentum))
            model.add(Activation(activation))
        else:
            model.add(Dense(units, activation=activation))
            model.add(BatchNormalization(momentum=momentum))
    model.add(Dense(10, activation="softmax"))
    return model
