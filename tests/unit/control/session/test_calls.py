import json

from intramuros.control.session.calls import Call, CallKind, Permission, dump_call, load_call


def test_a_call_survives_its_dump() -> None:
    call = Call("sevt_1", CallKind.MCP, Permission.ASK, "sevt_2", Permission.ALLOW, 7)
    assert load_call(json.loads(json.dumps(dump_call(call)))) == call
    assert dump_call(Call("sevt_1", CallKind.CUSTOM)) == {
        "id": "sevt_1",
        "kind": CallKind.CUSTOM,
        "permission": Permission.ALLOW,
    }
