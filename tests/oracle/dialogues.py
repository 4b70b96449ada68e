"""Made dialogues with hard texts, the same for a seed."""

# ruff: noqa: RUF001 - odd characters are what it is for; a seeded generator, no secret

import random

HARD = (
    "plain words, then a full stop.",
    "  blanks at both ends  ",
    "\n\nline ends at both ends\n\n",
    "\ttabs\tand\r\nreturns\r",
    "{{ bos_token }} {% if x %} {# no comment #}",
    "quotes \" and ' and \\ and \\n",
    "tags <b>bold</b> <think>hm</think> </s> [INST] <s>",
    "almost a token: <|eot_id| > <|eot_id <| eot_id |>",
    "assistant user system ipython",
    "numbers 1234567890 1,234.56 0x1F 3.14159",
    "code:\n```python\ndef f(x):\n    return x  # no\n```\n",
    "emoji 🙂👩‍👩‍👧‍👦🇩🇪 and combining e\u0301 a\u0308 against é ä",
    "中文，日本語のテキスト、한국어 텍스트",
    "עברית ואז العربية then \u202eright to left\u202c",
    "\u00a0no-break\u2003em\u3000ideographic\u200bzero width\ufeff",
    "math ∑∫√ ≠ ∀x∈ℝ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "\x00nul \x07bell \x1b[31mescape\x7f \x85next line \u2028separator",
    "x",
    "?",
    "\u0336\u0337",
    "a" * 400,
    " ".join(["the"] * 300),
    "-" * 90 + "\n" * 9 + "=" * 90,
    "I'm you're he'll THEY'VE it's",
)


def made_dialogues(count: int, seed: int = 0, *, edges: bool = True) -> list[list[dict[str, str]]]:
    """`count` dialogues of 1 to 4 turns, a third with a system turn; without `edges`, no white space around contents."""
    rng = random.Random(seed)

    def content() -> str:
        text = rng.choice(["", " ", "\n"]).join(rng.sample(HARD, rng.choice([1, 1, 2, 3])))
        return (text if edges else text.strip("\x00 \t\r\n\u00a0\u2003\u3000\x85\u2028\x1c\x1d\x1e\x1f\x0b\x0c")) or "x"

    dialogues = []
    for _ in range(count):
        turns = [{"role": "system", "content": content()}] if rng.random() < 1 / 3 else []
        for _ in range(rng.randint(1, 4)):
            turns += [{"role": "user", "content": content()}, {"role": "assistant", "content": content()}]
        dialogues.append(turns)
    return dialogues
