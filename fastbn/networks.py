"""The networks that fastbn is measured by, defined once for the demo, the bench and the tests.

`mlp`, `cnn` and `cnn_small` are a question's: why does a convolutional network with six times fewer parameters take
twenty times longer? `article` is the base network of an article on batch normalisation. All classify 28x28 images of
ten classes, end in softmax and are returned uncompiled.
"""

from __future__ import annotations

from fastbn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
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


def _two_convolutions(first: int, second: int, name: str) -> Sequential:
    return Sequential(
        [
            Input((28, 28, 1)),
            Conv2D(first, 3, activation="relu"),
            Conv2D(second, 3, activation="relu"),
            MaxPooling2D(2),
            Dropout(0.25),
            Flatten(),
            Dense(10, activation="softmax"),
        ],
        name=name,
    )


def cnn() -> Sequential:
    """Conv2D 32 3x3 relu - Conv2D 64 3x3 relu - MaxPool 2x2 - Dropout 0.25 - Dense 10: 110,986 parameters.

    Input (28, 28, 1).
    """
    return _two_convolutions(32, 64, "cnn")


def cnn_small() -> Sequential:
    """`cnn` with 4 and 4 filters: 5,958 parameters. Input (28, 28, 1)."""
    return _two_convolutions(4, 4, "cnn_small")


def article(activation: str = "sigmoid", batch_norms: int = 0) -> Sequential:
    """Dense 512 - 256 - 128 - 64 - 10, batch-norm after the first `batch_norms` activations. Input (784,).

    Raises:
        ValueError: batch_norms is not in 0..4.
    """
    if not 0 <= batch_norms <= 4:
        raise ValueError(f"article: batch_norms must lie in 0..4. Received: batch_norms={batch_norms}")
    model = Sequential([Input((784,))], name=f"article_{activation}_bn{batch_norms}")
    for i, units in enumerate((512, 256, 128, 64)):
        model.add(Dense(units, activation=activation))
        if i < batch_norms:
            model.add(BatchNormalization())
    model.add(Dense(10, activation="softmax"))
    return model
