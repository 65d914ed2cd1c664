"""fastbn.torch: operators against PyTorch in float64, layers, `optimize`, and the consumer in examples/embed."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", "2.4", reason="PyTorch 2.4 or later is not installed (the torch extra)")
from harness.consumers import ROOT, blocks  # noqa: E402
from harness.processes import run_python  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import fastbn.torch as fbt  # noqa: E402
from fastbn import _core  # noqa: E402

ops = torch.ops.fastbn
TOLERANCE = 1e-5  # of the largest element: what is promised for gradients


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(*shape, grad=False):
    x = torch.randn(*shape).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(grad)


def assert_close(found, expected, tolerance=TOLERANCE):
    expected = expected.detach()
    assert found.shape == expected.shape
    scale = max(expected.abs().max().item(), 1e-30) if expected.numel() else 1.0
    error = (found.detach().double() - expected).abs().max().item() / scale if expected.numel() else 0.0
    assert error <= tolerance, f"{error:.1e} of the largest element"


def compare(ours, theirs, *inputs, forward=TOLERANCE):
    """Result and gradients of all inputs and parameters of a module against the same module of PyTorch in float64."""
    theirs = theirs.double()
    exact = [None if x is None else x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    y, expected = ours(*inputs), theirs(*exact)
    assert_close(y, expected, forward)
    dy = torch.randn_like(expected)
    y.backward(dy.float())
    expected.backward(dy)
    for x, e in zip(inputs, exact, strict=True):
        if x is not None and x.requires_grad:
            assert_close(x.grad, e.grad)
    for (name, parameter), e in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_close(parameter.grad, e.grad), name


# ------------------------------------------------------------------------------------------------------------- layers

CONVOLUTIONS = {
    "3x3": ((16, 24, 3), {"padding": 1}),
    "winograd": ((64, 64, 3), {"padding": 1, "bias": False}),
    "stride": ((8, 12, 3), {"stride": 2, "padding": 1}),
    "1x1": ((16, 32, 1), {"bias": False}),
    "dilated": ((6, 10, (3, 5)), {"dilation": (2, 1), "padding": (2, 0)}),
    "groups": ((12, 18, 3), {"groups": 3, "padding": 1}),
    "depthwise": ((16, 16, 3), {"groups": 16, "padding": 1}),
    "same": ((5, 7, (2, 4)), {"padding": "same"}),
    "valid": ((3, 8, 5), {"padding": "valid"}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_conv2d(case, layout):
    arguments, options = CONVOLUTIONS[case]
    ours = fbt.Conv2d(*arguments, **options)
    theirs = nn.Conv2d(*arguments, **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, arguments[0], 13, 11)
    x = x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x
    compare(ours, theirs, x.requires_grad_())


def test_conv2d_of_one_image_and_of_none():
    ours = fbt.Conv2d(3, 5, 3)
    x = torch.randn(3, 9, 8)
    assert_close(ours(x), F.conv2d(x.double(), ours.weight.double(), ours.bias.double()))
    empty = torch.zeros(0, 3, 9, 8, requires_grad=True)
    y = ours(empty)
    y.sum().backward()
    assert y.shape == (0, 5, 7, 6)
    assert empty.grad.shape == empty.shape
    assert not ours.weight.grad.any()


@pytest.mark.parametrize("shape", [(7, 20), (2, 3, 20), (20,)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    ours, theirs = fbt.Linear(20, 13, bias), nn.Linear(20, 13, bias)
    theirs.load_state_dict(ours.state_dict())
    compare(ours, theirs, torch.randn(*shape, requires_grad=True))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_activations(activation):
    act = {"leaky_relu": lambda x: F.leaky_relu(x, 0.3)}.get(activation, getattr(torch, activation, None))
    x, w = images(3, 4, 6, 6, grad=True), torch.randn(5, 4, 3, 3, requires_grad=True)
    m = torch.randn(9, 60, requires_grad=True)
    exact = [t.detach().double().requires_grad_() for t in (x, w, m)]
    y = ops.conv2d(x, w, None, [1, 1], [1, 1, 1, 1], [1, 1], 1, activation, 0.3)
    z = ops.linear(y.reshape(-1, 60), m, None, activation, 0.3)
    e = act(F.conv2d(exact[0], exact[1], None, 1, 1))
    expected = act(e.reshape(-1, 60) @ exact[2].t())
    assert_close(z, expected)
    dz = torch.randn_like(expected)
    z.backward(dz.float())
    expected.backward(dz)
    for found, right in zip((x, w, m), exact, strict=True):
        assert_close(found.grad, right.grad)


BATCH_NORMS = {
    "2d": (fbt.BatchNorm2d, nn.BatchNorm2d, (6, 10, 5, 7)),
    "1d": (fbt.BatchNorm1d, nn.BatchNorm1d, (16, 10)),
    "1d of three axes": (fbt.BatchNorm1d, nn.BatchNorm1d, (6, 10, 9)),
}


@pytest.mark.parametrize("case", BATCH_NORMS)
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}, {"eps": 0.1}], ids=str
)
def test_batch_norm(case, options):
    ours_type, theirs_type, shape = BATCH_NORMS[case]
    ours, theirs = ours_type(10, **options), theirs_type(10, **options)
    for batch in range(3):
        x = 3 + torch.randn(*shape)
        compare(ours, theirs, x.requires_grad_())
        assert ours.state_dict().keys() == theirs.state_dict().keys(), batch
        for name, value in theirs.state_dict().items():
            assert_close(ours.state_dict()[name], value.double())
        ours.zero_grad()
        theirs.zero_grad()
    ours.eval()
    theirs.eval()
    compare(ours, theirs, torch.randn(*shape).requires_grad_())


def test_batch_norm_of_a_mean_far_from_zero():
    """PyTorch's own float32 loses all digits here."""
    x = 1e4 + 1e-1 * torch.randn(8, 4, 6, 6)
    compare(fbt.BatchNorm2d(4), nn.BatchNorm2d(4), x.requires_grad_())


