"""A plan as C: functions of numbers and vectors, kernels of contractions, steps, and what runs them."""
