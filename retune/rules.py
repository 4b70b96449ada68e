"""What each rule that sets a row aside means: those of `standardize` and those of `template`."""

from stages.chat.row_rules import RULES as TEMPLATE_RULES
from stages.conversations.row_rules import RULES

MEANINGS = {**RULES, **TEMPLATE_RULES}
