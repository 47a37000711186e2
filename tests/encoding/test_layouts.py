"""What is refused about a checkpoint's files, and what the error says; the vectors are tests/parity's matter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import MPNetConfig, MPNetModel, SqueezeBertConfig, SqueezeBertModel, T5Config, T5Model

from encoding.checkpoint import open_checkpoint
from encoding.encoder import Encoder
from encoding.inputs import SideTokenizer
from index_format.errors import InputError

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
SETTINGS = "config_sentence_transformers.json"
TEXT = "The heron circled above the harbour; honey!"


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a golden checkpoint, by its name."""
    copied = tmp_path / "model"
    shutil.copytree(GOLDEN / request.param, copied, ignore=shutil.ignore_patterns("golden-*"))
    return copied


def _expansion(token: object) -> dict[str, object]:
    return {"query_expansion": {"strategy": "fixed", "length": 24, "token": token}}


def _change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _encoder(folder: Path) -> Encoder:
    return Encoder(open_checkpoint(str(folder)), "cpu")


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
@pytest.mark.parametrize("missing", ["1_Dense/config.json", "1_Dense/model.safetensors", "config.json"])
def test_missing_files_of_a_module_are_named(folder: Path, missing: str) -> None:
    """The folder of the module, and the file."""
    (folder / missing).unlink()
    with pytest.raises(InputError, match=rf"^encoder: .* lacks {Path(missing).name}"):
        _encoder(folder)


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
def test_a_marker_that_the_tokenizer_lacks_is_named(folder: Path) -> None:
    """PyLate would give it a random vector, another one each time."""
    _change(folder / SETTINGS, query_prefix="[Query] ")
    with pytest.raises(InputError, match=r"tokenizer.json lacks the token '\[Query\] '"):
        _encoder(folder)


@pytest.mark.parametrize("folder", ["pylate-bert", "pylate-modernbert"], indirect=True)
@pytest.mark.parametrize("asked", [None, "eager", "flash_attention_2"])
def test_attention_is_sdpa_whatever_the_files_ask_for(folder: Path, asked: str | None, monkeypatch) -> None:
    """In every layer: another would be slower, or need a package that is not there."""
    _change(folder / "config.json", _attn_implementation=asked, attn_implementation=asked)
    calls: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *given, **more: calls.append(1) or attend(*given, **more),
    )
    encoder = _encoder(folder)
    calls.clear()  # of the token that is tried when a model is loaded
    encoder.encode_query(TEXT)
    assert len(calls) == json.loads((folder / "config.json").read_text())["num_hidden_layers"]


def test_an_architecture_without_sdpa_is_encoded_all_the_same(tmp_path: Path) -> None:
    """MPNet, of which many plain encoders are made."""
    shutil.copy(GOLDEN / "pylate-bert" / "tokenizer.json", tmp_path)
    words = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    MPNetModel(MPNetConfig(vocab_size=words, max_position_embeddings=66, **small)).save_pretrained(tmp_path)
    assert np.isfinite(_encoder(tmp_path).encode_query(TEXT)).all()


def test_an_architecture_that_asks_for_its_pooler_is_encoded_all_the_same(tmp_path: Path) -> None:
    """SqueezeBERT: its vector of the whole text is not wanted, and the call must go somewhere."""
    shutil.copy(GOLDEN / "pylate-bert" / "tokenizer.json", tmp_path)
    words = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
    groups = ("q", "k", "v", "post_attention", "intermediate", "output")
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    small |= {"embedding_size": 32} | {f"{one}_groups": 1 for one in groups}
    SqueezeBertModel(SqueezeBertConfig(vocab_size=words, **small)).save_pretrained(tmp_path)
    assert np.isfinite(_encoder(tmp_path).encode_query(TEXT)).all()


def test_an_architecture_that_reads_more_than_tokens_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    """T5 wants the text of its decoder, too; whatever its code raises becomes the reason."""
    shutil.copy(GOLDEN / "pylate-bert" / "tokenizer.json", tmp_path)
    words = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
    small = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    T5Model(T5Config(vocab_size=words, **small)).save_pretrained(tmp_path)
    _change(tmp_path / "config.json", hidden_size=32)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    with pytest.raises(InputError, match=r"parts of .* do not fit together \(.*\)\. Use the files as"):
        _encoder(tmp_path)


