"""Texts with an e-mail address, a phone number, or a key that looks like a secret; pure functions.

Phone numbers are told by libphonenumber's rules (phonenumberslite), keys by detect-secrets' forms and by those of newer services. Both are asked
about the few places alone that a look at the bytes leaves: both cost more a text than all else that is done to it.
"""

import re
import string
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.conversations.text_bytes import Places, TextBytes, make_class

DIGITS, LETTERS = string.digits.encode(), string.ascii_letters.encode()
IS_LETTER = make_class(LETTERS)
IS_LOCAL = make_class(LETTERS + DIGITS + b"_%+-")
IS_HOST = make_class(LETTERS + DIGITS)
IS_KEY = make_class(LETTERS + DIGITS + b"_-")
IS_BREAK = make_class(b" .-)")
AT, PLUS, BRACKET, ONE = b"@+(1"

LOCAL = re.compile(rb"[A-Za-z0-9._%+-]+$")
HOST = re.compile(rb"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])")
LONGEST_LOCAL, LONGEST_HOST = 64, 255
"""Bytes before and from the @ on (RFC 5321)."""
REPOSITORY = b"git"
"""The name in a repository's address."""
IN_URL = re.compile(rb"://[^\s/:@]+:[^\s/:@]+$")
"""A name and a password in an address of the web, up to the @."""

PHONE_DIGITS, PHONE_BYTES = 8, 22
"""A phone number has so many digits or more, the first of them within so many bytes."""
INTERNATIONAL = re.compile(rb"(?<![\w+*/=^)])\+\d[\d ()./-]{6,22}\d(?![\d%])")
NORTH_AMERICAN = re.compile(
    rb"(?<![\w.+*/=-])(?:1[-. ])?(?:\([2-9]\d\d\) ?|[2-9]\d\d([-.]))[2-9]\d\d(?(1)\1|[-. ])\d{4}(?![\w.-]*\d)"
)

KEY_BYTES = 20
"""The shortest run of letters, digits, _ and - that a key has."""
KEY_REACH = 100
"""Bytes around a place in which a key is looked for."""
BEFORE = 48
"""Bytes before it in which a key begins."""
STRETCH = 64
"""Bytes of which one place is enough to find what stands in them."""
PRIVATE_KEY, HEAD = b"PRIVATE KEY", b"-----BEGIN "
BEGINS = re.compile(
    rb"A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA|M[\w-]{23,25}\.[\w-]{6}\.|N[\w-]{23,25}\.[\w-]{6}\.|O[\w-]{23,25}\.[\w-]{6}\.|ghp_|gho_|ghu_|ghs_|ghr_|github_pat_"
    rb"|glpat-|gldt-|glft-|glsoat-|glrt-|glcbt-|glimt-|glptt-|glagent-|gloas-|GR1348941|eyJ|-us\d|_authToken=|rk_live|sk_live|sk-|pypi-|SG\.|xox[abposr]-"
    rb"|hooks\.slack\.|sq0csp-|AC[0-9a-z]{32}|SK[0-9a-z]{32}|:AA|AccountKey=|hf_|AIza|ya29\.|dop_v1_|lin_api_|shpat_|shpca_|shppa_|shpss_"
)
"""How the keys begin that are known here, or what their forms have inside; each with a letter or sign of its own in front, which makes the search
fast. Where none is found nobody is asked."""
NEWER = re.compile(
    r"(?<![A-Za-z0-9_-])(?:sk-(?:[a-z]+[0-9]*-){0,3}(?=[A-Za-z0-9_-]*\d)[A-Za-z0-9_-]{20,}|hf_(?=[A-Za-z]*[A-Z])[A-Za-z0-9]{30,}|AIza[A-Za-z0-9_-]{35}"
    r"|github_pat_[A-Za-z0-9_]{40,}|ya29\.[A-Za-z0-9_-]{30,}|dop_v1_[0-9a-f]{64}|lin_api_[A-Za-z0-9]{32,}|shp[a-z]{2}_[0-9a-f]{32})"
)
"""Of OpenAI and those that write theirs alike, Hugging Face, Google, GitHub's fine-grained ones, DigitalOcean, Linear, Shopify."""

Texts = set[int]
"""Which texts."""


def find_email_addresses(texts: TextBytes, ats: Places) -> Texts:
    """Texts with an e-mail address; `ats`: as `find_ats` gives them."""
    found: Texts = set()
    for place, text, start, end in texts.walk(ats):
        if text not in found:
            name = LOCAL.search(texts.whole, max(start, place - LONGEST_LOCAL), place)
            if not name or name[0] == REPOSITORY or has_password(texts.whole, start, place):
                continue
            if HOST.match(texts.whole, place, min(end, place + LONGEST_HOST)):
                found.add(text)
    return found


def find_ats(texts: TextBytes) -> Places:
    """Where an @ stands between what a name may end with and what a host may begin with."""
    places = texts.find_byte(AT)
    places = places[places > 0]
    return places[IS_LOCAL[texts.data[places - 1]] & IS_HOST[texts.data[places + 1]]]


def has_password(whole: bytes, start: int, place: int) -> bool:
    """Whether a name and a password of an address of the web end at a place, in a text that begins at `start`."""
    return IN_URL.search(whole, max(start, place - KEY_REACH), place) is not None


