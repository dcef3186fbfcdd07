import pytest
from pydantic import ValidationError

from generators import Magpie
from prefactory.engines.base import Completion, Failure
from prefactory.engines.session import Session
from tests.generators.making import cut_anyhow, made, reasons
from tests.generators.sampling import asked_run, model
from tests.helpers import (
    assistant,
    content,
    messages,
    prompts,
    recipe,
    system,
    tiny_llama,
    user,
    view,
)  # fmt: skip
from tests.prefactory.engines.mock_server import MockServer, answer

HERE = __name__
MODEL = model("tiny", f"{HERE}.magpie")
ODD = {
    "colon": "Write a poem about the following:",
    "short": "Hm",
    "refusal": "I'm sorry, I can't help with that.",
    "empty": "  ",
    "again": "Tell me the same thing.",
}


def magpie(request):
    """Writes a request that names the system message it was shown."""
    assert request.sampling.writes == "user_turn"
    told = request.conversation[0]["content"] if request.conversation else "nothing"
    if told == "down":
        return Failure("http_500", "down")
    if told == "cut":
        return Completion("What is the best way to", "length")
    return ODD.get(told, f"Please explain {told} no {request.draw_seed}.\nAnd more")


def openings(*texts):
    told = [[system(t), user("seen by nobody")] for t in texts]
    return prompts(*texts).with_columns(prompt=messages(*told))


def with_ids(table):
    from prefactory.tables import with_prompt_id

    return with_prompt_id(table)


def test_the_model_is_shown_the_chat_up_to_the_users_turn():
    table = with_ids(openings("maths", "cooking"))
    rows, dropped = made(Magpie(model=MODEL, n=3), table)
    assert dropped.height == 0
    assert rows.height == 6
    for row in rows.iter_rows(named=True):
        told = table.filter(prompt_id=row["source_prompt_id"])["prompt"][0].to_list()
        (message,) = row["prompt"]
        assert message["role"] == "user"
        assert message["content"].startswith(f"Please explain {told[0]['content']} no ")
        assert "And more" not in message["content"]  # it stops at the line's end
    assert len(set(content(rows, "prompt"))) == 6
    kept, _ = made(Magpie(model=MODEL, keep_system=True), table)
    assert [[m["role"] for m in p] for p in kept["prompt"].to_list()] == [["system", "user"]] * 2


def test_rows_without_a_system_message_only_count():
    rows, _ = made(Magpie(model=MODEL, n=2), prompts("x", "y"))
    assert all(t.startswith("Please explain nothing") for t in content(rows, "prompt"))
    assert rows["prompt_id"].n_unique() == 4


def test_what_is_no_request_has_a_reason():
    table = with_ids(openings(*ODD, "down", "cut", "fine"))
    rows, dropped = made(Magpie(model=MODEL, n=2), table)
    found = {t.split("\n")[0]: r for t, r in reasons(dropped, table).items()}
    assert found == {
        "colon": "ends_with_colon",
        "short": "too_short",
        "refusal": "refuses",
        "empty": "empty_answer",
        "down": "http_500",
        "cut": "truncated",
    }
    assert rows.height == 3  # two of "fine", one of "again"


def test_talks_go_on():
    talk = [user("hi"), assistant("hello")]
    table = with_ids(prompts("a", "b").with_columns(prompt=messages(talk, talk[:1])))
    rows, dropped = made(Magpie(model=MODEL, before="conversation"), table)
    assert dropped["reason"].to_list() == ["no_assistant_turn"]
    assert rows["prompt"].to_list()[0][:2] == talk
    assert rows["prompt"].to_list()[0][2]["content"].startswith("Please explain hi")


def test_a_server_continues_a_prefix_or_is_asked():
    def say(body, times):
        if "prompt" in body:
            return "ok", answer({"index": 0, "text": "How high is a mountain?"})
        return "ok", answer({"index": 0, "message": {"content": "How deep is the sea?"}})

    table = with_ids(openings("geography"))
    with MockServer(say) as server:
        engine = {"engine": "server", "base_url": server.url, "model": "m"}
        prefix = "<|system|>{system}<|end|><|user|>"
        rows, _ = made(Magpie(model=engine, how="prefix", prefix=prefix), table)
        assert content(rows, "prompt") == ["How high is a mountain?"]
        assert server.bodies[0]["prompt"] == "<|system|>geography<|end|><|user|>"
        assert server.bodies[0]["stop"] == ["\n"]
        rows, _ = made(Magpie(model=engine, how="ask"), table)
        assert content(rows, "prompt") == ["How deep is the sea?"]
        assert "geography" in server.bodies[1]["messages"][0]["content"]
        assert server.paths == ["/v1/completions", "/v1/chat/completions"]
        with pytest.raises(ValidationError, match="nothing that the engine 'server' can do"):
            Magpie(model=engine)


def test_a_model_in_this_process(tmp_path):
    llama = str(tiny_llama(tmp_path / "llama"))
    engine = {"engine": "transformers", "model": llama, "precision": "fp32", "threads": 2}
    sampling = {"max_tokens": 8, "stop": []}
    fields = {"model": engine, "n": 3, "sampling": sampling, "gate": "keep", "words": [0, 100]}
    made_by = {}
    for size in (1, 1000):
        with Session(tmp_path / f"journal {size}") as engines:
            run = asked_run(recipe({"generators.Magpie": fields}), with_ids(openings("a", "b")),
                            tmp_path / str(size), size, engine=engines.engine)  # fmt: skip
        made_by[size] = view(run, "prompts")
    assert made_by[1].equals(made_by[1000])
    assert 4 <= made_by[1].height <= 6


def test_shards_and_order_change_nothing(tmp_path):
    table = with_ids(openings(*ODD, "down", *[f"topic {i}" for i in range(7)]))
    step = {"generators.Magpie": {"model": MODEL, "n": 2}}
    assert len(cut_anyhow(step, table, tmp_path)) == 1


def test_fields_are_checked():
    for fields, said in [
        ({"how": "prefix"}, "prefix goes with"),
        ({"before": "conversation", "how": "ask"}, "needs `how: template`"),
        ({"words": (5, 1)}, "fewest, then most"),
    ]:
        with pytest.raises(ValidationError, match=said):
            Magpie(model=MODEL, **fields)
    step = Magpie(model=MODEL, n=3)
    assert [a.calls for a in step.asks(10, 10)] == [30]
    assert step.grows(10, 10) == (30, 30)
