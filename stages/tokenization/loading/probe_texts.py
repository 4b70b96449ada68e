"""Texts that tell tokenizers apart: what two libraries must agree on before one may stand in for the other."""

# ruff: noqa: RUF001 - odd characters are what it is for

from collections.abc import Iterable

CONTRACTIONS = "I'm you're he'll they'VE it'S don'T I'D we'Ll o'clock 'tis ’s ſ'ſ 'Re'rE'"

HARD = (
    "",
    " ",
    "x",
    "Plain words, then a full stop.",
    "  blanks at both ends  ",
    "\n\nline ends at both ends\n\n",
    "a\r\nb\rc\n\rd\r\n\r\n",
    "\ttabs\t\tand \t mixed \n \t\n  blanks\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029",
    "runs:  two   three    four     five\n\n\n\n\n     \n   end   ",
    CONTRACTIONS,
    CONTRACTIONS.upper(),
    "1 12 123 1234 12345 1234567890 1,234.56 0x1F 3.14159e-10 2024-07-26 ½ ² Ⅷ ٣٤٥ ३४५ １２３ 𝟙𝟚",
    "camelCase snake_case HTTPServer ÅNGSTRÖM Straße STRASSE naïve ﬁne ǅ Ĳ ŉ İi Iı ſ K Ω",
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # no\n\n\tif x:\n\t\tpass\n```\n",
    '{"key": [1, 2.5, null, true], "nested": {"a": "\\n\\u00e9"}}',
    '<div class="a">&amp;</div><!-- c --> </s> <s> [INST] <unk> <pad> <0x41> <0xFF>',
    "!?!?... --- === *** ### @@@ $$$ %%% ^^^ &&& ((())) [[[]]] {{{}}} ~~~ ||| \\\\\\ ///",
    "curly “quotes” ‘single’ – en — em … • bullet « guillemets » ¿qué? ¡sí! № § ¶ † ‰",
    "e\u0301 a\u0308 \u0301alone o\u0308\u0304\u0323 q\u0323\u0307 q\u0307\u0323 \u1e9b\u0323 Å \u212b A\u030a",
    "중\uac01 \u1100\u1161\u11a8 \u1112\u1161\u11ab글 한국어 텍스트",
    "中文字符，標點。日本語のテキスト、カタカナ ｶﾀｶﾅ が か\u3099 漢字々〆 𠮷 㐀 豈",
    "Русский текст, ЁЖИК, й и\u0306. Ελληνικά ς Σ. Հայերեն ქართული ᲐᲑᲒ",
    "עברית עִבְרִית العربية مُحَمَّد \u0640\u200f\u202eright to left\u202c ﷺ ﻻ",
    "हिन्दी क्षत्रिय বাংলা தமிழ் ไทย ภาษา ລາວ བོད་ ខ្មែរ မြန်မာ አማርኛ ᏣᎳᎩ",
    "🙂 🙂🙂 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 👍🏽 ❤️ ❤ ☎︎ 1️⃣ 🏴\U000e0067\U000e0062\U000e007f",
    "math ∑∫√ ≠ ∀x∈ℝ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 x² ₃ ™ ℃ ㎏ ①",
    "\u00a0no-break\u2003em\u3000ideographic\u200bzero\u200cwidth\u200djoiner\u2060\ufeff\u00adsoft",
    "\x00nul \x01\x02 \x07bell \x08 \x1b[31mescape\x7f \x80\x9f",
    "private \ue000\uf8ff\U000f0000\U0010ffff none \u0378\ufffe\uffff\U0001fffe replaced \ufffd",
    "▁ ▁▁x Ġ Ċ ĠĠ ##word @@ </w> ⁇ _",
    "assistant user system ipython tool",
    "\u0336\u0337\u0338 z̸̢̛͎a͠l̵g̷o̴",
    "supercalifragilisticexpialidocious Donaudampfschifffahrtsgesellschaftskapitän",
    "https://example.org/a/b?c=d&e=%20f#g user.name+tag@example.org C:\\dir\\file.txt",
    "dGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5IGRvZw==" * 4,
    "a" * 1000,
    "ab" * 700 + "é" * 700,
    " " * 700,
    "\n" * 300 + "\t" * 300,
    "-" * 300 + "=" * 300,
    "9" * 500,
    "漢" * 300 + "🙂" * 300,
)

LONG = 20_000
"""Bytes of a long text: libraries cut those into parts that several threads work on."""


def probe_texts(added: Iterable[str]) -> list[str]:
    """The texts, with each of a tokenizer's added tokens written out in all surroundings that may matter."""
    written = list(added)
    around = [
        text
        for token in written
        for text in (token, f"a{token}b", f" a  {token}  b ", f"{token}{token}\n{token} .{token}é")
    ]
    some = " ".join(written[:40])
    return [*HARD, *around, *map(lengthen, ("word. ", f"{some} and\n", f"{some}{HARD[-1]}".join(HARD)))]


def lengthen(text: str) -> str:
    """The text again and again, until it is long."""
    return text * (LONG // len(text) + 1)