def find_phone_numbers(texts: TextBytes, digits: Places) -> Texts:
    """Texts with a phone number as one writes it for abroad (+49 30 ...) or in North America; others say nothing without their country.

    `digits`: all places of digits.
    """
    starts = digits[: max(len(digits) - PHONE_DIGITS + 1, 0)]
    near = digits[PHONE_DIGITS - 1 :] - starts < PHONE_BYTES
    # the first digit of its run, and a run that is no sum, date or hash: behind + or (, or broken as phone numbers are
    begins = np.zeros(len(texts.data) + 1, np.bool_)
    begins[texts.ends] = True
    first = (np.diff(digits, prepend=-2) > 1)[: len(starts)] | begins[starts]
    starts = starts[near & first]
    before = texts.data[np.maximum(starts - 1, 0)]
    starts = starts[(before == PLUS) | (before == BRACKET) | is_broken(texts, starts)]
    found: Texts = set()
    for place, text, start, end in texts.walk(starts):
        if text not in found:
            around = texts.whole[max(place - 3, start) : min(place + PHONE_BYTES + 6, end)]
            numbers = (match[0].decode() for match in INTERNATIONAL.finditer(around))
            if NORTH_AMERICAN.search(around) or any(map(is_phone_number, numbers)):
                found.add(text)
    return found


def is_broken(texts: TextBytes, starts: Places) -> NDArray[np.bool_]:
    """Whether three digits and then a break stand at each place of a text's data, or a 1 and a break."""
    at = [texts.data[np.minimum(starts + step, len(texts.data) - 1)] for step in (0, 1, 3)]
    return np.asarray(IS_BREAK[at[2]] | (IS_BREAK[at[1]] & (at[0] == ONE)), np.bool_)


@cache
def load_phone_numbers() -> Any:  # noqa: ANN401 - the library brings no types
    """libphonenumber; 40 ms, so where a text asks for it."""
    import phonenumbers

    return phonenumbers


def is_phone_number(written: str) -> bool:
    """Whether a number with + and a country's code can be one: the country is there, and it has as many digits as numbers have there."""
    library = load_phone_numbers()
    try:
        return bool(library.is_possible_number(library.parse(written, None)))
    except library.NumberParseException:
        return False


def find_secret_keys(texts: TextBytes, digits: Places, ats: Places) -> Texts:
    """Texts with a key, a token, a private key, or a password in an address.

    Args:
        texts: the texts.
        digits: all places of digits.
        ats: as `find_ats` gives them.
    """
    found = {text for place, text, start, _ in texts.walk(ats) if has_password(texts.whole, start, place)}
    for place, text, start, end in texts.walk(find_key_places(texts, digits)):
        if text not in found:
            first, last = max(place - KEY_REACH, start), min(place + KEY_REACH, end)
            if BEGINS.search(texts.whole, max(place - BEFORE, start), last) and is_secret_key(
                texts.whole[first:last].decode(errors="replace")
            ):
                found.add(text)
    return found | find_private_keys(texts)


def find_key_places(texts: TextBytes, digits: Places) -> Places:
    """Digits beside a letter in a run that is long enough for a key: of those in one stretch of STRETCH bytes of a text the first."""
    data = texts.data
    inside = digits[(digits > 0) & (digits < len(data) - 1)]
    beside = inside[IS_LETTER[data[inside - 1]] | IS_LETTER[data[inside + 1]]]
    reach = np.arange(-KEY_BYTES, KEY_BYTES + 1)
    window = IS_KEY[data[np.clip(beside[:, None] + reach, 0, len(data) - 1)]]
    run = count_true(window[:, KEY_BYTES::-1]) + count_true(window[:, KEY_BYTES:]) - 1
    places = beside[run >= KEY_BYTES]
    new_stretch = np.diff(places // STRETCH, prepend=-1) > 0
    return places[new_stretch | (np.diff(texts.find_text(places), prepend=-1) > 0)]


def count_true(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many are true at the beginning of each row."""
    return np.asarray(np.where(rows.all(axis=1), rows.shape[1], np.argmin(rows, axis=1)), np.int64)


def find_private_keys(texts: TextBytes) -> Texts:
    """Texts with the head of a private key."""
    places, start = [], 0
    while (start := texts.whole.find(PRIVATE_KEY, start)) >= 0:
        places.append(start)
        start += len(PRIVATE_KEY)
    return {
        text
        for place, text, start, _ in texts.walk(np.array(places, np.int64))
        if HEAD in texts.whole[max(start, place - KEY_REACH) : place]
    }


@cache
def load_detectors() -> list[Any]:
    """detect-secrets' detectors of known forms; none that guesses by entropy or by words like password, which prose is full of. 0.1 s, so where a text asks for it."""
    from detect_secrets.plugins import (
        aws,
        azure_storage_key,
        discord,
        github_token,
        gitlab_token,
        jwt,
        mailchimp,
        npm,
        openai,
        pypi_token,
        sendgrid,
        slack,
        square_oauth,
        stripe,
        telegram_token,
        twilio,
    )

    return [
        aws.AWSKeyDetector(),
        azure_storage_key.AzureStorageKeyDetector(),
        discord.DiscordBotTokenDetector(),
        github_token.GitHubTokenDetector(),
        gitlab_token.GitLabTokenDetector(),
        jwt.JwtTokenDetector(),
        mailchimp.MailchimpDetector(),
        npm.NpmDetector(),
        openai.OpenAIDetector(),
        pypi_token.PypiTokenDetector(),
        sendgrid.SendGridDetector(),
        slack.SlackDetector(),
        square_oauth.SquareOAuthDetector(),
        stripe.StripeDetector(),
        telegram_token.TelegramBotTokenDetector(),
        twilio.TwilioKeyDetector(),
    ]


def is_secret_key(text: str) -> bool:
    """Whether a piece of a text holds a key of a known form."""
    return bool(NEWER.search(text)) or any(
        next(iter(detector.analyze_string(text)), None) is not None for detector in load_detectors()
    )
