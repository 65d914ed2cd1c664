"""ResNet-20 (He et al. 2015, section 4.2) on images of 32x32x3 in ten classes, by the functional API.

Trained as there: SGD with momentum 0.9, learning rate 0.1, divided by ten after half and after three quarters of the
epochs. Without data of your own the digits are padded to 32x32 and each is given a colour.
`python examples/resnet20.py [epochs] [training images] [file.npz]`; the file holds x_train, y_train, x_test and y_test,
images as uint8 (n, 32, 32, 3), as a conversion of CIFAR-10 does.
"""

import argparse

import numpy as np

import fastbn
from fastbn import callbacks, datasets, layers, optimizers

parser = argparse.ArgumentParser(description="ResNet-20 on images of 32x32x3 in ten classes.")
parser.add_argument("epochs", nargs="?", type=int, default=4)
parser.add_argument("limit", nargs="?", type=int, default=10000, help="training images")
parser.add_argument("file", nargs="?", help="x_train, y_train, x_test, y_test in a .npz; without it coloured digits")
arguments = parser.parse_args()
epochs, limit, batch_size = arguments.epochs, arguments.limit, 128


def conv_bn(x, filters, size, strides=1):
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def residual_block(x, filters, strides):
    y = layers.ReLU()(conv_bn(x, filters, 3, strides))
    y = conv_bn(y, filters, 3)
    shortcut = x if strides == 1 else conv_bn(x, filters, 1, strides)
    return layers.ReLU()(layers.Add()([y, shortcut]))


def resnet20():
    inputs = fastbn.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.ReLU()(conv_bn(x, 16, 3))
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(3):
            x = residual_block(x, filters, 2 if stage > 0 and block == 0 else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return fastbn.Model(inputs, layers.Dense(10, activation="softmax")(x), name="resnet20")


def coloured(images, seed):
    """(n, 28, 28) in the middle of (n, 32, 32, 3), in a colour drawn for each image."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None]
    colours = np.random.default_rng(seed).uniform(0.4, 1, (len(images), 1, 1, 3))
    return (padded * colours).astype(np.uint8)


if arguments.file:
    with np.load(arguments.file) as arrays:
        x_train, y_train, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
else:
    data = datasets.load("auto")
    print(data.note)
    (x_train, y_train), (x_test, y_test) = data.train, data.test
    x_train, x_test = coloured(x_train[:limit], 0), coloured(x_test, 1)
x_train, y_train = x_train[:limit], y_train.reshape(-1)[:limit]

model = resnet20()
model.compile(optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
print(f"{model.count_params():,} parameters, {model.count_multiply_adds():,} multiply-adds an image")


def learning_rate(epoch, rate):
    return rate / 10 if epoch in (epochs // 2, epochs * 3 // 4) else rate


history = model.fit(
    x_train, y_train, batch_size=batch_size, epochs=epochs, callbacks=[callbacks.LearningRateScheduler(learning_rate)]
)
score = model.evaluate(x_test, y_test.reshape(-1), verbose=0)
print("Test loss:", score[0])
print("Test accuracy:", score[1])
