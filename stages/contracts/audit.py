"""data/audit: the verdict on a model and the record of what made it."""

VERDICT = "verdict.json"
"""{passed: bool, reasons: [str], checks: [{name, passed, found, floor, says}]}"""

PROVENANCE = "provenance.json"
"""{model, chain: {stage: record}}: for every stage its code, params, packages, inputs and outputs by sha256."""
