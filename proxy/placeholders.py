"""What stands for a brokered credential inside a sandbox: a text of the same length and shape that tells nothing.

It must not show any part of the value but what every value of its kind begins with.
"""

import secrets
from collections.abc import Callable
from string import ascii_lowercase, ascii_uppercase, digits

from proxy.credentials import LEAST_SECRET, check_value, stands_for

# Public beginnings by which programs tell one kind of token from another; they keep them. No pattern: it would take the
# first word of a passphrase for one.
_BEGINNINGS = (
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glrt-", "glcbt-", "ATBB", "ATATT3"),
    *("npm_", "pypi-", "rubygems_", "dckr_pat_", "hf_", "cio", "tskey-", "hvs.", "hvb.", "dop_v1_", "nfp_", "lin_api_"),
    *("sk-ant-api03-", "sk-ant-", "sk-proj-", "sk-or-v1-", "sk-", "gsk_", "xai-", "pplx-", "r8_", "AIza", "ya29."),
    *("xoxb-", "xoxp-", "xapp-", "sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_", "shpat_", "SG.", "key-"),
    *("AKIA", "ASIA", "eyJ"),
)


def make_placeholder(value: str) -> str:
    """A new placeholder for `value`; raises BadCredential for a value that can't be brokered."""
    check_value(value)
    beginning = max((text for text in _BEGINNINGS if value.startswith(text)), key=len, default="")
    if sum(character.isalnum() for character in value[len(beginning) :]) < LEAST_SECRET:
        beginning = ""
    secret = value[len(beginning) :]
    while True:  # all but always once
        placeholder = beginning + "".join(map(_like(secret), secret))
        if stands_for(placeholder, value):
            return placeholder


def _like(text: str) -> Callable[[str], str]:
    """Gives another character of the same kind as one of `text`; what is hexadecimal stays so."""
    alphabets = (digits, _letters(text, ascii_lowercase), _letters(text, ascii_uppercase))
    return lambda character: next((secrets.choice(kind) for kind in alphabets if character in kind), character)


def _letters(text: str, kind: str) -> str:
    return kind[:6] if set(text) & set(kind) <= set(kind[:6]) else kind
