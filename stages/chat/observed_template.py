"""What became of the template and the long rows: what stands against the section `template` in the execution record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.chat.pinning import strip_header
from stages.chat.row_rules import CONTROL_TOKEN_IN_CONTENT, TOO_LONG
from stages.chat.template_choice import TemplateChoice, TemplateWishes, choose_template, list_our_templates
from stages.core.asked_and_ran import list_keys
from stages.core.execution import guard_notes, note_choice, note_ran, note_unknown
from stages.tokenization.loading.tokenizer_folder import TokenizerFolder


@guard_notes
def note_template(
    said: Mapping[str, Any],
    choice: TemplateChoice,
    came: TokenizerFolder,
    custom: Path,
    wishes: TemplateWishes,
    longest: int,
) -> None:
    """Note what ran for the execution record.

    Args:
        said: data/tokens' summary.json.
        choice: the template and tokenizer that were used.
        came: the tokenizer as it was fetched.
        custom: data/custom.
        wishes: what the params ask: only for which template's text is looked at first, and reasons.
        longest: as `template.max_length`.
    """
    note_template_name(choice, came, custom, wishes.name)
    note_choice({"template.prompt": choice.prompt.choice}, str(choice.prompt.reason))
    for name in said["chat_template"]["options_unused"]:
        for key, _ in list_keys(f"template.options.{name}", wishes.options[name]):
            note_ran({key: None}, "the chat template does not read it")
    if wishes.date_string in choice.chat_template:
        note_ran({"template.date_string": wishes.date_string})
    else:
        note_unknown("the template that is shipped does not hold it", "template.date_string")
    controls = said["control_tokens"]
    added = set(controls["added"]) - {said["pad"]["text"]}
    if added or controls["as_text"]:
        note_ran({"template.missing_control_tokens": "add" if added else "text"})
    else:
        note_unknown("the vocabulary lacks none", "template.missing_control_tokens")
    note_lengths(said, longest)
    if said["rejected"].get(CONTROL_TOKEN_IN_CONTENT):
        note_ran({"template.control_tokens_in_content": "reject"})
    else:
        note_unknown("no row was set aside for one", "template.control_tokens_in_content")


def note_template_name(choice: TemplateChoice, came: TokenizerFolder, custom: Path, asked: str) -> None:
    """Note which template was used: the one whose text is the one that prompts and answers were made with."""
    for name in dict.fromkeys([asked, "tokenizer", *list_our_templates()]):
        there = name != "tokenizer" or came.chat_template is not None
        if there and strip_header(choose_template(came, custom, name)) == choice.prompt.source:
            note_ran({"template.chat_template": name})
            return
    note_unknown("its text was changed: the generation prompt was extended", "template.chat_template")


def note_lengths(said: Mapping[str, Any], longest: int) -> None:
    """Note the longest row, and what became of longer ones."""
    splits = said["splits"].values()
    most = max((split["length"]["max"] for split in splits if split["rows"]), default=0)
    if most >= longest:
        note_ran({"template.max_length": most})
    else:
        note_unknown(f"no row is as long: the longest has {most} tokens", "template.max_length")
    cut = sum(split["truncated"] for split in splits)
    if cut:
        note_unknown(f"{cut} rows were cut, and counts do not tell where", "template.too_long")
    elif said["rejected"].get(TOO_LONG):
        note_ran({"template.too_long": "reject"})
    else:
        note_unknown("no row is longer", "template.too_long")
