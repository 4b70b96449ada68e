"""A first look at what `retune use` chooses: whether the stages will recognize the data, and what the chat template will do to them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.conversations.layouts_tree import Trees


def find_unrecognized(root: Path, data: Sequence[Path], values: Mapping[str, Any]) -> list[str]:
    """Why datasets cannot be learned from, in the words of `standardize` and `retune inspect`; empty if all can be.

    Args:
        root: the project, with the datasets in data/custom.
        data: where they came from: what errors call them.
        values: params.yaml, whose sources they are, in their order.
    """
    from stages.core.errors import StageError

    found = []
    for number, (path, source) in enumerate(zip(data, values["fetch_data"]["sources"], strict=False)):
        try:
            look(root, source, number, values["standardize"]["trees"], values["standardize"]["group_by"])
        except StageError as error:
            found.append(str(error).replace(source["source"], str(path)))
    return (
        [*found, "`--force` brings it all the same, for params to be set by hand: the stages refuse what is said here"]
        if found
        else []
    )


def look(root: Path, source: Mapping[str, Any], number: int, trees: "Trees", group_by: str | None) -> None:
    """Recognize the layout of a source's first rows, as `standardize.trees` says.

    Raises StageError if there is none, or no column that rows are grouped by.
    """
    from stages.conversations.dialect_detection import ROWS_TO_RECOGNIZE, detect_dialect
    from stages.conversations.grouping import check_group_column
    from stages.core.errors import StageError
    from stages.fetch_data import DataSource

    params = DataSource.model_validate(source)
    rows = list(islice(first_rows(root, params), ROWS_TO_RECOGNIZE))
    if not rows:
        raise StageError(f"{params.source} holds no rows")
    if detect_dialect(rows, params.columns, params.source, number, trees) is None:
        raise StageError(f"{params.source}: no row is a JSON object")
    check_group_column([(params.source, rows)], group_by)


def first_rows(root: Path, source: Any) -> Iterator[bytes]:  # noqa: ANN401 - stages are imported where they are needed
    """The records of a source, from its first."""
    from stages.dataset_files.reader import read_rows
    from stages.fetching.source_files import find_source_files

    demo, custom = root / "data/demo/dialogues.jsonl", root / "data/custom"
    for name, path in find_source_files(demo, custom, source.source, source.revision, source.config, source.split):
        for _, record in read_rows(path, name):
            yield record


def look_at_template(
    root: Path, values: Mapping[str, Any], changed: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """({what it is about: what is said of the chat template with these params}, why `template` will refuse it).

    Both are empty where no param that it depends on has `changed`, or the model is not fetched yet.
    """
    from retune.project import find_tokenizer
    from stages.chat.choice_summary import summarize_choice
    from stages.chat.template_choice import prepare
    from stages.chat.template_words import say_template
    from stages.core.errors import StageError
    from stages.core.params import section_params
    from stages.template import TemplateParams, read_wishes
    from stages.tokenization.loading.fast import ReferenceEncoder
    from stages.tokenization.loading.tokenizer_folder import read_tokenizer_folder

    folder = find_tokenizer(root, values)
    if folder is None or not any(name.startswith(("fetch_model.", "template.")) for name in changed):
        return {}, []
    wishes = read_wishes(section_params(TemplateParams, "template", dict(values)))
    try:
        came = read_tokenizer_folder(folder)
        choice = prepare(came, root / "data/custom", wishes, lambda _, reference: ReferenceEncoder(reference))
    except StageError as error:
        return {}, [f"`template` will refuse this: {error}"]
    return say_template(summarize_choice(choice, wishes)), []
