"""What a model writes beside answers: a user's turn, and what follows a raw text."""

import pytest

from prefactory.engines.base import Completion, EngineError, Failure, Request, Sampling
from prefactory.engines.scripted import Scripted
from prefactory.engines.server import Server
from prefactory.engines.session import Session
from prefactory.engines.transformers import Transformers
from prefactory.engines.turns import before_user_turn, raw_text
from prefactory.engines.vllm import VLLM
from tests.helpers import assistant, system, tiny_llama, user
from tests.prefactory.engines.mock_server import MockServer, answer
from tests.prefactory.engines.test_vllm import engine as vllm_engine  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("quick")
TEXT, TURN = Sampling(writes="text", max_tokens=6), Sampling(writes="user_turn", max_tokens=6)
SAID = [system("please"), user("certainly"), assistant("whatever")]


def shown(messages):
    return "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)


def test_a_conversation_is_cut_where_the_user_speaks_next():
    assert before_user_turn(shown, SAID) == shown(SAID) + "<|user|>"
    assert before_user_turn(shown, []) == "<|user|>"
    assert raw_text(SAID) == "pleasecertainlywhatever"
    for odd in (lambda m: shown(m) * 2, lambda m: "nothing", lambda m: shown(m).upper()):
        with pytest.raises(ValueError, match="does not show the words of a user once"):
            before_user_turn(odd, [])


def test_what_is_written_is_part_of_a_calls_key():
    keys = {Request([user("a")], Sampling(writes=w)).content_key for w in ("answer", "text")}
    assert len(keys) == 2
    assert (
        "writes" not in Sampling().of_one_sample()
    )  # calls in journals from before keep their keys


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("llama")))


def test_a_model_in_this_process_writes_a_users_turn(llama, tmp_path):
    config = Transformers(model=llama, precision="fp32")
    seen = [[], [system("please")], SAID]
    with config.open() as engine:
        by_text = [[user(before_user_turn(shown, c))] for c in seen]
        turns = engine.generate(seen, TURN, ["a", "b", "c"])
        assert turns == engine.generate(by_text, TEXT, ["a", "b", "c"])
        assert all(isinstance(r, Completion) and r.completion_tokens for (r,) in turns)
        assert [r.prompt_tokens for (r,) in engine.generate([[user("<|user|>")]], TEXT)] == [1]
        answers = engine.generate(seen[1:], Sampling(max_tokens=6), ["b", "c"])
        assert answers != turns[1:]
    with Session(tmp_path) as engines:
        assert engines.engine(config).generate(seen, TURN, ["a", "b", "c"]) == turns
        assert engines.engine(config).generate(seen[1:], Sampling(max_tokens=6), ["b", "c"])


def test_a_template_that_hides_the_user_fails_its_row(llama):
    config = Transformers(model=llama, precision="fp32", chat_template="{{ messages[0].role }}")
    with config.open() as engine:
        ((found,),) = engine.generate([[]], TURN)
        assert isinstance(found, Failure)
        assert found.reason == "template"


def continued(body, times):
    choice = {"index": 0, "text": f" and {body['prompt']}", "finish_reason": "stop"}
    return "ok", answer(choice)


def test_a_server_continues_texts_at_the_other_address():
    with MockServer(continued) as server:
        config = Server(base_url=server.url, model="m", token_field="max_completion_tokens")
        with config.open() as engine:
            ((found,),) = engine.generate([[user("on")]], TEXT.model_copy(update={"seed": 1}))
            assert found.text == " and on"
            assert set(server.bodies[0]) == {
                "model", "prompt", "max_tokens", "temperature", "top_p", "seed",
            }  # fmt: skip
            assert server.paths == ["/v1/completions"]
            with pytest.raises(EngineError, match="no turns but the assistant's"):
                engine.generate([[]], TURN)


def test_vllm_gets_token_ids(vllm_engine):  # noqa: F811
    class Tokenizer:
        def apply_chat_template(self, messages, tokenize):
            return shown(messages)

        def encode(self, text, add_special_tokens):
            return [ord(c) for c in text]

    class Told:
        def __init__(self, prompt):
            self.prompt_token_ids = prompt["prompt_token_ids"]
            self.outputs = [self]
            self.text, self.finish_reason, self.cumulative_logprob = "hm", "stop", None
            self.token_ids = [1]

    llm = vllm_engine._llm
    llm.get_tokenizer = lambda: Tokenizer()
    llm.generate = lambda prompts, params, use_tqdm: [Told(p) for p in prompts]
    requests = [Request([user("a")], s) for s in (TEXT, Sampling(), TEXT)] + [Request([], TURN)]
    found = {}
    vllm_engine.run(requests, lambda place, result: found.update({place: result}))
    assert [found[i].text for i in range(4)] == ["hm", "to a", "hm", "hm"]
    assert found[0].prompt_tokens == 1
    assert found[3].prompt_tokens == len("<|user|>")


def test_engines_say_what_they_can_write():
    both = {"text", "user_turn"}
    assert both <= Scripted(answers={}).capabilities
    assert both <= Transformers(model="m").capabilities
    assert both <= VLLM(model="m").capabilities
    assert Server(base_url="http://x/v1", model="m").capabilities & both == {"text"}
