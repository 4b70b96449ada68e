"""What data/tokens/summary.json says of the template and the tokenizer that were chosen, before a row has gone through; pure."""

from typing import Any

from stages.chat.answer_form import describe_end_of_turn, find_answer_form
from stages.chat.template_choice import TemplateChoice, TemplateWishes
from stages.chat.template_report import describe_template


def summarize_choice(choice: TemplateChoice, wishes: TemplateWishes) -> dict[str, Any]:
    """The part of summary.json that no row changes; `chat_template` lacks the sha256 of what is shipped, which rows decide on."""
    chat, tokenizer = choice.chat, choice.chat.tokenizer
    described = describe_template(chat.turns, choice.chat_template, wishes.options)
    return {
        "chat_template": {"name": wishes.name, **described},
        "prompt": {name: getattr(choice.prompt, name) for name in ("choice", "reason", "gap", "header")},
        "reasoning": wishes.reasoning,
        "options": dict(wishes.options),
        "date_string": wishes.date_string,
        "end_of_turn": describe_end_of_turn(chat),
        "answer": find_answer_form(chat.turns.template, chat.turns.thought),
        "bos": choice.bos,
        "pad": {"text": choice.tokens["pad_token"], "id": tokenizer.token_to_id(choice.tokens["pad_token"])},
        "control_tokens": {
            "as_text": choice.spelled,
            "added": {token: tokenizer.token_to_id(token) for token in choice.added},
        },
        "vocabulary_size": len(chat.is_special),
    }
