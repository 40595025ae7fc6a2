"""One step of training on whatever there is: one CPU or GPU, several processes, or weights spread over nodes.

accelerate decides from how the program was started (`accelerate launch`, `openkontext ... --processes`)
where the model runs and how gradients meet. Where a recipe asks for it (`shard`), torch's FSDP2 spreads the
weights block by block, as torchtitan does; accelerate knows no FSDP on CPUs, where it could be tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from openkontext.errors import InputError
from openkontext.model.transformer import FluxTransformer
from openkontext.train.loop import RunRecipe
from openkontext.train.lora import adapter_layers, whole
from openkontext.train.parallel import rank, world_size

_WHOLE = distributed.StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)

Loss = Callable[[], tuple[Tensor, dict[str, Tensor]]]
"""Draws a batch and gives its loss, and what to log of it."""


class Trained:
    """A model whose trainable weights learn by AdamW, and their moving average; made by `Engine.prepare`.

    Its state is whole, however many processes it is spread over: a run can go on with another number.
    """

    def __init__(self, model: nn.Module, optimiser: Any, rate: float, decay: float) -> None:
        self.model, self.optimiser, self.rate, self.decay = model, optimiser, rate, decay
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in self.named()}

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """The weights that train, by the name that they have without what accelerate puts around a model."""
        named = self.model.named_parameters()
        return [(name.removeprefix("module."), value) for name, value in named if value.requires_grad]

    @torch.no_grad()
    def update_average(self) -> None:
        """Moves the average; its decay warms up, as that of `openkontext.train.loop.Average`."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in self.named():
            self.average[name].lerp_(value.detach(), share)

    @torch.no_grad()
    def take_average(self) -> None:
        """Puts the averaged weights in the place of the present ones: the end of a stage."""
        for name, value in self.named():
            value.copy_(self.average[name])

    def state_dict(self) -> dict[str, Any]:
        """Weights, average and optimiser, whole on the first process; a call of all processes."""
        model = distributed.get_model_state_dict(self.model, options=_WHOLE)
        optimiser = distributed.get_optimizer_state_dict(self.model, _bare(self.optimiser), options=_WHOLE)
        average = {name: whole(value).cpu() for name, value in self.average.items()}
        return {"model": model, "optimiser": optimiser, "average": average, "updates": self.updates}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave; a call of all processes, each with the whole state."""
        options = distributed.StateDictOptions(full_state_dict=True, strict=False, ignore_frozen_params=True)
        distributed.set_model_state_dict(self.model, state["model"], options=options)
        distributed.set_optimizer_state_dict(
            self.model, _bare(self.optimiser), state["optimiser"], options=options
        )
        for name, value in self.average.items():
            value.copy_(_as(state["average"][name], value))
        self.updates = state["updates"]


class Engine:
    """How this process computes.

    Args:
        recipe: precision, accumulation and the like.
    """

    def __init__(self, recipe: RunRecipe) -> None:
        self.recipe = recipe
        # Precision is not left to accelerate, which allows one to a process.
        self.accelerator = Accelerator(mixed_precision="no")
        self.device = self.accelerator.device
        self.half = recipe.half(self.device.type)

    def prepare(
        self, model: nn.Module, *, rate: float, decay: float, betas: tuple[float, float] = (0.9, 0.99)
    ) -> Trained:
        """Move a model to where it trains, with an optimiser of those weights that require gradients."""
        if self.recipe.gradient_checkpointing:
            model.gradient_checkpointing = True  # type: ignore[assignment]
        if not self.half:
            model.float()  # what an adapter leaves frozen may be bfloat16
        self.autocast(model)
        if self.recipe.shard:
            self._shard(model)
        parameters = [value for value in model.parameters() if value.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=0.0)
        if self.recipe.shard:
            return Trained(model, optimiser, rate, decay)
        prepared, prepared_optimiser = self.accelerator.prepare(model, optimiser)
        return Trained(prepared, prepared_optimiser, rate, decay)

    def autocast(self, model: nn.Module) -> nn.Module:
        """Let a model compute in the recipe's precision."""
        cast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)
        model.forward = cast(model.forward)
        return model

    def _shard(self, model: nn.Module) -> None:
        """Spreads a transformer over all processes, each block for itself, so that one is whole at a time."""
        if world_size() == 1:
            raise InputError("shard = true spreads the weights over processes: start more than one")
        model.to(self.device)
        # Inputs are not cast but in the operators, by autocast: positions and angles stay float32.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if self.half else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        mesh = init_device_mesh(self.device.type, (world_size(),))
        for block in (*model.transformer_blocks, *model.single_transformer_blocks):  # type: ignore[misc]
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)

    def step(self, trained: Trained, loss: Loss, factor: float = 1.0) -> dict[str, float]:
        """One step of the optimiser on the mean loss of `recipe.accumulate` batches.

        Args:
            trained: what learns.
            loss: of one batch.
            factor: on the learning rate.

        Returns:
            Means of what `loss` logs, and the gradient's norm.
        """
        sums: dict[str, float] = {}
        count = self.recipe.accumulate
        for i in range(count):
            with self._gradients_meet(trained.model, i == count - 1):
                value, parts = loss()
                self.accelerator.backward(value / count)
            for name, part in parts.items():
                sums[name] = sums.get(name, 0.0) + float(part) / count
        norm = whole(torch.nn.utils.clip_grad_norm_([value for _, value in trained.named()], 1.0))
        for group in trained.optimiser.param_groups:
            group["lr"] = trained.rate * factor
        trained.optimiser.step()
        trained.optimiser.zero_grad(set_to_none=True)
        trained.update_average()
        return {**sums, "norm": float(norm)}

    @contextmanager
    def _gradients_meet(self, model: nn.Module, now: bool) -> Iterator[None]:
        """Gradients of all processes meet once a step, in the last backward pass."""
        if self.recipe.shard:
            model.set_requires_gradient_sync(now)  # type: ignore[operator]
            yield
        elif now:
            yield
        else:
            with self.accelerator.no_sync(model):
                yield

    def unwrap(self, trained: Trained) -> FluxTransformer:
        """The model itself. A sharded one without an adapter is whole on the first process alone."""
        model = self.accelerator.unwrap_model(trained.model)
        assert isinstance(model, FluxTransformer)
        vars(model).pop("forward", None)  # what `autocast` put there
        if not self.recipe.shard or adapter_layers(model):
            return model
        options = distributed.StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = distributed.get_model_state_dict(model, options=options)
        with torch.device("meta"):
            gathered = FluxTransformer(model.config)
        if rank() == 0:
            gathered.load_state_dict(state, assign=True)
        return gathered


def _bare(optimiser: Any) -> torch.optim.Optimizer:
    return getattr(optimiser, "optimizer", optimiser)


def _as(value: Tensor, like: Tensor) -> Tensor:
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device)
