"""Whole networks in training: one step with torch's layers beside one of the same network through convx.convert.

    python -m benchmarks.networks [--networks resnet unet] [--batch 4] [--size 64] [--autocast bfloat16]

Five small ones, each with the layers that make its family, so that how much of a step is convolution, and of which
kind, is as in the originals. A step is forward, loss, backward and SGD. Both sides begin with the same weights and see
the same data; the loss and the gradients of their first steps must agree. Later ones drift apart, as they do between
two builds of torch.
"""

import copy
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import convx

from .commands import Pairs, parser, start
from .timing import interleaved

CLASSES = 10


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, but for its stride, and batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


class Residual(nn.Module):
    """shortcut(x) + body(x), and an activation behind it if there is one."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None):
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.shortcut(x) + self.body(x))


def resnet() -> nn.Module:
    """ResNet-18 (arXiv:1512.03385): 3x3 convolutions, two to a block, four stages of two blocks."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        body = nn.Sequential(conv_norm(inputs, outputs, 3, stride), nn.ReLU(), conv_norm(outputs, outputs, 3))
        shortcut = None if inputs == outputs else conv_norm(inputs, outputs, 1, stride)
        return Residual(body, shortcut, nn.ReLU())

    stages, inputs = [], 64
    for outputs in (64, 128, 256, 512):
        stages += [block(inputs, outputs, 1 if inputs == outputs else 2), block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(conv_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *stages, head(512))


def mobilenet() -> nn.Module:
    """MobileNetV2's inverted residuals (arXiv:1801.04381): 1x1 up, 3x3 depthwise, 1x1 down."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        wide = 6 * inputs
        body = nn.Sequential(
            conv_norm(inputs, wide, 1), nn.ReLU6(),
            conv_norm(wide, wide, 3, stride, groups=wide), nn.ReLU6(),
            conv_norm(wide, outputs, 1),
        )  # fmt: skip
        return Residual(body) if stride == 1 and inputs == outputs else body

    blocks, inputs = [], 16
    for outputs, count, stride in ((24, 2, 2), (32, 3, 2), (64, 3, 2), (96, 2, 1), (160, 2, 2)):
        for i in range(count):
            blocks.append(block(inputs, outputs, stride if i == 0 else 1))
            inputs = outputs
    return nn.Sequential(conv_norm(3, 16, 3, 2), nn.ReLU6(), *blocks, conv_norm(inputs, 640, 1), nn.ReLU6(), head(640))


def convnext() -> nn.Module:
    """ConvNeXt (arXiv:2201.03545): 7x7 depthwise, 1x1 up and down, patches of 4x4 and 2x2 in between."""

    def block(width: int) -> nn.Module:
        depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        up, down = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)
        return Residual(nn.Sequential(depthwise, nn.GroupNorm(1, width), up, nn.GELU(), down))

    layers, inputs = [], 3
    for width, count in ((64, 1), (128, 1), (256, 3), (512, 1)):
        patch = 4 if inputs == 3 else 2
        layers += [
            nn.Conv2d(inputs, width, patch, patch),
            nn.GroupNorm(1, width),
            *(block(width) for _ in range(count)),
        ]
        inputs = width
    return nn.Sequential(*layers, head(inputs))


class UNet(nn.Module):
    """U-Net (arXiv:1505.04597): down by pooling, up by 2x2 transposed convolutions, joined at every size."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)):
        super().__init__()

        def double(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(conv_norm(inputs, outputs, 3), nn.ReLU(), conv_norm(outputs, outputs, 3), nn.ReLU())

        pairs = list(pairwise(widths))
        self.down = nn.ModuleList([double(3, widths[0]), *(double(a, b) for a, b in pairs)])
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(pairs))
        self.joined = nn.ModuleList(double(2 * a, a) for a, _ in reversed(pairs))
        self.last = nn.Conv2d(widths[0], CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        passed = [self.down[0](x)]
        for stage in self.down[1:]:
            passed.append(stage(functional.max_pool2d(passed[-1], 2)))
        x = passed.pop()
        for up, joined in zip(self.up, self.joined, strict=True):
            x = joined(torch.cat([passed.pop(), up(x)], 1))
        return self.last(x)


class DCGAN(nn.Module):
    """DCGAN (arXiv:1511.06434): a generator of 4x4 transposed convolutions, and a discriminator, its mirror image.

    What it returns says how real an image is, for the images that went in and for as many made up.
    """

    def __init__(self, noise: int = 100, width: int = 32):
        super().__init__()
        self.noise = noise
        widths = (8 * width, 4 * width, 2 * width, width)
        generator = [nn.ConvTranspose2d(noise, widths[0], 4, bias=False)]
        for wide, narrow in pairwise((*widths, 3)):
            generator += [nn.BatchNorm2d(wide), nn.ReLU(), nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False)]
        discriminator = []
        for narrow, wide in pairwise((3, *reversed(widths))):
            discriminator += [nn.Conv2d(narrow, wide, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.generator = nn.Sequential(*generator, nn.Tanh())
        self.discriminator = nn.Sequential(*discriminator, nn.Conv2d(widths[0], 1, 4))

    def forward(self, images: Tensor) -> Tensor:
        noise = images.flatten(1)[:, : self.noise, None, None]  # any numbers will do, if they are the same each time
        made = self.generator(noise)
        return self.discriminator(torch.cat([images, made])).flatten()


def class_loss(scores: Tensor) -> Tensor:
    """Cross-entropy with one class after the other, of images or of pixels."""
    labels = torch.arange(scores.numel() // CLASSES, device=scores.device).remainder(CLASSES)
    return functional.cross_entropy(scores.float(), labels.view(scores.shape[:1] + scores.shape[2:]))


def real_loss(scores: Tensor) -> Tensor:
    """The discriminator's: the first half are real images."""
    real = torch.arange(len(scores), device=scores.device) < len(scores) // 2
    return functional.binary_cross_entropy_with_logits(scores.float(), real.float())


class Network(NamedTuple):
    make: Callable[[], nn.Module]
    loss: Callable[[Tensor], Tensor]
    batch: int
    size: int  # of a side of the images


# Batches and sizes of which a step takes some tenths of a second on two cores.
NETWORKS = {
    "resnet": Network(resnet, class_loss, 8, 96),
    "mobilenet": Network(mobilenet, class_loss, 8, 128),
    "convnext": Network(convnext, class_loss, 8, 96),
    "unet": Network(UNet, class_loss, 4, 96),
    "dcgan": Network(DCGAN, real_loss, 16, 64),
}


class Trainer:
    """One side: its model, its optimizer, and the loss and all gradients of its first step."""

    def __init__(self, model: nn.Module, network: Network, images: Tensor, autocast: torch.dtype | None):
        self.model, self.network, self.images, self.autocast = model, network, images, autocast
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        self.loss: float | None = None
        self.gradient = torch.empty(0)

    def step(self) -> None:
        with torch.enable_grad():
            with torch.autocast(self.images.device.type, self.autocast, enabled=self.autocast is not None):
                loss = self.network.loss(self.model(self.images))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        if self.loss is None:
            self.loss = loss.item()
            self.gradient = torch.cat([p.grad.flatten() for p in self.model.parameters()])


def trainers(
    network: Network, batch: int, size: int, device: str = "cpu", autocast: torch.dtype | None = None
) -> dict[str, Trainer]:
    """Both sides, with the same weights and data."""
    torch.manual_seed(0)
    model, images = network.make().to(device), torch.randn(batch, 3, size, size).to(device)
    converted = convx.convert(copy.deepcopy(model), quiet=True)
    return {side: Trainer(m, network, images, autocast) for side, m in (("torch", model), ("convx", converted))}


def difference(both: dict[str, Trainer]) -> tuple[float, float]:
    """How far apart the first losses and gradients are, relative to torch's."""
    theirs, ours = both["torch"], both["convx"]
    gradients = (ours.gradient - theirs.gradient).norm() / theirs.gradient.norm()
    return abs(ours.loss / theirs.loss - 1), float(gradients)


def agree(both: dict[str, Trainer]) -> bool:
    """Whether that is rounding. An activation that rounds to the other side of zero moves a gradient by up to 0.01,
    and in bfloat16 many do.
    """
    loss, gradients = difference(both)
    bounds = (1e-4, 5e-2) if both["torch"].autocast is None else (5e-2, 1.0)
    return loss <= bounds[0] and gradients <= bounds[1]  # False for NaN


def main() -> int:
    made = parser("networks", __doc__, seconds=3.0)
    made.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME",
                      help=", ".join(NETWORKS))  # fmt: skip
    made.add_argument("--batch", type=int, help="each network's own by default")
    made.add_argument("--size", type=int, help="of a side of the images, which dcgan has at 64 always; likewise")
    made.add_argument("--autocast", choices=("bfloat16", "float16"), help="mixed precision with this dtype")
    options = start(made)
    autocast = getattr(torch, options.autocast) if options.autocast else None
    pairs, wrong = Pairs("network, one training step", "ms"), []
    for name in options.networks:
        network = NETWORKS[name]
        batch, size = options.batch or network.batch, network.size if name == "dcgan" else options.size or network.size
        both = trainers(network, batch, size, options.device, autocast)
        timings = interleaved({side: t.step for side, t in both.items()}, options.device, options.seconds)
        if not agree(both):
            wrong.append(name)
        losses = " and ".join(f"{both[side].loss:.5f}" for side in ("torch", "convx"))
        note = f"losses {losses}, gradients {difference(both)[1]:.0e} apart{' OFF' if name in wrong else ''}"
        what = f"{name}, {batch} x 3 x {size} x {size}, {convx.count(both['convx'].model)} layers"
        pairs.add(what, timings, note)
    pairs.close()
    if wrong:
        print(f"losses or gradients don't agree: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
