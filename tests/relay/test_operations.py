"""`litellm-relay list` and `cancel`, and the older forms of the commands."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import insert

from litellm_openai_example.relay.ledger.leases import host_of, new_name, this_host
from litellm_openai_example.relay.ledger.schema import invocations

from ..fakes.gateway import Gateway
from .conftest import StartRelay
from .ledger.ledgers import finished_rows, new, opened, run
from .operating import operate


class TestCancel:
    def test_a_queued_run(self, start_relay: StartRelay, sqlite_url: str, upstream: Gateway) -> None:
        upstream.seconds = 3600.0
        relay = start_relay(max_running=1)
        running, queued = relay.api.start("first"), relay.api.start("second")
        relay.api.submitted(running)
        done = operate(sqlite_url, "cancel", queued["invocation_id"])
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{queued['invocation_id']}  cancelled\n"
        view = relay.api.view(queued)
        assert (view["status"], view["error_code"]) == ("cancelled", "cancelled_by_client")
        assert (len(upstream.posts), upstream.cancels) == (1, 0)
        assert relay.api.view(running)["status"] == "running"

    def test_a_run_that_a_replica_follows(self, start_relay: StartRelay, sqlite_url: str, upstream: Gateway) -> None:
        upstream.seconds = 3600.0
        relay = start_relay()
        started = [relay.api.start(str(n)) for n in range(2)]
        for one in started:
            relay.api.submitted(one)
        first, _ = json.loads(operate(sqlite_url, "list", "--json").stdout)
        assert host_of(first["replica"]) == this_host()
        assert first["replica"] in operate(sqlite_url, "--list").stdout
        ids = [one["invocation_id"] for one in started]
        done = operate(sqlite_url, "cancel", *ids)
        assert done.stdout.split() == [ids[0], "cancelled", ids[1], "cancelled"], done.stderr
        assert [relay.api.view(one)["error_code"] for one in started] == ["cancelled_by_client"] * 2
        assert upstream.cancels == 2
        assert operate(sqlite_url, "list").stdout == "no runs\n"
        again = operate(sqlite_url, "cancel", ids[0])
        assert (again.returncode, again.stdout) == (0, f"{ids[0]}  cancelled\n")

    def test_a_wish_that_no_replica_has_carried_out_yet(self, database_url: str) -> None:
        async def work() -> None:
            async with opened(database_url) as ledger:
                await ledger.accept(new("a"))
                await ledger.claim(1, blocks=False)
                await ledger.submitted("a", "resp_1")

        run(work)
        done = operate(database_url, "cancel", "a", "b")
        assert (done.returncode, done.stdout) == (1, "a  running\n")
        kept, unknown = done.stderr.splitlines()
        assert "the request to stop it stays in the ledger" in kept
        assert unknown == "[relay] Error: no run b in the ledger"

        async def check() -> None:
            async with opened(database_url) as ledger:
                record = await ledger.get("a")
                assert record is not None
                assert record.cancel_requested

        run(check)

    def test_everything_that_is_queued(self, database_url: str) -> None:
        names = [f"q{n}" for n in range(600)]  # more than one statement takes

        async def work() -> None:
            async with opened(database_url) as ledger:
                for name in ("running", "submitting"):
                    await ledger.accept(new(name))
                await ledger.claim(2, blocks=False)
                await ledger.submitted("running", "resp_1")
                rows = [
                    row | {"id": name, "state": "queued"} for row, name in zip(finished_rows(600), names, strict=True)
                ]
                await ledger.database.run(lambda connection: connection.execute(insert(invocations), rows))

        run(work)
        done = operate(database_url, "cancel", "--queued")
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(line.split()[0] for line in done.stdout.splitlines()) == sorted(names)
        assert operate(database_url, "cancel", "--queued").stdout == "no runs were queued\n"
        left = json.loads(operate(database_url, "list", "--json").stdout)
        assert {one["id"]: one["state"] for one in left} == {"running": "running", "submitting": "submitting"}

    @pytest.mark.parametrize("arguments", [(), ("inv_1", "--queued"), ("--all",), ("--json", "a")])
    def test_unclear_wishes(self, arguments: tuple[str, ...], sqlite_url: str) -> None:
        done = operate(sqlite_url, "cancel", *arguments)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)

    @pytest.mark.parametrize("command", [("cancel", "a"), ("cancel", "--queued"), ("drain",), ("list",), ("cost",)])
    def test_without_a_ledger(self, command: tuple[str, ...], sqlite_url: str) -> None:
        done = operate(sqlite_url, *command)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert "no ledger at" in done.stderr


def test_names_of_replicas_differ_and_tell_their_machine() -> None:
    names = {new_name() for _ in range(100)}
    assert len(names) == 100
    assert {host_of(name) for name in names} == {this_host()}
    assert not any(set(name) & set(" \n,") for name in names)
    assert host_of("0123456789abcdef") == ""  # an older release's
