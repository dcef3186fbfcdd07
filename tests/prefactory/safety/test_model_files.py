"""Folders of models that would run code when they are loaded."""

import contextlib
import json

import pytest
from safetensors.numpy import save_file

from prefactory.engines.encoder import Encoder
from prefactory.engines.transformers import Transformers
from prefactory.errors import ConfigError
from prefactory.safety.model_files import check_model, open_tokenizer
from tests.helpers import tiny_llama


def weights(folder):
    folder.mkdir(exist_ok=True, parents=True)
    save_file({}, folder / "model.safetensors")
    return folder


def test_a_class_of_the_encoder_s_own_is_not_imported(tmp_path):
    weights(tmp_path)
    (tmp_path / "evil.py").write_text("open(__file__ + '.ran', 'w'); raise SystemExit")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=r"'evil\.Module'.*trust_remote_code"):
        Encoder(model=str(tmp_path)).open()
    assert not (tmp_path / "evil.py.ran").exists()
    check_model(tmp_path, trusted=True)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.PT", "weights.ckpt"])
def test_pickled_weights_of_a_part_are_refused(tmp_path, name):
    weights(tmp_path)
    kind = "sentence_transformers.models.Dense"
    modules = [{"path": "2_Dense", "type": kind}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"2_Dense.*may hold pickles"):
        check_model(tmp_path, trusted=True)
    weights(tmp_path / "2_Dense")
    check_model(tmp_path)


def test_kernels_of_the_hub_are_not_fetched(tmp_path):
    folder = tiny_llama(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for name in ("attn_implementation", "_attn_implementation"):
        (folder / "config.json").write_text(json.dumps({**config, name: "someone/kernel"}))
        with pytest.raises(ConfigError, match="someone/kernel"):
            Transformers(model=str(folder)).open()
    (folder / "config.json").write_text(json.dumps({**config, "attn_implementation": "eager"}))
    check_model(folder)


def test_code_of_a_tokenizer_is_not_run_and_nobody_is_asked(tmp_path, monkeypatch):
    folder = tiny_llama(tmp_path)
    file = folder / "tokenizer_config.json"
    about = json.loads(file.read_text())
    about |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    file.write_text(json.dumps(about))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody is asked"))
    with contextlib.suppress(ValueError, OSError):
        open_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_json_that_is_none_is_one_sentence(tmp_path):
    weights(tmp_path)
    (tmp_path / "modules.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="is no JSON"):
        check_model(tmp_path)
