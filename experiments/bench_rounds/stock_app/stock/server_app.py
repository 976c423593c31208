"""The server half of the stock comparison: plain rounds over Flower's Message API, as its documentation has them."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    generator = np.random.default_rng(0)
    while len(nodes := list(grid.get_node_ids())) < int(config["sites"]):
        time.sleep(0.1)
    seconds = []
    for number in range(int(config["rounds"])):
        start = time.monotonic()
        messages = []
        for node in nodes:
            # Random, and another for each site: Flower sends equal objects once.
            array = Array(generator.standard_normal(int(config["floats"])))
            content = RecordDict({"arrays": ArrayRecord({"x": array})})
            messages.append(Message(content, node, "query", group_id=str(number)))
        replies = list(grid.send_and_receive(messages, timeout=600))
        assert len(replies) == len(nodes)
        assert all(reply.has_content() for reply in replies)
        total = sum(reply.content["arrays"]["x"].numpy() for reply in replies)
        assert total.shape == (int(config["floats"]),)
        seconds.append(time.monotonic() - start)
        Path(str(config["out"])).write_text(json.dumps(seconds))
