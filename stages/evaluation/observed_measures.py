"""What was measured and on what: what stands against the section `evaluate` in the execution record."""

from typing import Any

from stages.core.execution import guard_notes, note_choice, note_figures, note_ran, note_unknown
from stages.evaluation.measures import ModelMeasures


@guard_notes
def note_evaluation(model: Any, tuned: ModelMeasures, matched: float | None, longest: int) -> None:  # noqa: ANN401 - a PeftModel
    """Note what ran for the execution record.

    Args:
        model: as it was measured.
        tuned: its measures.
        matched: the share of answers that are right; None where no answer was compared.
        longest: tokens of an answer, at most.
    """
    place = next(iter(model.parameters())).device.type
    kinds = {type(module).__name__ for module in model.modules()}
    note_figures(
        device=place,
        in_4_bit="Linear4bit" in kinds,
        dtype=str(model.get_input_embeddings().weight.dtype).removeprefix("torch."),
        rows=len(tuned.loss),
        answers=len(tuned.answers),
    )
    note_choice({"runtime.device": place}, f"what this machine has: {place}")
    note_ran({"runtime.evaluation_batch": tuned.largest_batch}, "there are fewer rows")
    note_choice({"evaluate.rows": len(tuned.loss)}, "there are no more held-out rows")
    note_ran({"evaluate.answer_rows": len({row for row, _ in tuned.answers})}, "there are fewer held-out rows")
    said = max(map(len, tuned.answers.values()), default=0)
    if said >= longest:
        note_ran({"evaluate.max_new_tokens": said})
    else:
        note_unknown(f"no answer is as long: the longest has {said} tokens", "evaluate.max_new_tokens")
    if tuned.answers:
        note_ran({"evaluate.exact_match": matched is not None})
    else:
        note_unknown("no row was answered", "evaluate.exact_match")
