"""Tables of PyTorch models, beside what fvcore, ptflops and torchinfo count: every difference to the digit."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest

from fastbn import costs, networks

torch = pytest.importorskip("torch")
nn = torch.nn

WIDE = 8


class Residual(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(WIDE)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        return self.relu(self.norm(self.conv(x)) + x)


def small_resnet() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, WIDE, 3, stride=2, padding=1),
        Residual(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(WIDE * 8 * 8, 10),
    )


SHAPE = (3, 32, 32)
#: By hand: outputs times the products of each; one sample.
CONV, GROUPED, LINEAR = 16 * 16 * WIDE * 27, 16 * 16 * WIDE * 9 * WIDE // 2, WIDE * 8 * 8 * 10


def test_counts_by_hand() -> None:
    table = costs.from_torch(small_resnet(), SHAPE, batch_size=4)
    assert table.forward_multiply_adds == CONV + GROUPED + LINEAR
    backward = {row.layer: row.backward.multiply_adds for row in table if row.backward.multiply_adds}
    assert backward == {"0": 4 * CONV, "1.conv": 8 * GROUPED, "5": 8 * LINEAR}  # no data gradient before the first
    assert table.parameters == sum(p.numel() for p in small_resnet().parameters())
    assert table.uncounted == ()
    assert not table.measured
    x, y = 4 * 3 * 32 * 32 * 4, 4 * 16 * 16 * WIDE * 4
    first = table["0"]
    assert first.forward.bytes_crossing == x + 27 * WIDE * 4 + y
    assert table["1: add"].forward.bytes_crossing == 3 * y
    assert "1.conv" in str(table)


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn_small"])
def test_the_questions_networks_count_as_ours_do(name: str) -> None:
    flat = 28 * 28
    module = {
        "mlp": lambda: nn.Sequential(
            nn.Linear(flat, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(512, 10),
        ),
        "cnn": lambda: nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
            nn.Flatten(), nn.Linear(9216, 10),
        ),
        "cnn_small": lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
            nn.Flatten(), nn.Linear(576, 10),
        ),
    }[name]()  # fmt: skip
    ours = getattr(networks, name)()
    ours.compile("rmsprop", "sparse_categorical_crossentropy")
    expected = ours.costs(32, steps=0)
    found = costs.from_torch(module, (flat,) if name == "mlp" else (1, 28, 28), batch_size=32)
    assert found.forward_multiply_adds == expected.forward_multiply_adds
    by_direction = [[sum(row.direction(d).multiply_adds for row in t) for d in ("forward", "backward")]
                    for t in (found, expected)]  # fmt: skip
    assert by_direction[0] == by_direction[1]


def test_what_is_not_known_is_named() -> None:
    class Odd(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.PReLU()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Any) -> Any:
            return (self.act(x) * self.scale).exp() @ x.transpose(1, 2)

    module = Odd()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    table = costs.from_torch(module, (5, 3), batch_size=2)
    assert table.uncounted == ("act (PReLU)", "Odd: exp", "Odd: bmm")
    assert table["Odd: mul"].forward.multiply_adds == 0
    assert table.parameters == 4
    assert "Not counted: act (PReLU), Odd: exp, Odd: bmm." in str(table)
    assert "Odd: bmm" in table._repr_html_()
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())
    assert next(module.parameters()).device.type == "cpu"


def test_a_layer_that_is_used_twice() -> None:
    layer = nn.Linear(4, 4)
    table = costs.from_torch(nn.Sequential(layer, nn.ReLU(), layer), (4,), batch_size=3)
    assert [row.layer for row in table] == ["0", "1", "0 (2)"]
    assert table.parameters == 20
    assert table.forward_multiply_adds == 2 * 16


def test_frozen_layers_have_no_gradients() -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))
    module[0].requires_grad_(False)
    table = costs.from_torch(module, (4,), batch_size=1)
    assert table["0"].backward.multiply_adds == 0
    assert table["1"].backward.multiply_adds == 30  # into its weights alone


@pytest.mark.parametrize(
    ("module", "shape", "batch", "error", "message"),
    [
        (3, (4,), 1, TypeError, "from_torch: module must be a torch.nn.Module. Received: int"),
        (nn.Linear(4, 4), (0,), 1, ValueError, "from_torch: sizes must be at least 1"),
        (nn.Linear(4, 4), (4,), 0, ValueError, "from_torch: sizes must be at least 1"),
        (nn.Linear(4, 4), (4.5,), 1, TypeError, "from_torch: input_shape"),
    ],
)
def test_bad_arguments(module: Any, shape: Any, batch: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        costs.from_torch(module, shape, batch)


# What the counters count beside the products of convolutions and linear layers, by their rules.
_OUTPUTS = 16 * 16 * WIDE


def test_beside_fvcore() -> None:
    """fvcore calls a multiply-add one flop, and counts two for each number of a batch-norm; no bias, ReLU, pool."""
    fvcore = pytest.importorskip("fvcore.nn")
    model = small_resnet().eval()
    analysis = fvcore.FlopCountAnalysis(model, torch.zeros(1, *SHAPE))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    ours = costs.from_torch(small_resnet(), SHAPE, batch_size=1).forward_multiply_adds
    print(
        f"fvcore {int(analysis.total()):,}, of these batch-norm {analysis.by_operator()['batch_norm']:,}; ours {ours:,}"
    )
    by_operator = analysis.by_operator()
    assert by_operator["conv"] + by_operator["linear"] == ours
    assert analysis.total() - ours == by_operator["batch_norm"] == 2 * _OUTPUTS


def test_beside_ptflops() -> None:
    """ptflops' MACs hold biases, two for each number of a batch-norm, and two for each that a ReLU or a pool reads.

    ReLU and pool are one each by its rules; both the module and the function that it calls are counted.
    """
    ptflops = pytest.importorskip("ptflops")
    with contextlib.redirect_stdout(io.StringIO()):
        found, _ = ptflops.get_model_complexity_info(
            small_resnet().eval(), SHAPE, as_strings=False, print_per_layer_stat=False, backend="pytorch"
        )
    ours = costs.from_torch(small_resnet(), SHAPE, batch_size=1).forward_multiply_adds
    print(f"ptflops {int(found):,}; ours {ours:,}")
    biases = 2 * _OUTPUTS + 10
    assert found - ours == biases + 2 * _OUTPUTS + 2 * _OUTPUTS + 2 * _OUTPUTS  # batch-norm, ReLU, pool


def test_beside_torchinfo() -> None:
    """torchinfo multiplies parameters by outputs: biases and batch-norm's parameters are counted as products."""
    torchinfo = pytest.importorskip("torchinfo")
    found = torchinfo.summary(small_resnet(), (1, *SHAPE), verbose=0).total_mult_adds
    ours = costs.from_torch(small_resnet(), SHAPE, batch_size=1).forward_multiply_adds
    print(f"torchinfo {int(found):,}; ours {ours:,}")
    assert found - ours == 2 * _OUTPUTS + 10 + 2 * WIDE  # biases, batch-norm's parameters once
