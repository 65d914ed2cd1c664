"""Layers: shapes, names, Keras' defaults, both image layouts, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import fastbn
from fastbn import Input, Model, Sequential, initializers, layers


def shape_of(layer, shape):
    return layer(Input(shape)).shape[1:]


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Dense(5), (7,), (5,)),
        (layers.Dense(5), (2, 3, 7), (2, 3, 5)),
        (layers.Conv2D(4, 3), (28, 27, 2), (26, 25, 4)),
        (layers.Conv2D(4, (3, 5), strides=2, padding="same"), (28, 27, 2), (14, 14, 4)),
        (layers.Conv2D(4, 3, dilation_rate=2), (9, 9, 2), (5, 5, 4)),
        (layers.Conv2D(4, 3, padding=((1, 0), (2, 3))), (9, 9, 2), (8, 12, 4)),
        (layers.Conv2D(4, 3, groups=2), (9, 9, 2), (7, 7, 4)),
        (layers.Conv2D(4, 3, data_format="channels_first"), (2, 9, 8), (4, 7, 6)),
        (layers.MaxPooling2D(), (9, 9, 2), (4, 4, 2)),
        (layers.MaxPooling2D(3, strides=1, padding="same"), (9, 9, 2), (9, 9, 2)),
        (layers.AveragePooling2D((2, 3)), (9, 9, 2), (4, 3, 2)),
        (layers.GlobalAveragePooling2D(), (9, 9, 2), (2,)),
        (layers.GlobalAveragePooling2D(data_format="channels_first"), (2, 9, 9), (2,)),
        (layers.BatchNormalization(), (9, 2), (9, 2)),
        (layers.Activation("tanh"), (9,), (9,)),
        (layers.Dropout(0.5), (9,), (9,)),
        (layers.Flatten(), (3, 4, 5), (60,)),
        (layers.Reshape((5, -1)), (3, 4, 5), (5, 12)),
        (layers.Rescaling(1 / 255), (3,), (3,)),
    ],
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_shapes(layer, shape, expected):
    assert shape_of(layer, shape) == expected


def test_merging():
    a = Input((4, 4, 3))
    b = layers.Conv2D(3, 1)(a)
    added = layers.Add()([a, b])
    both = layers.Concatenate()([added, b, a])
    assert both.shape == (None, 4, 4, 9)
    model = Model(a, both)
    assert [layer.name for layer in model.layers] == ["input_layer", "conv2d", "add", "concatenate"]
    kernel, bias = model.get_weights()
    x = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    y = x @ kernel[0, 0] + bias
    np.testing.assert_allclose(model.predict(x), np.concatenate([x + y, y, x], axis=-1), rtol=1e-5, atol=1e-6)


def test_order_of_layers_is_keras():
    """The farther from the output the earlier, whatever was applied first; names count applications."""
    source = Input((4, 4, 3))
    a = layers.BatchNormalization()(layers.Conv2D(3, 1)(source))
    b = layers.BatchNormalization()(layers.Conv2D(3, 1)(source))
    model = Model(source, layers.ReLU()(layers.Add()([b, a])))
    names = ["input_layer", "conv2d_1", "conv2d", "batch_normalization_1", "batch_normalization", "add", "re_lu"]
    assert [layer.name for layer in model.layers] == names
    assert [w.shape for w in model.get_weights()] == [(1, 1, 3, 3), (3,)] * 2 + [(3,)] * 8


def test_names_are_keras():
    model = Sequential([Input((8, 8, 1)), layers.Conv2D(2, 3), layers.Conv2D(2, 3), layers.BatchNormalization()])
    model.add(layers.Flatten())
    model.add(layers.Dense(3, name="head"))
    names = ["conv2d", "conv2d_1", "batch_normalization", "flatten", "head"]
    assert [layer.name for layer in model.layers] == names
    assert model.get_layer("head") is model.layers[-1]
    assert model.get_layer(index=0).name == "conv2d"
    with pytest.raises(ValueError, match="unique"):
        model.add(layers.Dense(2, name="head"))
    assert len(model.layers) == 5
    with pytest.raises(ValueError, match="no layer of this name"):
        model.get_layer("tail")


def test_weights_in_keras_order():
    model = Sequential(
        [
            Input((6, 6, 4)),
            layers.Conv2D(8, 3, groups=2),
            layers.BatchNormalization(),
            layers.Conv2D(2, 1, use_bias=False),
            layers.BatchNormalization(scale=False),
            layers.BatchNormalization(center=False),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    shapes = [[w.shape for w in layer.get_weights()] for layer in model.layers]
    assert shapes == [[(3, 3, 2, 8), (8,)], [(8,)] * 4, [(1, 1, 8, 2)], [(2,)] * 3, [(2,)] * 3, [], [(32, 3), (3,)]]
    gamma, beta, mean, variance = model.layers[1].get_weights()
    assert (gamma == 1).all()
    assert (beta == 0).all()
    assert (mean == 0).all()
    assert (variance == 1).all()
    kernel, bias = model.layers[-1].get_weights()
    assert (bias == 0).all()
    assert 0.8 * np.sqrt(6 / 35) < np.abs(kernel).max() <= np.sqrt(6 / 35)
    assert model.layers[1].count_params() == 32


def test_layer_weights_can_be_set():
    model = Sequential([Input((2,)), layers.Dense(2), layers.Dense(1)])
    model.layers[0].set_weights([np.eye(2), np.ones(2)])
    np.testing.assert_array_equal(model.get_weights()[0], np.eye(2))
    with pytest.raises(ValueError, match="takes 2 arrays"):
        model.layers[0].set_weights([np.eye(2)])
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"dense/bias must have shape \(2,\)"):
        model.layers[0].set_weights([np.zeros((2, 2)), np.ones(3)])
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_initializers():
    rng = initializers.RandomNormal(mean=5.0, stddev=0.1, seed=3)
    model = Sequential(
        [
            Input((400,)),
            layers.Dense(50, kernel_initializer=rng, bias_initializer="ones"),
            layers.BatchNormalization(beta_initializer=initializers.Constant(0.25), gamma_initializer="zeros"),
            layers.Dense(50, kernel_initializer=initializers.RandomNormal(5.0, 0.1, seed=3)),
            layers.Dense(50, kernel_initializer="he_normal"),
        ]
    )
    first, ones = model.layers[0].get_weights()
    assert abs(first.mean() - 5) < 0.01
    assert abs(first.std() - 0.1) < 0.01
    assert (ones == 1).all()
    gamma, beta = model.layers[1].get_weights()[:2]
    assert (gamma == 0).all()
    assert (beta == 0.25).all()
    np.testing.assert_array_equal(model.layers[2].get_weights()[0].ravel(), first.ravel()[:2500])  # the same seed
    assert abs(model.layers[3].get_weights()[0].std() - np.sqrt(2 / 50)) < 0.01


def image_model(data_format):
    first = data_format == "channels_first"
    shape, axis = ((3, 10, 9), 1) if first else ((10, 9, 3), -1)
    source = Input(shape)
    a = layers.Conv2D(4, 3, data_format=data_format, padding="same", activation="relu")(source)
    a = layers.BatchNormalization(axis=axis)(a)
    b = layers.AveragePooling2D(2, data_format=data_format)(layers.Concatenate(axis=axis)([a, source]))
    b = layers.MaxPooling2D(2, data_format=data_format)(b)
    return source, b


@pytest.mark.parametrize("head", ["images", "flat", "pooled"])
def test_channels_first_is_the_same_network(head):
    models = []
    for data_format in ("channels_last", "channels_first"):
        source, value = image_model(data_format)
        if head == "flat":
            value = layers.Dense(3)(layers.Flatten(data_format=data_format)(value))
        elif head == "pooled":
            value = layers.GlobalAveragePooling2D(data_format=data_format)(value)
        models.append(Model(source, value))
    last, first = models
    first.set_weights(last.get_weights())
    rng = np.random.default_rng(0)
    x = rng.random((5, 10, 9, 3), np.float32)
    x_first = x.transpose(0, 3, 1, 2)

    def to_last(y):
        return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y

    np.testing.assert_array_equal(to_last(first.predict(x_first)), last.predict(x))
    assert first.input_shape == (None, 3, 10, 9)
    assert first.output_shape[1:] == first.predict(x_first).shape[1:]
    outputs, expected = first.layer_outputs(x_first), last.layer_outputs(x)
    for name, value in outputs.items():
        np.testing.assert_array_equal(to_last(value), expected[name])
    y = rng.random(last.output_shape[1:], np.float32)
    y = np.broadcast_to(y, (5, *y.shape))
    for model, inputs in ((last, x), (first, x_first)):
        model.compile("sgd", "mse")
        targets = y.transpose(0, 3, 1, 2) if inputs is x_first and y.ndim == 4 else y
        model.fit(inputs, targets, shuffle=False, verbose=0)
    for a, b in zip(last.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_process_wide_layout():
    fastbn.backend.set_image_data_format("channels_first")
    try:
        model = Sequential([layers.Conv2D(4, 3, input_shape=(2, 8, 8)), layers.Flatten(), layers.Dense(2)])
        assert model.layers[0].output_shape == (None, 4, 6, 6)
    finally:
        fastbn.backend.set_image_data_format("channels_last")
    with pytest.raises(ValueError, match="data_format"):
        fastbn.backend.set_image_data_format("middle")


def test_channels_first_that_is_not_built_in():
    source = Input((3, 8, 8))
    images = layers.Conv2D(4, 3, data_format="channels_first")(source)
    with pytest.raises(NotImplementedError, match="Flatten"):
        layers.Flatten()(images)
    with pytest.raises(NotImplementedError, match="Dense"):
        layers.Dense(2)(images)
    with pytest.raises(NotImplementedError, match="axis"):
        layers.BatchNormalization()(images)
    with pytest.raises(NotImplementedError, match="softmax"):
        layers.Activation("softmax")(images)
    with pytest.raises(ValueError, match="one data_format"):
        layers.MaxPooling2D(data_format="channels_last")(images)
    assert layers.BatchNormalization(axis=1)(images).shape == (None, 4, 6, 6)  # the failures left nothing behind


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: layers.Dense(0), ValueError, "Dense: units"),
        (lambda: layers.Dense(2.5), TypeError, "Dense: units"),
        (lambda: layers.Dense(2, activation="gelu"), NotImplementedError, "activations"),
        (lambda: layers.Dense(2, activation="no such"), ValueError, "activations"),
        (lambda: layers.Dense(2, kernel_initializer="no such"), ValueError, "initializers"),
        (lambda: layers.Dense(2, kernel_initializer=lambda shape: 0), NotImplementedError, "initializers"),
        (lambda: layers.Dense(2, kernel_regularizer="l2"), NotImplementedError, "kernel_regularizer"),
        (lambda: layers.Dense(2, unit=3), TypeError, "no such argument"),
        (lambda: layers.Dense(2, dtype="float16"), NotImplementedError, "float32"),
        (lambda: layers.Dense(2, name="a/b"), ValueError, "name"),
        (lambda: layers.Conv2D(0, 3), ValueError, "filters"),
        (lambda: layers.Conv2D(4, 0), ValueError, "kernel_size"),
        (lambda: layers.Conv2D(4, (3, 3, 3)), ValueError, "kernel_size"),
        (lambda: layers.Conv2D(4, 3, strides=0), ValueError, "strides"),
        (lambda: layers.Conv2D(4, 3, groups=3), ValueError, "groups"),
        (lambda: layers.Conv2D(4, 3, padding="full"), ValueError, "padding"),
        (lambda: layers.Conv2D(4, 3, data_format="middle"), ValueError, "data_format"),
        (lambda: layers.Conv2D(4, 3)(Input((2, 8, 8))), ValueError, "conv2d"),
        (lambda: layers.Conv2D(4, 3)(Input((8,))), ValueError, "rank"),
        (lambda: layers.Conv2D(4, 3, groups=2)(Input((8, 8, 3))), ValueError, "groups"),
        (lambda: layers.MaxPooling2D(0), ValueError, "pool_size"),
        (lambda: layers.MaxPooling2D(9)(Input((8, 8, 3))), ValueError, "max_pool2d"),
        (lambda: layers.GlobalAveragePooling2D(keepdims=True), NotImplementedError, "keepdims"),
        (lambda: layers.BatchNormalization(momentum=1.5), ValueError, "momentum"),
        (lambda: layers.BatchNormalization(momentum=float("nan")), ValueError, "momentum"),
        (lambda: layers.BatchNormalization(epsilon=0), ValueError, "epsilon"),
        (lambda: layers.BatchNormalization(axis=1)(Input((4, 5))), NotImplementedError, "axis"),
        (lambda: layers.BatchNormalization(synchronized=True), NotImplementedError, "synchronized"),
        (lambda: layers.Dropout(1.5), ValueError, "rate"),
        (lambda: layers.Dropout(float("nan")), ValueError, "rate"),
        (lambda: layers.Dropout(0.5, noise_shape=(1, 2)), NotImplementedError, "noise_shape"),
        (lambda: layers.Reshape((7, -1))(Input((8,))), ValueError, "elements"),
        (lambda: layers.Reshape((-1, -1)), ValueError, "target_shape"),
        (lambda: layers.Rescaling(float("inf")), ValueError, "scale"),
        (lambda: layers.ReLU(max_value=6), NotImplementedError, "max_value"),
        (lambda: layers.LeakyReLU(float("nan")), ValueError, "negative_slope"),
        (lambda: layers.Softmax(axis=1)(Input((3, 4))), NotImplementedError, "axis"),
        (lambda: layers.Add()([Input((3,))]), ValueError, "two inputs"),
        (lambda: layers.Concatenate(axis=1)([Input((3, 4)), Input((3, 4))]), NotImplementedError, "axis"),
        (lambda: layers.Dense(2)([Input((3,)), Input((3,))]), ValueError, "one input"),
        (lambda: layers.Dense(2)(np.ones((2, 3))), TypeError, "fastbn.Input"),
        (lambda: Input((None, 3)), NotImplementedError, "shape"),
        (lambda: Input((0,)), ValueError, "shape"),
        (lambda: Input(()), ValueError, "shape"),
        (lambda: Input(), ValueError, "shape"),
        (lambda: Input((3,), dtype="int64"), NotImplementedError, "dtype"),
    ],
)
def test_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_layer_has_one_place():
    dense = layers.Dense(3)
    source = Input((3,))
    value = dense(source)
    with pytest.raises(NotImplementedError, match="once"):
        dense(value)
    model = Model(source, value)
    with pytest.raises(NotImplementedError, match=r"belongs to the model.*layer_outputs"):
        Model(source, value)
    del model
    assert Model(source, value).count_params() == 12  # the other is gone


def test_structure_errors():
    a, b = Input((3,)), Input((3,))
    with pytest.raises(ValueError, match="depend on inputs"):
        Model(a, layers.Add()([layers.Dense(3)(a), layers.Dense(3)(b)]))
    with pytest.raises(ValueError, match="another of that name"):
        Model(a, layers.Dense(3)(b))
    with pytest.raises(TypeError, match="inputs must come"):
        Model(np.ones(3), layers.Dense(3)(a))
    with pytest.raises(NotImplementedError, match="must be one"):
        Model([a, b], layers.Dense(3)(a))
    with pytest.raises(TypeError, match="takes layers"):
        Sequential(["relu"])
    with pytest.raises(ValueError, match="first"):
        Sequential([layers.Dense(2), Input((3,))])
    dense = layers.Dense(2)
    with pytest.raises(NotImplementedError, match="once"):
        Sequential([dense, dense])
    with pytest.raises(ValueError, match="shape"):
        Sequential([layers.Dense(2)]).get_weights()
    with pytest.raises(ValueError, match="without layers"):
        Sequential().build((None, 3))


def test_add_and_pop_keep_weights():
    model = Sequential([Input((4,)), layers.Dense(5), layers.Dense(6)])
    before = model.get_weights()
    model.add(layers.Dense(7))
    assert [w.shape for w in model.get_weights()] == [(4, 5), (5,), (5, 6), (6,), (6, 7), (7,)]
    assert model.pop().units == 7
    assert model.output_shape == (None, 6)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="elements"):
        model.add(layers.Reshape((4,)))
    assert len(model.layers) == 2
    assert model.predict(np.ones((1, 4))).shape == (1, 6)


def test_another_head_on_a_trained_model():
    """Keras' idiom: off with the softmax, on with a new one; in between the model has no loss that fits."""
    x, y = np.ones((6, 4), np.float32), np.arange(6) % 3
    model = Sequential([Input((4,)), layers.Dense(5), layers.Dense(3), layers.Softmax()])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, verbose=0)
    before = model.get_weights()
    for kept, removed in ((4, layers.Softmax), (2, layers.Dense)):
        assert type(model.pop()) is removed
        for a, b in zip(model.get_weights(), before[:kept], strict=True):
            np.testing.assert_array_equal(a, b)
        assert model.predict(x).shape == (6, len(before[kept - 1]))
        assert model.optimizer is None
        model.summary(print_fn=str)
        with pytest.raises(ValueError, match="fit: the model must be compiled first"):
            model.fit(x, y, verbose=0)
    model.add(layers.Dense(3, activation="softmax"))
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][0])
    model.add(layers.Dense(2))
    assert model.loss is None
    while model.layers:
        model.pop()
    model.add(layers.Dense(2))
    assert model.predict(x).shape == (6, 2)


