"""A small convolutional autoencoder, trained on patches of two photographs twice at once: torch's layers and convx's.

The encoder halves the picture twice with Conv2d, the decoder doubles it twice with ConvTranspose2d. Both models start
from the same seed and see the same patches, so their losses differ by rounding only; training amplifies that difference
from step to step, as it does between two builds of torch.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 200
BATCH = 32
PATCH = 32  # trained on
SHOWN = 96  # pictured: the model is convolutional, so any multiple of 4 will do


def make_model(layers: Any, seed: int = 0) -> nn.Sequential:
    """The autoencoder, of the Conv2d and ConvTranspose2d of `layers`: torch.nn or convx."""
    torch.manual_seed(seed)
    return nn.Sequential(
        layers.Conv2d(3, 16, kernel_size=3, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        layers.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        layers.ConvTranspose2d(32, 16, kernel_size=3, stride=2, padding=1, output_padding=1),
        nn.LeakyReLU(0.1),
        layers.ConvTranspose2d(16, 3, kernel_size=4, stride=2, padding=1),
    )


def photographs() -> list[Tensor]:
    """scikit-learn's two sample photographs, (3, H, W) in -0.5..0.5."""
    from sklearn.datasets import load_sample_images

    return [torch.tensor(image).permute(2, 0, 1) / 255 - 0.5 for image in load_sample_images().images]


def random_patches(images: list[Tensor], count: int, size: int, generator: torch.Generator) -> Tensor:
    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    patches = []
    for i in range(count):
        image = images[i % len(images)]
        top, left = (below(n - size + 1) for n in image.shape[1:])
        patches.append(image[:, top : top + size, left : left + size])
    return torch.stack(patches)


class Trainer:
    """One of the two models, its optimizer, and how long its steps took."""

    def __init__(self, layers: Any):
        self.model = make_model(layers)
        # Adam divides by the size of the gradient. Its usual eps of 1e-8 lets it do so even where a gradient is nothing
        # but rounding, which would drive the two models apart; this one does not.
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=6e-3, eps=1e-4)
        self.seconds = 0.0
        self.loss = float("nan")

    def step(self, patches: Tensor) -> None:
        started = time.perf_counter()
        loss = nn.functional.mse_loss(self.model(patches), patches)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seconds += time.perf_counter() - started
        self.loss = loss.item()


def save_picture(rows: list[Tensor], file: Path) -> None:
    """Rows of patches, (n, 3, h, w) in -0.5..0.5 each, as one PNG."""
    from PIL import Image

    picture = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    pixels = ((picture + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels.numpy()).save(file)


def train(convx: Any, file: Path, steps: int = STEPS) -> bool:
    """Trains both, prints their losses side by side, writes the picture; returns whether the losses agree."""
    images = photographs()
    generator = torch.Generator().manual_seed(1)
    sides = {"torch": Trainer(nn), "convx": Trainer(convx)}
    print(f"{'step':>6}{'loss, torch':>14}{'loss, convx':>14}{'difference':>14}")
    differences = []
    for step in range(1, steps + 1):
        patches = random_patches(images, BATCH, PATCH, generator)
        for side in sides.values():
            side.step(patches)
        ours, theirs = sides["convx"].loss, sides["torch"].loss
        differences.append(abs(ours - theirs) / theirs)
        if step == 1 or step % 25 == 0 or step == steps:
            print(f"{step:>6}{theirs:>14.7f}{ours:>14.7f}{ours - theirs:>14.1e}", flush=True)
    for name, side in sides.items():
        print(f"{name}: {side.seconds / steps * 1e3:.1f} ms a step")
    shown = random_patches(images, 8, SHOWN, generator)
    with torch.no_grad():
        rebuilt = [side.model(shown) for side in sides.values()]
    save_picture([shown, *rebuilt], file)
    print(f"originals, torch's reconstructions, convx's: {file}")
    early, all_steps = max(differences[:20]), max(differences)
    print(f"largest difference, as a part of the loss: {early:.1e} in the first 20 steps, {all_steps:.1e} in all")
    return early < 1e-4 and all_steps < 0.05