def test_one_value_for_each_channel():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fbt.BatchNorm1d(3)(torch.ones(1, 3))
    assert fbt.BatchNorm1d(3).eval()(torch.ones(1, 3)).shape == (1, 3)


class Composed(nn.Module):
    def __init__(self, fused, activation):
        super().__init__()
        self.conv, self.bn, self.activation = copy.deepcopy(fused.conv), copy.deepcopy(fused.bn), activation
        self.conv.__class__, self.bn.__class__ = nn.Conv2d, nn.BatchNorm2d

    def forward(self, x, residual=None):
        y = self.bn(self.conv(x))
        return self.activation(y if residual is None else y + residual)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "linear", "tanh"])
def test_fused(training, residual, bias, activation):
    ours = fbt.FusedConvBNReLU2d(8, 12, 3, 2, 1, bias=bias, activation=activation)
    nn.init.normal_(ours.bn.weight)
    nn.init.normal_(ours.bn.bias)
    theirs = Composed(ours, {"relu": torch.relu, "tanh": torch.tanh, "linear": lambda y: y}[activation])
    ours.train(training)
    theirs.train(training)
    x, added = images(5, 8, 9, 9, grad=True), images(5, 12, 5, 5, grad=True) if residual else None
    if bias and training:  # its gradient is zero but for rounding
        ours.conv.bias.requires_grad_(False)
        theirs.conv.bias.requires_grad_(False)
        ours.conv.bias.grad = theirs.conv.bias.grad = torch.zeros(12)
    compare(ours, theirs, x, added)
    for name, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[name], value.double())


def test_results_may_be_written_to():
    x = images(2, 3, 5, 5, grad=True)
    for module in (fbt.Conv2d(3, 4, 3), fbt.BatchNorm2d(3), fbt.FusedConvBNReLU2d(3, 4, 3)):
        y = module(x)
        y += 1
        y.sum().backward()
    linear, norm = fbt.Linear(5, 4), fbt.BatchNorm1d(6)
    for y in (linear(torch.ones(2, 5)), norm(torch.randn(3, 6, 7))):
        y.mul_(2).sum().backward()


# ---------------------------------------------------------------------------------------------------------- operators


