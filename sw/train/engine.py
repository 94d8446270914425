"""The training engine: a flat loop over epochs, following the model's regime.

Weights, momentum and the update are float32; what is quantized is decided by the model's layers.
Every epoch seeds torch's generators from (seed, epoch, rank), so a resumed run gives the numbers
of an uninterrupted one.
"""

import hashlib
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from golden.errors import LockstepError
from sw.data import Dataset
from sw.layers.weighted import WeightedLayer, round_stored_weights
from sw.train.config import EpochResult, StepResult, TrainConfig, TrainState
from sw.train.distributed import ALONE, World
from sw.train.evaluate import accuracy, device_type, evaluate, logits_of, prepared, reconstructs
from sw.train.finite import first_not_finite
from sw.train.schedule import (
    data_at,
    load_optimizer,
    make_optimizer,
    make_plan,
    make_scheduler,
    regime_at,
    set_options,
)
from sw.train.torch_compile import check_narrow, compile_passes, compiled

__all__ = ["EpochResult", "NotFiniteError", "StepResult", "TrainConfig", "TrainState", "accuracy",
           "evaluate", "logits_of", "train"]


class NotFiniteError(LockstepError):
    """A loss or gradient is NaN or infinite; the message names the layer and the step."""


def _objective(model, outputs: Tensor, inputs: Tensor, labels: Tensor, config: TrainConfig,
               teacher_outputs: Tensor | None) -> Tensor:
    """The loss; with a teacher arXiv 1503.02531, T^2 KL(teacher / T || student / T)."""
    outputs = outputs.float()
    if reconstructs(model):
        return F.mse_loss(outputs.flatten(1), inputs.flatten(1))
    loss = F.cross_entropy(outputs, labels, label_smoothing=config.label_smoothing)
    if teacher_outputs is None:
        return loss
    softened = F.kl_div(F.log_softmax(outputs / config.temperature, 1),
                        F.log_softmax(teacher_outputs.float() / config.temperature, 1),
                        log_target=True, reduction="batchmean") * config.temperature**2
    return (1 - config.distillation_weight) * loss + config.distillation_weight * softened


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """The seed of an epoch in one process. torch's CPU generator takes the low 32 bits only, so
    the rank is hashed into these."""
    if rank == 0:
        return seed * 1_000_003 + epoch
    key = f"{seed} {epoch} {rank}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest())


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and of running statistics and ranges."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


@torch.no_grad()
def _update_average(averaged: AveragedModel, model: nn.Module) -> None:
    if not averaged.n_averaged:  # ranges may have got another shape from the first batch
        averaged.module.load_state_dict(model.state_dict())
    averaged.update_parameters(model)
    for mean, newest in zip(averaged.module.buffers(), model.buffers()):
        if not newest.is_floating_point():  # counters and exponents have no mean
            mean.copy_(newest)


