"""Activation checkpointing where memory asks for it: a layer's activations are not kept, but computed again in the backward pass.

That takes one more forward pass, a third of an update's time, and changes no number.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

MARGIN = 1.25
"""Free memory over what a forward pass keeps: the backward pass and the head take some besides."""


def checkpointable(model: PreTrainedModel) -> list[Any]:
    """Layers that can be run again in the backward pass and that nobody has set to be."""
    if not model.supports_gradient_checkpointing:
        return []
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    return [] if any(layer.gradient_checkpointing for layer in layers) else layers


@contextmanager
def checkpointing(layers: Sequence[Any]) -> Iterator[None]:
    """Within it, a forward pass in training keeps of these layers what goes into them.

    Set as the layers' class says, since `gradient_checkpointing_enable` would leave a hook on the embeddings each time. With
    `use_reentrant=False` adapters in a frozen model get their gradients without it; dropout draws the same numbers again.
    """
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = False


@contextmanager
def keeping(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes that autograd keeps of what is computed within it, by their address; the model's weights are not among them.

    They are those of one forward pass only as long as its result is held.
    """
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        yield sizes


def free_memory(device: torch.device) -> int | None:
    """Bytes that new tensors can take; None where that cannot be known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return free_system_memory() if device.type == "cpu" else None


def free_system_memory(root: Path = Path("/")) -> int | None:
    """What Linux says is available, within the limits of this process's control groups; None on other systems."""
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return min([int(available[1]) * 1024, *left_by_control_groups(root)]) if available else None


def left_by_control_groups(root: Path) -> Iterator[int]:
    """What limits of control groups, version 1 or 2, leave; pages of files that nobody reads are given up when needed."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = root / "sys/fs/cgroup/memory"
        else:
            continue
        own = mount / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(mount):  # in a container the path may be the host's, and only the mount is there
                yield from left_by(folder, *names)


def left_by(folder: Path, limit: str, used: str, given_up: str) -> Iterator[int]:
    """Bytes below the limit of one control group; nothing where it has none."""
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        pages = re.search(rf"^{given_up} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return
    if most != "max":
        yield max(0, int(most) - now + (int(pages[1]) if pages else 0))
