"""The card of an exported optimizer, as the Hugging Face Hub shows it."""

import json
from typing import Any

from lopt.config.plain import dotted
from lopt.files.fileformat import Header

CARD = """\
---
library_name: lopt
license: unknown
tags:
- lopt
- learned-optimizer
- optax
- jax
- {tag}
---

# {name}

A learned optimizer: `{optimizer}` of lopt, with its weights. Say here what it is good
for, and under which license it may be used (`license` in the lines above).

```python
import lopt

# of a copy of this folder: an optax optimizer
optimizer = lopt.load("{name}", num_steps=1000)
updates, state = optimizer.update(grads, state, params, value=loss)
```

`lopt show {name}` says more; `config.json` is what is told here, for programs.
"""


def model_card(name: str, header: Header) -> str:
    """Markdown under the front matter that the Hub expects.

    Args:
      name: of the folder.
      header: of the weights.
    """
    # A string in JSON is one in YAML.
    tag, optimizer = json.dumps(header.optimizer), header.optimizer
    made = dict(header.card)
    evaluation = made.pop("evaluation", None)
    parts = [CARD.format(name=name, optimizer=optimizer, tag=tag)]
    for title, plain in (
        ("How it was made", made),
        ("What it is worth", evaluation or {}),
        ("Its constants", header.options),
        ("What widths are relative to", header.mup_base or {}),
    ):
        if plain:
            rows = [f"| {_cell(k)} | {_cell(v)} |" for k, v in dotted(plain)]
            parts += [f"## {title}\n", "| | |\n|---|---|", *rows, ""]
    return "\n".join(parts)


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
