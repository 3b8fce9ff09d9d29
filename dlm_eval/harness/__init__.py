"""Between lm-evaluation-harness and the canvas: tasks, datasets, the model as lm-eval sees it, runs and results."""
