"""How fast an epoch is: mnistlab, PyTorch, Keras and plain Flax on the same work, side by side in one run.

python -m experiments.bench [--workloads=lenet5_256,dense_256] [--peers=mnistlab,pytorch] [--rounds=5] [--against=summary.json]

Every peer trains the same network from the same weights on the same batches, in a process of its own with as many threads.
A round is a part of an epoch, of as many operations for every network; the peers take turns round by round, so that a
slow minute of the machine hits all. Within a round the first pass is not counted: systems take memory from idle processes.
The first round compiles and is not counted in the median; its loss must agree between the peers (networks without dropout).
PyTorch and Keras come with the extra: pip install -e .[bench]; without it they are left out, and the page says so.
"""