def test_opcheck():
    """Schemas, shapes for tracing, registration of gradients, and both under torch.compile's tracing."""
    x, w, b = images(2, 4, 7, 7, grad=True), torch.randn(6, 4, 3, 3, requires_grad=True), torch.randn(6)
    gamma, beta = torch.rand(6, requires_grad=True), torch.randn(6, requires_grad=True)
    geometry = ([1, 2], [1, 1, 0, 1], [1, 1], 1)
    y = ops.conv2d(x, w, b, *geometry, "relu", 0.0).detach()
    check = torch.library.opcheck
    check(ops.conv2d.default, (x, w, b, *geometry, "relu", 0.0))
    check(ops.conv2d.default, (x, w, None, *geometry, "linear", 0.0))
    plain = [t.detach() for t in (x, w, gamma, beta)]
    dy = torch.randn_like(y)
    check(ops.conv2d_backward.default, (dy, *plain[:2], y, *geometry, "relu", 0.0, [True, False, True]))
    v, m = torch.randn(5, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    check(ops.linear.default, (v, m, torch.randn(3), "tanh", 0.0))
    check(ops.linear_backward.default, (torch.randn(5, 3), v.detach(), m.detach(), None, "linear", 0.0, [True] * 3))
    z, residual = torch.randn_like(y).requires_grad_(), torch.randn_like(y).requires_grad_()
    check(ops.batch_norm.default, (z, gamma, beta, residual, 1e-5, "relu", 0.0))
    check(ops.batch_norm.default, (v, None, None, None, 1e-5, "linear", 0.0))
    mean, variance = torch.randn(6), torch.rand(6)
    check(ops.batch_norm_inference.default, (z, gamma, beta, None, mean, variance, 1e-5, "relu", 0.0))
    backward = (dy, y, plain[2], plain[3], mean.double(), variance.double(), None, 1e-5, "relu", 0.0)
    check(ops.batch_norm_backward.default, (*backward, False, [True, True, True, False]))
    both = (*geometry, 1e-5, "relu", 0.0)
    check(ops.conv2d_batch_norm.default, (x, w, None, gamma, beta, residual, *both))
    check(
        ops.conv2d_batch_norm_backward.default,
        (dy, *plain, y, mean.double(), variance.double(), y, *both, [True, True, False, True, True, True]),
    )


def test_compiled():
    """torch.compile carries the operators as calls of one graph: the same bits."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    fbt.optimize(model)
    made = copy.deepcopy(model)
    x = torch.randn(4, 3, 6, 6)
    for step in range(2):
        results = [call(x) for call in (model, torch.compile(made, backend="aot_eager", fullgraph=True))]
        for y in results:
            y.square().sum().backward()
        assert torch.equal(*results), step
    for p, q in zip(model.parameters(), made.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    for p, q in zip(model.buffers(), made.buffers(), strict=True):
        assert torch.equal(p, q)


def test_autocast():
    """float32 inside, whatever came in; the gradient has the type of what came in."""
    first, ours = nn.Linear(6, 12), fbt.Linear(12, 5)
    x = torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        half = first(x)
        assert half.dtype == torch.bfloat16
        y = ours(half)
        fused = fbt.FusedConvBNReLU2d(3, 4, 1)(half.reshape(3, 3, 2, 2))
    assert y.dtype == fused.dtype == torch.float32
    assert torch.equal(y, ours(half.float()))
    (y.sum() + fused.sum()).backward()
    assert first.weight.grad.abs().sum() > 0


def test_second_derivatives_are_refused():
    x = images(2, 3, 5, 5, grad=True)
    for module in (fbt.Conv2d(3, 4, 3), fbt.BatchNorm2d(3), fbt.FusedConvBNReLU2d(3, 4, 3)):
        (gradient,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="no autograd formula was registered"):
            gradient.sum().backward()


def test_without_pytorch(tmp_path):
    code = "import sys; sys.modules['torch'] = None; import fastbn; print(fastbn.__version__); import fastbn.torch"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == _core.version()
    assert "ImportError: fastbn.torch: PyTorch 2.4 or later must be installed" in done.stderr


def test_operators_check_every_operand():
    """What a kernel would read beyond an operand, or through another dtype, is refused by name."""
    ops, r = torch.ops.fastbn, torch.randn
    x, w, y = r(2, 4, 7, 7), r(6, 4, 3, 3), r(2, 6, 5, 5)
    geometry = ([1, 1], [0, 0, 0, 0], [1, 1], 1)
    one, six = torch.ones(1), torch.ones(6)
    norm = (1e-5, "relu", 0.0)
    for refused, message in (
        (lambda: ops.conv2d_backward(y, x, w, one, *geometry, "relu", 0.0, [True] * 3), "y must have shape"),
        (lambda: ops.conv2d_backward(y, x, w, None, *geometry, "relu", 0.0, [True] * 3), "y is needed"),
        (lambda: ops.conv2d_backward(y, x, w, y, *geometry, "relu", 0.0, []), "need must say of 3 operands"),
        (lambda: ops.linear_backward(r(20, 3), r(20, 5), r(3, 5), one, "relu", 0.0, [True] * 3), "y must have shape"),
        (lambda: ops.batch_norm_inference(y, None, None, None, one, six, *norm), "mean must have shape"),
        (lambda: ops.batch_norm_inference(y, None, None, None, six, one, *norm), "variance must have shape"),
        (lambda: ops.batch_norm_backward(y, y, six, six, six, six, one, *norm, False, [True] * 4), "y must have shape"),
        (lambda: ops.batch_norm_backward(y, y, six, six, six, one, y, *norm, False, [True] * 4), "variance must have"),
        (
            lambda: ops.conv2d_batch_norm_backward(y, x, w, six, six, one, six, six, y, *geometry, *norm, [True] * 6),
            "z must have shape",
        ),
        (
            lambda: ops.conv2d_batch_norm_backward(y, x, w, six, six, y, one, six, y, *geometry, *norm, [True] * 6),
            "mean must have shape",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
    with pytest.raises(TypeError, match=r"conv2d_backward: y must be float32. Received: torch.float16"):
        ops.conv2d_backward(y, x, w, y.half(), *geometry, "relu", 0.0, [True] * 3)
    for training in (True, False):
        for layer in (nn.BatchNorm2d(5), nn.BatchNorm2d(5, affine=False)):
            fbt.optimize(layer.train(training))
            with pytest.raises(ValueError, match=r"batch_norm: x must have 5 channels. Received: 6"):
                layer(y)
            assert layer.num_batches_tracked == 0


def test_errors():
    x, w = images(2, 4, 7, 7), torch.randn(6, 4, 3, 3)
    conv = fbt.Conv2d(4, 6, 3)
    with pytest.raises(TypeError, match=r"conv2d: x must be float32. Received: torch.float64"):
        conv(x.double())
    with pytest.raises(ValueError, match=r"conv2d: weight must have the shape .*Received: weight.shape=\(6, 4, 3, 3\)"):
        conv(images(2, 5, 7, 7))
    with pytest.raises(ValueError, match="conv2d: the kernel must fit"):
        conv(images(2, 4, 2, 7))
    with pytest.raises(ValueError, match=r"Conv2d: padding_mode must be 'zeros'. Received: 'reflect'"):
        fbt.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ValueError, match="linear: the last axis of x"):
        fbt.Linear(3, 4)(torch.ones(2, 5))
    with pytest.raises(ValueError, match="batch_norm: residual must have shape"):
        fbt.BatchNorm2d(4)(x, images(2, 4, 7, 6))
    with pytest.raises(ValueError, match="activation must be None or one of"):
        ops.conv2d(x, w, None, [1, 1], [0, 0, 0, 0], [1, 1], 1, "gelu", 0.0)


class Addresses:
    """What the kernels were given."""

    def __init__(self, monkeypatch):
        self.calls = {}
        for name in ("conv2d_forward_at", "conv2d_backward_at", "batch_norm_forward_at", "batch_norm_backward_at"):
            monkeypatch.setattr(_core, name, self.recording(name, getattr(_core, name)))

    def recording(self, name, function):
        def call(*arguments):
            self.calls[name] = arguments
            return function(*arguments)

        return call


def test_no_copies_of_channels_last_tensors_and_weights(monkeypatch):
    """Kernels read activations, weights and incoming gradients where they lie and write where PyTorch keeps them."""
    fused = fbt.FusedConvBNReLU2d(8, 16, 3, padding=1)
    x, residual = images(4, 8, 10, 10, grad=True), images(4, 16, 10, 10, grad=True)
    seen = Addresses(monkeypatch)
    y = fused(x, residual)
    assert y.is_contiguous(memory_format=torch.channels_last)
    forward = seen.calls["conv2d_forward_at"]
    assert forward[8:10] == (x.data_ptr(), fused.conv.weight.data_ptr())
    norm = seen.calls["batch_norm_forward_at"]
    assert norm[4] == forward[11]  # the convolution's result
    assert (norm[7], norm[8]) == (residual.data_ptr(), y.data_ptr())
    dy = torch.randn(4, 16, 10, 10).contiguous(memory_format=torch.channels_last)
    y.backward(dy)
    norm, backward = seen.calls["batch_norm_backward_at"], seen.calls["conv2d_backward_at"]
    assert norm[6] == dy.data_ptr()
    assert norm[7] == forward[11]
    assert norm[16] == residual.grad.data_ptr()
    assert backward[8] == norm[13]  # the gradient between them
    assert backward[9:11] == (x.data_ptr(), fused.conv.weight.data_ptr())
    assert backward[12:14] == (x.grad.data_ptr(), fused.conv.weight.grad.data_ptr())

    contiguous = torch.randn(4, 8, 10, 10)
    fused(contiguous)
    assert seen.calls["conv2d_forward_at"][8] != contiguous.data_ptr()  # the check can fail


def test_weights_stay_where_the_kernels_read_them():
    conv = fbt.Conv2d(4, 6, 3)
    for moved in (conv.to(memory_format=torch.channels_last), conv.double().float(), copy.deepcopy(conv)):
        assert moved.weight.permute(2, 3, 1, 0).is_contiguous()
    conv.load_state_dict(nn.Conv2d(4, 6, 3).state_dict())
    assert conv.weight.permute(2, 3, 1, 0).is_contiguous()
    optimizer = torch.optim.SGD(conv.parameters(), 0.1, momentum=0.9)
    conv(torch.randn(2, 4, 5, 5)).sum().backward()
    optimizer.step()
    assert optimizer.state[conv.weight]["momentum_buffer"].stride() == conv.weight.stride()


def test_threads(monkeypatch):
    """torch.set_num_threads bounds the kernels, and gradients from several threads are right."""
    seen = Addresses(monkeypatch)
    conv = fbt.Conv2d(4, 6, 3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        conv(images(2, 4, 7, 7))
        assert seen.calls["conv2d_forward_at"][-1] == 1
    finally:
        torch.set_num_threads(threads)
    script = """
import threading, torch, fastbn.torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(8, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU())
fast = fastbn.torch.FusedConvBNReLU2d(8, 32, 3, padding=1, bias=True)
fast.load_state_dict({k.replace("0.", "conv.", 1).replace("1.", "bn.", 1): v for k, v in net.state_dict().items()})
x = torch.randn(16, 8, 24, 24)
def gradient(model):
    y = x.clone().requires_grad_()
    (model(y) * torch.linspace(-1, 1, 24)).sum().backward()
    return y.grad
right, wrong = gradient(net), []
def work():
    for _ in range(10):
        for model in (fast, net):  # in turns with PyTorch's own regions
            found = gradient(model)
            if (found - right).abs().max() > 1e-4 * right.abs().max():
                wrong.append(model)
workers = [threading.Thread(target=work) for _ in range(4)]
[w.start() for w in workers]; [w.join() for w in workers]
print("wrong:", len(wrong))
"""
    assert run_python("-c", script) == "wrong: 0"


# ----------------------------------------------------------------------------------------------------------- optimize


class Block(nn.Module):
    """Every kind of chain: with residual, without batch-norm, before an activation, linear."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.down, self.down_bn = nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)
        self.before, self.act = nn.BatchNorm2d(6), nn.LeakyReLU(0.2)
        self.alone = nn.Conv2d(8, 5, 1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(5 * 36, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3))

    def forward(self, x):
        x = self.act(self.before(x))
        shortcut = self.down_bn(self.down(x))
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += shortcut
        y = torch.relu(y)
        return self.head(torch.sigmoid(self.alone(y)))


FUSED = {
    "before + leaky_relu",
    "down + down_bn",
    "conv1 + bn1 + relu",
    "conv2 + bn2 + add + relu",
    "alone + sigmoid",
    "head.1 + head.2 + tanh",
}


def agree(model, plain, *shape):
    """Losses, gradients and buffers of two models with the same weights, in training and at test time."""
    for training in (True, False):
        model.train(training)
        plain.train(training)
        x = torch.randn(*shape)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, expected = model(a), plain(b)
        assert_close(y, expected.double(), 1e-4)
        for result in (y, expected):
            result.square().sum().backward()
        assert_close(a.grad, b.grad.double(), 1e-3)
        for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
            assert_close(p.grad, q.grad.double(), 1e-3), name
        for p, q in zip(model.buffers(), plain.buffers(), strict=True):
            assert_close(p, q.double(), 1e-4)
        model.zero_grad()
        plain.zero_grad()


def test_optimize():
    plain = Block()
    model = copy.deepcopy(plain)
    parameters, keys = list(model.parameters()), list(model.state_dict())
    changes = fbt.optimize(model)
    assert set(changes.fused) == FUSED
    assert len(changes.replaced) == 11
    assert not changes.left
    assert "replaced: 4 Conv2d, 4 BatchNorm2d, 2 Linear, 1 BatchNorm1d" in str(changes)
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    for layer in ("conv1", "bn1", "head.1", "head.2"):
        assert type(model.get_submodule(layer)).__module__.startswith("fastbn.")
    plain.conv1.bias.requires_grad_(False)  # before batch-norm its gradient is rounding alone
    plain.conv2.bias.requires_grad_(False)
    for module in (plain, model):
        for name in ("conv1", "conv2", "down", "head.1"):
            module.get_submodule(name).bias = None
    agree(model, plain, 5, 6, 6, 6)


def test_optimized_models_copy_and_pickle():
    model = Block().eval()
    fbt.optimize(model)
    x = torch.randn(3, 6, 6, 6)
    y = model(x)
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_close(made(x), y.double(), 1e-6)
        with torch.no_grad():
            made.conv1.weight.zero_()
        assert (made(x) - y).abs().max() > 1e-6  # its own layers
        assert_close(model(x), y.double(), 1e-6)
    again = pickle.loads(pickle.dumps(model))
    assert set(fbt.optimize(again).fused) == FUSED
    assert [why for _, why in fbt.optimize(again).left] == [
        "forward was set on the object: fused before, or by somebody else"
    ] * 2


def test_a_single_layer_is_a_model():
    layer = nn.Linear(4, 3)
    assert fbt.optimize(layer).replaced == (("Linear", "Linear"),)
    assert type(layer) is fbt.Linear
    with pytest.raises(TypeError, match=r"optimize: model must be a torch.nn.Module. Received: int"):
        fbt.optimize(3)


def test_what_is_left_is_said():
    class Depends(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            y = self.layer(x)
            return torch.relu(y) if self.training else y

    class Branches(Depends):
        def forward(self, x):
            return torch.relu(self.layer(x)) if x.sum() > 0 else x

    class Counts(nn.Conv2d):
        pass

    model = nn.Sequential(Depends(), Branches(), nn.Conv2d(1, 1, 3, padding_mode="circular"), Counts(1, 1, 3))
    changes = fbt.optimize(model)
    left = dict(changes.left)
    assert left["0"] == "forward depends on training"
    assert left["1"].startswith("forward cannot be recorded: ")
    assert left["2"] == "padding_mode must be 'zeros'. Received: 'circular'"
    assert changes.replaced == (("0.layer", "Linear"), ("1.layer", "Linear"))
    assert type(model[3]) is Counts
    x = torch.randn(5, 4) - 3
    model[0].train()
    assert (model[0](x) >= 0).all()
    model[0].eval()
    assert (model[0](x) < 0).any()


def test_hooks_see_their_layers():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    plain = copy.deepcopy(model)
    assert len(fbt.optimize(model).fused) == 1
    x, seen = torch.randn(2, 3, 6, 6), []
    expected = model(x)
    handle = model[0].register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    assert_close(model(x), expected.double(), 1e-6)
    handle.remove()
    model(x)
    assert len(seen) == 1
    assert_close(seen[0], plain[0](x).double())


def test_hooks_of_an_activation_and_of_all_layers_are_called():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    fbt.optimize(model)
    x, seen = torch.randn(2, 3, 6, 6), []
    handle = model[2].register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    y = model(x)
    handle.remove()
    assert len(seen) == 1
    assert seen[0] is y
    handle = nn.modules.module.register_module_forward_hook(lambda layer, *_: seen.append(type(layer).__name__))
    model(x)
    handle.remove()
    assert seen[1:] == ["Conv2d", "BatchNorm2d", "ReLU", "Sequential"]


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(4, 4)


class Frozen(Layers):
    def forward(self, x):
        with torch.no_grad():
            x = self.bn(self.conv(x))
        return torch.relu(self.fc(x))


class Cast(Layers):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return torch.relu(self.bn(self.conv(x))) @ x


class Optional(Layers):
    def forward(self, x, aux=None):
        y = torch.relu(self.bn(self.conv(x)))
        return y if aux is None else (y, aux)


class Keeps(Layers):
    def forward(self, x):
        self.last = torch.relu(self.bn(self.conv(x)))
        return self.last * 2


class KeepsThenBranches(Layers):
    def forward(self, x):
        self.last = torch.relu(self.bn(self.conv(x)))
        return self.last if self.last.sum() > 0 else x


class Constant(Layers):
    def forward(self, x):
        return torch.relu(self.bn(self.conv(x))) + torch.ones(1)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Frozen, "it switches gradients or autocast"),
        (Cast, "it switches gradients or autocast"),
        (Optional, "it has optional arguments"),
        (Keeps, "it writes to its module, or makes tensors of its own"),
        (KeepsThenBranches, "symbolically traced variables cannot be used as inputs to control flow"),
        (Constant, "it writes to its module, or makes tensors of its own"),
    ],
)
def test_what_a_recording_would_lose_is_left(kind, why):
    model = kind()
    plain, held = copy.deepcopy(model), set(model.__dict__)
    changes = fbt.optimize(model)
    assert changes.left == ((kind.__name__, f"forward cannot be recorded: {why}"),)
    assert not changes.fused
    assert set(model.__dict__) == held
    x = torch.randn(2, 3, 4, 4)
    y, expected = model(x), plain(x)
    assert y.dtype == expected.dtype
    assert_close(y.float(), expected.double(), 2e-2 if kind is Cast else 1e-4)
    if kind is Frozen:
        y.sum().backward()
        assert model.conv.weight.grad is None


