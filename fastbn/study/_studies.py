"""The studies: which variants each compares, how figures group them, and what is claimed of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from fastbn.study._claims import FAR, Claim, alike, less, more, not_less
from fastbn.study._variants import Variant


@dataclass(frozen=True)
class Study:
    """Variants by the label that figures and claims know them by; `groups` are drawn together, in that order."""

    name: str
    title: str
    question: str
    variants: dict[str, Variant]
    groups: dict[str, tuple[str, ...]]
    claims: tuple[Claim, ...]
    layers_of: tuple[str, ...] = ()  # whose layer outputs are drawn
    panels: tuple[str, ...] = ("loss", "val_loss", "seconds")  # of each group

    def __post_init__(self) -> None:
        named = {label for claim in self.claims for pair in claim.pairs for label in pair}
        named |= {claim.target for claim in self.claims if claim.target is not None}
        named |= {label for group in self.groups.values() for label in group} | set(self.layers_of)
        if not named <= set(self.variants):
            raise ValueError(f"study: claims and groups name its variants. Received: {named - set(self.variants)}")


def _bn(activation: str, count: int, **options: object) -> Variant:
    return replace(Variant(activation, count), **options)  # type: ignore[arg-type]


def _accelerate() -> Study:
    labels = {f"{a}, {name}": _bn(a, k) for a in ("sigmoid", "relu") for k, name in ((0, "no BN"), (1, "one BN"))}
    sigmoid, relu = ("sigmoid, one BN", "sigmoid, no BN"), ("relu, one BN", "relu, no BN")
    return Study(
        "accelerate",
        "Does batch-norm speed training up?",
        "No batch-norm against one after the first hidden layer, with sigmoid and with relu. SGD(0.01, momentum 0.9, "
        "nesterov), batch 128.",
        labels,
        {"sigmoid": sigmoid[::-1], "relu": relu[::-1]},
        (
            less("sigmoid: with one BN training converges far faster", "epochs_to_reach", sigmoid, by=FAR),
            less("sigmoid: it is far faster in time, too", "seconds_to_reach", sigmoid, by=FAR, source="fastbn"),
            less("relu: with BN training converges faster, too", "epochs_to_reach", relu),
            less("relu: it is faster in time, too", "seconds_to_reach", relu, source="fastbn"),
            less(
                "relu with BN is faster still than sigmoid with BN",
                "epochs_to_reach",
                ("relu, one BN", "sigmoid, one BN"),
            ),
        ),
        tuple(labels),
    )


def _depth() -> Study:
    variants = {f"{a}, {k} BN": _bn(a, k) for a in ("sigmoid", "relu") for k in range(5)}
    groups = {a: tuple(f"{a}, {k} BN" for k in range(5)) for a in ("sigmoid", "relu")}
    for hidden in (8, 16):
        counts = (0, 1, 4, hidden)
        variants |= {f"relu {hidden} layers, {k} BN": _bn("relu", k, hidden=hidden) for k in counts}
        groups[f"relu {hidden} layers"] = tuple(f"relu {hidden} layers, {k} BN" for k in counts)
    steps = tuple((b, a) for a, b in pairwise(groups["sigmoid"]))
    after_first = tuple((f"relu, {k} BN", "relu, 1 BN") for k in (2, 3, 4))
    return Study(
        "depth",
        "Do more batch-norm layers help more?",
        "Batch-norm after the first 0 to 4 hidden layers, with sigmoid and with relu; and relu in networks of 8 and 16 "
        "hidden layers (512 - 256 - 128 - 64 - 64 - ...), because the article supposes that its own is too shallow for "
        "relu to show a difference. SGD(0.01, momentum 0.9, nesterov), batch 128.",
        variants,
        groups,
        (
            less("sigmoid: training is faster with each BN layer", "epochs_to_reach", *steps),
            less("sigmoid: training ends better with each BN layer", "final_loss", *steps),
            less(
                "sigmoid: the validation loss ends better with each BN layer", "final_val_loss", *steps, source="fastbn"
            ),
            alike(
                "relu: after the first BN, more make hardly any difference to speed",
                "epochs_to_reach",
                *after_first,
                target="relu, 0 BN",
            ),
            alike(
                "relu: after the first BN, more make hardly any difference to the loss in the end",
                "final_loss",
                *after_first,
            ),
            alike("relu: nor to the validation loss", "final_val_loss", *after_first, source="fastbn"),
            *(
                less(
                    f"relu, {hidden} hidden layers: here BN after every layer is faster than after the first alone",
                    "epochs_to_reach",
                    (f"relu {hidden} layers, {hidden} BN", f"relu {hidden} layers, 1 BN"),
                )
                for hidden in (8, 16)
            ),
        ),
    )


def _optimizer() -> Study:
    variants = {
        f"{name}, {bn}": _bn("sigmoid", k, optimizer=name.lower())
        for name in ("SGD", "Adam")
        for k, bn in ((0, "no BN"), (1, "one BN"))
    }
    others = tuple(("Adam, one BN", label) for label in variants if label != "Adam, one BN")
    return Study(
        "optimizer",
        "Does batch-norm add anything to an adaptive learning rate?",
        "SGD(0.01, momentum 0.9, nesterov) and Adam(0.01), each without and with one batch-norm. Sigmoid, batch 128.",
        variants,
        {"all": tuple(variants)},
        (
            less("Adam with BN is the fastest: lowest after one epoch", "first_loss", *others),
            less("Adam with BN is the fastest: first at where each other one ends", "epochs_to_reach", *others),
            alike("Adam without BN is about as good as SGD with BN", "final_loss", ("Adam, no BN", "SGD, one BN")),
        ),
    )


def _batch() -> Study:
    sizes = (4, 64, 256, 1024)
    names = {0: "no BN", 1: "one BN"}
    variants = {
        f"{names[k]}, batch {size}": _bn("sigmoid", k, batch_size=size, probes=("gradient",))
        for k in names
        for size in sizes
    }
    groups = {name: tuple(f"{name}, batch {size}" for size in sizes) for name in names.values()}
    noisier = tuple((f"{name}, batch {a}", f"{name}, batch {b}") for name in groups for a, b in pairwise(sizes))
    return Study(
        "batch",
        "What does the batch size do to batch-norm?",
        "Batches of 4, 64, 256 and 1024, each without and with one batch-norm. Sigmoid, SGD(0.01, momentum 0.9, "
        "nesterov).",
        variants,
        groups,
        (
            less(
                "with BN, 64 and 4 are best",
                "final_loss",
                *((f"one BN, batch {small}", f"one BN, batch {large}") for small in (4, 64) for large in (256, 1024)),
            ),
            less(
                "without BN, 4 is best",
                "final_loss",
                *(("no BN, batch 4", f"no BN, batch {size}") for size in sizes[1:]),
            ),
            not_less(
                "at the smallest batch BN gains almost nothing", "final_loss", ("one BN, batch 4", "no BN, batch 4")
            ),
            more("and can hurt", "final_loss", ("one BN, batch 4", "no BN, batch 4")),
            more("small batches take longer", "seconds_an_epoch", *((a, b) for a, b in noisier if a.endswith("h 4"))),
            more("the smaller the batch, the noisier the gradient", "gradient_noise", *noisier),
        ),
    )


def _order() -> Study:
    variants = {}
    for activation in ("sigmoid", "relu"):
        variants[f"{activation}, no BN"] = _bn(activation, 0)
        variants[f"{activation}, BN after"] = _bn(activation, 4)
        variants[f"{activation}, BN before"] = _bn(activation, 4, before=True)
    claims: list[Claim] = []
    for activation in ("sigmoid", "relu"):
        pair = (f"{activation}, BN before", f"{activation}, BN after")
        target = f"{activation}, no BN"
        text = f"{activation}: before the activation trains as fast as after it"
        claims.append(alike(text, "epochs_to_reach", pair, target=target, source="fastbn"))
        text = f"{activation}: and ends at the same validation loss"
        claims.append(alike(text, "final_val_loss", pair, source="fastbn"))
    groups = {a: tuple(label for label in variants if label.startswith(a)) for a in ("sigmoid", "relu")}
    return Study(
        "order",
        "Before or after the activation?",
        "Batch-norm at all four hidden layers, before or after the activation. SGD(0.01, momentum 0.9, nesterov), "
        "batch 128.",
        variants,
        groups,
        tuple(claims),
    )


def _momentum() -> Study:
    momenta = (0.99, 0.9, 0.5)
    variants = {
        f"momentum {m:g}": _bn("relu", 4, momentum=m, batch_size=1024, most_epochs=3, probes=("recalibration",))
        for m in momenta
    }

    def recalibrated(text: str, which: str, label: str, *, lags: bool) -> Claim:
        stale, fresh = f"{which}stale_loss", f"{which}recalibrated_loss"
        make = more if lags else alike
        return make(text, stale, (label, label), against=fresh, source="fastbn")

    return Study(
        "momentum",
        "Moving statistics that lag behind",
        "At batch 1024 an epoch of MNIST has 59 steps: at momentum 0.99 the moving statistics are then still more than "
        "half those of the beginning (0.99^59 = 0.55), and evaluation uses them. `recalibrate_batch_norm` recomputes "
        "them over data. relu, batch-norm after all four hidden layers, SGD(0.01, momentum 0.9, nesterov), at most 3 "
        "epochs.",
        variants,
        {"momentum": tuple(variants)},
        (
            recalibrated(
                "momentum 0.99: after one epoch evaluation lags behind training", "", "momentum 0.99", lags=True
            ),
            recalibrated("momentum 0.99: it still does after the last", "last_", "momentum 0.99", lags=True),
            recalibrated("momentum 0.9: after one epoch nothing lags", "", "momentum 0.9", lags=False),
            alike(
                "recalibrated, all momenta give the same loss after one epoch",
                "recalibrated_loss",
                *((f"momentum {m:g}", "momentum 0.99") for m in momenta[1:]),
                source="fastbn",
            ),
        ),
        panels=("loss", "stale", "recalibrated"),
    )


def _shift() -> Study:
    labels = {
        f"{a}, {name}": _bn(a, k) for a in ("sigmoid", "relu") for k, name in ((0, "no BN"), (4, "BN after all four"))
    }
    pairs = {a: (f"{a}, BN after all four", f"{a}, no BN") for a in ("sigmoid", "relu")}
    return Study(
        "shift",
        "Internal covariate shift",
        "How far the distribution of each layer's inputs moves in an epoch, with and without batch-norm: the distance "
        "of the units' means before and after, in standard deviations, root mean square over units; mean over layers "
        "and epochs. SGD(0.01, momentum 0.9, nesterov), batch 128.",
        labels,
        {a: pair[::-1] for a, pair in pairs.items()},
        tuple(
            less(f"{a}: BN makes the layers' inputs move less", "input_shift", pair, source="article's first question")
            for a, pair in pairs.items()
        ),
        tuple(labels),
        panels=("loss", "val_loss", "shift"),
    )


def _conv() -> Study:
    variants = {}
    for network in ("cnn", "cnn_small"):
        for k, name in ((0, "no BN"), (2, "BN")):
            variants[f"{network}, {name}"] = Variant(
                "relu", k, network=network, optimizer="rmsprop", learning_rate=0.001
            )
    claims: list[Claim] = []
    for network in ("cnn", "cnn_small"):
        pair = (f"{network}, BN", f"{network}, no BN")
        claims.append(less(f"{network}: BN converges faster", "epochs_to_reach", pair, source="fastbn"))
        claims.append(less(f"{network}: in time, too", "seconds_to_reach", pair, source="fastbn"))
        claims.append(less(f"{network}: and ends at a better validation loss", "final_val_loss", pair, source="fastbn"))
    return Study(
        "conv",
        "Batch-norm in a convolutional network",
        "The question's cnn and cnn_small, without and with batch-norm after each convolution's activation. "
        "RMSprop(0.001), batch 128.",
        variants,
        {
            network: tuple(label for label in variants if label.startswith(f"{network},"))
            for network in ("cnn", "cnn_small")
        },
        tuple(claims),
        tuple(variants),
    )


#: The article's four, then those beyond it.
ARTICLE = ("accelerate", "depth", "optimizer", "batch")
STUDIES = {
    study.name: study
    for study in (_accelerate(), _depth(), _optimizer(), _batch(), _order(), _momentum(), _shift(), _conv())
}


def chosen(name: str) -> list[Study]:
    """The studies of a name: "all" is the article's four. Raises ValueError for unknown names."""
    names = ARTICLE if name == "all" else (name,)
    for one in names:
        if one not in STUDIES:
            raise ValueError(f"study: name must be all or one of {', '.join(STUDIES)}. Received: {name!r}")
    return [STUDIES[one] for one in names]