@pytest.mark.parametrize(
    ("tasks", "queries", "documents"),
    [(None, 0, 3), ([], 0, 0), ("query", 3, 0), (["query", "document"], 3, 3)],
)
@pytest.mark.parametrize("folder", ["multi-vector-bert"], indirect=True)
def test_words_are_skipped_on_the_sides_that_the_mask_names(
    folder: Path, tasks: object, queries: int, documents: int
) -> None:
    """Documents where it says nothing, and neither where it names none."""
    _change(folder / "2_MultiVectorMask" / "config.json", skiplist_words=["a", "b", "c"], skiplist_tasks=tasks)
    layout = open_checkpoint(str(folder)).layout
    assert (len(layout.query.skip.words), len(layout.document.skip.words)) == (queries, documents)


@pytest.mark.parametrize("folder", ["multi-vector-bert"], indirect=True)
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("prompts", [{"passage": "passage: "}, {"corpus": "text: ", "document": None}])
def test_a_prompt_for_documents_is_the_one_called_document(folder: Path, plain: bool, prompts: dict[str, str]) -> None:
    """sentence-transformers 6 always has one of that name, empty if need be, and so never takes another."""
    if plain:
        modules = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps(modules[:1]))
        (folder / "sentence_bert_config.json").write_text("{}")
        (folder / SETTINGS).write_text("{}")
    _change(folder / SETTINGS, prompts=prompts)
    layout = open_checkpoint(str(folder)).layout
    assert (layout.kind == "plain", layout.document.prompt) == (plain, "")


@pytest.mark.parametrize("folder", ["multi-vector-bert"], indirect=True)
def test_processing_settings_of_a_plain_encoder_are_refused(folder: Path) -> None:
    """They would be left out as well as those of the other layout."""
    (folder / SETTINGS).unlink()
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))
    (folder / "sentence_bert_config.json").write_text('{"processing_kwargs": {"text": {"max_length": 4}}}')
    with pytest.raises(InputError, match=r"sentence_bert_config\.json has processing_kwargs"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
@pytest.mark.parametrize("place", [".", "1_Dense"])
def test_an_adapter_is_refused(folder: Path, place: str) -> None:
    """Also beside a whole model: transformers would load it or not, as another package is there or not."""
    (folder / place / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds an adapter .*Merge it"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("what [MASK] and [SEP] mean", "what [mask] and [sep] mean"),
        ("[D] HONEY [D]", "[d] honey [d]"),
        ("ΟΔΟΣ İ honey", "ΟΔΟΣ İ honey".lower()),
    ],
)
def test_pylate_makes_a_text_lower_case_before_anything_is_read_in_it(folder: Path, text: str, alike: str) -> None:
    """So it can spell no special token, and sigma at the end of a word is that of Python."""
    _change(folder / "sentence_bert_config.json", do_lower_case=True)
    layout = open_checkpoint(str(folder)).layout
    side = SideTokenizer(layout, layout.document)
    lowered, wanted = side.tokenize([text, alike])
    np.testing.assert_array_equal(lowered.ids, wanted.ids)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    peer = own.encode(text.strip().lower()).ids
    assert [lowered.ids[0], *lowered.ids[2:]] == peer
    assert side.lengths([text]) == [len(peer) + 1]


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
def test_spans_are_those_of_the_text_though_lower_case_is_longer(folder: Path) -> None:
    """The dotted capital I is two characters then."""
    _change(folder / "sentence_bert_config.json", do_lower_case=True)
    layout = open_checkpoint(str(folder)).layout
    text = "  İİ honey İ harbour"
    spans = [one.span for one in SideTokenizer(layout, layout.query).kept_tokens(text) if one.span]
    assert [text[start:end] for start, end in spans] == text.split()


