"""Verdicts and numbers in other tools' formats. Pure functions of comparison.json and verdict.json: nothing is computed."""
