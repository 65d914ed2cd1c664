"""A convolutional network on MNIST: the question's second network, six times fewer parameters than the first.

A Keras script in which `keras` has become `fastbn` in the imports, and nothing else.
"""

import fastbn
from fastbn import backend as K
from fastbn.datasets import mnist
from fastbn.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D
from fastbn.models import Sequential

batch_size = 128
num_classes = 10
epochs = 12
rows, columns = 28, 28

(x_train, y_train), (x_test, y_test) = mnist.load_data()

input_shape = (1, rows, columns) if K.image_data_format() == "channels_first" else (rows, columns, 1)
x_train = x_train.reshape(-1, *input_shape).astype("float32") / 255
x_test = x_test.reshape(-1, *input_shape).astype("float32") / 255
print("x_train shape:", x_train.shape)
print(len(x_train), "training images,", len(x_test), "test images")

y_train = fastbn.utils.to_categorical(y_train, num_classes)
y_test = fastbn.utils.to_categorical(y_test, num_classes)

model = Sequential()
model.add(Conv2D(32, kernel_size=(3, 3), activation="relu", input_shape=input_shape))
model.add(Conv2D(64, (3, 3), activation="relu"))
model.add(MaxPooling2D(pool_size=(2, 2)))
model.add(Dropout(0.25))
model.add(Flatten())
model.add(Dense(num_classes, activation="softmax"))
model.summary()

model.compile(loss="categorical_crossentropy", optimizer="rmsprop", metrics=["accuracy"])
model.fit(x_train, y_train, batch_size=batch_size, epochs=epochs, verbose=1, validation_data=(x_test, y_test))

score = model.evaluate(x_test, y_test, verbose=0)
print("Test loss:", score[0])
print("Test accuracy:", score[1])
