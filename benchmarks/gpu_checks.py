"""What must hold on a device before its speed is of use; each with the error that was found."""

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, multiprocessing, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms.functional import to_pil_image

from benchmarks.paired import Table
from rectify.gsnr import GradientMoments, GsnrObserver
from rectify.gsnr.kernels import batched_sums, chunked_sums, fused_sums
from rectify.gsnr.links import Links
from rectify.runtime import autocast, compiled, seed_globals
from rectify.tasks.contract import Batch
from rectify.tasks.image_classification.augment import per_image
from rectify.tasks.image_classification.operations import Drawing, operate
from rectify.tasks.image_classification.task import TASK
from rectify.training.loop import Hooks, Interrupted, Loop
from rectify.training.recipes import Recipe
from rectify.trunks.vit import create_vit

CLASSES, SAMPLES, IMAGES = 10, 16, 200
SHAPES = ((5, 9, 20, 30), (64, 65, 384, 384), (32, 197, 192, 768), (8, 130, 100, 72))
"""Samples, tokens, and the widths of a layer."""
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def checks(device: torch.device) -> Table:
    """Return a table of what was checked, the largest relative error, and what is allowed."""
    rows = [
        *(*_sums(device), *_modes(device), *_linked(device)),
        *(*_training(device), _augmented(device)),
    ]
    cells = [
        (what, f"{error:.1e}", f"{most:.0e}", _verdict(error, most)) for what, error, most in rows
    ]
    note = "Largest relative error (norms) of all tensors; 0 allowed means bit for bit."
    return Table(("check", "error", "allowed", "holds"), cells, note)


def _verdict(error: float, most: float) -> str:
    return "yes" if error <= most else "NO"


def _sums(device: torch.device) -> Iterator[tuple[str, float, float]]:
    ways: dict[str, Callable] = {"chunks": chunked_sums, "batches": batched_sums}
    if device.type == "cuda":
        ways["triton"] = fused_sums
    for dtype, most in LIMITS.items():
        for name, way in ways.items():
            worst = 0.0
            for number, (samples, tokens, dim_in, dim_out) in enumerate(SHAPES):
                draws = torch.Generator().manual_seed(number)
                shape = samples, tokens
                inputs = torch.randn(*shape, dim_in, generator=draws).to(device, dtype)
                delta = torch.randn(*shape, dim_out, generator=draws).to(device, dtype)
                gradients = delta.double().mT @ inputs.double()
                exact = gradients.sum(0), gradients.square().sum(0)
                found = way(inputs, delta)[:2]
                worst = max(worst, *(_error(*pair) for pair in zip(found, exact, strict=True)))
            yield f"sums by {name}, {str(dtype).removeprefix('torch.')}", worst, most


def vision_transformer() -> nn.Module:
    """Return a small ViT in training mode, always the same."""
    torch.manual_seed(0)
    overrides = {"patch_size": 4, "depth": 3, "embed_dim": 96}
    return create_vit(
        "vit_tiny_patch16_224", num_classes=CLASSES, image_size=32, overrides=overrides
    ).train()


def compiled_model(model: nn.Module, device: torch.device, run: str = "compiled") -> Callable:
    """Return the model compiled; on a CPU, where only the tests run, without making kernels."""
    if device.type == "cpu":
        return compiled(model, backend="aot_eager")
    return compiled(model, mode="reduce-overhead" if run == "graphs" else None)


def _batch(device: torch.device) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(SAMPLES, 3, 32, 32, generator=draws).to(device)
    return images, (torch.arange(SAMPLES) % CLASSES).to(device)


def _modes(device: torch.device) -> Iterator[tuple[str, float, float]]:
    """Check the moments of each mode against a loop over samples, and the step's own gradient."""
    torch.use_deterministic_algorithms(True)
    images, labels = _batch(device)
    stacks = _one_by_one(vision_transformer().double().to(device), images.double(), labels)
    exact = {name: (own.mean(0), own.var(0, correction=0)) for name, own in stacks.items()}
    for precision, most in (("float32", 2e-4), ("bfloat16", 5e-2)):
        for mode in ("observe", "replace"):
            torch._dynamo.reset()
            model = vision_transformer().to(device)
            quick = compiled_model(model, device)
            for forward in (model, quick):
                plain = _gradients(forward, images, labels, precision)
                watched = GradientMoments(model.blocks, mode, compiled=forward is quick)
                for _ in range(1 + (forward is quick)):  # the first pass is never compiled
                    with watched:
                        one = forward if forward is model or watched.is_compiled else model
                        measured = _gradients(one, images, labels, precision)
                    moments = watched.moments()
                how = f"{mode}, {'compiled' if forward is quick else 'eager'}, {precision}"
                for part, own in (("mean", 0), ("variance", 1)):
                    pairs = [
                        ((moments[name].mean, moments[name].variance)[own], exact[name][own])
                        for name in exact
                    ]
                    yield f"{part}, {how}", _overall(pairs), most
                is_same = mode == "observe" and forward is model
                error = _overall(list(zip(measured, plain, strict=True)))
                yield f"the step's gradient, {how}", error, 0.0 if is_same else most


def _linked(device: torch.device) -> Iterator[tuple[str, float, float]]:
    """Check the products of partners, as Mixup has them, against a loop over samples."""
    images, labels = _batch(device)
    stacks = _one_by_one(vision_transformer().double().to(device), images.double(), labels)
    exact = {name: (own * (own + own.flip(0))).sum(0) for name, own in stacks.items()}
    torch._dynamo.reset()
    model = vision_transformer().to(device)
    quick, items = compiled_model(model, device), torch.arange(SAMPLES)
    links = Links(torch.stack([items, items.flip(0)], 1), device)
    watched = GradientMoments(model.blocks, links=links, compiled=True)
    for _ in range(2):
        how = "compiled" if watched.is_compiled else "eager"  # as the first pass always is
        with watched:
            _gradients(quick if watched.is_compiled else model, images, labels, "float32")
        moments = watched.moments()
        pairs = [(moments[name].linked.products, own) for name, own in exact.items()]
        yield f"products of partners, {how}, float32", _overall(pairs), 2e-4


