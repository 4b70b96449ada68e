"""What people read: numbers as texts, tokens with colours, where a model comes from, the page's templates.

Used by audit and report.
"""
