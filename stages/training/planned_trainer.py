"""TRL's trainer that follows our plan: a step's micro-batches, watched, saved and resumed.

For TRL's loop one of its batches is a whole optimizer step, and the plan one epoch. So a step may have any number of micro-batches,
and the place in the plan is the number of steps taken: nothing has to be skipped or replayed when a training is resumed.
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from stages.core.errors import StageError
from stages.training.batches import MicroBatch
from stages.training.checkpoints import read_state
from stages.training.isolation import check_apart
from stages.training.memory.out_of_memory import is_out_of_memory
from stages.training.seen_steps import SeenSteps
from stages.training.trainer_state import (
    copy_trained,
    draw_anew,
    random_state,
    restore,
    resume_loop,
    set_trained,
    training_state,
)
from stages.training.work import Work

if TYPE_CHECKING:
    import torch
    from trl import SFTTrainer


class Steps:
    """The plan as the trainer's data: one item a step, from the one after the last that has ended."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __len__(self) -> int:  # noqa: D105
        return len(self.work.step_log.plan.steps)

    def __iter__(self) -> Iterator[list[MicroBatch]]:  # noqa: D105
        for step in range(self.work.step_log.step + 1, len(self) + 1):
            yield self.work.batches(step)


def make_trainer_class() -> "type[SFTTrainer]":  # noqa: C901 - many small methods, no long one
    """TRL's SFTTrainer, as Unsloth has patched it, that carries out a `Work`.

    A function, since the class it extends exists only after `import unsloth`.
    """
    import torch
    from transformers.trainer_callback import PrinterCallback, TrainerCallback
    from trl import SFTTrainer

    class PlannedTrainer(SFTTrainer):  # type: ignore[misc, unused-ignore]
        def carry_out(self, work: Work) -> None:
            """Train from the last checkpoint, or from the beginning; the best or last parameters are then in the model."""
            self.work = work
            self.remove_callback(PrinterCallback)
            if self.args.device.type == "cuda":
                work.step_log.memory = torch.cuda.max_memory_allocated
            if work.layout != "padded":
                check_apart(self.model, work.rows, self._prepare_inputs, work.pad_id)
            work.group.join(on_gpu=self.args.device.type == "cuda")
            # the first process says which one, and reads it; the others read the same
            file = work.group.gather(work.checkpoints.find_latest() if work.group.rank == 0 else None)[0]
            state = None if file is None else read_state(file)
            if state is not None:
                restore(self, state)
            for value in self.trained_parameters():
                work.group.take_first(value.data)
            # nothing is left where it was ended between its last step and its adapter
            if not work.is_finished():
                self.add_callback(Hooks(self, state))
                self.train()
            work.group.make_same(self.trained_parameters())
            if self.args.device.type == "cuda":
                work.peak_gpu_mib = work.group.gather(torch.cuda.max_memory_allocated() // 2**20)
            work.seen = SeenSteps.merge(work.group.gather(work.seen))
            if work.keep_best and work.best is not None:
                set_trained(self.model, work.best)

        def trained_parameters(self) -> "list[torch.nn.Parameter]":
            return [value for value in self.model.parameters() if value.requires_grad]

        def get_train_dataloader(self) -> Any:  # noqa: ANN401
            return Steps(self.work)

        def get_batch_samples(self, epoch_iterator: Any, _: int, device: Any) -> Any:  # noqa: ANN401
            batches: list[MicroBatch] = next(epoch_iterator)
            whole = torch.tensor(self.work.count_labelled(self.state.global_step + 1), device=device)
            if not batches:
                return [batches], whole
            inputs = [batch.inputs for batch in batches]
            # Unsloth's or transformers' own way to count the tokens that the mean is over: here those of this process
            _, count = super().get_batch_samples(iter(inputs), len(inputs), device)
            here = sum(batch.labelled for batch in batches)
            if count is None or int(count) != here:
                raise StageError(
                    f"step {self.state.global_step + 1}: the trainer counts {count} labelled tokens where there are {here}, so the "
                    "loss would be no mean over the step's tokens: this model is not supported"
                )
            return [batches], count if self.work.group.size == 1 else whole

        def training_step(self, model: Any, inputs: list[MicroBatch], num_items_in_batch: Any = None) -> Any:  # noqa: ANN401
            group, total, failed = self.work.group, torch.zeros((), device=self.args.device), None
            try:
                for batch in inputs:
                    total = total + super().training_step(model, dict(batch.inputs), num_items_in_batch)
                    real = sum(self.work.rows.lengths[row] for row in batch.rows)
                    self.work.seen.note(self.state.global_step + 1, batch, real)
            except Exception as error:
                if group.size == 1 or not is_out_of_memory(error):
                    raise
                failed = error  # said below: the others wait there
            if self.work.step_log.step == 0 and inputs and failed is None:
                check_gradients(model)
            asked = self.work.stop() is not None
            whole = group.end_backward(self.trained_parameters(), total, stop=asked, out_of_memory=failed is not None)
            if group.out_of_memory:
                raise failed or torch.OutOfMemoryError("another process of this training is out of memory")
            return whole

        def _prepare_inputs(self, inputs: dict[str, Any]) -> Any:  # noqa: ANN401
            # the lengths stay on the host: Unsloth reads them there, and would wait for the GPU to get them back
            lengths = inputs.pop("packed_seq_lengths", None)
            ready = super()._prepare_inputs(inputs)
            return ready if lengths is None else {**ready, "packed_seq_lengths": lengths}

        def floating_point_ops(self, _: Any) -> int:  # noqa: ANN401
            return 0

        def log(self, logs: dict[str, float], *rest: Any, **named: Any) -> None:  # noqa: ANN401
            if "grad_norm" in logs:
                self.state.epoch = self.work.step_log.plan.epoch(self.state.global_step)
            super().log(logs, *rest, **named)
            if "grad_norm" in logs:
                skipped = bool(self.accelerator.optimizer_step_was_skipped)
                self.work.step_log.end_step(self.state.global_step, logs, skipped=skipped)

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # noqa: ANN401
            loss = measure_heldout_loss(self)
            metrics = {} if loss is None else {"eval_loss": loss}
            if loss is not None:
                if self.work.step_log.note_heldout(loss) and self.work.keep_best:
                    self.work.best = copy_trained(self.model)
                self.log(metrics)
            self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            if self.work.step_log.out_of_patience():
                self.control.should_training_stop = True
            return metrics

        def _save_checkpoint(self, *_: Any) -> None:  # noqa: ANN401
            self.work.group.make_same(self.trained_parameters())
            generators = self.work.group.gather(random_state())
            if self.work.group.rank == 0:
                self.work.checkpoints.save(self.state.global_step, training_state(self, generators))

    class Hooks(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def __init__(self, trainer: PlannedTrainer, state: dict[str, Any] | None) -> None:
            self.trainer, self.state = trainer, state

        def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:  # noqa: ANN401
            rank = self.trainer.work.group.rank
            if self.state is not None:
                resume_loop(self.trainer, self.state)
                self.state = None
            elif rank:
                draw_anew(self.trainer.args.seed, 0, rank)

        def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
            if self.trainer.work.is_stopping():
                control.should_save = control.should_training_stop = True

    return PlannedTrainer


def check_gradients(model: "torch.nn.Module") -> None:
    """Raise StageError if a part of the adapter got no gradient: a patched forward may pass it by, and it would stay as it was."""
    adapter = ("lora_", "trainable_tokens_delta")
    parameters = ((name, value) for name, value in model.named_parameters() if any(part in name for part in adapter))
    missing = [name for name, value in parameters if value.grad is None]
    if missing:
        raise StageError(
            f"{len(missing)} parts of the adapter are not trained, {missing[0]} among them: this model is not supported"
        )


def measure_heldout_loss(trainer: Any) -> float | None:  # noqa: ANN401 - a PlannedTrainer
    """Mean loss of a labelled token over the first held-out rows, which the processes share; None if there is none.

    The trainer's own is a mean of batches' means, which moves with the size of a batch.
    """
    import torch

    group = trainer.work.group
    total, labelled = 0.0, 0
    trainer.work.seen.heldout = 0
    trainer.model.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for batch in islice(trainer.work.heldout_batches(), group.rank, None, group.size):
            trainer.work.seen.heldout += len(batch.rows)
            if batch.labelled:
                # with a cache Unsloth would forget where conversations begin
                inputs = trainer._prepare_inputs({**batch.inputs})  # noqa: SLF001 - our subclass's own
                total += float(trainer.model(**inputs, use_cache=False).loss) * batch.labelled
                labelled += batch.labelled
    trainer.model.train()
    sums = torch.tensor([total, labelled], dtype=torch.float64)
    group.add_up(sums)
    total, labelled = sums.tolist()
    return total / labelled if labelled else None