def train(model: nn.Module, data: Dataset, config: TrainConfig, *, world: World = ALONE,
          teacher: nn.Module | None = None, start_epoch: int = 0,
          optimizer_state: dict | None = None, averaged_state: dict | None = None,
          on_batch: Callable[[StepResult], None] | None = None,
          on_epoch: Callable[[EpochResult, TrainState], None] | None = None
          ) -> list[EpochResult]:
    """Train in place from start_epoch to config.epochs; returns one result per epoch run.

    To continue a run give its model, start_epoch, and the states of its optimizer and averaged
    model. on_epoch(result, state) is called in every process after each epoch, for saving and
    reporting. Raises NotFiniteError when loss or gradient are no longer finite; the weights are
    then those before the failing step.
    """
    plan = make_plan(model, data, config, world.size)
    if config.channels_last:
        check_narrow(model, "--channels-last")
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model.to(config.device, memory_format=layout)
    network: nn.Module = model
    if world.size > 1:
        network = DistributedDataParallel(model, gradient_as_bucket_view=True)
    compile_passes(model, False)
    if config.compile:
        network = compiled(network)
    averaged = average_of(model, config.average_weights) if config.average_weights else None
    if averaged and averaged_state:
        averaged.load_state_dict(averaged_state)
    if teacher:
        teacher = teacher.to(config.device, memory_format=layout).eval().requires_grad_(False)

    settings = regime_at(model, config, max(start_epoch - 1, 0))
    optimizer = make_optimizer(model, settings)
    scheduler = make_scheduler(optimizer, model, config, plan, plan.starts[start_epoch])
    if optimizer_state:
        load_optimizer(optimizer, optimizer_state)
    on_grid = [layer.weight for layer in model.modules() if isinstance(layer, WeightedLayer)
               and layer.config.tensor("update").enabled]
    results = []
    for epoch in range(start_epoch, config.epochs):
        kind, settings = settings.get("optimizer"), regime_at(model, config, epoch)
        if settings.get("optimizer") != kind:
            optimizer = make_optimizer(model, settings)
            scheduler = make_scheduler(optimizer, model, config, plan, plan.starts[epoch])
        set_options(optimizer, settings)
        torch.manual_seed(_epoch_seed(config.seed, epoch, world.rank))
        batch_size, input_size = data_at(model, config, epoch)
        total_loss, total_right, start = 0.0, 0.0, time.perf_counter()
        batches = data.batches(batch_size, seed=config.seed, epoch=epoch, rank=world.rank,
                               world_size=world.size, workers=config.workers,
                               input_size=input_size)
        network.train()
        for step, (images, labels) in enumerate(batches):
            images, labels = images.to(config.device), labels.to(config.device)
            inputs = prepared(model, images).contiguous(memory_format=layout)
            softened = None
            if teacher:
                with torch.no_grad():
                    softened = teacher(prepared(teacher, images))

            def loss_of(network, inputs=inputs, labels=labels, softened=softened):
                with torch.autocast(device_type(config), torch.bfloat16, enabled=config.amp):
                    outputs = network(inputs)
                loss = _objective(model, outputs, inputs, labels, config, softened)
                return loss, outputs

            optimizer.zero_grad(set_to_none=True)
            loss, outputs = loss_of(network)
            loss.backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            norm = get_total_norm(gradients)
            right = labels.new_zeros(()) if reconstructs(model) else \
                (outputs.argmax(1) == labels).sum()
            figures = world.mean(torch.stack([loss.detach().double(), norm.double(),
                                              right.double() / batch_size]))
            mean_loss, mean_norm, share_right = figures.tolist()
            if not math.isfinite(mean_loss + mean_norm):
                places = world.gather(first_not_finite(model, lambda copy: loss_of(copy)[0]))
                place = next(filter(None, places), "a gradient")
                raise NotFiniteError(f"Training diverged at step {step} of epoch {epoch}: the "
                                     f"first value that is not finite is in {place}")
            if config.clip_gradient:
                clip_grads_with_norm_(model.parameters(), config.clip_gradient, norm)
            optimizer.step()
            round_stored_weights(model)
            world.share(on_grid)  # the rounding may draw, and every process draws its own
            lr = scheduler.get_last_lr()[0]
            scheduler.step()
            if averaged:
                _update_average(averaged, model)
            total_loss += mean_loss
            total_right += share_right
            if on_batch:
                on_batch(StepResult(epoch=epoch, done=step + 1, total=plan.steps[epoch],
                              loss=total_loss / (step + 1), accuracy=total_right / (step + 1),
                              images=batch_size * world.size))
        seconds = time.perf_counter() - start
        n_steps = plan.steps[epoch]
        state = TrainState(model=model, averaged=averaged, optimizer=optimizer,
                           epochs_done=epoch + 1)
        world.share_buffers(model, *([averaged] if averaged else []))
        test_loss, test_accuracy = evaluate(state.evaluated, data, config, world)
        result = EpochResult(
            epoch=epoch, lr=lr, train_loss=total_loss / n_steps,
            train_accuracy=float("nan") if reconstructs(model) else total_right / n_steps,
            test_loss=test_loss, test_accuracy=test_accuracy, seconds=seconds,
            images_per_second=n_steps * batch_size * world.size / seconds)
        results.append(result)
        if on_epoch:
            on_epoch(result, state)
    return results