@pytest.mark.parametrize("folder", ["multi-vector-bert"], indirect=True)
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ([{"idx": 0, "path": "", "type": "x.Transformer"}], "does not normalise"),
        (
            [
                {"idx": 0, "path": "", "type": "x.Transformer"},
                {"idx": 1, "path": "1_Pooling", "type": "x.HierarchicalTokenPooling"},
            ],
            "modules HierarchicalTokenPooling",
        ),
        ([{"idx": 0, "path": "", "type": "x.StaticEmbedding"}], "must begin with a Transformer"),
        ([{"path": ""}], "must list modules"),
        ({}, "must begin with a Transformer"),
    ],
)
def test_modules_that_would_be_left_out_are_refused(folder: Path, changed: object, said: str) -> None:
    """Other vectors without a word would be worse."""
    (folder / "modules.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=said):
        _encoder(folder)


@pytest.mark.parametrize("folder", ["multi-vector-bert"], indirect=True)
@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("sentence_bert_config.json", {"query_expansion": {"strategy": "other", "length": 3}}, "query_expansion"),
        ("sentence_bert_config.json", {"query_expansion": {"strategy": "fixed"}}, "'length', got None"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 4}}}, "processing_kwargs"),
        ("2_MultiVectorMask/config.json", {"keep_only_token_ids": [1]}, "keeps only the tokens of images"),
        ("1_Dense/config.json", {"activation_function": "os.system"}, "expected one of torch.nn"),
        ("1_Dense/config.json", {"activation_function": "torch.nn.functional.relu"}, "torch.nn lacks 'relu'"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(
    folder: Path, file: str, changes: dict[str, object], said: str
) -> None:
    """The error names the file and the setting."""
    _change(folder / file, **changes)
    with pytest.raises(InputError, match=said):
        _encoder(folder)


@pytest.mark.parametrize(
    ("folder", "file", "changes", "said"),
    [
        ("pylate-bert", SETTINGS, {"prompts": ["a"]}, "'list' object"),
        ("pylate-bert", SETTINGS, {"prompts": {"a": 3}, "default_prompt_name": "a"}, "prompt is no text"),
        ("pylate-bert", SETTINGS, {"query_prefix": 7}, "marker is no text"),
        ("pylate-bert", SETTINGS, {"skiplist_words": [5]}, "skipped word 5 is no text"),
        ("pylate-bert", SETTINGS, {"document_length": "40"}, "'str' and 'int'|'int' and 'str'"),
        ("pylate-bert", SETTINGS, {"document_length": 39.5}, r"length 39\.5 is no integer"),
        ("colbert-bert", "artifact.metadata", {"config": [1]}, "'list' object"),
        ("multi-vector-bert", "sentence_bert_config.json", {"query_expansion": "fixed"}, "'str' object"),
        ("multi-vector-bert", "sentence_bert_config.json", _expansion(5), "token of the expansion is no text"),
        ("multi-vector-bert", "sentence_bert_config.json", _expansion(["a"]), "token of the expansion is no text"),
    ],
    indirect=["folder"],
)
def test_settings_of_another_kind_are_refused(folder: Path, file: str, changes: dict[str, object], said: str) -> None:
    """Whatever is wrong with them, the error names the folder and says what to do."""
    _change(folder / file, **changes)
    with pytest.raises(
        InputError, match=rf"setting in the JSON files of .*model is of another kind .*({said}).*Use the"
    ):
        _encoder(folder)


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
@pytest.mark.parametrize(
    ("shape", "fill", "said"),
    [
        ((16, 20), 1.0, "parts of .* do not fit together"),
        ((16,), 1.0, r"linear\.weight in .*1_Dense has 1 axes"),
        ((16, 32), float("nan"), "makes vectors that are not numbers"),
    ],
)
def test_a_projection_that_cannot_be_is_refused_when_it_is_loaded(
    folder: Path, shape: tuple[int, ...], fill: float, said: str
) -> None:
    """Not after an hour of encoding, and never by an index of vectors that are no numbers."""
    save_file({"linear.weight": torch.full(shape, fill)}, folder / "1_Dense" / "model.safetensors")
    with pytest.raises(InputError, match=said):
        _encoder(folder)


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
def test_a_tokenizer_of_another_model_is_refused_by_its_tokens(folder: Path) -> None:
    """The weights have no vector for some of them; a GPU would end the process there."""
    tensors = load_file(folder / "model.safetensors")
    (name,) = [one for one in tensors if "word_embeddings" in one]
    tensors[name] = tensors[name][:20].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _change(folder / "config.json", vocab_size=20)
    with pytest.raises(InputError, match=r"has the token \d+, and the weights know 20 tokens"):
        _encoder(folder).encode_query(TEXT)


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
def test_files_that_are_no_text_and_tensors_that_are_no_table_are_refused(folder: Path) -> None:
    """Whatever layout looks into them first."""
    weights = folder / "1_Dense" / "model.safetensors"
    weights.rename(folder / "kept")
    torch.save([1], weights.with_name("pytorch_model.bin"))
    with pytest.raises(InputError, match=r"pytorch_model\.bin cannot be read as tensors"):
        _encoder(folder)
    (folder / "kept").rename(weights)
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"tokenizer\.json is not a tokenizer|no mask, end or padding token"):
        _encoder(folder)


