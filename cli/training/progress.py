"""Live progress: a bar on a terminal, one plain line per epoch elsewhere."""

import sys

from sw.train.config import EpochResult, StepResult

__all__ = ["Progress"]


class Progress:
    """Shows loss, accuracy, images/s and the time left; use as a context. quiet: shows nothing."""

    def __init__(self, name: str, epochs: int, *, quiet: bool):
        self.name, self.epochs = name, epochs
        self.lines = not quiet and not sys.stderr.isatty()
        self.bars = not quiet and not self.lines
        self.bar = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def step(self, step: StepResult) -> None:
        """After a training step."""
        if not self.bars:
            return
        from tqdm import tqdm

        if self.bar is None or step.done == 1:
            self.__exit__()
            self.bar = tqdm(total=step.total * step.images, unit=" images", unit_scale=True,
                            desc=f"{self.name} {step.epoch + 1}/{self.epochs}", mininterval=0.5,
                            file=sys.stderr, dynamic_ncols=True, leave=False)
        self.bar.set_postfix(loss=f"{step.loss:.4f}", accuracy=f"{100 * step.accuracy:.2f}%",
                             refresh=False)
        self.bar.update(step.images)

    def epoch(self, result: EpochResult) -> None:
        """After an epoch's evaluation."""
        if not (self.bars or self.lines):
            return
        words = [f"epoch {result.epoch + 1}/{self.epochs}", f"lr {result.lr:.4g}",
                 f"loss {result.train_loss:.4f}", f"test loss {result.test_loss:.4f}"]
        if result.test_accuracy == result.test_accuracy:  # nan where the input is reconstructed
            words += [f"accuracy {100 * result.train_accuracy:.2f} %",
                      f"test accuracy {100 * result.test_accuracy:.2f} %"]
        left = (self.epochs - result.epoch - 1) * result.seconds
        words += [f"{result.images_per_second:.0f} images/s", f"{left:.0f} s left"]
        self.__exit__()
        self.bar = None
        print(f"{self.name}: {', '.join(words)}", file=sys.stderr, flush=True)
