"""Matrix products on every device: the time until the call returns against the time until the product is done.

python -m experiments.matmul_devices [--protocol=controlled] [--sizes=500,1000,5000,10000] [--rounds=10]

The source's accelerator times stop when its call returns, before the product is done. Both times are always measured;
`reported` compares the source's numbers with what its clock saw (an accelerator's dispatch; TensorFlow's product on the CPU
is done when its call returns), `controlled` with finished products. --limit_examples gives a quick look: sizes up to 1,000.
Flags of training are accepted and mean nothing here, but --seed, from which the matrices are drawn.
"""