class OntoTheShortcut(Layers):
    def forward(self, x):
        shortcut = x * 1
        x = shortcut
        x += self.bn(self.conv(x))
        return torch.relu(x) + shortcut


class WrittenUnderAnotherName(Layers):
    def forward(self, x):
        x = x.clone()
        same = x
        x += 1
        return torch.relu(self.bn(self.conv(same))) + x


@pytest.mark.parametrize("kind", [OntoTheShortcut, WrittenUnderAnotherName])
def test_what_is_added_in_place_is_seen_under_every_name(kind):
    model = kind().eval()
    plain = copy.deepcopy(model)
    assert fbt.optimize(model).fused
    x = torch.randn(2, 3, 4, 4)
    assert_close(model(x), plain(x).double(), 1e-6)


def test_edits_after_optimize_count():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    fbt.optimize(model)
    x = torch.randn(5, 4)
    y = model(x)
    model[1] = nn.Tanh()
    assert_close(model(x), torch.tanh(model[0](x)).double(), 1e-6)
    model[1] = nn.ReLU()
    assert_close(model(x), y.double(), 1e-6)
    model.append(nn.Sigmoid())
    assert_close(model(x), torch.sigmoid(y).double(), 1e-6)
    model[0] = nn.Identity()
    assert_close(model(x), torch.sigmoid(torch.relu(x)).double(), 1e-6)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("when", ["made before", "loaded", "gradient before"])