def _one_by_one(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the gradient of each sample, first, by the name of the blocks' parameters."""
    names = [name for name, _ in model.blocks.named_parameters() if not name.endswith("qkv.bias")]
    gradients = {name: [] for name in names}
    for image, label in zip(images, labels, strict=True):
        loss = cross_entropy(model(image[None]), label[None])
        chosen = [model.blocks.get_parameter(name) for name in names]
        for name, own in zip(names, torch.autograd.grad(loss, chosen), strict=True):
            gradients[name].append(own)
    return {name: torch.stack(own) for name, own in gradients.items()}


def _gradients(
    forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, precision: str
) -> list[Tensor]:
    with autocast(images.device, precision):
        loss = cross_entropy(forward(images), labels)
    loss.backward()
    model = getattr(forward, "_orig_mod", forward)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    return gradients


class _Items:
    """Random images, the same in each epoch; they come from ordinary memory, as read ones do."""

    views = 1

    def __init__(self, device: torch.device):
        self._device = device
        self._images, self._labels = _batch(torch.device("cpu"))

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, items: Tensor, batch_size: int, draws: object = None) -> Iterator[Batch]:
        for chosen in items.split(batch_size):
            images, labels = self._images[chosen], self._labels[chosen]
            yield {"inputs": images.to(self._device), "labels": labels.to(self._device)}


def _loop(device: torch.device) -> Loop:
    recipe = Recipe(
        epochs=2, batch_size=4, lr=1e-3, warmup_epochs=0, precision="float32", auto_augment=None
    )
    model = vision_transformer().to(device)
    observer = GsnrObserver(model.blocks, batches=2)
    return Loop(model, TASK, _Items(device), recipe, seed=0, device=device, observer=observer)


def _training(device: torch.device) -> Iterator[tuple[str, float, float]]:
    """Check one training against three: one that waits at each step, one resumed, one shared."""
    torch.use_deterministic_algorithms(True)
    whole, waiting = _trained(_loop(device)), _loop(device)
    waiting.behind, waiting.epochs.device = 0, torch.device("cpu")
    yield "weights without waiting for a step", _overall(_pairs(_trained(waiting), whole)), 0.0
    first, saved, asked = _loop(device), [], iter(range(100))
    try:
        first.run(
            _hooks(lambda state: saved.append(copy.deepcopy(state)), lambda: next(asked) == 5)
        )
    except Interrupted:
        second = _loop(device)
        second.restore(saved[-1])
        yield "a resumed training's weights", _overall(_pairs(_trained(second), whole)), 0.0
    with tempfile.TemporaryDirectory() as folder:
        arguments = f"{folder}/meet", f"{device}", f"{folder}/weights.pt"
        multiprocessing.spawn(_one_of_two, arguments, nprocs=2)
        divided = torch.load(f"{folder}/weights.pt", map_location=device)
    yield "two processes' weights", _overall(_pairs(divided, whole)), 1e-3
    torch.use_deterministic_algorithms(False)


def _one_of_two(rank: int, meeting: str, device: str, weights: str) -> None:
    torch.use_deterministic_algorithms(True)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    place = torch.device(device, 0) if device == "cuda" else torch.device(device)
    found = _trained(_loop(place))
    if rank == 0:
        torch.save(found, Path(weights))
    torch.distributed.destroy_process_group()


def _hooks(save: Callable, stop: Callable[[], bool] = bool) -> Hooks:
    return Hooks(evaluate=lambda model: {"test_loss": 0.0}, save=save, stop=stop)


def _trained(loop: Loop) -> dict[str, Tensor]:
    loop.run(_hooks(lambda state: None))
    return dict(loop.model.state_dict())


def _pairs(left: dict[str, Tensor], right: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(left[name], right[name]) for name in right]


def _overall(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Return the relative error over all tensors together."""
    apart = sum((left.double() - right.double()).square().sum() for left, right in pairs)
    return (apart / sum(right.double().square().sum() for _, right in pairs)).sqrt().item()


def _augmented(device: torch.device) -> tuple[str, float, float]:
    """Check RandAugment of a batch against timm's, image by image by Pillow: no value differs."""
    torch.use_deterministic_algorithms(True)
    settings = {"image_size": 64, "crop": "resized", "crop_scale": 0.08, "pad": 0, "flip_prob": 0.5}
    complete, other = (per_image(**settings, auto_augment="rand-m9-n4-mstd0.5-inc1") for _ in "12")
    drawing, expected, undone = Drawing(other), [], []
    for seed in range(IMAGES):
        draws = torch.Generator().manual_seed(seed)
        rough = torch.randint(256, (3, 2 + seed % 30, 30), generator=draws, dtype=torch.uint8)
        image = to_pil_image(rough).resize((90, 70))
        for transform, made in ((complete, expected), (drawing, undone)):
            seed_globals(seed)
            made.append(transform(image))
    pixels, drawn = (torch.stack(parts) for parts in zip(*undone, strict=True))
    found = operate(pixels.to(device), drawn).cpu()
    torch.use_deterministic_algorithms(False)
    return "RandAugment on the device", _error(found.double(), torch.stack(expected).double()), 0.0


def _error(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()
