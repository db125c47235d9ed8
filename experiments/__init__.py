"""One file per benchmark: its settings, its published presets, and what to expect; `few_shot` runs them."""
