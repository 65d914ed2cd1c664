"""Does batch normalisation speed training up? The article's first comparison.

A Keras script in which `keras` has become `fastbn` in the imports, and nothing else: four hidden layers, without
batch-norm and with one after the first of them, sigmoid and then relu. Draws the loss of every epoch if matplotlib is
there.
"""

from fastbn.datasets import mnist
from fastbn.layers import BatchNormalization, Dense
from fastbn.models import Sequential
from fastbn.optimizers import SGD
from fastbn.utils import to_categorical

batch_size = 128
epochs = 10

(x_train, y_train), (x_test, y_test) = mnist.load_data()
x_train = x_train.reshape(-1, 784).astype("float32") / 255
x_test = x_test.reshape(-1, 784).astype("float32") / 255
y_train = to_categorical(y_train, 10)
y_test = to_categorical(y_test, 10)


def build(activation, batch_norm):
    model = Sequential()
    model.add(Dense(512, activation=activation, input_shape=(784,)))
    if batch_norm:
        model.add(BatchNormalization(momentum=0.99, epsilon=0.001, beta_initializer="zeros", gamma_initializer="ones"))
    model.add(Dense(256, activation=activation))
    model.add(Dense(128, activation=activation))
    model.add(Dense(64, activation=activation))
    model.add(Dense(10, activation="softmax"))
    model.compile(
        optimizer=SGD(learning_rate=0.01, momentum=0.9, nesterov=True),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


curves = {}
for activation in ("sigmoid", "relu"):
    for batch_norm in (False, True):
        label = activation + (", one batch-norm" if batch_norm else ", no batch-norm")
        model = build(activation, batch_norm)
        history = model.fit(
            x_train, y_train, batch_size=batch_size, epochs=epochs, verbose=0, validation_data=(x_test, y_test)
        )
        curves[label] = history.history
        print(f"{label:24}", "training loss", " ".join(f"{loss:.3f}" for loss in history.history["loss"]))
        print(f"{'':24}", f"test accuracy {history.history['val_accuracy'][-1]:.4f}")

try:
    import matplotlib.pyplot as plt
except ImportError:
    print("Install matplotlib to see the curves.")
else:
    for (label, history), style in zip(curves.items(), ("-", "--", "-.", ":"), strict=True):
        plt.plot(range(1, epochs + 1), history["loss"], style, label=label)
    plt.xlabel("epoch")
    plt.ylabel("training loss")
    plt.legend()
    plt.savefig("mnist_batch_norm.png")
