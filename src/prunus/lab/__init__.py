"""What a newcomer runs: recipes, stages, training, data, models, reports."""
