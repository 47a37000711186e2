"""Rolling back, tagging, and what retention keeps."""

from __future__ import annotations

import msgspec
import pytest

from index_format import change, keys
from index_format.change import Origin
from index_format.errors import CodebookChanged, IndexNotFound, InputError
from index_format.history import Retention, find_version, rollback, tag, untag, versions_to_keep
from index_format.index import Index
from index_format.manifest import Manifest
from serving.search import search
from serving.snapshot import open_snapshot
from tests.index_format.test_manifest import make_manifest
from tests.strategies import Recipe, add, delete, live_texts, make_recipe, token_vectors

DAY = 86_400_000
FIRST = {"a": "harbour lantern", "b": "copper meadow violin ember glacier"}
BACK = Origin("rollback")


def test_a_rollback_is_a_new_version_with_the_documents_of_an_old_one(index: Index, recipe: Recipe) -> None:
    """The history goes on, and says which version was restored."""
    add(index, recipe, FIRST)
    add(index, recipe, {"a": "ember", "c": "saffron"})
    delete(index, "b")
    made = index.change(lambda base: rollback(index, base, 1, BACK))
    assert made is not None
    assert (made.version, made.commit.operation, made.commit.restored) == (4, "rollback", 1)
    assert live_texts(index) == FIRST
    assert live_texts(index, 3) == {"a": "ember", "c": "saffron"}


def test_a_rollback_to_what_is_there_makes_no_version(index: Index, recipe: Recipe) -> None:
    """Rolling back twice is rolling back once."""
    add(index, recipe, FIRST)
    delete(index, "a")
    assert index.change(lambda base: rollback(index, base, 2, BACK)) is None
    index.change(lambda base: rollback(index, base, 1, BACK))
    assert index.change(lambda base: rollback(index, base, 1, BACK)) is None
    assert index.versions() == [1, 2, 3]


def test_a_rollback_restores_the_codebook_with_its_centroid_ids(index: Index, recipe: Recipe) -> None:
    """Candidates are found by the codebook that the restored ids are of."""
    add(index, recipe, FIRST)
    other = make_recipe(index).codebook_record
    change.replace_codebook(index, recipe.codebook_record.id, other, Origin("codebook"))
    made = index.change(lambda base: rollback(index, base, 1, BACK))
    assert made is not None
    assert made.codebook == recipe.codebook_record
    assert made.segments == index.version(1).segments


def test_a_version_that_is_not_there_cannot_be_restored_or_tagged(index: Index, recipe: Recipe) -> None:
    """The error says what there is."""
    add(index, recipe, FIRST)
    with pytest.raises(IndexNotFound, match="does not retain version 9; it has 1 to 1"):
        index.change(lambda base: rollback(index, base, 9, BACK))
    with pytest.raises(IndexNotFound, match="version 0"):
        index.change(lambda base: tag(index, base, "gone", 0, Origin("tag")))


def test_a_tag_names_a_version_through_all_later_ones(index: Index, recipe: Recipe) -> None:
    """It can be moved and removed, and a rollback leaves it as it is."""
    add(index, recipe, FIRST)
    index.change(lambda base: tag(index, base, "good", 1, Origin("tag")))
    add(index, recipe, {"c": "saffron"})
    index.change(lambda base: rollback(index, base, find_version(index, base, "good"), BACK))
    assert index.current().tags == {"good": 1}
    assert index.change(lambda base: tag(index, base, "good", 1, Origin("tag"))) is None
    index.change(lambda base: untag(index, base, "good", Origin("untag")))
    assert index.current().tags == {}
    with pytest.raises(InputError, match="no tag 'good'"):
        index.change(lambda base: untag(index, base, "good", Origin("untag")))


@pytest.mark.parametrize("name", ["", "7", "two words", "-x", "x" * 65, "é", "a/b", "a\n"])
def test_a_tag_is_a_plain_word(index: Index, recipe: Recipe, name: str) -> None:
    """And never a number, which names a version."""
    add(index, recipe, FIRST)
    with pytest.raises(InputError, match="no name for a tag"):
        index.change(lambda base: tag(index, base, name, 1, Origin("tag")))


def test_a_version_is_found_by_number_or_tag(index: Index, recipe: Recipe) -> None:
    """Anything else is an error that lists the tags."""
    add(index, recipe, FIRST)
    index.change(lambda base: tag(index, base, "good", 1, Origin("tag")))
    assert find_version(index, index.current(), "good") == 1
    assert find_version(index, index.current(), "12") == 12
    with pytest.raises(InputError, match=r"its tags are \['good'\]"):
        find_version(index, index.current(), "best")


