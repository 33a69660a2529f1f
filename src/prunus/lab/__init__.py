"""Experiments: recipes, stages, training, data, models, reports."""
