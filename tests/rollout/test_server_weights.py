"""Sending weights to a server that goes away meanwhile."""

import asyncio
import gc
from pathlib import Path

import pytest

from nouscoder_jax.rollout.fleet import Server
from nouscoder_jax.rollout.server_weights import ServerWeights, Weights
from nouscoder_jax.rollout.sglang_calls import Caller
from nouscoder_jax.rollout.weights_check import Export


@pytest.mark.parametrize("mode", ["finish", "retract", "in_place"])
def test_a_server_that_goes_away_while_its_update_is_cancelled_leaves_nothing_to_complain_about(mode):
    """A run that ends because its servers are gone says so once; asyncio has nothing to add."""

    async def scenario() -> list[dict]:
        said: list[dict] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context))
        connections: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda reader, writer: connections.append(writer), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        caller = Caller()
        export = Export(folder=Path("/nowhere"), digest="0", places={}, hashes={})
        weights = Weights(export=export, policy_version=1, turn=0)
        server_weights = ServerWeights(caller, on_new_weights=mode, request_timeout_s=60.0)
        sending = asyncio.create_task(server_weights.send(Server(url=url, num_slots=1, info={}), weights))
        while not connections:
            await asyncio.sleep(0.02)
        for _ in range(2):  # while it pauses or updates, and while it is to go on
            await asyncio.sleep(0.2)
            sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert sending.cancelled() and connections
        silent.close()
        for writer in connections:
            writer.transport.abort()
        await asyncio.sleep(0.2)
        await caller.close()
        gc.collect()
        return said

    assert asyncio.run(scenario()) == []