def history(*ages: float, same: tuple[int, ...] = ()) -> list[Manifest]:
    """Versions, newest first, committed so many days ago; those in `same` hold what the version before held."""
    made: list[Manifest] = []
    for version, age in enumerate(reversed(ages), start=1):
        manifest = make_manifest()
        commit = msgspec.structs.replace(manifest.commit, id=f"{int((100 - age) * DAY):012x}{version:020x}")
        segments = made[-1].segments if version in same else manifest.segments
        codebook = made[-1].codebook if version in same else manifest.codebook
        made.append(
            msgspec.structs.replace(manifest, version=version, commit=commit, segments=segments, codebook=codebook)
        )
    return made[::-1]


def kept(versions: list[Manifest], retention: Retention) -> list[int]:
    return [manifest.version for manifest in versions_to_keep(versions, retention, 100 * DAY)]


def test_the_last_versions_are_kept_however_old() -> None:
    """Age alone loses nothing."""
    assert kept(history(40, 50, 60, 70), Retention(versions=2, days=7)) == [4, 3]


def test_a_version_that_was_current_a_short_time_ago_is_kept_however_many_there_are() -> None:
    """What counts is when the next one replaced it."""
    assert kept(history(1, 2, 3, 40, 50), Retention(versions=1, days=7)) == [5, 4, 3, 2]


def test_versions_with_equal_content_count_once() -> None:
    """Tagging and collecting make versions too, and must not push out others."""
    assert kept(history(40, 50, 60, 70, 80, same=(4, 5)), Retention(versions=2, days=0)) == [5, 4, 3, 2]


def test_retention_keeps_at_least_one_version() -> None:
    """Nonsense is refused."""
    for nonsense in ({"versions": 0}, {"days": -1.0}, *({"days": float(days)} for days in ("inf", "nan", "1e305"))):
        with pytest.raises(InputError, match="keep at least"):
            Retention(**nonsense)


def test_a_new_codebook_changes_no_score_and_no_code(index: Index, recipe: Recipe) -> None:
    """One commit names a new codebook, and new centroid ids for every segment; the rest stays."""
    add(index, recipe, FIRST)
    add(index, recipe, {"c": "saffron ember"})
    before = search(open_snapshot(index), token_vectors("ember violin"), 5)
    old = index.current()
    other = make_recipe(index).codebook_record
    made = change.replace_codebook(index, recipe.codebook_record.id, other, Origin("codebook"))
    assert made.version == old.version + 1
    assert made.codebook == other
    for was, now in zip(old.segments, made.segments, strict=True):
        assert was.centroids_file != now.centroids_file
        assert was.codes_file == now.codes_file
    assert search(open_snapshot(index), token_vectors("ember violin"), 5) == before


def test_of_two_new_codebooks_for_the_same_old_one_the_second_is_refused(index: Index, recipe: Recipe) -> None:
    """One that was trained long ago cannot replace a newer one."""
    add(index, recipe, FIRST)
    first, second = make_recipe(index).codebook_record, make_recipe(index).codebook_record
    change.replace_codebook(index, recipe.codebook_record.id, first, Origin("codebook"))
    with pytest.raises(CodebookChanged, match="Run again"):
        change.replace_codebook(index, recipe.codebook_record.id, second, Origin("codebook"))
    assert index.current().codebook == first


def test_segments_that_come_while_a_codebook_is_replaced_get_its_ids_too(
    index: Index, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch lands between the work and the commit: the change is computed again with it."""
    add(index, recipe, FIRST)
    other = make_recipe(index).codebook_record
    assign, batches = change.write_centroids, [{"c": "saffron ember"}]

    def assign_and_lose_the_race(*arguments: object) -> object:
        while batches:
            add(index, recipe, batches.pop())
        return assign(*arguments)

    monkeypatch.setattr(change, "write_centroids", assign_and_lose_the_race)
    made = change.replace_codebook(index, recipe.codebook_record.id, other, Origin("codebook"))
    book = index.codebook(made)
    assert len(made.segments) == 2
    for segment in index.segments(made):
        assert segment.centroids.ids.max() < len(book.centroids)
        assert keys.drawn_at(segment.record.centroids_file.key) >= keys.drawn_at(other.id)
