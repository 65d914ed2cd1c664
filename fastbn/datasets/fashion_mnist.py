"""Fashion-MNIST: 70,000 pictures of clothes in MNIST's format (Zalando Research; MIT licence)."""

from __future__ import annotations

from ._sources import IdxFile, Source, load
from ._types import Split

SOURCE = Source(
    name="fashion_mnist",
    # Of the images only the sums of the published gzip files are known here.
    files=(
        IdxFile(
            "train-images-idx3-ubyte",
            "x_train",
            (60000, 28, 28),
            sha256=None,
            gzip_sha256="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        IdxFile(
            "train-labels-idx1-ubyte",
            "y_train",
            (60000,),
            sha256="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        IdxFile(
            "t10k-images-idx3-ubyte",
            "x_test",
            (10000, 28, 28),
            sha256=None,
            gzip_sha256="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        IdxFile(
            "t10k-labels-idx1-ubyte",
            "y_test",
            (10000,),
            sha256="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    folders=("fashion_mnist", "fashion-mnist"),
    npz="fashion_mnist.npz",
    npz_sha256=None,
    keras_folder="fashion-mnist",
)


def load_data() -> tuple[Split, Split]:
    """Fashion-MNIST as Keras returns it: (x_train, y_train), (x_test, y_test), uint8, in MNIST's shapes.

    Looked for in $FASTBN_DATA (its sub-folder fashion_mnist or the folder itself), Keras' cache and fastbn's own, then
    downloaded into the latter.

    Raises:
        ValueError: a file is there but is not what it should be; its name is in the message.
        OSError: FASTBN_DATA names no folder, or the data is nowhere and no mirror answered.
    """
    return load(SOURCE)
