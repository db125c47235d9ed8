"""Rounds of FedAvg by Flower's simulation engine (Beutel et al. 2020, arXiv 2007.14390): Ray actors, one a core.

With `often` the server asks for replies every millisecond, instead of every tenth of a second.
"""

import functools
import os
import tempfile
import threading
from pathlib import Path
from queue import Empty, Queue

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")

import ray  # noqa: F401
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers import nets
from benchmarks.peers.local_training import trainer
from benchmarks.peers.rounds import rounds_of, shuffled


class Chosen(FedAvg):
    """FedAvg that can tell each client of a round which one of the first round it stands for."""

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if "chosen" not in config:
            return messages
        return [
            Message(
                RecordDict({"arrays": arrays, "config": ConfigRecord({"place": place})}),
                message_type=message.metadata.message_type,
                dst_node_id=message.metadata.dst_node_id,
            )
            for place, message in enumerate(messages)
        ]


def start(words, setting, arrays):
    """`one_round() -> (before, after, loss)`; one simulation runs all the while, and waits between rounds."""
    layout = nets.layout_of(words)
    rounds, net = rounds_of(setting, arrays, layout), nets.build(setting["net"], arrays, layout)
    folder = tempfile.TemporaryDirectory()
    torch.save((setting, rounds, net), Path(folder.name) / "clients.pt")
    asked, answered = Queue(), Queue()
    server, client = ServerApp(), ClientApp()

    @client.train()
    def train(message, context):
        return _train(folder_name, message, context.node_config["partition-id"], words)

    folder_name = folder.name

    @server.main()
    def main(grid, context):
        if "often" in words:
            grid.pull_interval = 0.001
        strategy = Chosen(
            fraction_train=rounds.cohort / rounds.num_clients, fraction_evaluate=0.0,
            min_train_nodes=rounds.cohort, min_available_nodes=rounds.num_clients,
        )  # fmt: skip
        while threading.main_thread().is_alive():
            try:
                before, config = asked.get(timeout=0.5)
            except Empty:
                continue
            result = strategy.start(grid, before, 1, train_config=config)
            answered.put((result.arrays, result.train_metrics_clientapp[1]["loss"]))

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    backend = {"init_args": {"num_cpus": cores}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}

    def simulate():
        try:
            run_simulation(server, client, rounds.num_clients, backend_config=backend)
        except BaseException as error:
            answered.put(error)
        finally:
            folder.cleanup()

    threading.Thread(target=simulate).start()
    shared, config = [ArrayRecord(net.state_dict())], [ConfigRecord({"chosen": True})]

    def one_round():
        before = shared[0]
        asked.put((before, config.pop() if config else ConfigRecord()))
        answer = answered.get()
        if isinstance(answer, BaseException):
            raise answer
        shared[0], loss = answer
        return before.to_torch_state_dict(), shared[0].to_torch_state_dict(), loss

    return one_round


@functools.cache
def _clients(folder):
    """What an actor keeps from one client to the next."""
    torch.set_num_threads(1)  # there are as many actors as cores
    return torch.load(Path(folder) / "clients.pt", weights_only=False, mmap=True)


def _train(folder, message, client, words):
    _, rounds, net = _clients(folder)
    place = message.content["config"].get("place")
    k = client if place is None else int(rounds.ids[place])
    batches = shuffled(rounds) if place is None else rounds.rows[place]
    shared = message.content["arrays"].to_torch_state_dict()
    params, loss = trainer(net, shared, rounds.rate, words)(rounds.x[k], rounds.y[k], batches)
    content = {
        "arrays": ArrayRecord(dict(params)),
        "metrics": MetricRecord({"loss": float(loss), "num-examples": rounds.x.shape[1]}),
    }
    return Message(RecordDict(content), reply_to=message)