def test_a_loss_that_still_fits_stays():
    model = Sequential([Input((4,)), layers.Dense(5), layers.Dense(3)])
    model.compile("sgd", "mse")
    model.pop()
    assert model.train_on_batch(np.ones((6, 4)), np.ones((6, 5))) > 0


def test_what_is_refused_changes_nothing(monkeypatch):
    model = Sequential([Input((4,)), layers.Dense(5), layers.Dense(3)])
    model.compile("sgd", "mse")
    x, before = np.ones((6, 4), np.float32), model.get_weights()

    def same() -> None:
        assert [layer.name for layer in model.layers] == ["dense", "dense_1"]
        assert model.output_shape == (None, 3)
        for a, b in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)
        assert model.evaluate(x, np.ones((6, 3)), verbose=0) > 0

    misfit = layers.Reshape((4,))
    with pytest.raises(ValueError, match="elements"):
        model.add(misfit)
    same()
    Sequential([Input((4,))]).add(misfit)  # belongs to nobody
    new = layers.Dense(2)
    with monkeypatch.context() as patched:
        patched.setattr("fastbn.models.sequential.Engine", lambda *_: (_ for _ in ()).throw(MemoryError("full")))
        for change in (model.pop, lambda: model.add(new)):
            with pytest.raises(MemoryError):
                change()
            same()
    model.add(new)
    assert model.output_shape == (None, 2)


def test_shape_from_build_data_or_first_layer():
    by_build = Sequential([layers.Dense(2)])
    assert not by_build.built
    by_build.build((None, 5))
    by_data = Sequential([layers.Dense(2)])
    assert by_data.predict(np.ones((3, 5))).shape == (3, 2)
    by_layer = Sequential([layers.Dense(2, input_dim=5)])
    by_keyword = Sequential([layers.Dense(2, input_shape=(5,))])
    for model in (by_build, by_data, by_layer, by_keyword):
        assert model.built
        assert model.input_shape == (None, 5)
        assert model.count_params() == 12
