"""The same training in other frameworks, as their users write it: what `python -m experiments.bench` compares with."""
