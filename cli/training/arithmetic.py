"""How a run trains and what it lowers: float32 that simulates few bits, or integers alone."""

import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from cli.training.rehearsal import rehearse, sample_size
from golden.errors import LockstepError

if TYPE_CHECKING:
    from sw.integer.passes import FusedPasses

__all__ = ["Arithmetic", "arithmetic_of", "fused_passes"]


class Arithmetic(ABC):
    """What differs between the two; a `Run` has the network, the data and the settings."""

    @abstractmethod
    def begin(self, model, settings) -> None:
        """Initial weights of a new run, in place of those that its network drew."""

    @abstractmethod
    def obstacle(self, model, data, settings, norm_lowering, teacher, world) -> str | None:
        """Why training gives no integer program, or None; LockstepError for what cannot train."""

    @abstractmethod
    def train(self, run, world, start_epoch: int, on_batch, on_epoch) -> None:
        """All epochs from start_epoch on."""

    @abstractmethod
    def observe(self, run, state, epoch: int) -> list[dict]:
        """The rows of telemetry.csv after an epoch."""

    def facts(self, checkpoint) -> dict:
        """What config.json says beside the settings."""
        return {}

    def step(self, model, checkpoint, data) -> Any:
        """The training step as a Program that goes on from the checkpoint; None without one."""
        return None

    def step_inputs(self, program, model, checkpoint, data) -> dict:
        """Arrays by name for a run of `step`."""
        return {}

    @abstractmethod
    def evaluate(self, model, checkpoint, data, settings) -> tuple[float, float]:
        """(mean loss, accuracy) of a trained network over the test images."""

    @abstractmethod
    def program(self, model, checkpoint, data, norm_lowering: str) -> Any:
        """The integer Program of a trained network."""


class _Simulated(Arithmetic):
    def begin(self, model, settings) -> None:
        """The network's own."""

    def obstacle(self, model, data, settings, norm_lowering, teacher, world) -> str | None:
        return rehearse(model, data, settings, norm_lowering, teacher, world)

    def train(self, run, world, start_epoch, on_batch, on_epoch) -> None:
        from sw.train.engine import train

        train(run.model, run.data, run.settings, world=world, teacher=run.teacher,
              start_epoch=start_epoch,
              optimizer_state=run.resumed.optimizer if run.resumed else None,
              averaged_state=run.resumed.averaged if run.resumed else None,
              on_batch=on_batch, on_epoch=on_epoch)

    def observe(self, run, state, epoch) -> list[dict]:
        from sw.train.telemetry import PROBE_IMAGES, observe_model

        probe = run.data.train_sample(sample_size(run.model, PROBE_IMAGES))
        return observe_model(run.model, *probe, epoch)

    def evaluate(self, model, checkpoint, data, settings) -> tuple[float, float]:
        from sw.train.evaluate import evaluate

        return evaluate(model, data, settings)

    def program(self, model, checkpoint, data, norm_lowering) -> Any:
        from sw.lower.network import lower

        return lower(model, norm_lowering=norm_lowering)


class _Integer(Arithmetic):
    def begin(self, model, settings) -> None:
        """Weights that every machine draws alike."""
        from sw.integer.initial import draw_weights

        draw_weights(model, settings.seed)

    def obstacle(self, model, data, settings, norm_lowering, teacher, world) -> None:
        from sw.integer.train import check_integer

        if norm_lowering == "exact":
            raise LockstepError("--norm-lowering exact has no effect on --arithmetic integer, "
                                "which folds its norms by integers")
        check_integer(model, data, settings, world)

    def train(self, run, world, start_epoch, on_batch, on_epoch) -> None:
        from sw.integer.train import train

        train(run.model, run.data, run.settings, world=world, start_epoch=start_epoch,
              codes=_codes(run.resumed) if run.resumed else None,
              passes=_passes(run.settings),
              on_batch=on_batch, on_epoch=on_epoch)

    def observe(self, run, state, epoch) -> list[dict]:
        from sw.integer.train import observe_state

        return observe_state(state.optimizer, epoch)

    def step(self, model, checkpoint, data) -> Any:
        from sw.integer.train import last_step

        return last_step(model, data, _config(checkpoint), _codes(checkpoint),
                         checkpoint.epochs_done - 1, checkpoint.world_size)

    def step_inputs(self, program, model, checkpoint, data) -> dict:
        from sw.integer.train import step_inputs

        return step_inputs(program, model, data, _config(checkpoint))

    def facts(self, checkpoint) -> dict:
        from sw.integer.train import state_hash

        return {"state_sha256": state_hash(_codes(checkpoint))}

    def evaluate(self, model, checkpoint, data, settings) -> tuple[float, float]:
        from sw.integer.train import evaluate

        return evaluate(self.program(model, checkpoint, data, "fold"), data, settings,
                        passes=_passes(settings))

    def program(self, model, checkpoint, data, norm_lowering) -> Any:
        from sw.integer.inference import inference_program

        codes = _codes(checkpoint)
        return inference_program(model, self.step(model, checkpoint, data), codes)


def _passes(settings):
    return fused_passes() if settings.device == "cpu" else None


def _config(checkpoint):
    from sw.train.config import TrainConfig

    return TrainConfig(**checkpoint.train_config)


def fused_passes() -> "FusedPasses | None":
    """The fused passes, compiled once for this processor; None, with a line that says why."""
    from sim.cache import CACHE, cached, content_key
    from sw.integer.passes import FusedPasses, build, build_facts

    try:
        return FusedPasses(cached(CACHE / "passes", content_key(*build_facts()), build))
    except (LockstepError, OSError) as error:
        print(f"integers without fused passes, several times slower: {error}", file=sys.stderr)
        return None


def _codes(checkpoint) -> dict:
    """The state of an integer training; LockstepError for a checkpoint of another arithmetic."""
    state = checkpoint.optimizer or {}
    if state.get("arithmetic") != "integer":
        raise LockstepError("The checkpoint holds no state of --arithmetic integer; --initial "
                            "begins from its weights")
    return state["codes"]


def arithmetic_of(name: str) -> Arithmetic:
    """"float" or "integer"."""
    return {"float": _Simulated, "integer": _Integer}[name]()