@pytest.mark.parametrize("folder", ["multi-vector-bert"], indirect=True)
@pytest.mark.parametrize("plain", [True, False])
def test_no_text_is_longer_than_there_are_positions_for(folder: Path, plain: bool) -> None:
    """Whatever the settings say; its package fails there."""
    if plain:
        (folder / SETTINGS).unlink()
        modules = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps(modules[:1]))
        (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 5000}')
    else:
        _change(folder / "sentence_bert_config.json", query_expansion=None, query_length=5000, document_length=5000)
    encoder = _encoder(folder)
    (((_, document),),) = encoder.encode(["copper meadow " * 400])
    assert max(len(document), len(encoder.encode_query("copper meadow " * 400))) <= 64
    assert encoder.checkpoint.max_tokens == 64


@pytest.mark.parametrize("folder", ["colbert-bert"], indirect=True)
def test_a_colbert_without_metadata_has_colberts_defaults(folder: Path) -> None:
    """Old checkpoints have none: 32 tokens a query, 220 a document, as far as there are positions."""
    (folder / "artifact.metadata").unlink()
    layout = open_checkpoint(str(folder)).layout
    assert (layout.query.length, layout.document.length) == (32, 64)
    assert (layout.query.marker, layout.document.marker) == ("[unused0]", "[unused1]")


@pytest.mark.parametrize("folder", ["colbert-bert"], indirect=True)
def test_a_colbert_without_its_projection_is_refused(folder: Path) -> None:
    """The name of the tensor is in the error."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["linear.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"lack linear\.weight"):
        _encoder(folder)


@pytest.mark.parametrize("folder", ["colbert-bert"], indirect=True)
def test_a_transformer_with_weights_missing_is_refused(folder: Path) -> None:
    """transformers would fill them with random numbers and only warn."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack .*layer\.1\.output\.dense\.weight \(1 in all\)"):
        _encoder(folder)


@pytest.mark.parametrize("folder", ["colbert-bert", "pylate-modernbert"], indirect=True)
def test_weights_saved_by_torch_give_the_same_vectors(folder: Path) -> None:
    """Old checkpoints have no safetensors; their files are read as tensors only."""
    wanted = _encoder(folder).encode_query(TEXT)
    for path in list(folder.rglob("model.safetensors")):
        torch.save(load_file(path), path.with_name("pytorch_model.bin"))
        path.unlink()
    np.testing.assert_allclose(_encoder(folder).encode_query(TEXT), wanted, atol=1e-6)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this ran",)


