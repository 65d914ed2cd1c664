"""A multilayer perceptron on MNIST: the question's first network.

A Keras script in which `keras` has become `fastbn` in the imports, and nothing else.
"""

import fastbn
from fastbn.datasets import mnist
from fastbn.layers import Dense, Dropout
from fastbn.models import Sequential
from fastbn.optimizers import RMSprop

batch_size = 128
num_classes = 10
epochs = 20

(x_train, y_train), (x_test, y_test) = mnist.load_data()

x_train = x_train.reshape(-1, 784).astype("float32") / 255
x_test = x_test.reshape(-1, 784).astype("float32") / 255
print(len(x_train), "training images,", len(x_test), "test images")

y_train = fastbn.utils.to_categorical(y_train, num_classes)
y_test = fastbn.utils.to_categorical(y_test, num_classes)

model = Sequential()
model.add(Dense(512, activation="relu", input_shape=(784,)))
model.add(Dropout(0.2))
model.add(Dense(512, activation="relu"))
model.add(Dropout(0.2))
model.add(Dense(num_classes, activation="softmax"))
model.summary()

model.compile(loss="categorical_crossentropy", optimizer=RMSprop(), metrics=["accuracy"])
model.fit(x_train, y_train, batch_size=batch_size, epochs=epochs, verbose=1, validation_data=(x_test, y_test))

score = model.evaluate(x_test, y_test, verbose=0)
print("Test loss:", score[0])
print("Test accuracy:", score[1])
