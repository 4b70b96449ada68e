"""A dialogue -> token ids and labels: rendered by the chat template, the answers marked, encoded, and the marks proven.

encoding.py tells the story; template_choice.py, chat.py and turns.py get ready for it, dialogues.py reads its rows, fit_to_length.py
cuts and keeps what comes out.

Used by template.
"""
