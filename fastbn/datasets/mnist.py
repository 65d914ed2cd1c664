"""MNIST: 70,000 handwritten digits (LeCun, Cortes, Burges; CC BY-SA 3.0)."""

from __future__ import annotations

from ._sources import IdxFile, Source, load
from ._types import Split

SOURCE = Source(
    name="mnist",
    files=(
        IdxFile(
            "train-images-idx3-ubyte",
            "x_train",
            (60000, 28, 28),
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        IdxFile(
            "train-labels-idx1-ubyte",
            "y_train",
            (60000,),
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        IdxFile(
            "t10k-images-idx3-ubyte",
            "x_test",
            (10000, 28, 28),
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        IdxFile(
            "t10k-labels-idx1-ubyte",
            "y_test",
            (10000,),
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    folders=("mnist",),
    npz="mnist.npz",
    npz_sha256="731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    keras_folder=".",
)


def load_data() -> tuple[Split, Split]:
    """MNIST as Keras returns it: (x_train, y_train), (x_test, y_test), uint8, (60000, 28, 28) and (10000, 28, 28).

    Looked for in $FASTBN_DATA (IDX files, gzipped or not, or mnist.npz), Keras' cache and fastbn's own, then
    downloaded into the latter.

    Raises:
        ValueError: a file is there but is not what it should be; its name is in the message.
        OSError: FASTBN_DATA names no folder, or the data is nowhere and no mirror answered.
    """
    return load(SOURCE)
