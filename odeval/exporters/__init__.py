"""Verdicts and numbers in other tools' formats. Nothing is judged here."""
