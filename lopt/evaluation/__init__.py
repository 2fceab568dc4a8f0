"""Honest comparison: a learned optimizer against tuned baselines, budget for budget.

From names to files: `entry.evaluate`; from optimizers to results: `comparison.evaluate`.
Below them `contest` tunes and runs one contender, in the programs of `curves`;
`statistics` and `summary` make numbers of what was recorded, `results` is their schema,
`report`, `page` and `pictures` show them. `baselines` are hand-designed, the control
`schedule` is made of the learned optimizer.
"""

from lopt.evaluation.entry import evaluate as evaluate