def test_fused_optimizers_go_on(make, when):
    """Their steps walk memory, and weights have other strides than what an optimizer kept of them."""
    options = {"lr": 0.1, "fused": True, **({"momentum": 0.9} if make is torch.optim.SGD else {})}
    models = [nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(27, 2, bias=False)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [make(model.parameters(), **options) for model in models]
    x = torch.randn(5, 2, 4, 4)

    def step(model, optimizer):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    for pair in zip(models, optimizers, strict=True):
        step(*pair)
    state = optimizers[0].state_dict()
    if when == "gradient before":
        for model in models:
            model(x).sum().backward()
    fbt.optimize(models[0])
    if when == "loaded":
        optimizers[0] = make(models[0].parameters(), **options)
        optimizers[0].load_state_dict(state)
    if when == "gradient before":
        for optimizer in optimizers:
            optimizer.step()
    for _ in range(3):
        for pair in zip(models, optimizers, strict=True):
            step(*pair)
    for found, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert_close(found, expected.double(), 1e-4)


def test_nothing_is_fused_over_a_write():
    """relu_ writes x between the convolution and the end of its chain."""

    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            x = x.relu_()
            return torch.relu(self.bn(y) + x)

    model = Writes().eval()
    plain = copy.deepcopy(model)
    fbt.optimize(model)
    x = torch.randn(2, 3, 4, 4)
    assert_close(model(x.clone()), plain(x.clone()).double())


def test_a_residual_of_another_shape():
    class Broadcasts(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return torch.relu(self.bn(self.conv(x)) + x.mean((1, 2, 3), keepdim=True))

    model = Broadcasts()
    plain = copy.deepcopy(model)
    model.conv.bias = plain.conv.bias = None
    assert fbt.optimize(model).fused == ("conv + bn + add + relu",)
    agree(model, plain, 4, 3, 5, 5)


# ------------------------------------------------------------------------------------- versions, the page, consumers


def test_page(capsys):
    exec(blocks("embedding_pytorch.md"), {})
    shown = (ROOT / "docs" / "embedding_pytorch.md").read_text()
    assert f"```text\n{capsys.readouterr().out}```\n" in shown


def test_another_version(tmp_path):
    """This file again with another PyTorch: FASTBN_TEST_TORCH names the folder that it was installed in."""
    folder = os.environ.get("FASTBN_TEST_TORCH")
    if not folder:
        pytest.skip("FASTBN_TEST_TORCH names no folder with another PyTorch (pip install --target FOLDER torch==...)")
    environment = {**os.environ, "PYTHONPATH": folder}
    del environment["FASTBN_TEST_TORCH"]
    code = "import torch; print(torch.__version__)"
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() != torch.__version__
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not consumer", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    print(torch.__version__, "and", other.stdout.strip(), done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout


def test_consumer(environment, consumer):
    environment.require("torch", f"torch=={torch.__version__.partition('+')[0]}")
    folder: Path = consumer("torch")
    out = environment.run(environment.python, "train.py", "--width", "8", "--steps", "3", cwd=folder)
    assert "replaced: 20 Conv2d, 20 BatchNorm2d, 1 Linear\nfused: 20 chains" in out
    theirs, ours = (line.split()[1:] for line in out.splitlines() if line.startswith(("PyTorch", "fastbn")))
    assert len(theirs) == len(ours) == 3
    assert float(ours[-1]) == pytest.approx(float(theirs[-1]), rel=1e-2)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        p = self.bn(x)
        q = self.bn(2 * x + 1)
        return F.relu(p + q)


def test_a_batch_norm_called_twice_keeps_the_order_of_its_calls():
    module = Twice()
    plain = copy.deepcopy(module).double()
    fbt.optimize(module)
    x = images(8, 3, 5, 5)
    assert_close(module(x), plain(x.double()))
    assert_close(module.bn.running_mean, plain.bn.running_mean)
    assert_close(module.bn.running_var, plain.bn.running_var)


@pytest.mark.parametrize(("padding", "dilation"), [((1, 1), 1), (2, 1), ((0, 2), 1), ("same", 2), ("valid", 1)])
def test_attributes_of_a_convolution_that_are_set_later(padding, dilation):
    layer = nn.Conv2d(3, 4, 3)
    fbt.optimize(layer)
    layer.padding, layer.dilation = padding, (dilation, dilation)
    x = images(2, 3, 9, 8)
    expected = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), 1, padding, dilation)
    assert_close(layer(x), expected)
    layer.padding_mode = "circular"
    with pytest.raises(ValueError, match=r"padding_mode must be 'zeros'.*circular"):
        layer(x)


