"""The compact on-policy distillation trainer: `odkd train --config FILE`. odeval never imports it.

PYTEST_DONT_REWRITE, as in odeval.
"""
