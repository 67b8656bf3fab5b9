"""Charts as SVG, and the picture of a model's first weights."""
