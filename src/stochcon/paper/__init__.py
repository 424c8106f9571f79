"""The paper's table and figures: each a grid of runs, a picture, and rows beside the paper's own numbers."""