@pytest.mark.parametrize("slope", [0.5, 0.0, -0.3])
@pytest.mark.parametrize("training", [True, False])
def test_the_slope_of_a_leaky_relu_is_the_one_it_has_now(slope, training):
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.1)).train(training)
    assert len(fbt.optimize(module).fused) == 1
    module[2].negative_slope = slope
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(slope)).train(training)
    plain.load_state_dict(module.state_dict())
    compare(module, plain, images(2, 3, 7, 7, grad=True))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_a_forward_of_an_object_is_called(place, training, before):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train(training)
    plain = copy.deepcopy(module)

    def change(layer):
        own = layer.forward
        layer.forward = lambda x: own(x) + 5

    if before:
        change(module[place])
    fbt.optimize(module)
    if not before:
        change(module[place])
    change(plain[place])
    x = images(2, 3, 7, 7)
    assert_close(module(x), plain.double()(x.double()))


def test_a_training_pass_between_an_evaluation_and_its_gradient():
    layer = fbt.BatchNorm2d(3)
    x = images(4, 3, 5, 5, grad=True)
    y = layer.eval()(x)
    scale = 1 / (layer.running_var + layer.eps).sqrt()
    layer.train()(images(4, 3, 5, 5))
    y.sum().backward()
    assert_close(x.grad, scale.double().reshape(1, 3, 1, 1).expand(x.shape))
