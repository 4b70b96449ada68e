"""The one exception that is meant for the person who runs the pipeline."""


class StageError(Exception):
    """Something that the user can mend: which file, row id or field, what was found, what to do.

    `stages.core.runner.run` prints its text alone and exits with 1. The text never holds a dataset's content or a secret.
    """


class Refusal(StageError):  # noqa: N818 - an answer, not an error
    """The stage did its work and its outputs are right, but the answer is no: they are put in place before the exit with 1."""
