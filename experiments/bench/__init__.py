"""How fast an epoch is: mnistlab, PyTorch, Keras and plain Flax on the same work, side by side in one run.

python -m experiments.bench [--workloads=lenet5_256,dense_256] [--peers=mnistlab,pytorch] [--rounds=5] [--against=summary.json]

Every peer trains the same network from the same weights on the same batches, in a process of its own. First every setting
of a framework (threads, the order of the axes, images already in order, compiled or not) trains one short round, and the
quickest stays; --notune takes the first. Then rounds: a part of an epoch, of as many operations for every network; the
peers take turns, so that a slow minute of the machine hits all, and beside them the machine's own limits are measured, on
one pinned core and on all. Within a round the first pass is not counted: systems take memory from idle processes. The
first round compiles and is not counted in the median; its loss must agree between the peers (networks without dropout).
Where rounds disagree by more than --most_noise, no ratio is given. --whole_epochs names what is also timed with a new
order, validation and the best weights kept; --profile says what a step of ours spends.
On two slow cores LeNet-5 took seven minutes with every setting tried, and with --notune and two other peers two to three:
all workloads with every setting take hours, with --notune half an hour on two fast cores. The last line says how long it was.
PyTorch and Keras come with the extra: pip install -e .[bench]; without it they are left out, and the page says so.
"""
