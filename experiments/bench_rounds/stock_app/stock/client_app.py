"""The site half of the stock comparison: answers with as many random numbers as it was sent."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    if context.run_config["torch"]:
        import torch  # noqa: F401 - what a site that trains a network imports, in each of Flower's processes
    count = message.content["arrays"]["x"].numpy().size
    array = Array(np.random.default_rng().standard_normal(count))
    return Message(RecordDict({"arrays": ArrayRecord({"x": array})}), reply_to=message)
