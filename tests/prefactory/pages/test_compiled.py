import pytest

from prefactory.pages import compiled
from prefactory.pages.page import environment


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    return tmp_path / "kept"


def shown(folder, text):
    (folder / "a.j2").write_text(text, "utf-8")
    return environment(folder, {}).get_template("a.j2").render(x="<b>")


def test_a_template_is_compiled_once(tmp_path, kept, monkeypatch):
    assert shown(tmp_path, "{{ x }}!") == "&lt;b&gt;!"
    (file,) = kept.iterdir()
    before = file.read_bytes()
    monkeypatch.setattr("jinja2.Environment._generate", None)  # what would compile it
    assert shown(tmp_path, "{{ x }}!") == "&lt;b&gt;!"
    assert file.read_bytes() == before


def test_another_text_is_compiled_anew(tmp_path, kept):
    shown(tmp_path, "{{ x }}!")
    assert shown(tmp_path, "{{ x }}?") == "&lt;b&gt;?"
    assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("at", [0, 40, -1, None])
def test_damaged_code_is_never_run(tmp_path, kept, at):
    shown(tmp_path, "{{ x }}!")
    (file,) = kept.iterdir()
    whole = bytearray(file.read_bytes())
    if at is None:
        file.write_bytes(whole[:20])
    else:
        whole[at] ^= 1
        file.write_bytes(whole)
    assert shown(tmp_path, "{{ x }}!") == "&lt;b&gt;!"
    assert compiled.Compiled().load_bytecode(bucket := _bucket(tmp_path)) is None
    assert bucket.code is not None  # mended


def _bucket(folder):
    from jinja2.bccache import Bucket

    templates = environment(folder, {})
    source, name, _ = templates.loader.get_source(templates, "a.j2")
    cache = templates.bytecode_cache
    key, checksum = cache.get_cache_key("a.j2", name), cache.get_source_checksum(source)
    return Bucket(templates, key, checksum)


def test_where_nothing_can_be_kept_pages_are_made_all_the_same(tmp_path, kept, monkeypatch):
    kept.write_text("no folder")
    assert shown(tmp_path, "{{ x }}!") == "&lt;b&gt;!"
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.setattr(compiled, "FOLDER", tmp_path / "none")
    assert shown(tmp_path, "{{ x }}!") == "&lt;b&gt;!"
    assert not (tmp_path / "none").exists()
