"""Trains a ResNet-18 in PyTorch, then the same one with fastbn's kernels: the losses agree.

pip install "fastbn[torch]"
python train.py --width 16 --batch 16 --steps 5
"""

from __future__ import annotations

import argparse
import copy

import torch
from resnet import ResNet18
from torch import nn

import fastbn.torch


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()

    torch.manual_seed(1)
    images = torch.randn(options.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,))
    plain = ResNet18(width=options.width)
    model = copy.deepcopy(plain)
    keys = list(model.state_dict())

    print(fastbn.torch.optimize(model))
    assert list(model.state_dict()) == keys

    theirs = train(plain, images, labels, options.steps)
    ours = train(model, images, labels, options.steps)
    print("PyTorch", *(f"{loss:.4f}" for loss in theirs))
    print("fastbn ", *(f"{loss:.4f}" for loss in ours))
    plain.load_state_dict(model.state_dict())  # either way
    with torch.no_grad():
        difference = (plain.eval()(images) - model.eval()(images)).abs().max().item()
    print(f"largest difference of logits with the same weights: {difference:.1e}")
    assert difference < 1e-3
    assert abs(theirs[0] - ours[0]) < 1e-4


if __name__ == "__main__":
    main()
