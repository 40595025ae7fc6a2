"""One step of training on whatever there is: one CPU or GPU, several processes, or weights spread over nodes.

Every stage trains with it. accelerate decides from how the program was started (`accelerate launch`,
`openkontext ... --processes`) where the model runs. Processes average their gradients once a step. Where a
recipe asks for it (`shard`), torch's FSDP2 spreads the weights block by block, as torchtitan does;
accelerate knows no FSDP on CPUs, where it could be tested.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from openkontext.errors import InputError
from openkontext.model.transformer import FluxTransformer
from openkontext.train.loop import RunRecipe
from openkontext.train.lora import adapter_layers, whole
from openkontext.train.optimizer import MuonAdamW
from openkontext.train.parallel import average_gradients, rank, world_size

_WHOLE = distributed.StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)

Loss = Callable[[], tuple[Tensor, dict[str, Tensor]]]
"""Draws a batch and gives its loss, and what to log of it."""
Optimizer = torch.optim.Optimizer | MuonAdamW


def adamw(
    rate: float, *, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
) -> Callable[[nn.Module], Optimizer]:
    """AdamW of all weights that train, to be handed to `Engine.prepare`."""

    def optimizer(model: nn.Module) -> Optimizer:
        parameters = [value for value in model.parameters() if value.requires_grad]
        return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=weight_decay)

    return optimizer


def muon_adamw(
    by_muon: Callable[[str, Tensor], bool], *, muon_rate: float, adam_rate: float, weight_decay: float = 0.01
) -> Callable[[nn.Module], Optimizer]:
    """Muon of the weights that `by_muon` chooses and AdamW of all others, for `Engine.prepare`."""
    return functools.partial(
        MuonAdamW, by_muon=by_muon, muon_rate=muon_rate, adam_rate=adam_rate, weight_decay=weight_decay
    )


class Trained:
    """A model, the optimizer of its weights, and their moving average; made by `Engine.prepare`.

    Its state is whole, however many processes it is spread over: a run can go on with another number.

    Args:
        model: what learns.
        optimizer: of its weights that require gradients.
        decay: of the average; 0 keeps the present weights.
        max_norm: to which a step's gradient is cut.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, decay: float, max_norm: float = 1.0) -> None:
        self.model, self.optimizer, self.decay, self.max_norm = model, optimizer, decay, max_norm
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in self.named()}

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """The weights that train, with their names."""
        return [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]

    def step(self, factor: float) -> None:
        """Move the weights along their gradients, at `factor` times the learning rates, and the average."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.update_average()

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average towards the present weights; its decay warms up."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        named = self.named()
        averages = [self.average[name] for name, _ in named]
        torch._foreach_lerp_(averages, [value.detach() for _, value in named], share)

    @torch.no_grad()
    def take_average(self) -> None:
        """Put the averaged weights in the place of the present ones: the end of a stage."""
        for name, value in self.named():
            value.copy_(self.average[name])

    def state_dict(self) -> dict[str, Any]:
        """Weights, average and optimizer, whole on the first process; a call of all processes."""
        return {
            "model": distributed.get_model_state_dict(self.model, options=_WHOLE),
            "optimizer": self._optimizer_state(),
            "average": {name: whole(value).cpu() for name, value in self.average.items()},
            "updates": self.updates,
        }

    def _optimizer_state(self) -> dict[str, Any]:
        if isinstance(self.optimizer, MuonAdamW):
            return self.optimizer.state_dict()
        return distributed.get_optimizer_state_dict(self.model, self.optimizer, options=_WHOLE)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; a call of all processes, each with the whole state."""
        options = distributed.StateDictOptions(full_state_dict=True, strict=False, ignore_frozen_params=True)
        distributed.set_model_state_dict(self.model, state["model"], options=options)
        if isinstance(self.optimizer, MuonAdamW):
            self.optimizer.load_state_dict(state["optimizer"])
        else:
            distributed.set_optimizer_state_dict(
                self.model, self.optimizer, state["optimizer"], options=options
            )
        for name, value in self.average.items():
            value.copy_(_as(state["average"][name], value))
        self.updates = state["updates"]


class TrainingEngine:
    """How this process computes.

    Args:
        recipe: precision, accumulation and the like.
    """

    def __init__(self, recipe: RunRecipe) -> None:
        self.recipe = recipe
        self.device = PartialState().device
        self.half = recipe.half(self.device.type)

    def prepare(
        self,
        model: nn.Module,
        optimizer: Callable[[nn.Module], Optimizer],
        *,
        decay: float,
        max_norm: float = 1.0,
    ) -> Trained:
        """Move a model to where it trains.

        Args:
            model: what learns: those of its weights that require gradients.
            optimizer: makes their optimizer once the model is in place, such as `adamw(1e-4)`.
            decay: of the weights' moving average.
            max_norm: to which a step's gradient is cut.

        Raises:
            InputError: the weights shall be spread, and there is one process.
        """
        if self.recipe.gradient_checkpointing:
            model.gradient_checkpointing = True  # type: ignore[assignment]
        if not self.half:
            model.float()  # what an adapter leaves frozen may be bfloat16
        self.autocast(model)
        model.to(self.device)
        if self.recipe.shard:
            self._shard(model)
        return Trained(model, optimizer(model), decay, max_norm)

    def precision(self) -> torch.autocast:
        """Inside it, operators compute in the recipe's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def autocast(self, model: nn.Module) -> nn.Module:
        """Let a model compute in the recipe's precision."""
        model.forward = self.precision()(model.forward)
        return model

    def _shard(self, model: nn.Module) -> None:
        """Spread a transformer over all processes, each block for itself, so that one is whole at a time."""
        if world_size() == 1:
            raise InputError("shard = true spreads the weights over processes: start more than one")
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
        """One step of the optimizer on the mean loss of `recipe.accumulate` batches.

        Args:
            trained: what learns.
            loss: of one batch.
            factor: on the learning rates.

        Returns:
            Means of what `loss` logs, and the gradient's norm.
        """
        sums: dict[str, float] = {}
        count = self.recipe.accumulate
        spread = trained.model if isinstance(trained.model, FSDPModule) else None
        for i in range(count):
            if spread is not None:  # gradients of all processes meet in the last backward pass
                spread.set_requires_gradient_sync(i == count - 1)
            value, parts = loss()
            (value / count).backward()
            for name, part in parts.items():
                sums[name] = sums.get(name, 0.0) + float(part) / count
        if spread is None:
            average_gradients(trained.model)
        weights = [value for _, value in trained.named()]
        norm = whole(torch.nn.utils.clip_grad_norm_(weights, trained.max_norm))
        trained.step(factor)
        return {**sums, "norm": float(norm)}

    def unwrap(self, trained: Trained) -> FluxTransformer:
        """The model itself. A sharded one without an adapter is whole on the first process alone."""
        model = trained.model
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


def _as(value: Tensor, like: Tensor) -> Tensor:
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device)