@pytest.mark.parametrize("folder", ["colbert-bert", "pylate-bert"], indirect=True)
def test_code_in_pickled_weights_is_never_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in the transformer's file nor in a projection's."""
    for path in list(folder.rglob("model.safetensors")):
        torch.save({"linear.weight": _Evil()}, path.with_name("pytorch_model.bin"))
        path.unlink()
    with pytest.raises(InputError, match=r"cannot be (read|loaded).*(holds code|code that comes with a model)"):
        _encoder(folder)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
def test_an_architecture_with_code_of_its_own_is_refused(folder: Path) -> None:
    """It is not run, and the error says that."""
    (folder / "own.py").write_text("raise SystemExit('this ran')")
    _change(folder / "config.json", model_type="own", auto_map={"AutoModel": "own.Own", "AutoConfig": "own.Own"})
    with pytest.raises(InputError, match="code that comes with a model runs only where COLONNADE_RUN_MODEL_CODE=1"):
        _encoder(folder)


_OWN_CODE = """
from transformers import BertConfig, BertModel

class OwnConfig(BertConfig):
    model_type = "own"

class Own(BertModel):
    config_class = OwnConfig

    def forward(self, *arguments, **named):
        found = super().forward(*arguments, **named)
        found.last_hidden_state = found.last_hidden_state.flip(-1)
        return found
"""


@pytest.fixture
def with_code(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint with code of its own, which the environment allows to run."""
    (folder / "own.py").write_text(_OWN_CODE)
    _change(folder / "config.json", model_type="own", auto_map={"AutoModel": "own.Own", "AutoConfig": "own.OwnConfig"})
    monkeypatch.setenv("COLONNADE_RUN_MODEL_CODE", "1")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    return folder


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
def test_code_of_a_model_runs_where_that_was_asked_for(with_code: Path) -> None:
    """And it is the model's own code that gives the vectors."""
    vectors = _encoder(with_code).encode_query(TEXT)
    _change(with_code / "config.json", model_type="bert", auto_map={})
    assert np.abs(vectors - _encoder(with_code).encode_query(TEXT)).max() > 0.01


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
def test_code_of_a_model_is_in_the_fingerprint(with_code: Path) -> None:
    """Other code, other vectors."""
    before = open_checkpoint(str(with_code)).fingerprint
    (with_code / "own.py").write_text(_OWN_CODE + "# changed")
    assert open_checkpoint(str(with_code)).fingerprint != before


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
def test_code_from_another_repository_is_refused(with_code: Path) -> None:
    """Nobody could say which code that will be tomorrow."""
    _change(with_code / "config.json", auto_map={"AutoModel": "somebody/else--own.Own"})
    with pytest.raises(InputError, match=r"another repository \(somebody/else--own.Own\)"):
        open_checkpoint(str(with_code))


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
@pytest.mark.parametrize(
    ("file", "changes"),
    [
        (SETTINGS, {"query_length": 20}),
        (SETTINGS, {"document_length": 20}),
        (SETTINGS, {"query_prefix": ""}),
        (SETTINGS, {"skiplist_words": ["."]}),
        (SETTINGS, {"do_query_expansion": False}),
        (SETTINGS, {"attend_to_expansion_tokens": True}),
        ("1_Dense/config.json", {"use_residual": True}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
    ],
)
def test_every_setting_is_in_the_fingerprint(folder: Path, file: str, changes: dict[str, object]) -> None:
    """Those of queries too: a server with others would ask for what the index was not made for."""
    before = open_checkpoint(str(folder)).fingerprint
    _change(folder / file, **changes)
    assert open_checkpoint(str(folder)).fingerprint != before


@pytest.mark.parametrize("folder", ["pylate-bert"], indirect=True)
def test_the_weights_of_the_projection_are_in_the_fingerprint(folder: Path) -> None:
    """Beside those of the transformer."""
    before = open_checkpoint(str(folder)).fingerprint
    weights = folder / "1_Dense" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, weights)
    assert open_checkpoint(str(folder)).fingerprint != before


@pytest.mark.parametrize("folder", ["multi-vector-bert"], indirect=True)
def test_a_plain_encoder_may_have_a_projection(folder: Path) -> None:
    """A sentence-transformers folder without a mask is plain; its Dense module then works on tokens."""
    (folder / SETTINGS).unlink()
    (folder / "sentence_bert_config.json").write_text("{}")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    encoder = _encoder(folder)
    assert (encoder.checkpoint.layout.kind, encoder.checkpoint.dim) == ("plain", 16)
    assert encoder.encode_query("honey, harbour").shape == (2, 16)
