"""Two worker processes of a test, for what torch.distributed does between them."""

import socket

import torch.multiprocessing as mp


def two_processes(worker, fault) -> dict:
    """What ``worker(rank, port, fault, results)`` put into results, from ranks 0 and 1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, args=(port, fault, results), nprocs=2)
        return dict(results)
